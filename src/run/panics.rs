//! What a thread of the scheduler says when it panics.
//!
//! Rust's own hook writes to standard error and waits for who reads it, under a lock. A domain
//! thread must wait for nothing, and a confined process cannot open the files that name the
//! functions of a backtrace. So a domain thread keeps what there is to say, and the main thread
//! says it once the thread has ended; the main thread's own words do not wait either
//! ([`crate::logger`]). Other threads of a program keep the hook that they had.
//!
//! Invariant: a thread of the scheduler that panics waits for no reader.

use crate::logger;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

/// What a thread is to the scheduler.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Main,
    Domain,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Other) };
    static KEPT: RefCell<Option<Words>> = const { RefCell::new(None) };
}

/// What a thread said when it panicked.
#[derive(Debug)]
pub struct Words {
    /// Where, and why.
    text: String,
    /// If RUST_BACKTRACE asks for one.
    backtrace: Backtrace,
}

impl Words {
    fn of(info: &PanicHookInfo<'_>) -> Words {
        let payload = info.payload();
        let why = payload.downcast_ref::<&str>().copied();
        let why = why.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let why = why.unwrap_or("no message");
        let text = match info.location() {
            Some(location) => format!("{why} ({}:{})", location.file(), location.line()),
            None => why.to_owned(),
        };
        Words { text, backtrace: Backtrace::capture() }
    }
}

/// Names the functions of the backtrace, which needs memory and the program's file.
impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.backtrace.status() {
            BacktraceStatus::Captured => write!(f, "\n{}", self.backtrace),
            _ => Ok(()),
        }
    }
}

/// The calling thread is the scheduler's main thread.
pub fn watch_main() {
    install();
    KIND.set(Kind::Main);
}

/// The calling thread is a domain thread. If it panics, [`kept`] has its words.
pub fn watch_domain_thread() {
    install();
    logger::silence_thread();
    KIND.set(Kind::Domain);
}

/// What the calling domain thread said when it panicked.
pub fn kept() -> Option<Words> {
    KEPT.take()
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| match KIND.get() {
            Kind::Other => before(info),
            Kind::Main => log::error!("the main thread panicked: {}", Words::of(info)),
            Kind::Domain => KEPT.set(Some(Words::of(info))),
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;
    use std::thread;

    #[test]
    fn a_domain_thread_keeps_its_words() {
        let thread = thread::spawn(|| {
            watch_domain_thread();
            assert!(catch_unwind(|| panic!("a task is {}", "terrible")).is_err());
            let words = kept().expect("it has said something").to_string();
            assert!(kept().is_none());
            words
        });
        let words = thread.join().unwrap();
        assert!(words.starts_with("a task is terrible (src/run/panics.rs:"), "{words}");
    }

    #[test]
    fn other_threads_keep_their_hook() {
        let thread = thread::spawn(|| {
            install();
            assert!(catch_unwind(|| panic!("expected, and printed by Rust's own hook")).is_err());
            kept().is_none()
        });
        assert!(thread.join().unwrap());
    }
}
