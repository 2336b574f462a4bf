//! The BPF side, loaded and attached, as the rest of the program sees it.
//!
//! - [`probe`] asks whether this kernel can run the scheduler at all; [`threads`] finds threads of the
//!   kernel.
//! - [`load`] loads the BPF side for a list of domains with the [`options`] of a run, and attaches
//!   it.
//! - [`rings`] are the two queues of a domain, [`shared`] is the memory it shares with BPF,
//!   [`groups`] that of the cgroups, [`run_delays`] that of the CPUs; each is a [`mapping`].
//! - [`seam`] puts both below a domain thread.
//! - [`exit`] says why the scheduler was detached, and [`dump`] what the kernel knew then.
//!
//! Invariant: dropping [`load::Attached`] gives the machine back to the kernel's own scheduler, and
//! so does the end of the process, however it ends: the kernel holds the link.

pub mod dump;
pub mod exit;
pub mod groups;
pub mod load;
pub mod mapping;
pub mod options;
pub mod probe;
pub mod rings;
pub mod run_delays;
pub mod seam;
pub mod shared;
pub mod threads;

/// The generated skeleton of the BPF side.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/bpf_skel.rs"));
}
