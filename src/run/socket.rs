//! The statistics socket of a running scheduler, answered by the thread that waits for its end.
//!
//! The directories of [`PATH`] are root's, and only root may connect. Once the process is confined
//! it can accept, read, write and close; the file is removed by the process that remains.
//!
//! Invariant: a reader holds up nothing. No call waits, memory for [`READERS`] readers is there
//! before the process is confined, and what does not fit is refused with a line.

use super::cgroups::{self, Busiest};
use super::line;
use super::protocol::{self, About, Connection, Refusal, Reply, Request};
use super::statistics::{Mark, Statistics};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen,
    recv, send, socket,
};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the programs of the scx project expect the socket of a scheduler.
pub const PATH: &str = "/var/run/scx/root/stats";

/// How many readers there may be at once. Each has its own interval.
pub const READERS: usize = 16;

/// A reader that has asked nothing for this time gives way to another, if there are [`READERS`].
const SILENCE: Duration = Duration::from_secs(60);

/// How many readers are accepted before the other events are checked again.
const ACCEPTED_AT_ONCE: usize = 32;

/// Where the next intervals of a reader begin.
struct Intervals {
    counts: Mark,
    cgroups: Busiest,
}

/// A connected reader, or room for one.
struct Reader {
    stream: Option<OwnedFd>,
    connection: Connection,
    since: Intervals,
    /// When it asked last.
    asked: Instant,
}

/// The socket and its readers.
pub struct StatisticsSocket {
    path: PathBuf,
    listener: Option<OwnedFd>,
    readers: Vec<Reader>,
    about: About,
    meta: serde_json::Value,
    /// What the totals are counted from.
    nothing: Mark,
}

impl StatisticsSocket {
    /// Binds the socket. A run without one is a run all the same: why there is none is reported.
    pub fn open(path: &Path, about: About) -> StatisticsSocket {
        let listener = match bind_at(path) {
            Ok(listener) => Some(listener),
            Err(error) => {
                log::warn!("no statistics for other programs: {error:#}");
                None
            }
        };
        let domains = about.cpus.len();
        let meta = protocol::meta();
        let bytes = line::bytes(domains) * 2 + meta.to_string().len() + 100;
        let bytes = bytes.max(cgroups::MOST * cgroups::BYTES);
        let readers = listener.iter().flat_map(|_| 0..READERS).map(|_| Reader {
            stream: None,
            connection: Connection::new(bytes),
            since: Intervals { counts: Mark::nothing(domains), cgroups: Busiest::default() },
            asked: Instant::now(),
        });
        StatisticsSocket {
            readers: readers.collect(),
            path: path.to_owned(),
            listener,
            about,
            meta,
            nothing: Mark::nothing(domains),
        }
    }

    /// The descriptor that accepts readers, for the filter of system calls.
    pub fn listener(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// What to wait for. [`StatisticsSocket::serve`] expects what came in the same sequence.
    pub fn sources(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = self.listener.iter().map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN));
        let readers = self.readers.iter().filter_map(|reader| {
            let events = match reader.connection.to_send() {
                [] => PollFlags::POLLIN,
                _ => PollFlags::POLLOUT,
            };
            Some(PollFd::new(reader.stream.as_ref()?.as_fd(), events))
        });
        listener.chain(readers)
    }

    /// Serves the readers that are ready.
    pub fn serve(&mut self, ready: &[bool], statistics: &mut Statistics<'_>) {
        let mut ready = ready.iter().copied();
        let has_new = self.listener.is_some() && ready.next() == Some(true);
        for at in 0..self.readers.len() {
            if self.readers[at].stream.is_some() && ready.next() == Some(true) {
                self.serve_reader(at, statistics);
            }
        }
        if has_new {
            self.accept(statistics);
        }
    }

    fn serve_reader(&mut self, at: usize, statistics: &mut Statistics<'_>) {
        let StatisticsSocket { readers, about, meta, nothing, .. } = self;
        let Reader { stream, connection, since, asked } = &mut readers[at];
        let Some(open) = stream.as_ref() else { return };
        let answer = |request, output: &mut Vec<u8>| {
            *asked = Instant::now();
            respond(request, output, statistics, about, meta, nothing, since)
        };
        if !matches!(converse(open, connection, answer), Ok(true)) {
            *stream = None;
            connection.clear();
        }
    }

    /// Accepts those who want to read. More than [`READERS`] are refused.
    fn accept(&mut self, statistics: &mut Statistics<'_>) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let Some(listener) = &self.listener else { return };
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            match accept4(listener.as_raw_fd(), flags) {
                Ok(fd) => {
                    // SAFETY: the descriptor is new, and nothing else has it.
                    let stream = unsafe { OwnedFd::from_raw_fd(fd) };
                    self.admit(stream, statistics);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(error) => {
                    // It would be ready again at once.
                    log::warn!("statistics for other programs end: cannot accept: {error}");
                    self.listener = None;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: OwnedFd, statistics: &mut Statistics<'_>) {
        let now = Instant::now();
        let silent = |reader: &Reader| reader.stream.is_some().then(|| now - reader.asked);
        let Some(at) = room(self.readers.iter().map(silent)) else {
            let mut line = Vec::new();
            protocol::refuse(&mut line, &Refusal::busy(READERS));
            // Its buffer is empty, so the line fits.
            let _ =
                send(stream.as_raw_fd(), &line, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
            return;
        };
        let reader = &mut self.readers[at];
        reader.connection.clear();
        reader.asked = now;
        reader.stream = statistics
            .begin(&mut reader.since.counts, &mut reader.since.cgroups)
            .is_ok()
            .then_some(stream);
    }
}

impl Drop for StatisticsSocket {
    fn drop(&mut self) {
        if self.listener.take().is_some() {
            // A confined process may not; its parent does.
            remove_left(&self.path);
        }
    }
}

/// Which reader's room another gets: one that is free, or else that of the one that has been silent
/// for longest, if that is long enough.
fn room(silent: impl Iterator<Item = Option<Duration>>) -> Option<usize> {
    let rooms = silent.enumerate().map(|(at, silent)| (silent.unwrap_or(Duration::MAX), at));
    let (silence, at) = rooms.max_by_key(|&(silence, at)| (silence, std::cmp::Reverse(at)))?;
    (silence >= SILENCE).then_some(at)
}

/// Sends, answers and receives once, without waiting. Whether the connection goes on.
fn converse(
    stream: &OwnedFd,
    connection: &mut Connection,
    mut answer: impl FnMut(Request, &mut Vec<u8>) -> Result<(), Refusal>,
) -> nix::Result<bool> {
    let fd = stream.as_raw_fd();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let mut has_received = false;
    loop {
        while !connection.to_send().is_empty() {
            match send(fd, connection.to_send(), flags) {
                Ok(bytes) => connection.sent(bytes),
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        if connection.is_over() {
            return Ok(false);
        }
        if connection.answer(&mut answer) {
            continue;
        }
        if has_received {
            return Ok(true);
        }
        match recv(fd, connection.room(), MsgFlags::MSG_DONTWAIT) {
            Ok(bytes) => connection.received(bytes),
            Err(Errno::EAGAIN) => return Ok(true),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        }
        has_received = true;
    }
}

fn unanswered(error: anyhow::Error) -> Refusal {
    Refusal { errno: libc::EIO, text: format!("{error:#}") }
}

/// Answers a request.
fn respond(
    request: Request,
    output: &mut Vec<u8>,
    statistics: &mut Statistics<'_>,
    about: &About,
    meta: &serde_json::Value,
    nothing: &Mark,
    since: &mut Intervals,
) -> Result<(), Refusal> {
    match request {
        Request::Meta => {
            protocol::respond(output, 0, meta);
            return Ok(());
        }
        Request::Options => {
            protocol::respond(output, 0, &about.options);
            return Ok(());
        }
        Request::Cgroups => {
            let cgroups = statistics.busiest(&mut since.cgroups).map_err(unanswered)?;
            protocol::respond(output, 0, &cgroups);
            return Ok(());
        }
        Request::Top | Request::Totals => {}
    }
    let totals = request == Request::Totals;
    let then = if totals { nothing } else { &since.counts };
    let (_, seconds) = statistics.since(then).map_err(unanswered)?;
    let latencies = totals.then(|| statistics.now().latencies());
    let (line, thread_us) = (statistics.line(), statistics.thread_us());
    let reply = Reply { about, seconds, line, thread_us, latencies };
    protocol::respond(output, 0, &reply);
    if !totals {
        statistics.mark(&mut since.counts);
    }
    Ok(())
}

/// A socket at a path, which only the own user may connect to.
fn bind_at(path: &Path) -> Result<OwnedFd> {
    let folder = path.parent().context("the socket has no folder")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // The kernel has attached this scheduler, so a socket that is there is of one that has ended.
    match fs::symlink_metadata(path) {
        Ok(found) => {
            ensure!(found.file_type().is_socket(), "{} is not a socket", path.display());
            fs::remove_file(path)
                .with_context(|| format!("cannot remove the old socket {}", path.display()))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let listener = new_socket().context("cannot make a socket")?;
    let address = UnixAddr::new(path).context("the socket's path is too long")?;
    bind(listener.as_raw_fd(), &address)
        .with_context(|| format!("cannot bind {}", path.display()))?;
    // Before anyone can connect.
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    listen(&listener, Backlog::new(64)?)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    Ok(listener)
}

fn new_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Removes a socket that no process accepts readers at any more.
pub fn remove_left(path: &Path) {
    let is_left = || -> Result<bool> {
        // The kernel refuses a connection to an ordinary file as well.
        let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
        let result = connect(new_socket()?.as_raw_fd(), &UnixAddr::new(path)?);
        Ok(is_socket && result == Err(Errno::ECONNREFUSED))
    };
    if is_left().is_ok_and(|it| it) {
        // Another scheduler may have removed it already.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read as _, Write};
    use std::os::unix::net::UnixStream;

    fn socket_at(folder: &tempfile::TempDir) -> (PathBuf, OwnedFd) {
        let path = folder.path().join("scx/root/stats");
        let listener = bind_at(&path).unwrap();
        (path, listener)
    }

    #[test]
    fn the_socket_is_the_users_alone_and_replaces_one_that_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let (path, first) = socket_at(&folder);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        drop(first);
        let (_, second) = socket_at(&folder);
        UnixStream::connect(&path).unwrap();
        remove_left(&path);
        assert!(path.exists(), "it is in use");
        drop(second);
        remove_left(&path);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(bind_at(&path).unwrap_err().to_string().contains("not a socket"));
        remove_left(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_silent_reader_gives_way_only_when_there_is_no_room() {
        let secs = |secs| Some(Duration::from_secs(secs));
        let room = |silent: &[Option<Duration>]| room(silent.iter().copied());
        assert_eq!(room(&[secs(100), None, None]), Some(1));
        assert_eq!(room(&[secs(100), secs(200), secs(1)]), Some(1));
        assert_eq!(room(&[secs(59), secs(1)]), None);
        assert_eq!(room(&[]), None);
    }

    fn yes(request: Request, output: &mut Vec<u8>) -> Result<(), Refusal> {
        protocol::respond(output, 0, &format!("{request:?}"));
        Ok(())
    }

    #[test]
    fn a_conversation_ends_when_the_reader_goes() {
        let (mut reader, stream) = UnixStream::pair().unwrap();
        let (stream, mut connection) = (OwnedFd::from(stream), Connection::new(0));
        assert_eq!(converse(&stream, &mut connection, yes), Ok(true));
        reader.write_all(b"{\"req\":\"stats\"}\n{\"req\":\"stats_meta\"}\n").unwrap();
        assert_eq!(converse(&stream, &mut connection, yes), Ok(true));
        let mut lines = BufReader::new(&reader).lines();
        for expected in ["Top", "Meta"] {
            assert!(lines.next().unwrap().unwrap().contains(expected));
        }
        drop(reader);
        assert_eq!(converse(&stream, &mut connection, yes), Ok(false));
    }

    /// It asks and asks, and reads nothing: what it sends remains in its own buffer.
    #[test]
    fn a_reader_that_does_not_read_is_not_answered_on() {
        let (mut reader, stream) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let (stream, mut connection) = (OwnedFd::from(stream), Connection::new(0));
        let mut answered = 0;
        let mut asked = 0;
        loop {
            let wrote = reader.write(b"{\"req\":\"stats\"}\n");
            asked += usize::from(wrote.is_ok());
            let before = answered;
            let answer = |_, output: &mut Vec<u8>| {
                answered += 1;
                protocol::respond(output, 0, &"x".repeat(10_000));
                Ok(())
            };
            assert_eq!(converse(&stream, &mut connection, answer), Ok(true));
            if wrote.is_err() && answered == before {
                break;
            }
        }
        assert!(asked > answered && answered > 1, "{answered} of {asked}");
        assert!(connection.to_send().len() <= 11_000);
        // Once it reads again it gets every response whole.
        reader.set_nonblocking(false).unwrap();
        let mut got = [0; 10_000];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(converse(&stream, &mut connection, yes), Ok(true));
    }
}
