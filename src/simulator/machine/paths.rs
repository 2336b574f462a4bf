//! Events whose paths through the kernel overlap ([`super::super::kernel::interleave`]).
//!
//! Invariant: a CPU is in one path at a time. What happens to it meanwhile comes after that, in its
//! sequence.

use super::M;
use crate::ids::CpuId;
use crate::simulator::events::Event;
use crate::simulator::kernel::interleave::{Context, Pause};
use anyhow::Result;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// The bytes of a path's stack.
const STACK: usize = 256 * 1024;

/// A path that has not ended.
pub struct Path {
    coroutine: Coroutine<(), Pause, Result<()>, DefaultStack>,
    yielder: *const Yielder<(), Pause>,
    context: Context,
    cpu: CpuId,
}

/// The paths, and stacks for more of them.
#[derive(Default)]
pub struct Paths {
    paths: Vec<Option<Path>>,
    free: Vec<usize>,
    stacks: Vec<DefaultStack>,
}

impl Drop for Paths {
    fn drop(&mut self) {
        for path in self.paths.iter_mut().flatten() {
            // SAFETY: the run is over, so nothing refers to what is on the stack; it is forgotten,
            // since C's frames cannot be unwound.
            unsafe { path.coroutine.force_reset() };
        }
    }
}

impl M<'_> {
    /// The CPU on which an event happens.
    fn cpu_of(self, event: Event) -> Option<CpuId> {
        match event {
            Event::Start(_) => self.kernel.online.first(),
            Event::Alarm(task) => Some(self.kernel.task(task).cpu()),
            Event::Due { cpu, .. }
            | Event::Kicked(cpu)
            | Event::HandedOver { cpu, .. }
            | Event::Timer { cpu, .. }
            | Event::ThreadWake { cpu, .. } => Some(cpu),
            Event::Inspect | Event::Resume(_) => None,
        }
    }

    /// Handles an event, or goes on with a path.
    ///
    /// # Errors
    /// As the path has it.
    pub(super) fn overlap(mut self, event: Event) -> Result<()> {
        if let Event::Resume(path) = event {
            return self.go_on_with(path);
        }
        let Some(cpu) = self.cpu_of(event) else { return self.handle(event) };
        let interleaving = self.kernel.interleaving.as_mut().expect("paths overlap");
        if interleaving.busy[cpu.index()] {
            interleaving.deferred[cpu.index()].push(event);
            return Ok(());
        }
        interleaving.busy[cpu.index()] = true;
        let stack = self.paths.stacks.pop().map_or_else(|| DefaultStack::new(STACK), Ok)?;
        // The machine forgets its paths when it ends, so no path outlives what it refers to.
        let machine: M<'static> = M(self.0.cast());
        let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
            let mut m = machine;
            m.kernel.interleaving.as_mut().expect("paths overlap").yielder = yielder;
            let result = m.handle(event);
            m.note_happenings();
            result
        });
        let yielder = std::ptr::null();
        let path = Path { coroutine, yielder, context: self.kernel.context(), cpu };
        let number = match self.paths.free.pop() {
            Some(number) => number,
            None => {
                self.paths.paths.push(None);
                self.paths.paths.len() - 1
            }
        };
        self.paths.paths[number] = Some(path);
        self.go_on_with(number)
    }

    fn go_on_with(mut self, number: usize) -> Result<()> {
        let mut path = self.paths.paths[number].take().expect("the path has not ended");
        self.kernel.resume(path.context);
        let interleaving = self.kernel.interleaving.as_mut().expect("paths overlap");
        interleaving.path = number;
        interleaving.yielder = path.yielder;
        match path.coroutine.resume(()) {
            CoroutineResult::Yield(pause) => {
                path.context = self.kernel.context();
                path.yielder = self.kernel.interleaving.as_ref().expect("paths overlap").yielder;
                self.paths.paths[number] = Some(path);
                if let Pause::Until(at_ns) = pause {
                    self.kernel.plan(at_ns, Event::Resume(number));
                }
                Ok(())
            }
            CoroutineResult::Return(result) => {
                let at_ns = self.kernel.at();
                self.paths.free.push(number);
                self.paths.stacks.push(path.coroutine.into_stack());
                let interleaving = self.kernel.interleaving.as_mut().expect("paths overlap");
                interleaving.busy[path.cpu.index()] = false;
                for event in std::mem::take(&mut interleaving.deferred[path.cpu.index()]) {
                    self.kernel.plan(at_ns, event);
                }
                result
            }
        }
    }
}
