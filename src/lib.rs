//! A Linux CPU scheduler in user space, with one scheduling thread for each last-level cache, whose
//! policy you write.
//!
//! sched_ext lets a BPF program replace the kernel's CPU scheduler. Here a
//! [`Policy`](policy::Policy) in ordinary Rust decides: one instance for each domain (the CPUs under
//! one L3 cache, or whatever [`Granularity`](topology::Granularity) you choose), on a thread of its
//! own. The BPF side carries the events, checks each decision, and is a complete fallback scheduler
//! for the tasks whose decision does not come in time. This is a complete policy and its program:
//!
//! ```no_run
#![doc = include_str!("../examples/fifo.rs")]
//! ```
//!
//! Started as root on Linux 6.16 or newer it schedules the whole machine until Ctrl-C, and has the
//! options of the command line (`--stats 1`, `--domain numa`; `--help` lists them). However it ends,
//! the kernel's own scheduler is back. `make try EXAMPLE=fifo` runs it in a guest, where nothing can
//! happen to your machine.
//!
//! Where to go from here:
//!
//! - [`policy`]: what a policy sees, what it decides, what it must not do; the policies that come
//!   with the crate, each in one file
//! - [`Builder`]: how a scheduler is started; [`program`]: with command-line options of its own
//! - `examples/`: a policy for builds next to games, and one that follows a file of rules
//! - [`topology`]: what domains a machine is cut into
//! - [`simulator`]: what a policy does to a workload, on any machine, in virtual time, without
//!   root and without a kernel
//!
//! `docs/architecture.md` has how it works inside, `docs/policies.md` how to write a policy. A task
//! goes through `bpf/` (the kernel's side), `kernel`, `domains`, `policy`, `domains`, `kernel` and
//! `bpf/`; `run` runs it all.

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
pub mod policy;
#[doc(hidden)]
pub mod run;
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
