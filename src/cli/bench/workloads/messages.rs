//! `messages`: groups of senders and receivers, as in hackbench.
//!
//! In a group every sender writes a message of 100 bytes to every receiver, round after round. A
//! write blocks while the receiver is behind.
//!
//! When its time is up a sender finishes its round with a last message to every receiver, so every
//! message that was sent is received. Messages a second are those of the whole time up to that
//! point.

use super::{Done, Outcome};
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How many groups.
    pub groups: usize,
    /// How many senders a group has, and how many receivers.
    pub pairs: usize,
}

impl Settings {
    pub fn describe(&self) -> String {
        format!("{} groups of {} senders and {} receivers", self.groups, self.pairs, self.pairs)
    }
}

/// What the members are, and how their messages travel.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    members: Members,
    links: Links,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Members {
    Processes,
    Threads,
}

#[derive(Clone, Copy, Debug)]
enum Links {
    Sockets,
    Pipes,
}

/// The two usual ways of hackbench. Processes come first: they must be forked before there are
/// threads.
const WAYS: [Way; 2] = [
    Way { name: "processes, sockets", members: Members::Processes, links: Links::Sockets },
    Way { name: "threads, pipes", members: Members::Threads, links: Links::Pipes },
];

const MESSAGE_BYTES: usize = 100;
/// The first byte of a message.
const MORE: u8 = 0;
const LAST: u8 = 1;

/// Runs each way for its part of the duration.
pub fn run(settings: &Settings, duration: Duration) -> Result<Outcome> {
    allow_many_files()?;
    let (mut readings, mut count) = (Vec::new(), 0);
    for way in WAYS {
        let (messages, elapsed) = run_way(settings, way, duration / WAYS.len() as u32)
            .with_context(|| format!("messages between {}", way.name))?;
        count += messages;
        let rate = messages as f64 / elapsed.as_secs_f64();
        readings.push(Reading::higher(way.name, "messages/s", rate));
    }
    Ok(Outcome { readings, done: Some(Done { count, what: "message".into() }) })
}

/// Each receiver needs two files, and the usual limit is 1,024.
fn allow_many_files() -> Result<()> {
    let (_, most) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot ask for the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

/// Runs one way: how many messages arrived, and in what time.
fn run_way(settings: &Settings, way: Way, duration: Duration) -> Result<(u64, Duration)> {
    let mut floor = Floor::new(way.members)?;
    for _ in 0..settings.groups {
        let links =
            (0..settings.pairs).map(|_| Link::new(way.links)).collect::<Result<Vec<_>>>()?;
        let (outputs, inputs): (Vec<_>, Vec<_>) =
            links.into_iter().map(|link| (link.output, link.input)).unzip();
        let (outputs, senders) = (Arc::new(outputs), settings.pairs);
        for input in inputs {
            floor.enter(Role::Receiver, move |_| receive(input, senders))?;
        }
        for _ in 0..settings.pairs {
            let outputs = outputs.clone();
            floor.enter(Role::Sender, move |end| send(&outputs, end))?;
        }
    }
    let (sent, received, elapsed) = floor.open(duration)?;
    ensure!(sent == received, "{sent} messages were sent and {received} received");
    Ok((received, elapsed))
}

fn send(outputs: &[File], end: Instant) -> Result<u64> {
    let mut sent = 0;
    loop {
        let last = Instant::now() >= end;
        let message = [if last { LAST } else { MORE }; MESSAGE_BYTES];
        for mut output in outputs {
            output.write_all(&message).context("cannot send a message")?;
            sent += 1;
        }
        if last {
            return Ok(sent);
        }
    }
}

/// Receives until each sender has sent its last message.
fn receive(mut input: File, senders: usize) -> Result<u64> {
    let (mut message, mut received, mut left) = ([0; MESSAGE_BYTES], 0, senders);
    while left > 0 {
        input.read_exact(&mut message).context("cannot receive a message")?;
        ensure!(
            message.iter().all(|&byte| byte == message[0]),
            "a message arrived mixed with another"
        );
        received += 1;
        left -= usize::from(message[0] == LAST);
    }
    Ok(received)
}

/// The two ends of a receiver's socket or pipe.
struct Link {
    output: File,
    input: File,
}

impl Link {
    fn new(links: Links) -> Result<Link> {
        let (output, input) = match links {
            Links::Sockets => {
                let (output, input) =
                    UnixStream::pair().context("cannot make a pair of sockets")?;
                (OwnedFd::from(output), OwnedFd::from(input))
            }
            Links::Pipes => {
                let (input, output) = io::pipe().context("cannot make a pipe")?;
                (output.into(), input.into())
            }
        };
        Ok(Link { output: output.into(), input: input.into() })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Sender,
    Receiver,
}

/// Where the members of all groups gather, begin together, and leave their counts.
struct Floor {
    members: Members,
    /// The moment from which the pipes count nanoseconds.
    epoch: Instant,
    /// Each member writes a byte when it has started.
    there: (PipeReader, Arc<PipeWriter>),
    /// Each member then waits here for the moment at which to end, which is the same for all.
    begin: (Arc<PipeReader>, PipeWriter),
    /// Each member leaves its role and its count.
    counts: (PipeReader, Arc<PipeWriter>),
    processes: Vec<Pid>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// A member leaves a byte for its role and then its count, in one write, which a pipe keeps
/// together.
const COUNT_BYTES: usize = 9;
/// A read from a pipe returns as many bytes as it asks for, so that moments are never torn.
const MOMENT_BYTES: usize = size_of::<u64>();
/// Small, because there are hundreds of threads, with small frames.
const STACK_BYTES: usize = 64 << 10;

impl Floor {
    fn new(members: Members) -> Result<Floor> {
        let pipe = || io::pipe().context("cannot make a pipe");
        let (there, begin, counts) = (pipe()?, pipe()?, pipe()?);
        Ok(Floor {
            members,
            epoch: Instant::now(),
            there: (there.0, Arc::new(there.1)),
            begin: (Arc::new(begin.0), begin.1),
            counts: (counts.0, Arc::new(counts.1)),
            processes: Vec::new(),
            threads: Vec::new(),
        })
    }

    /// Adds a member, which runs `life` once the floor is open.
    fn enter(
        &mut self,
        role: Role,
        life: impl FnOnce(Instant) -> Result<u64> + Send + 'static,
    ) -> Result<()> {
        let (there, begin) = (self.there.1.clone(), self.begin.0.clone());
        let (counts, epoch) = (self.counts.1.clone(), self.epoch);
        let whole = move || -> Result<()> {
            (&*there).write_all(&[0])?;
            let mut end = [0; MOMENT_BYTES];
            (&*begin).read_exact(&mut end)?;
            let end = epoch + Duration::from_nanos(u64::from_ne_bytes(end));
            let mut count = [role as u8; COUNT_BYTES];
            count[1..].copy_from_slice(&life(end)?.to_ne_bytes());
            Ok((&*counts).write_all(&count)?)
        };
        match self.members {
            Members::Threads => {
                let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(whole);
                self.threads.push(thread.context("cannot start a thread")?);
            }
            Members::Processes => {
                // SAFETY: this process has one thread, because the processes come first, and a way
                // joins its threads before it ends.
                match unsafe { fork() }.context("cannot fork")? {
                    ForkResult::Child => {
                        let code = match whole() {
                            Ok(()) => 0,
                            Err(error) => {
                                eprintln!("{error:#}");
                                1
                            }
                        };
                        // SAFETY: _exit has no preconditions; what is buffered is the parent's.
                        unsafe { libc::_exit(code) }
                    }
                    ForkResult::Parent { child } => self.processes.push(child),
                }
            }
        }
        Ok(())
    }

    /// Lets all begin, and waits for the end. Returns the messages sent, the messages received, and
    /// the time.
    fn open(mut self, duration: Duration) -> Result<(u64, u64, Duration)> {
        let members = self.processes.len() + self.threads.len();
        self.there.0.read_exact(&mut vec![0; members]).context("a member did not come")?;
        let start = Instant::now();
        let end = u64::try_from((start + duration - self.epoch).as_nanos())?;
        let ends = end.to_ne_bytes().repeat(members);
        self.begin.1.write_all(&ends).context("the members cannot be let in")?;
        // The members hold the other ends. If one ends without its count, the read fails when the
        // last has ended, instead of waiting for ever.
        drop(self.counts.1);
        let (mut sent, mut received) = (0, 0);
        for _ in 0..members {
            let mut left = [0; COUNT_BYTES];
            self.counts.0.read_exact(&mut left).context("a member left without its count")?;
            let count = u64::from_ne_bytes(left[1..].try_into().expect("eight bytes"));
            match left[0] == Role::Sender as u8 {
                true => sent += count,
                false => received += count,
            }
        }
        let elapsed = start.elapsed();
        for child in self.processes {
            let status = waitpid(child, None).context("cannot wait for a member")?;
            ensure!(status == WaitStatus::Exited(child, 0), "a member ended badly: {status:?}");
        }
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a member panicked"))??;
        }
        Ok((sent, received, elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/bench_workloads.rs` covers processes: they need a program without threads.
    #[test]
    fn what_threads_send_is_received() {
        let settings = Settings { groups: 2, pairs: 3 };
        let (received, _) = run_way(&settings, WAYS[1], Duration::from_millis(20)).unwrap();
        // Whole rounds: each sender writes to each receiver of its group.
        assert!(received >= 2 * 3 * 3 && received.is_multiple_of(3), "{received}");
    }

    #[test]
    fn a_member_that_ends_early_is_an_error() {
        let mut floor = Floor::new(Members::Threads).unwrap();
        floor.enter(Role::Sender, |_| Err(anyhow!("no"))).unwrap();
        assert!(floor.open(Duration::ZERO).is_err());
    }
}
