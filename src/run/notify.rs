//! How a service manager learns that the scheduler has attached: sd_notify(3).
//!
//! A manager that waits for it names a datagram socket in `NOTIFY_SOCKET`: a path, or with `@` as
//! its first character a name of the abstract namespace.
//!
//! Invariant: nothing here waits, and none of it fails the run.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The variable that names the socket.
pub(super) const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells the service manager, if there is one, that the scheduler has attached.
pub(super) fn ready(status: &str) {
    if let Some(name) = env::var_os(VARIABLE) {
        // A manager that is gone has no use for it.
        let _ = send(&name, &message(status));
    }
}

fn message(status: &str) -> String {
    // A line is a field.
    format!("READY=1\nSTATUS={}\n", status.replace(char::is_control, " ").trim_end())
}

fn send(name: &OsStr, message: &str) -> nix::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        path => UnixAddr::new(&*OsString::from_vec(path.to_vec()))?,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    sendto(socket.as_raw_fd(), message.as_bytes(), &address, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let bytes = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..bytes]).into_owned()
    }

    #[test]
    fn a_manager_is_reached_by_path_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &message("attached: 2 domain threads\n")).unwrap();
        assert_eq!(received(&socket), "READY=1\nSTATUS=attached: 2 domain threads\n");

        let name = format!("scx_manyland test {}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), &message("")).unwrap();
        assert_eq!(received(&socket), "READY=1\nSTATUS=\n");
    }

    #[test]
    fn a_manager_that_is_gone_or_does_not_read_holds_up_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        assert!(send(path.as_os_str(), "READY=1\n").is_err());
        let _socket = UnixDatagram::bind(&path).unwrap();
        let sent = (0..100_000).find(|_| send(path.as_os_str(), "READY=1\n").is_err());
        assert!(sent.is_some(), "a full queue is not told");
    }
}
