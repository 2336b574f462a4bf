//! `scx_manyland metrics`: the statistics of a scheduler that runs, for Prometheus.
//!
//! Only root may ask the scheduler, and what talks to the network should not be root. So one
//! process connects to the scheduler, and starts another that becomes an unprivileged user and
//! answers over that connection. When the connection ends, so does the other process, and the
//! first connects anew.
//!
//! Invariant: the process that answers the network never has root's rights.

mod exposition;
mod serve;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{ArgGroup, Args, value_parser};
use exposition::{Kernel, State, parse_events};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, User, fork, geteuid, getpid, getppid};
use scx_manyland::options::Seconds;
use scx_manyland::run::cgroups;
use scx_manyland::run::client::{Client, PATH};
use serve::Page;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to").required(true).args(["listen", "textfile"]))]
pub struct MetricsArgs {
    /// Answer Prometheus at this address and port; a port alone is of this machine only
    #[arg(long, value_name = "[ADDR:]PORT")]
    listen: Option<Listen>,
    /// Write them to a file for the textfile collector of node_exporter (its name ends in .prom)
    #[arg(long, value_name = "FILE", value_parser = prom_file)]
    textfile: Option<PathBuf>,
    /// How often the file is written, in seconds (0.1 to 3600)
    #[arg(long, value_name = "SECS", default_value = "15", conflicts_with = "listen")]
    interval: Seconds,
    /// The user to become before the network is answered
    #[arg(long, value_name = "NAME", default_value = "nobody", conflicts_with = "textfile")]
    user: String,
    /// Give what the N busiest cgroups were due and had as well (1 to 64), with their paths
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=cgroups::MOST as i64))]
    stats_cgroups: Option<u8>,
    /// The scheduler's statistics socket
    #[arg(long, value_name = "PATH", default_value = PATH)]
    socket: PathBuf,
}

/// An address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Listen, Self::Err> {
        let alone = text.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let address = alone.or_else(|_| text.parse());
        address.map(Listen).map_err(|_| "not a port, or an address with a port, as 127.0.0.1:9810")
    }
}

/// The name of a file that node_exporter reads.
fn prom_file(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension == "prom" => Ok(path),
        _ => Err("node_exporter reads files whose names end in .prom"),
    }
}

/// How long until the next attempt to find a scheduler.
const AGAIN: Duration = Duration::from_secs(1);

impl MetricsArgs {
    /// Serves until the process is ended.
    ///
    /// # Errors
    /// If the address or the file cannot be used, or this user may not ask the scheduler.
    pub fn run(self) -> Result<()> {
        match (&self.listen, &self.textfile) {
            (Some(Listen(address)), _) => self.serve(*address),
            (None, Some(file)) => self.write(file),
            (None, None) => bail!("neither an address nor a file is given"),
        }
    }

    fn connect(&self) -> Result<Option<Client>> {
        let client = Client::connect(&self.socket)?;
        Ok(client.map(|client| client.with_cgroups(self.stats_cgroups.map(usize::from))))
    }

    fn write(&self, file: &Path) -> Result<()> {
        let mut client = None;
        loop {
            if client.is_none() {
                client = self.connect()?;
            }
            let (page, is_lost) = page(client.as_mut());
            if is_lost {
                client = None;
            }
            replace(file, &page.classic)?;
            sleep(self.interval.duration());
        }
    }

    fn serve(&self, address: SocketAddr) -> Result<()> {
        // Before anything is said: the process that answers cannot say it on the same line.
        let user = user(&self.user)?;
        let listener = TcpListener::bind(address)
            .map_err(|error| anyhow!("cannot listen at {address}: {}", hint(&error)))?;
        log::info!("metrics are at http://{}/metrics", listener.local_addr()?);
        let mut client = self.connect()?;
        let parent = getpid();
        loop {
            let was_connected = client.is_some();
            // SAFETY: this process has one thread, so the child may do all that its parent may.
            match unsafe { fork() }.context("cannot start the process that answers")? {
                ForkResult::Child => answer(&user, parent, &listener, client),
                ForkResult::Parent { child } => {
                    drop(client);
                    client = self.watch(child, was_connected)?;
                }
            }
        }
    }

    /// Waits for the end of the process that answers, or for a scheduler for the next one.
    fn watch(&self, child: Pid, was_connected: bool) -> Result<Option<Client>> {
        loop {
            let how = if was_connected { None } else { Some(WaitPidFlag::WNOHANG) };
            match waitpid(child, how).context("cannot wait for the process that answers")? {
                WaitStatus::StillAlive => {}
                WaitStatus::Exited(_, 0) => return self.connect(),
                // It has said why.
                WaitStatus::Exited(_, _) => bail!("the process that answers has failed"),
                status => bail!("the process that answers has ended: {status:?}"),
            }
            sleep(AGAIN);
            if let Some(client) = self.connect()? {
                kill(child, Signal::SIGKILL).context("cannot end the process that answers")?;
                waitpid(child, None).context("cannot wait for the process that answers")?;
                return Ok(Some(client));
            }
        }
    }
}

/// The life of the process that answers: until its scheduler is gone.
fn answer(user: &User, parent: Pid, listener: &TcpListener, mut client: Option<Client>) -> ! {
    let mut serve = || -> Result<()> {
        become_user(user)?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        ensure!(getppid() == parent, "the process that started it is gone");
        let mut is_lost = false;
        while !is_lost && is_asked(listener, client.as_ref())? {
            serve::answer_one(listener, || {
                let (page, lost) = page(client.as_mut());
                is_lost = lost;
                page
            })?;
        }
        Ok(())
    };
    let code = match serve() {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{error:#}");
            1
        }
    };
    std::process::exit(code)
}

/// Waits for a reader. Whether one came before the scheduler went.
fn is_asked(listener: &TcpListener, client: Option<&Client>) -> Result<bool> {
    let listener = PollFd::new(listener.as_fd(), PollFlags::POLLIN);
    let client = client.map(|client| PollFd::new(client.as_fd(), PollFlags::POLLIN));
    let mut sources: Vec<PollFd<'_>> = [listener].into_iter().chain(client).collect();
    poll(&mut sources, PollTimeout::NONE).context("cannot wait for a reader")?;
    Ok(sources.get(1).is_none_or(|client| client.any() != Some(true)))
}

/// What there is to say now, and whether the scheduler has gone.
fn page(client: Option<&mut Client>) -> (Page, bool) {
    let answer = client.map(Client::totals);
    let is_lost = matches!(answer, Some(Err(_)));
    let state = State { received: answer.and_then(Result::ok), kernel: kernel() };
    let openmetrics = exposition::openmetrics(state);
    (Page { classic: exposition::classic(&openmetrics), openmetrics }, is_lost)
}

fn kernel() -> Kernel {
    let read = |file: &str| fs::read_to_string(Path::new("/sys/kernel/sched_ext").join(file)).ok();
    Kernel {
        attachments: read("enable_seq").and_then(|count| count.trim().parse().ok()),
        events: read("root/events").map_or_else(Vec::new, |text| parse_events(&text)),
    }
}

/// The user to become.
fn user(name: &str) -> Result<User> {
    let user = User::from_name(name).with_context(|| format!("cannot find the user {name}"))?;
    let user =
        user.with_context(|| format!("there is no user {name}; name another one with --user"))?;
    ensure!(!user.uid.is_root(), "{name} is root; name a user without rights with --user");
    Ok(user)
}

/// Why an address cannot be used, and what to do.
fn hint(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there, so name another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => "use a port above 1023, or start it as root",
        _ => return error.to_string(),
    };
    format!("{error}; {hint}")
}

/// Becomes a user without rights, if this process is root.
fn become_user(user: &User) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = || format!("cannot become {}", user.name);
    nix::unistd::setgroups(&[]).with_context(failed)?;
    nix::unistd::setgid(user.gid).with_context(failed)?;
    nix::unistd::setuid(user.uid).with_context(failed)?;
    prctl::set_no_new_privs().with_context(failed)
}

/// Replaces a file as a whole, so that its reader never sees half of it.
fn replace(file: &Path, text: &str) -> Result<()> {
    let mut name = file.file_name().context("the file has no name")?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = file.with_file_name(name);
    fs::write(&new, text)
        .with_context(|| format!("cannot write {} into its folder", file.display()))?;
    fs::rename(&new, file).with_context(|| format!("cannot replace {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine() {
        let parse = |text: &str| text.parse::<Listen>().map(|it| it.0.to_string());
        assert_eq!(parse("9810"), Ok("127.0.0.1:9810".to_owned()));
        assert_eq!(parse("0.0.0.0:1"), Ok("0.0.0.0:1".to_owned()));
        assert_eq!(parse("[::1]:80"), Ok("[::1]:80".to_owned()));
        for text in ["", "localhost:1", "65536", "1.2.3.4", ":80"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.prom");
        for text in ["first", "second"] {
            replace(&file, text).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
