//! The shipped policies by name, as the command line and the simulator choose them.
//!
//! Invariant: a name that [`PolicyKind`] prints is one that it parses, to the same policy.

use crate::policy::{Choice, Context, Policy, Slices, Task};
use crate::policy::{deadline::Deadline, fifo::Fifo, vruntime::Vruntime};
use clap::ValueEnum;
use std::fmt;
use std::str::FromStr;

/// Which of the shipped policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PolicyKind {
    /// Weighted virtual runtime; tasks that give up the CPU early are favoured
    #[default]
    Vruntime,
    /// Virtual runtime plus the run time since the task last slept
    Deadline,
    /// First come, first served
    Fifo,
}

impl PolicyKind {
    /// All policies, the default first.
    pub const ALL: [PolicyKind; 3] = [PolicyKind::Vruntime, PolicyKind::Deadline, PolicyKind::Fifo];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::Vruntime => "vruntime",
            PolicyKind::Deadline => "deadline",
            PolicyKind::Fifo => "fifo",
        }
    }

    /// A new instance, for one domain.
    ///
    /// ```
    /// use scx_manyland::policy::{Policy, Slices, kind::PolicyKind};
    /// use std::time::Duration;
    /// let slices = Slices { base: Duration::from_millis(20), min: Duration::from_millis(1) };
    /// let policy = "deadline".parse::<PolicyKind>()?.build(slices);
    /// assert_eq!(policy.waiting(), 0);
    /// # Ok::<(), scx_manyland::policy::kind::UnknownPolicy>(())
    /// ```
    pub fn build(self, slices: Slices) -> Box<dyn Policy> {
        match self {
            PolicyKind::Vruntime => Box::new(Vruntime::new(slices)),
            PolicyKind::Deadline => Box::new(Deadline::new(slices)),
            PolicyKind::Fifo => Box::new(Fifo::new(slices.base)),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<PolicyKind, UnknownPolicy> {
        let named = PolicyKind::ALL.into_iter().find(|kind| kind.name() == name);
        named.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// The error for a name that no shipped policy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy(String);

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = PolicyKind::ALL.map(PolicyKind::name).join(", ");
        write!(f, "no policy is called {:?}; choose one of: {known}", self.0)
    }
}

impl std::error::Error for UnknownPolicy {}

/// A policy that is chosen at run time fits wherever one of the user's own does.
impl<P: Policy + ?Sized> Policy for Box<P> {
    fn enqueue(&mut self, task: Task, context: &Context) {
        (**self).enqueue(task, context);
    }

    fn next(&mut self, context: &Context) -> Option<Choice> {
        (**self).next(context)
    }

    fn waiting(&self) -> usize {
        (**self).waiting()
    }

    fn decides_late(&self) -> bool {
        (**self).decides_late()
    }

    fn wakeups_preempt(&self) -> bool {
        (**self).wakeups_preempt()
    }

    fn wants_groups(&self) -> bool {
        (**self).wants_groups()
    }

    fn virtual_time(&self) -> u64 {
        (**self).virtual_time()
    }

    fn give_away(&mut self, may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        (**self).give_away(may)
    }

    fn adopt(&mut self, task: &mut Task, source: u64) {
        (**self).adopt(task, source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_names_it_prints() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!(PolicyKind::default(), PolicyKind::ALL[0]);
    }

    /// Policies are boxed, and a user's may be boxed already.
    #[test]
    fn a_boxed_policy_says_what_it_says_unboxed() {
        struct Late;
        impl Policy for Late {
            fn enqueue(&mut self, _: Task, _: &Context) {}
            fn next(&mut self, _: &Context) -> Option<Choice> {
                None
            }
            fn waiting(&self) -> usize {
                7
            }
            fn decides_late(&self) -> bool {
                true
            }
            fn wakeups_preempt(&self) -> bool {
                true
            }
            fn wants_groups(&self) -> bool {
                true
            }
            fn virtual_time(&self) -> u64 {
                8
            }
        }
        let asked = |policy: &dyn Policy| {
            let says = (policy.decides_late(), policy.wakeups_preempt(), policy.wants_groups());
            (says, policy.waiting(), policy.virtual_time())
        };
        assert_eq!(asked(&Box::new(Late)), asked(&Late));
    }

    #[test]
    fn says_which_names_there_are() {
        let error = "cfs".parse::<PolicyKind>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no policy is called \"cfs\"; choose one of: vruntime, deadline, fifo"
        );
    }
}
