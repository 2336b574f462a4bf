//! QEMU's own port to a guest (its machine protocol, QMP): wakes a guest that has suspended itself.
//!
//! The guest could set an alarm instead, but on a busy host that may come before the guest sleeps,
//! and then nothing wakes it.
//!
//! Invariant: a guest that suspends to memory goes on [`ASLEEP`] later.

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a suspended guest sleeps.
const ASLEEP: Duration = Duration::from_secs(1);

/// How long QEMU may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where QEMU listens. A folder of its own, because the path of a socket must be short.
pub struct Monitor(TempDir);

impl Monitor {
    pub fn new() -> Result<Monitor> {
        Ok(Monitor(tempfile::tempdir().context("cannot make a folder for QEMU's socket")?))
    }

    pub fn socket(&self) -> PathBuf {
        self.0.path().join("qmp")
    }

    /// Wakes the guest whenever it has suspended itself, until QEMU ends.
    pub fn wake_guest(&self) {
        let socket = self.socket();
        thread::spawn(move || {
            if let Err(error) = serve(&socket) {
                eprintln!("nobody wakes the guest if it suspends: {error:#}");
            }
        });
    }
}

fn serve(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() >= deadline => return Err(e).context("QEMU does not listen"),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    let reader = BufReader::new(stream.try_clone()?);
    writeln!(stream, "{}", serde_json::json!({ "execute": "qmp_capabilities" }))?;
    // Until QEMU ends, in whatever way.
    for line in reader.lines().map_while(Result::ok) {
        let said: Value = serde_json::from_str(&line).context("QEMU talks no JSON")?;
        if said["event"] == "SUSPEND" {
            thread::sleep(ASLEEP);
            writeln!(stream, "{}", serde_json::json!({ "execute": "system_wakeup" }))?;
        }
    }
    Ok(())
}
