//! Which CPUs are idle, and which of them a task gets: `bpf/idle.bpf.h`, and the kernel's own
//! choice below it (`scx_select_cpu_dfl`, kernel/sched/ext_idle.c).
//!
//! Invariant: `cores` holds the CPUs all of whose SMT siblings are in `cpus`. A domain's `idle`
//! changes only when a CPU goes idle or leaves that state; a CPU that was claimed is in it until
//! then.

use super::Machine;
use super::cpu::Leaving;
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::simulator::events::Event;
use crate::simulator::{TaskId, Who};
use crate::topology::Topology;

/// The kernel's masks of idle CPUs.
pub struct Idle {
    cpus: CpuSet,
    cores: CpuSet,
    smt: bool,
}

impl Idle {
    /// With all CPUs idle.
    pub fn all(topology: &Topology) -> Idle {
        let smt = topology.cores().iter().any(|core| core.len() > 1);
        Idle { cpus: *topology.cpus(), cores: *topology.cpus(), smt }
    }

    fn remove(&mut self, cpu: CpuId, siblings: &CpuSet) -> bool {
        let was_idle = self.cpus.contains(cpu);
        self.cpus.remove(cpu);
        if self.cores.contains(cpu) {
            self.cores = self.cores.difference(siblings);
        }
        was_idle
    }

    fn insert(&mut self, cpu: CpuId, siblings: &CpuSet) {
        self.cpus.insert(cpu);
        if siblings.is_subset(&self.cpus) {
            self.cores = self.cores.union(siblings);
        }
    }
}

impl Machine<'_> {
    /// The kernel marks a CPU as idle or as busy.
    pub(super) fn mark_idle(&mut self, cpu: CpuId, idle: bool) {
        let siblings = &self.cpus[cpu.index()].siblings;
        match idle {
            true => self.idle.insert(cpu, siblings),
            false => drop(self.idle.remove(cpu, siblings)),
        }
    }

    /// Claims a CPU if it is idle: `scx_bpf_test_and_clear_cpu_idle()`.
    pub(super) fn claim(&mut self, cpu: CpuId) -> bool {
        self.idle.remove(cpu, &self.cpus[cpu.index()].siblings)
    }

    /// A CPU goes idle or leaves that state: ops.update_idle.
    pub(super) fn update_idle(&mut self, cpu: CpuId, idle: bool) {
        if self.cpus[cpu.index()].dedicated {
            return;
        }
        let d = self.domain_of(cpu);
        if !idle {
            self.idle_counts[d] -= usize::from(self.domains[d].idle.contains(cpu));
            self.domains[d].idle.remove(cpu);
            return;
        }
        self.idle_counts[d] += usize::from(!self.domains[d].idle.contains(cpu));
        self.domains[d].idle.insert(cpu);
        if !self.ready[d].is_empty()
            || !self.own[cpu.index()].is_empty()
            || self.domains[d].thread.is_on_queue()
        {
            self.kick(cpu);
        }
    }

    /// Makes an idle CPU call ops.dispatch.
    pub(super) fn kick(&mut self, cpu: CpuId) {
        let at_ns = self.at() + self.costs.kick;
        let c = &mut self.cpus[cpu.index()];
        if c.current.is_none() && !c.kick_pending {
            c.kick_pending = true;
            self.events.at(at_ns, Event::Kicked(cpu));
        }
    }

    /// As `kick_if_idle()`.
    pub(super) fn kick_if_idle(&mut self, cpu: CpuId) {
        let d = self.domain_of(cpu);
        if self.domains[d].idle.contains(cpu) {
            self.kick(cpu);
        }
    }

    /// Claims an idle CPU of domain `d` for a task, or for the domain's thread (`None`).
    pub(super) fn claim_idle(
        &mut self,
        task: Option<TaskId>,
        d: usize,
        prev: CpuId,
    ) -> Option<CpuId> {
        if self.idle_counts[d] == 0 {
            return None;
        }
        let mut allowed = self.domains[d].usable.intersection(&self.idle.cpus);
        if let Some(cpus) = task.and_then(|task| self.tasks[task.index()].cpus.as_ref()) {
            allowed = allowed.intersection(cpus);
        }
        if allowed.is_empty() {
            return None;
        }
        let whole = allowed.intersection(&self.idle.cores);
        let cpu = match self.idle.smt {
            true => self.nearest_in(&whole, prev).or_else(|| self.nearest_in(&allowed, prev)),
            false => self.nearest_in(&allowed, prev),
        }?;
        self.claim(cpu);
        Some(cpu)
    }

    /// The task's previous CPU, or one under its L3, or one on its node, or any.
    fn nearest_in(&self, cpus: &CpuSet, prev: CpuId) -> Option<CpuId> {
        if cpus.contains(prev) {
            return Some(prev);
        }
        let prev = &self.cpus[prev.index()];
        cpus.intersection(&prev.l3)
            .first()
            .or_else(|| cpus.intersection(&prev.node).first())
            .or_else(|| cpus.first())
    }

    /// Claims an idle CPU of the nearest other domain that has one.
    pub(super) fn claim_idle_elsewhere(
        &mut self,
        task: TaskId,
        d: usize,
        prev: CpuId,
    ) -> Option<CpuId> {
        (0..self.domains[d].nearest.len()).find_map(|i| {
            let other = self.domains[d].nearest[i].index();
            self.spend(self.costs.look);
            match self.idle_counts[other] {
                0 => None,
                _ => self.claim_idle(Some(task), other, prev),
            }
        })
    }

    /// Kicks up to `most` idle CPUs of a domain, so that they check its queues.
    pub(super) fn kick_idle(&mut self, d: usize, most: u32) {
        for _ in 0..most {
            let idle = self.domains[d].usable.intersection(&self.idle.cpus);
            let core = idle.intersection(&self.idle.cores).first();
            let Some(cpu) = core.or_else(|| idle.first()) else { return };
            self.claim(cpu);
            self.kick(cpu);
        }
    }

    /// A kick arrives at its CPU, which schedules if it is idle or if a decision has ended the
    /// slice of its task.
    pub(super) fn kicked(&mut self, cpu: CpuId) {
        self.cpus[cpu.index()].kick_pending = false;
        match self.cpus[cpu.index()].current {
            None => {
                self.enter(cpu);
                self.schedule(cpu, Leaving::Idle);
            }
            Some(Who::Task(task)) if self.tasks[task.index()].slice_left_ns == 0 => {
                self.account(cpu);
                self.enter(cpu);
                self.schedule(cpu, Leaving::Runnable(Who::Task(task)));
            }
            Some(_) => (),
        }
    }
}
