//! What the host and the agent in the guest say to each other, a line each, over the guest's port.
//!
//! The agent says `ready` once it is up. The host says `run NAME SECONDS`; the agent answers with the test's output,
//! each line behind [`OUTPUT`], and then with [`PASS`] or [`FAIL`] and a reason. The host says `bye` and the guest powers
//! off.

use std::time::Duration;

pub const READY: &str = "ready";
pub const OUTPUT: &str = "| ";
pub const PASS: &str = "pass";
pub const FAIL: &str = "fail ";

/// What the host asks of the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Run { test: String, limit: Duration },
    Bye,
}

impl Request {
    pub fn to_line(&self) -> String {
        match self {
            Request::Run { test, limit } => format!("run {test} {}\n", limit.as_secs()),
            Request::Bye => "bye\n".into(),
        }
    }

    pub fn from_line(line: &str) -> Option<Request> {
        let mut words = line.split_whitespace();
        match (words.next()?, words.next(), words.next()) {
            ("run", Some(test), Some(seconds)) => Some(Request::Run {
                test: test.into(),
                limit: Duration::from_secs(seconds.parse().ok()?),
            }),
            ("bye", None, None) => Some(Request::Bye),
            _ => None,
        }
    }
}
