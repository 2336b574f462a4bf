//! Memory of a BPF map or of a ring, mapped into this process.
//!
//! Invariant: a mapping ends with its owner, and an address that it gives is inside it.

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Who may write to the memory besides the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only the kernel.
    Read,
    /// This process too.
    Write,
}

/// Mapped memory of the kernel.
pub struct Mapping {
    start: NonNull<libc::c_void>,
    length: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes from `offset` on, a multiple of a page's size.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If `length` is 0.
    pub fn new(
        of: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        access: Access,
    ) -> Result<Self, Errno> {
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let length = NonZeroUsize::new(length).expect("what is mapped has a size");
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory that
        // is in use.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, of, offset) }?;
        Ok(Self { start, length })
    }

    /// Maps an array of `count` values from the start on.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn of_values<T>(of: BorrowedFd<'_>, count: usize, access: Access) -> Result<Self, Errno> {
        Self::new(of, 0, count * size_of::<T>(), access)
    }

    /// How many bytes are mapped.
    pub fn length(&self) -> usize {
        self.length.get()
    }

    /// The address of a byte.
    ///
    /// # Panics
    /// If it is not mapped.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.length.get(), "byte {offset} of {}", self.length);
        // SAFETY: the offset is inside the mapping.
        unsafe { self.start.cast::<u8>().add(offset) }
    }

    /// The address of a value of an array; `None` if it is not mapped.
    pub fn value<T>(&self, index: usize) -> Option<NonNull<T>> {
        let mapped = index < self.length.get() / size_of::<T>();
        // SAFETY: the value is inside the mapping.
        mapped.then(|| unsafe { self.start.cast::<T>().add(index) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping when its owner ends.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn values_are_inside_the_mapping() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let mapping = Mapping::of_values::<u64>(file.as_fd(), 3, Access::Write).unwrap();
        assert_eq!(mapping.length(), 24);
        let last = mapping.value::<u64>(2).unwrap();
        // SAFETY: it is mapped, and no other thread has the file.
        unsafe { last.write(7) };
        // SAFETY: as above.
        assert_eq!(unsafe { mapping.at(16).cast::<u64>().read() }, 7);
        assert!(mapping.value::<u64>(3).is_none());
        assert!(std::panic::catch_unwind(|| mapping.at(24)).is_err());
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(Mapping::of_values::<u64>(reader.as_fd(), 1, Access::Read).is_err());
    }
}
