//! Standard output and standard error, written without ever waiting for who reads them.
//!
//! A pipe whose reader has stopped, a terminal after Ctrl-S and a socket of a slow journal make
//! write(2) wait for good, and a thread that waits there sees no signal. The flag O_NONBLOCK
//! belongs to the open file, which other processes share (the user's shell, for one). So a pipe
//! and a terminal are opened anew, and a socket is asked with each call.
//!
//! Invariant: a line is written as a whole or not at all. What a reader leaves of one goes out
//! before the next.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Writes lines to a descriptor.
pub struct Printer {
    to: OwnedFd,
    kind: Kind,
    /// What the reader has left of the last line.
    rest: Vec<u8>,
}

/// What keeps a write from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file never waits, and neither does a pipe or a terminal that was opened anew.
    Free,
    /// A socket is asked with each call.
    Socket,
    /// A pipe or a terminal that could not be opened anew: it is written piece by piece, each once
    /// there is room for it.
    Shared,
}

/// What a pipe has room for once it is ready.
const PIECE_BYTES: usize = 4096;

impl Printer {
    /// Writes to what a descriptor of this process is, with room for what is left of `bytes`.
    ///
    /// # Errors
    /// If the descriptor is closed, or the process has no other left.
    pub fn new(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Printer> {
        let rest = Vec::with_capacity(bytes);
        let mode = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
        if mode == SFlag::S_IFSOCK {
            return Ok(Printer { to: fd.try_clone_to_owned()?, kind: Kind::Socket, rest });
        }
        let waits = mode == SFlag::S_IFIFO || nix::unistd::isatty(fd).unwrap_or(false);
        if !waits {
            return Ok(Printer { to: fd.try_clone_to_owned()?, kind: Kind::Free, rest });
        }
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        Ok(match open(path.as_str(), flags, Mode::empty()) {
            Ok(to) => Printer { to, kind: Kind::Free, rest },
            // The terminal is another user's, or the pipe has no reader, which a write will tell.
            Err(_) => Printer { to: fd.try_clone_to_owned()?, kind: Kind::Shared, rest },
        })
    }

    /// Whether the next line would go out. What was left of the last one goes first.
    ///
    /// # Errors
    /// If the reader is gone (`BrokenPipe`), or the kernel refuses for another reason.
    pub fn is_free(&mut self) -> io::Result<bool> {
        let rest = std::mem::take(&mut self.rest);
        let written = self.write_some(&rest);
        self.rest = rest;
        self.rest.drain(..written?);
        Ok(self.rest.is_empty())
    }

    /// Writes a line, or none of it while there is some left of the one before. What the reader
    /// does not accept now is kept.
    ///
    /// # Errors
    /// As [`Printer::is_free`].
    pub fn print(&mut self, line: &[u8]) -> io::Result<bool> {
        if !self.is_free()? {
            return Ok(false);
        }
        let written = self.write_some(line)?;
        self.rest.extend_from_slice(&line[written..]);
        Ok(true)
    }

    /// Writes a line, and waits for the reader until `deadline`.
    fn print_until(&mut self, line: &[u8], deadline: Instant) -> io::Result<bool> {
        let mut accepted = self.print(line)?;
        while !accepted || !self.is_free()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.await_room(left)?;
            if !accepted {
                accepted = self.print(line)?;
            }
        }
        Ok(accepted)
    }

    /// Waits until there may be room.
    fn await_room(&self, at_most: Duration) -> io::Result<bool> {
        let mut source = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        match poll(&mut source, timeout) {
            Err(Errno::EINTR) => Ok(false),
            ready => Ok(ready? > 0),
        }
    }

    /// Writes what there is room for, and returns how many bytes that was.
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            let piece = &bytes[written..];
            let result = match self.kind {
                Kind::Free => write(&self.to, piece),
                Kind::Socket => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    send(self.to.as_raw_fd(), piece, flags)
                }
                Kind::Shared if !self.await_room(Duration::ZERO)? => break,
                Kind::Shared => write(&self.to, &piece[..piece.len().min(PIECE_BYTES)]),
            };
            match result {
                Ok(bytes) => written += bytes,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }
}

/// How long a message waits for the reader of standard error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Standard error; `None` if it is closed, which is no reason to stop scheduling.
static MESSAGES: LazyLock<Mutex<Option<Messages>>> = LazyLock::new(|| {
    let printer = Printer::new(io::stderr().as_fd(), PIECE_BYTES).ok();
    Mutex::new(printer.map(|printer| Messages { printer, is_read: true }))
});

struct Messages {
    printer: Printer,
    /// Whether the reader has accepted the last message.
    is_read: bool,
}

/// Opens standard error, while the process may still open something.
pub fn open_messages() {
    LazyLock::force(&MESSAGES);
}

/// Writes to standard error. A message whose reader does not read is left out after a second,
/// and the next ones at once, until there is a reader again.
pub fn say(text: &str) {
    let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(messages) = messages.as_mut() else { return };
    let patience = if messages.is_read { PATIENCE } else { Duration::ZERO };
    let accepted = messages.printer.print_until(text.as_bytes(), Instant::now() + patience);
    messages.is_read = accepted.is_ok_and(|it| it) && messages.printer.rest.is_empty();
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::pty::openpty;
    use nix::sys::termios::{FlowArg, tcflow};
    use std::io::{ErrorKind, Read, Write, pipe};
    use std::os::unix::net::UnixStream;

    const LINE: [u8; 1000] = [b'x'; 1000];

    /// Prints lines until one is left out; returns how many were accepted.
    fn fill(printer: &mut Printer) -> usize {
        (0..1_000_000).find(|_| !printer.print(&LINE).unwrap()).unwrap()
    }

    /// Fills the printer, and holds what a reader then gets to what was accepted.
    fn goes_on_when_read(mut printer: Printer, mut reader: impl Read) {
        let accepted = fill(&mut printer);
        assert!(accepted > 0 && !printer.is_free().unwrap());
        let mut bytes = 0;
        let mut buffer = [0; 1 << 16];
        while bytes < accepted * LINE.len() {
            let read = reader.read(&mut buffer).unwrap();
            assert!(read > 0, "{bytes} bytes of {accepted} lines came");
            bytes += read;
            let _ = printer.is_free().unwrap();
        }
        assert_eq!(bytes, accepted * LINE.len());
        assert!(printer.print(&LINE).unwrap());
    }

    #[test]
    fn a_full_pipe_leaves_lines_out_and_goes_on_when_it_is_read() {
        let (reader, writer) = pipe().unwrap();
        let printer = Printer::new(writer.as_fd(), 0).unwrap();
        assert_eq!(printer.kind, Kind::Free);
        goes_on_when_read(printer, reader);
        let flags = fcntl(&writer, FcntlArg::F_GETFL).unwrap();
        assert_eq!(flags & OFlag::O_NONBLOCK.bits(), 0, "others share the open file");
    }

    #[test]
    fn a_pipe_that_others_opened_is_written_where_there_is_room() {
        let (reader, writer) = pipe().unwrap();
        let to = writer.as_fd().try_clone_to_owned().unwrap();
        goes_on_when_read(Printer { to, kind: Kind::Shared, rest: Vec::new() }, reader);
    }

    #[test]
    fn a_socket_does_not_wait_either() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let printer = Printer::new(writer.as_fd(), 0).unwrap();
        assert_eq!(printer.kind, Kind::Socket);
        goes_on_when_read(printer, reader);
    }

    #[test]
    fn a_stopped_terminal_does_not_wait_either() {
        let pair = openpty(None, None).unwrap();
        tcflow(&pair.slave, FlowArg::TCOOFF).unwrap();
        let mut printer = Printer::new(pair.slave.as_fd(), 0).unwrap();
        assert!(fill(&mut printer) > 0);
    }

    #[test]
    fn a_file_accepts_everything() {
        let mut file = tempfile::tempfile().unwrap();
        let mut printer = Printer::new(file.as_fd(), 0).unwrap();
        file.write_all(b"before ").unwrap();
        assert!(printer.print(b"after").unwrap() && printer.is_free().unwrap());
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "before after");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        for full in [false, true] {
            let (reader, writer) = pipe().unwrap();
            let mut printer = Printer::new(writer.as_fd(), 0).unwrap();
            if full {
                fill(&mut printer);
            }
            drop(reader);
            assert_eq!(printer.print(&LINE).unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut printer = Printer::new(writer.as_fd(), 0).unwrap();
        assert_eq!(printer.print(&LINE).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_waits_for_its_reader_only_until_its_time_is_up() {
        let (_reader, writer) = pipe().unwrap();
        let mut printer = Printer::new(writer.as_fd(), 0).unwrap();
        fill(&mut printer);
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(!printer.print_until(&LINE, deadline).unwrap());
        assert!(Instant::now() >= deadline);
    }
}
