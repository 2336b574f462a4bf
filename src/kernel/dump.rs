//! The kernel's dump at an exit: what it and the BPF side knew when an error ended the scheduler.
//!
//! Invariant: reading it needs no system call, which a confined process could not make.

use super::mapping::{Access, Mapping};
use crate::abi;
use anyhow::{Context, Result};
use std::os::fd::BorrowedFd;

/// The bytes of a piece.
pub const PIECE: usize = size_of::<abi::dump_piece>();

/// How many pieces hold a dump of this length.
pub fn pieces(bytes: u32) -> u32 {
    bytes.div_ceil(PIECE as u32)
}

/// The memory that BPF writes the dump to.
pub struct ExitDump(Mapping);

impl ExitDump {
    /// Maps the array of pieces.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn new(map: BorrowedFd<'_>, pieces: u32) -> Result<ExitDump> {
        let mapping =
            Mapping::of_values::<abi::dump_piece>(map, pieces.max(1) as usize, Access::Read);
        Ok(ExitDump(mapping.context("cannot map the memory for a dump")?))
    }

    /// The dump, after an exit has been recorded; empty if there was none.
    pub fn text(&self) -> String {
        let bytes = (0..self.0.length()).map(|at| {
            // SAFETY: the address is inside the mapping; the kernel's side may write, so each byte
            // is read once.
            unsafe { self.0.at(at).read_volatile() }
        });
        let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
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
