//! The seam below the domain threads: where notices come from and where decisions go.
//!
//! On a real machine the seam is a pair of rings that BPF shares (`kernel::seam`); a simulated
//! machine is another (`simulator::kernel::seam`). Everything above it (placement, lookahead,
//! policy) is the same code on both.

use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::DomainId;
use crate::policy::Group;

/// A message of the kernel.
pub enum Message<'a> {
    /// A task that may run everywhere, or on one CPU.
    Plain(&'a abi::notice),
    /// A task that may use some CPUs.
    Part(&'a abi::notice_part),
}

impl Message<'_> {
    /// The part that every message has.
    pub fn notice(&self) -> &abi::notice {
        match self {
            Message::Plain(notice) => notice,
            Message::Part(part) => &part.notice,
        }
    }
}

/// Tells what the kernel's side knows of the group of a slot, at this moment.
pub type ReadGroup = Box<dyn Fn(u32) -> Option<Group> + Send>;

/// What a domain thread needs of the machine.
pub trait Seam {
    /// Now, in nanoseconds, on the clock of the messages. It may be as old as the thread's last
    /// activation, since to read a clock can cost more than a decision.
    fn now_ns(&self) -> u64;

    /// How many messages wait to be drained. A hint.
    fn pending(&self) -> usize;

    /// Hands every message that has come to `receive`, oldest first; the number of them.
    fn drain(&mut self, receive: impl FnMut(Message<'_>)) -> usize;

    /// Sends a decision; `false` if there is no room.
    fn submit(&mut self, decision: &abi::decision) -> bool;

    /// The idle CPUs of the domain. A hint: by the time a decision is carried out, a CPU may have
    /// got other work.
    fn idle(&self) -> CpuSet;

    /// How many CPUs of another domain are idle. A hint.
    fn idle_in(&self, domain: DomainId) -> usize;

    /// Rings the bell of another domain's thread: there is work to steal.
    fn call(&self, domain: DomainId);

    /// How many tasks are decided and not yet running. A hint.
    fn ready(&self) -> usize;

    /// The domain's virtual time: the largest key of all its tasks that have begun to run by a
    /// decision, as time stamps compare; 0 while none has.
    fn vtime(&self) -> u64;

    /// How many tasks of the domain were ready or waiting when the kernel's side last counted them.
    /// A hint.
    fn nr_queued(&self) -> usize;

    /// A reader of the groups of tasks. A machine without cgroups knows of none.
    fn groups(&self) -> ReadGroup {
        Box::new(|_| None)
    }
}
