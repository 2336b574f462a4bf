//! The other end of the statistics socket: how a program asks a scheduler that runs.

pub use super::protocol::Received;
pub use super::socket::PATH;

use super::cgroups::{self, Cgroups, Names};
use super::line::Busy;
use super::protocol::parse_response;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a scheduler may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest response: that of 512 domains has a megabyte.
const RESPONSE_BYTES: u64 = 16 << 20;

/// What a scheduler can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What came since the last response.
    Top,
    /// What came since the scheduler attached.
    Totals,
    /// The options of the run.
    Options,
    /// The busiest cgroups since the last response of this kind.
    Cgroups,
}

/// A connection to a scheduler. What [`Client::top`] answers is counted since it answered last.
pub struct Client {
    stream: BufReader<UnixStream>,
    /// How many of the busiest cgroups are asked for, and how they are called.
    cgroups: Option<(usize, Names)>,
}

/// Readable before anything is asked once the scheduler has ended.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

impl Client {
    /// Connects to the socket at a path, usually [`PATH`]; `None` if no scheduler listens there.
    ///
    /// # Errors
    /// If this process may not, or the connection fails for another reason.
    pub fn connect(path: &Path) -> Result<Option<Client>> {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let shown = path.display();
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
            Err(error) if error.kind() == PermissionDenied => {
                bail!("may not read {shown}; only root may ask a scheduler, so start it with sudo")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {shown}")),
        };
        let client = Client { stream: BufReader::new(stream), cgroups: None };
        client.with_patience(PATIENCE).map(Some)
    }

    /// The same with another time that the scheduler may be silent.
    ///
    /// # Errors
    /// If the time is zero.
    pub fn with_patience(self, patience: Duration) -> Result<Client> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(patience)).context("cannot set how long to wait")?;
        stream.set_write_timeout(Some(patience)).context("cannot set how long to wait")?;
        Ok(self)
    }

    /// The same, which asks for that many of the busiest cgroups as well, if any. Each response has those
    /// of the time since the last one, with their paths.
    pub fn with_cgroups(self, most: Option<usize>) -> Client {
        let names = || Names::new(Path::new(cgroups::ROOT));
        Client { cgroups: most.map(|most| (most, names())), ..self }
    }

    /// What came since the last response.
    ///
    /// # Errors
    /// If the scheduler has ended, refuses, or is not this one.
    pub fn top(&mut self) -> Result<Received> {
        self.received(Target::Top)
    }

    /// What came since the scheduler attached.
    ///
    /// # Errors
    /// As [`Client::top`].
    pub fn totals(&mut self) -> Result<Received> {
        self.received(Target::Totals)
    }

    fn received(&mut self, target: Target) -> Result<Received> {
        let mut received = Received::parse(self.ask(target)?)?;
        if self.cgroups.is_some() {
            let mut of = self.cgroups()?;
            if let Some((most, names)) = &mut self.cgroups {
                of.cgroups.truncate(*most);
                names.name(&mut of.cgroups);
            }
            received.line.cgroups = Some(Busy { of, cpus: received.about.nr_cpus() });
        }
        Ok(received)
    }

    fn cgroups(&mut self) -> Result<Cgroups> {
        serde_json::from_value(self.ask(Target::Cgroups)?).context(
            "the scheduler does not answer with its cgroups as this version of scx_manyland does",
        )
    }

    /// The response as it is.
    ///
    /// # Errors
    /// If the scheduler has ended, or refuses.
    pub fn ask(&mut self, target: Target) -> Result<Json> {
        self.request(match target {
            Target::Top => "{\"req\":\"stats\"}\n",
            Target::Totals => "{\"req\":\"stats\",\"args\":{\"target\":\"totals\"}}\n",
            Target::Cgroups => "{\"req\":\"stats\",\"args\":{\"target\":\"cgroups\"}}\n",
            Target::Options => "{\"req\":\"stats\",\"args\":{\"target\":\"options\"}}\n",
        })
    }

    fn request(&mut self, request: &str) -> Result<Json> {
        self.stream.get_mut().write_all(request.as_bytes()).context("cannot ask the scheduler")?;
        let mut line = String::new();
        let mut stream = (&mut self.stream).take(RESPONSE_BYTES);
        stream.read_line(&mut line).context("the scheduler does not answer")?;
        ensure!(line.ends_with('\n'), "the scheduler has closed the connection");
        parse_response(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What a client makes of a scheduler that answers so.
    fn asked(answer: &'static str) -> Result<Received> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            line
        });
        let result = Client::connect(&path).unwrap().unwrap().top();
        assert_eq!(server.join().unwrap(), "{\"req\":\"stats\"}\n");
        result
    }

    #[test]
    fn what_a_scheduler_answers_wrongly_is_an_error() {
        for (answer, word) in [
            ("", "closed"),
            ("{\"errno\":0", "closed"),
            ("nonsense\n", "not a response"),
            ("{\"errno\":16,\"args\":{\"resp\":\"full\"}}\n", "full (errno 16)"),
            ("{\"errno\":0,\"args\":{\"resp\":{\"at\":1}}}\n", "this version"),
        ] {
            let error = format!("{:#}", asked(answer).unwrap_err());
            assert!(error.contains(word) && error.lines().count() == 1, "{answer}: {error}");
        }
    }

    #[test]
    fn no_scheduler_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        assert!(Client::connect(&path).unwrap().is_none());
        drop(UnixListener::bind(&path).unwrap());
        assert!(Client::connect(&path).unwrap().is_none(), "a socket that was left");
    }
}
