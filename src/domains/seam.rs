//! The seam below the domain threads: where tasks come from and where decisions go.
//!
//! One side of it is the BPF queue pair (`kernel::seam`); a simulated machine is another.
//! Everything above it (placement, look-ahead, policy) is the same code on both.

use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::DomainId;

/// A message of the kernel.
pub enum Message<'a> {
    /// A task that may run everywhere, or on one CPU.
    Plain(&'a abi::queued),
    /// A task that may use some CPUs.
    Part(&'a abi::queued_part),
}

impl Message<'_> {
    /// What every message has.
    pub fn queued(&self) -> &abi::queued {
        match self {
            Message::Plain(queued) => queued,
            Message::Part(part) => &part.queued,
        }
    }
}

/// What a domain thread needs of the machine.
pub trait Seam {
    /// Now, in nanoseconds, on the clock of the messages; it may be as old as the thread's last
    /// activation, since reading a clock can cost more than a decision.
    fn now_ns(&self) -> u64;

    /// How many messages are there. A hint.
    fn pending(&self) -> usize;

    /// Hands over every message that is there, oldest first, and answers how many there were.
    fn drain(&mut self, receive: impl FnMut(Message<'_>)) -> usize;

    /// Sends a decision; `false` if the queue is full.
    fn submit(&mut self, decision: &abi::decided) -> bool;

    /// The idle CPUs of the domain. A hint: by the time a decision is carried out a CPU may have
    /// got other work.
    fn idle(&self) -> CpuSet;

    /// How many CPUs of another domain are idle. A hint.
    fn idle_in(&self, domain: DomainId) -> usize;

    /// Rings the bell of another domain's thread: there is work to steal.
    fn call(&self, domain: DomainId);

    /// How many tasks are decided and not yet running. A hint.
    fn ready(&self) -> usize;
    /// The largest place in the order of all tasks of the domain that have begun to run by a decision
    /// (as time stamps compare), 0 before.
    fn vtime(&self) -> u64;
    /// How many tasks of the domain were ready or waiting at the kernel's last look. A hint.
    fn nr_queued(&self) -> usize;
}
