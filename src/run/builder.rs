//! A scheduler in the making: a policy and the options of a run.
//!
//! Invariant: nothing on the machine changes before [`Builder::run`] or [`Builder::main`].

use super::{program, session, supervisor};
use crate::kernel::options::RunOptions;
use crate::policy::kind::PolicyKind;
use crate::policy::{MakePolicy, Policy, Setup};
use crate::topology::Topology;
use anyhow::Result;
use clap::{Args, Command};
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

/// A policy to schedule with, and how.
///
/// What is not set has the defaults of [`RunOptions`]. The program must have
/// [`DomainAllocator`](crate::DomainAllocator) as its global allocator, so that domain threads
/// never wait for memory.
///
/// ```no_run
/// use scx_manyland::policy::vruntime::Vruntime;
/// use scx_manyland::topology::Granularity;
/// use scx_manyland::{Builder, DomainAllocator};
///
/// #[global_allocator]
/// static ALLOCATOR: DomainAllocator = DomainAllocator;
///
/// fn main() -> anyhow::Result<()> {
///     Builder::new(|setup| Vruntime::new(setup.slices))
///         .with(|options| {
///             options.domain = Granularity::Numa;
///             options.slice_us = 3000;
///         })
///         .run()
/// }
/// ```
#[derive(Clone)]
pub struct Builder {
    pub(crate) name: String,
    pub(crate) make: MakePolicy,
    pub(crate) options: RunOptions,
}

impl Builder {
    /// A scheduler with this policy. `make` is called once for each domain, on the domain's thread
    /// and in its memory, before anything is scheduled, and again when CPUs have come or gone.
    pub fn new<P: Policy + 'static>(
        make: impl Fn(&Setup<'_>) -> P + Send + Sync + 'static,
    ) -> Builder {
        let path = std::any::type_name::<P>();
        let path = path.split('<').next().unwrap_or(path);
        Builder {
            name: path.rsplit("::").next().unwrap_or(path).to_lowercase(),
            make: Arc::new(move |setup| Box::new(make(setup))),
            options: RunOptions::default(),
        }
    }

    /// What the policy is called when the program says that it has attached; the name of its type
    /// unless set.
    pub fn name(self, name: impl Into<String>) -> Builder {
        Builder { name: name.into(), ..self }
    }

    /// Sets all options at once.
    pub fn options(self, options: RunOptions) -> Builder {
        Builder { options, ..self }
    }

    /// Changes options.
    pub fn with(mut self, set: impl FnOnce(&mut RunOptions)) -> Builder {
        set(&mut self.options);
        self
    }

    /// Schedules this machine until SIGINT, SIGTERM or SIGHUP. Needs root and a kernel with
    /// sched_ext. However the process ends, the kernel's own scheduler is back.
    ///
    /// # Errors
    /// One line each: what was being done, to what, what to do next. The kernel's own scheduler is
    /// back by then.
    pub fn run(self) -> Result<()> {
        session::run(&self)
    }

    /// The same for a program that does nothing else: each attachment has a process of its own,
    /// which gives up every capability once it is attached and can open, start and trace nothing
    /// from then on; so the policy must have by then what it wants to have. This process keeps what
    /// it has, for attaching again when the machine changes, and forgets its environment.
    ///
    /// # Errors
    /// As [`Builder::run`], and if the process has more than one thread.
    pub fn run_confined(self) -> Result<()> {
        supervisor::run(&self)
    }

    /// The same on a description of this machine that is better than what it says of itself, such
    /// as one in which kinds of core were registered with hwloc.
    ///
    /// # Errors
    /// As [`Builder::run`], and if the description has not exactly the online CPUs of this machine,
    /// also when some come or go later.
    pub fn run_on(self, machine: Topology) -> Result<()> {
        session::run_on(machine, &self)
    }

    /// The `main` of a program whose command line has the options of a run and no others; what was
    /// set before is their default.
    pub fn main(self) -> ExitCode {
        let mut args = std::env::args_os().peekable();
        let file = args.peek().and_then(|path| std::path::Path::new(path).file_stem());
        let name = file.map_or(self.name.clone(), |name| name.to_string_lossy().into_owned());
        let about = format!("A CPU scheduler in user space, with the policy {}", self.name);
        let command = RunOptions::augment_args(Command::new(name)).about(about).max_term_width(100);
        let command = self.options.show_as_defaults(command);
        let mut options = self.options.clone();
        let typed = |matches| options.set_typed(matches).map(|()| options);
        program::main_with(command, args, typed, |options| self.options(options).run())
    }
}

/// The shipped policies.
impl From<PolicyKind> for Builder {
    fn from(kind: PolicyKind) -> Builder {
        Builder {
            name: kind.name().to_owned(),
            make: Arc::new(move |setup| kind.build(setup.slices)),
            options: RunOptions::default(),
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fifo::Fifo;

    #[test]
    fn a_policy_is_called_by_its_type_unless_it_is_given_a_name() {
        let fifo = || Builder::new(|setup| Fifo::new(setup.slices.base));
        assert_eq!(fifo().name, "fifo");
        assert_eq!(fifo().name("mine").name, "mine");
        assert_eq!(Builder::from(PolicyKind::Deadline).name, "deadline");
    }
}
