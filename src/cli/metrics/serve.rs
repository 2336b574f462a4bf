//! A server of one page over HTTP, for one reader at a time.
//!
//! Invariant: a reader holds it up for a bounded time and with bounded memory.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a reader may be silent, and how long its request may be in all.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 8192;

/// A page in the two formats.
pub struct Page {
    pub openmetrics: String,
    pub classic: String,
}

/// Answers one reader. `page` makes the page, if the reader asks for it.
///
/// # Errors
/// If the system accepts no connections any more.
pub fn answer_one(listener: &TcpListener, page: impl FnOnce() -> Page) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    // A reader that goes away, or is too slow, is no fault of the server.
    let _ = converse(&mut stream, page);
    Ok(())
}

fn converse(stream: &mut TcpStream, page: impl FnOnce() -> Page) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = match read_head(stream)? {
        Some(head) => head,
        None => return respond(stream, "431 Request Header Fields Too Large", PLAIN, "", true),
    };
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !matches!(method, "GET" | "HEAD") {
        return respond(stream, "405 Method Not Allowed", PLAIN, "GET /metrics\n", true);
    }
    if path.split('?').next() != Some("/metrics") {
        return respond(
            stream,
            "404 Not Found",
            PLAIN,
            "metrics are at /metrics\n",
            method == "GET",
        );
    }
    let page = page();
    let is_newer = head.to_ascii_lowercase().contains("application/openmetrics-text");
    let (kind, text) = match is_newer {
        true => ("application/openmetrics-text; version=1.0.0; charset=utf-8", &page.openmetrics),
        false => ("text/plain; version=0.0.4; charset=utf-8", &page.classic),
    };
    respond(stream, "200 OK", kind, text, method == "GET")
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// The head of a request; `None` if it is too long.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let (mut head, mut bytes) = (Vec::new(), [0; 1024]);
    let deadline = Instant::now() + PATIENCE;
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES {
            return Ok(None);
        }
        let length = stream.read(&mut bytes)?;
        if length == 0 || Instant::now() > deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        head.extend_from_slice(&bytes[..length]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn respond(
    stream: &mut TcpStream,
    status: &str,
    kind: &str,
    text: &str,
    has_body: bool,
) -> std::io::Result<()> {
    let length = text.len();
    let body = if has_body { text } else { "" };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(response.as_bytes())
}
