//! What the machine writes into its trace, if there is one.

use super::{M, TaskId};
use crate::abi;
use crate::ids::CpuId;
use crate::simulator::trace::{Trace, cpu_track, thread_track};
use std::ops::Range;

impl M<'_> {
    /// Lends the trace to `write`, if there is one.
    fn with_trace(mut self, write: impl FnOnce(Self, &mut Trace)) {
        if let Some(mut trace) = self.trace.take() {
            write(self, &mut trace);
            self.trace = Some(trace);
        }
    }

    /// A CPU has written a notice.
    pub(super) fn trace_notice(self, task: TaskId, from_ns: u64, to_ns: u64) {
        let cpu = self.kernel.here;
        self.with_trace(|machine, trace| {
            let name = format!("queue {}", machine.name(task));
            trace.slice(cpu_track(cpu), &name, from_ns, to_ns);
            trace.flow(cpu_track(cpu), 's', from_ns, machine.tasks[task.index()].account.flow);
        });
    }

    /// A round of a domain thread, and in it the decisions, of `decide_ns` each, from `first_ns`
    /// on.
    pub(super) fn trace_round(
        &mut self,
        d: usize,
        round_ns: Range<u64>,
        decided: &[abi::decision],
        first_ns: u64,
        decide_ns: u64,
    ) {
        self.with_trace(|machine, trace| {
            trace.slice(thread_track(d), "round", round_ns.start, round_ns.end);
            for (decision, n) in decided.iter().zip(0..) {
                let task = TaskId::of_pid(decision.pid);
                let from_ns = first_ns + n * decide_ns;
                let name = format!("decide {}", machine.name(task));
                trace.slice(thread_track(d), &name, from_ns, from_ns + decide_ns);
            }
        });
    }

    /// A CPU has carried out the decision that the thread began at `from_ns`.
    pub(super) fn trace_carried_out(self, d: usize, task: TaskId, from_ns: u64) {
        self.with_trace(|machine, trace| {
            trace.flow(thread_track(d), 't', from_ns, machine.tasks[task.index()].account.flow);
        });
    }

    /// A task or thread leaves its CPU, or the simulation ends.
    pub(super) fn trace_run(self, cpu: CpuId, task: TaskId) {
        let run = &self.runs[cpu.index()];
        let (from_ns, flow, to_ns) = (run.started_ns, run.flow, self.kernel.now_ns);
        if from_ns > to_ns {
            return;
        }
        self.with_trace(|machine, trace| {
            trace.slice(cpu_track(cpu), &machine.name(task), from_ns, to_ns);
            if let Some(flow) = flow {
                trace.flow(cpu_track(cpu), 'f', from_ns, flow);
            }
        });
    }
}
