//! The kernel's dump at an exit: what it and the BPF side knew when an error ended the scheduler.
//!
//! Invariant: reading it needs no system call, which a confined process could not make.

use crate::abi;
use anyhow::{Context, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// The bytes of a piece.
pub const PIECE: usize = size_of::<abi::dump_piece>();

/// How many pieces hold a dump of this length.
pub fn pieces(bytes: u32) -> u32 {
    bytes.div_ceil(PIECE as u32)
}

/// The memory that BPF writes the dump to.
pub struct ExitDump {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

impl ExitDump {
    /// Maps the array of pieces.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn new(map: BorrowedFd<'_>, pieces: u32) -> Result<ExitDump> {
        let length = NonZeroUsize::new(pieces.max(1) as usize * PIECE).expect("it is not 0");
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory in
        // use.
        let start =
            unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map, 0) };
        let start = start.context("cannot map the memory for a dump")?;
        Ok(ExitDump { start: start.cast(), length })
    }

    /// The dump, after an exit has been recorded; empty if there was none.
    pub fn text(&self) -> String {
        let bytes = (0..self.length.get()).map(|at| {
            // SAFETY: the offset is inside the mapping; the kernel's side may write, so each byte
            // is read once.
            unsafe { self.start.add(at).read_volatile() }
        });
        let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for ExitDump {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_dump_ends_at_its_first_zero() {
        assert_eq!([0, 1, 4096, 4097, 32768].map(pieces), [0, 1, 1, 2, 8]);
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(2 * PIECE as u64).unwrap();
        let dump = ExitDump::new(file.as_fd(), 2).unwrap();
        assert_eq!(dump.text(), "");
        let said = "domain 0\n".repeat(600);
        file.write_all(said.as_bytes()).unwrap();
        assert_eq!(dump.text(), said);
    }
}
