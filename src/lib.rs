//! A Linux CPU scheduler in user space, with one scheduling thread for each last-level cache, whose
//! policy you write.
//!
//! sched_ext lets a BPF program replace the kernel's CPU scheduler. Here a
//! [`Policy`](policy::Policy) in ordinary Rust decides which task runs next, where and for how
//! long. Each domain has one instance of the policy, on a thread of its own. A domain is the CPUs
//! under one L3 cache, or the [`Granularity`](topology::Granularity) you choose.
//!
//! The BPF side carries events to user space and carries the decisions out. It is also a complete
//! fallback scheduler: it holds every runnable task, puts a task that wakes up on an idle CPU at
//! once, and runs every task itself whose decision does not come in time.
//!
//! This is a complete scheduler:
//!
//! ```no_run
#![doc = include_str!("../examples/fifo.rs")]
//! ```
//!
//! Started as root on Linux 6.16 or newer it schedules the whole machine until Ctrl-C. Its command
//! line has the options of a run (`--stats 1`, `--domain numa`; `--help` lists them). However it
//! ends, the kernel's own scheduler is back. `make try EXAMPLE=fifo` runs it in a guest, where it
//! cannot harm your machine.
//!
//! Where to go from here:
//!
//! - [`policy`]: what a policy learns of tasks, what it decides, what it must not do; the policies
//!   that come with the crate, each in one file
//! - [`Builder`]: how to start a scheduler; [`program`]: how to give it command-line options of its
//!   own
//! - `examples/`: a policy for games during builds, and one that follows a file of rules
//! - [`topology`]: which domains a machine has
//! - [`simulator`]: what a policy does to a workload, on any machine, in virtual time, without
//!   root and without a kernel
//!
//! `docs/architecture.md` says how it works inside, and `docs/policies.md` how to write a policy. A
//! task goes through the modules in this sequence:
//!
//! 1. `bpf/`: a task becomes runnable; without an idle CPU the kernel's side sends a notice.
//! 2. `kernel`: the ring that carries the notice, in memory shared with BPF.
//! 3. `domains`: the domain thread drains its notices and hands the tasks to the policy.
//! 4. [`policy`]: the policy picks the next task and its slice.
//! 5. `domains`: the domain thread chooses a CPU and makes the decision.
//! 6. `kernel`: the ring that carries the decision.
//! 7. `bpf/`: the kernel's side checks the decision and carries it out.
//!
//! `run` starts and ends all of this. The modules below them are [`topology`] (the machine),
//! `alloc` (a domain's memory), [`cpuset`] and [`ids`].

#[doc(hidden)]
#[allow(missing_docs)]
pub mod abi;
#[doc(hidden)]
pub mod alloc;
pub mod cpuset;
#[doc(hidden)]
pub mod domains;
pub mod ids;
#[doc(hidden)]
pub mod kernel;
mod logger;
pub mod policy;
mod printer;
#[doc(hidden)]
pub mod run;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod topology;

pub use alloc::DomainAllocator;
#[doc(inline)]
pub use kernel::options;
pub use kernel::options::RunOptions;
pub use run::builder::Builder;
#[doc(inline)]
pub use run::program;

#[cfg(test)]
mod tests {
    /// The code that a newcomer copies compiles.
    #[test]
    fn the_page_on_policies_shows_the_shortest_example() {
        let (_, code) = include_str!("../examples/fifo.rs").split_once("\n\n").unwrap();
        assert!(include_str!("../docs/policies.md").contains(code));
    }
}
