//! A scheduler in the making: a policy and the options of a run.
//!
//! Invariant: nothing on the machine changes before [`Builder::run`] or [`Builder::main`].

use super::{program, session, supervisor};
use crate::kernel::options::{RunOptions, StatsOptions};
use crate::policy::kind::PolicyKind;
use crate::policy::{MakePolicy, Policy, Setup};
use crate::run::args::RunArgs;
use crate::topology::preference::Prefer;
use crate::topology::{Granularity, Topology};
use anyhow::Result;
use clap::{Args, Command, FromArgMatches};
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

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
/// use std::time::Duration;
///
/// #[global_allocator]
/// static ALLOCATOR: DomainAllocator = DomainAllocator;
///
/// fn main() -> anyhow::Result<()> {
///     Builder::new(|setup| Vruntime::new(setup.slices))
///         .domain(Granularity::Numa)
///         .slice(Duration::from_millis(3))
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

    /// What a domain is made of.
    pub fn domain(mut self, granularity: Granularity) -> Builder {
        self.options.domain = granularity;
        self
    }

    /// How long a task may run while none waits (100 us to 1 s).
    pub fn slice(mut self, slice: Duration) -> Builder {
        self.options.slices.base = slice;
        self.options.slices.min = self.options.slices.min.min(slice);
        self
    }

    /// The shortest time a task may run while many wait (10 us to the slice).
    pub fn shortest_slice(mut self, slice: Duration) -> Builder {
        self.options.slices.min = slice;
        self
    }

    /// How long a task may wait undecided before the kernel runs it by itself (10 us to 1 s).
    pub fn patience(mut self, patience: Duration) -> Builder {
        self.options.patience = patience;
        self
    }

    /// For how many of a task's next wake-ups a decision may stand (0 to 1000).
    pub fn standing(mut self, wakeups: u32) -> Builder {
        self.options.standing = wakeups;
        self
    }

    /// Whether tasks run by decisions only, without the safety net, until a thread stalls.
    pub fn strict(mut self, strict: bool) -> Builder {
        self.options.strict = strict;
        self
    }

    /// Whether domains leave each other alone.
    pub fn no_steal(mut self, no_steal: bool) -> Builder {
        self.options.no_steal = no_steal;
        self
    }

    /// Whether only tasks that chose the class SCHED_EXT are scheduled.
    pub fn partial(mut self, partial: bool) -> Builder {
        self.options.partial = partial;
        self
    }

    /// Whether each domain thread keeps one CPU of its domain to itself.
    pub fn dedicate(mut self, dedicate: bool) -> Builder {
        self.options.dedicate = dedicate;
        self
    }

    /// Which kind of core goes first.
    pub fn prefer(mut self, prefer: Prefer) -> Builder {
        self.options.prefer = Some(prefer);
        self
    }

    /// Prints statistics.
    pub fn stats(mut self, stats: StatsOptions) -> Builder {
        self.options.stats = Some(stats);
        self
    }

    /// Whether to say more of what is being done.
    pub fn verbose(mut self, verbose: bool) -> Builder {
        self.options.verbose = verbose;
        self
    }

    /// Schedules this machine until SIGINT, SIGTERM or SIGHUP. Needs root and a kernel with
    /// sched_ext. Whatever happens to the process, the kernel's own scheduler takes over.
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

    /// The same on a description of this machine that is better than what it tells of itself, such
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
        let command = RunArgs::augment_args(Command::new(name)).about(about).max_term_width(100);
        let command = RunArgs::starting_from(command, &self.options);
        program::main_with(command, args, |typed: Typed| {
            let options = typed.0.over(self.options.clone())?;
            self.options(options).run()
        })
    }
}

/// The arguments of a program that has no others.
struct Typed(RunArgs);

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Typed, clap::Error> {
        RunArgs::from_arg_matches(matches).map(Typed)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
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

    #[test]
    fn a_short_slice_shortens_the_shortest_one() {
        let slice = Duration::from_micros(100);
        let builder = Builder::from(PolicyKind::Fifo).slice(slice);
        assert_eq!(builder.options.slices.min, slice);
        builder.options.check().unwrap();
    }
}
