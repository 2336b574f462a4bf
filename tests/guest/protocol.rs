//! What the host and the agent in the guest say to each other, a line each, over the guest's port.
//!
//! The agent says `ready` once it is up. The host says `run NAME SECONDS [KEY=VALUE ...]`; the
//! agent answers with the test's output, each line behind [`OUTPUT`], and then with [`PASS`] or
//! [`FAIL`] and a reason. With a line [`STUTTER`] in its output a test asks the host to take the
//! guest's CPUs away again and again, until it says [`STEADY`] or ends. The host says `bye` and the
//! guest powers off.

use std::time::Duration;

pub const READY: &str = "ready";
pub const OUTPUT: &str = "| ";
pub const PASS: &str = "pass";
pub const FAIL: &str = "fail ";
pub const STUTTER: &str = "host: stutter";
pub const STEADY: &str = "host: steady";

/// The variables of the host's environment that a test in the guest finds in its own.
pub const PASSED_ON: [&str; 2] = ["SEED", "MINUTES"];

/// What the host asks of the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Run { test: String, limit: Duration, variables: Vec<(String, String)> },
    Bye,
}

impl Request {
    /// Asks for a test, with those of [`PASSED_ON`] that are set here. A value with a blank in it
    /// is left out.
    pub fn run(test: &str, limit: Duration) -> Request {
        let variables = PASSED_ON
            .iter()
            .filter_map(|key| Some((key.to_string(), std::env::var(key).ok()?)))
            .filter(|(_, value)| !value.contains(char::is_whitespace))
            .collect();
        Request::Run { test: test.into(), limit, variables }
    }

    pub fn to_line(&self) -> String {
        match self {
            Request::Run { test, limit, variables } => {
                let variables: String =
                    variables.iter().map(|(key, value)| format!(" {key}={value}")).collect();
                format!("run {test} {}{variables}\n", limit.as_secs())
            }
            Request::Bye => "bye\n".into(),
        }
    }

    pub fn from_line(line: &str) -> Option<Request> {
        let mut words = line.split_whitespace();
        match words.next()? {
            "run" => Some(Request::Run {
                test: words.next()?.into(),
                limit: Duration::from_secs(words.next()?.parse().ok()?),
                variables: words
                    .map(|word| word.split_once('=').map(|(key, value)| (key.into(), value.into())))
                    .collect::<Option<_>>()?,
            }),
            "bye" => Some(Request::Bye),
            _ => None,
        }
    }
}
