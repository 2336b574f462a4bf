//! A process that the benchmark starts: a scheduler, or a run of a workload.
//!
//! Invariant: it has a process group of its own, which [`Child`] kills when it is dropped. The
//! kernel kills it when the benchmark ends, however that ends. So no process is left over.

use anyhow::{Context, Result, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, pthread_sigmask};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A process and what it writes.
pub struct Child {
    process: Process,
    status: Option<ExitStatus>,
    stdout: Written,
    stderr: Written,
}

impl Child {
    /// Starts a command. What it writes goes to memory, so it never blocks on a full pipe.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Child> {
        let (stdout, stderr) = (Written::new()?, Written::new()?);
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(stdout.end()?).stderr(stderr.end()?).process_group(0);
        // SAFETY: both are system calls that neither allocate nor acquire a lock.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The benchmark blocks the signals that end it; what it starts must not.
                pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
                Ok(())
            });
        }
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Child { process, status: None, stdout, stderr })
    }

    pub fn pid(&self) -> scx_manyland::ids::Pid {
        scx_manyland::ids::Pid(self.process.id() as i32)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the kernel refuses to say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.process.try_wait().context("cannot wait for a process")?;
        }
        Ok(self.status)
    }

    /// Waits for its end, at most for `limit`.
    ///
    /// # Errors
    /// If it has not ended by then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("it has not ended after {} s", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to its whole group, as a terminal does. That it has ended is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.process.id() as i32), signal);
    }

    /// What it has written to standard output, from the byte `start` on.
    pub fn stdout_from(&self, start: u64) -> Result<String> {
        self.stdout.from(start)
    }

    /// The last line that it has written to standard error, where programs say what is wrong.
    pub fn last_words(&self) -> String {
        let text = self.stderr.from(0).unwrap_or_default();
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or("it said nothing").trim().to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The processes it started are in its group even after it has ended itself.
        self.signal(Signal::SIGKILL);
        if self.status.is_none() {
            let _ = self.process.wait();
        }
    }
}

/// A file in memory that another process appends to.
struct Written(File);

impl Written {
    fn new() -> Result<Written> {
        let file = memfd_create("output", MFdFlags::MFD_CLOEXEC);
        Ok(Written(File::from(file.context("cannot make a file in memory")?)))
    }

    fn end(&self) -> Result<Stdio> {
        Ok(Stdio::from(self.0.try_clone().context("cannot share a file in memory")?))
    }

    fn from(&self, start: u64) -> Result<String> {
        let length = self.0.metadata().context("cannot read a file in memory")?.len();
        let mut bytes = vec![0; usize::try_from(length.saturating_sub(start))?];
        match self.0.read_exact_at(&mut bytes, start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            result => result.context("cannot read a file in memory")?,
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Child {
        Child::start(Command::new("sh").args(["-c", line])).unwrap()
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn both_outputs_are_kept_apart() {
        let mut child = shell("echo first; echo second; echo trouble >&2; echo >&2; exit 3");
        assert_eq!(child.wait(LIMIT).unwrap().code(), Some(3));
        assert_eq!(child.stdout_from(0).unwrap(), "first\nsecond\n");
        assert_eq!(child.stdout_from(6).unwrap(), "second\n");
        assert_eq!(child.stdout_from(100).unwrap(), "");
        assert_eq!(child.last_words(), "trouble");
    }

    #[test]
    fn its_own_children_go_with_it() {
        let child = shell("sleep 1000 & echo $!; wait");
        let deadline = Instant::now() + LIMIT;
        let pid = loop {
            match child.stdout_from(0).unwrap().trim().parse::<i32>() {
                Ok(pid) => break pid,
                Err(_) => assert!(Instant::now() < deadline, "it does not start"),
            }
        };
        drop(child);
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Until init has waited for it, it is a zombie.
        while !(stat().is_empty() || stat().contains(") Z ")) {
            assert!(Instant::now() < deadline, "it lives on");
        }
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let error = Child::start(&mut Command::new("/no/such/program")).err().unwrap();
        assert!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    }
}
