//! What the program in the guest can be: its subcommands.

use crate::api::{confine, fuzzer, kinds, load, policies, storm};
use crate::{agent, cases::homes};
use anyhow::Result;
use clap::Parser;
use std::process::{Command, ExitCode};

/// The only program of a guest
#[derive(Parser)]
pub enum Role {
    /// Runs the tests that the host asks for, until it says bye
    Serve,
    /// Runs one test
    Case {
        /// As the host shows it
        name: String,
    },
    /// Computes without a pause
    Hog(load::HogArgs),
    /// Does with many tasks what schedulers stumble over
    Storm(storm::StormArgs),
    /// Wakes up at home, and may start another program before
    Mover(homes::MoverArgs),
    /// The scheduler, with threads that decide at random
    Fuzz(fuzzer::FuzzArgs),
    /// The scheduler, on the description of another machine
    RunOn(kinds::RunOnArgs),
    /// Runs a command line as the first process of a namespace
    PidNamespace(confine::PidNamespaceArgs),
    /// Removes a cgroup at the moment in which a scheduler attaches
    Remover(confine::RemoverArgs),
    /// A scheduler whose policy asks for something
    Policy(policies::PolicyArgs),
}

impl Role {
    /// Does what the role is there for.
    pub fn play(self) -> ExitCode {
        match self {
            Role::Serve => agent::serve(),
            Role::Case { name } => ended(agent::run_case(&name)),
            Role::Hog(args) => ended(args.run()),
            Role::Storm(args) => ended(args.run()),
            Role::Mover(args) => ended(args.run()),
            Role::Fuzz(args) => ended(args.run()),
            Role::RunOn(args) => ended(args.run()),
            Role::PidNamespace(args) => ended(args.run()),
            Role::Remover(args) => ended(args.run()),
            Role::Policy(args) => ended(args.run()),
        }
    }
}

/// The command for another process of this program, in a role.
pub fn command(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(role);
    command
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
