//! The two rings of a domain as user space sees them: notices from the kernel to the domain thread,
//! and decisions back.
//!
//! Both are the kernel's own ring buffers, mapped into the process. The layout is that of the
//! kernel's source file `ringbuf.c`:
//!
//! ```text
//! page      the consumer's position
//! page      the producer's position
//! size      the data
//! size      the data again, so that a record that wraps around is contiguous
//! ```
//!
//! A position only grows; its offset in the data is `position % size`. Each record has a header of
//! eight bytes: its length with two flags in the top bits, and four bytes without a meaning here.
//!
//! Invariant: a ring has one consumer. The ring of decisions has one producer, the domain thread.
//! Neither side makes a system call or allocates.

use super::mapping::{Access, Mapping};
use crate::abi;
use crate::domains::seam::Message;
use anyhow::{Context, Result, bail};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// The bytes of a record's header.
pub(crate) const HEADER: u64 = 8;

fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page has a size")
}

/// The distance from one record to the next.
pub(crate) const fn stride(length: u64) -> u64 {
    (length + HEADER).next_multiple_of(8)
}

/// Maps a part of a ring.
fn map(ring: BorrowedFd<'_>, offset: usize, length: usize, access: Access) -> Result<Mapping> {
    Mapping::new(ring, offset, length, access).context("cannot map a ring buffer of the kernel")
}

/// The notices of the kernel. Their one consumer is the domain thread.
pub struct NoticeRing {
    ring: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    size: u64,
}

impl NoticeRing {
    /// Maps the ring buffer `ring` of `size` bytes, whose notices the caller may consume.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn new(ring: OwnedFd, size: u32) -> Result<Self> {
        let page = page_size();
        let consumer = map(ring.as_fd(), 0, page, Access::Write)?;
        let producer = map(ring.as_fd(), page, page + 2 * size as usize, Access::Read)?;
        Ok(Self { ring, consumer, producer, size: u64::from(size) })
    }

    /// The descriptor to sleep on: readable while the ring holds notices.
    pub fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the first word of the consumer's page is its position; both sides use it
        // atomically.
        unsafe { self.consumer.at(0).cast::<AtomicU64>().as_ref() }
    }

    fn producer_position(&self) -> &AtomicU64 {
        // SAFETY: as above, for the producer's page.
        unsafe { self.producer.at(0).cast::<AtomicU64>().as_ref() }
    }

    /// Whether the kernel has reserved a notice in the ring, even if it is not complete yet.
    pub fn has_messages(&self) -> bool {
        self.producer_position().load(Ordering::Acquire)
            != self.consumer_position().load(Ordering::Relaxed)
    }

    /// An estimate of the notices in the ring: their bytes divided by the size of a plain notice.
    /// It is exact if all of them are plain, of tasks that may run everywhere or on one CPU.
    pub fn pending(&self) -> usize {
        let end = self.producer_position().load(Ordering::Acquire);
        let consumed = self.consumer_position().load(Ordering::Relaxed);
        (end.saturating_sub(consumed) / stride(size_of::<abi::notice>() as u64)) as usize
    }

    /// Hands every complete notice to `receive`, oldest first, and returns how many there were.
    pub fn drain(&mut self, mut receive: impl FnMut(Message<'_>)) -> usize {
        let data = page_size();
        let mut position = self.consumer_position().load(Ordering::Relaxed);
        // Pairs with the kernel's store-release in bpf_ringbuf_reserve: the headers up to here
        // exist.
        let end = self.producer_position().load(Ordering::Acquire);
        let mut received = 0;
        while position < end {
            let offset = data + (position % self.size) as usize;
            // SAFETY: a header is aligned to 8 bytes and inside the data; the kernel writes it
            // atomically.
            let header = unsafe { self.producer.at(offset).cast::<AtomicU32>().as_ref() };
            // Pairs with the kernel's xchg in bpf_ringbuf_commit: the record is complete.
            let length = header.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let record = self.producer.at(offset + HEADER as usize);
            let body = u64::from(length & !(BUSY | DISCARDED));
            if length & DISCARDED == 0 {
                received += 1;
                // SAFETY: the BPF side submits these two types only, which differ in size, and
                // writes nothing to a record until it has been consumed.
                unsafe {
                    if body == size_of::<abi::notice_part>() as u64 {
                        receive(Message::Part(record.cast().as_ref()));
                    } else {
                        receive(Message::Plain(record.cast().as_ref()));
                    }
                }
            }
            position += stride(body);
            // Pairs with the kernel's load in bpf_ringbuf_reserve: the record may be overwritten.
            self.consumer_position().store(position, Ordering::Release);
        }
        received
    }
}

/// The decisions of the domain thread, which is their one producer.
pub struct DecisionRing {
    _ring: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    size: u64,
}

// SAFETY: as for NoticeRing.
unsafe impl Send for DecisionRing {}

impl DecisionRing {
    /// Maps the user ring buffer `ring` of `size` bytes.
    ///
    /// # Errors
    /// If the kernel refuses the mapping, or if a decision does not fit.
    pub fn new(ring: OwnedFd, size: u32) -> Result<Self> {
        if u64::from(size) < stride(size_of::<abi::decision>() as u64) {
            bail!("a ring of {size} bytes holds no decision");
        }
        let page = page_size();
        let consumer = map(ring.as_fd(), 0, page, Access::Read)?;
        let producer = map(ring.as_fd(), page, page + 2 * size as usize, Access::Write)?;
        Ok(Self { _ring: ring, consumer, producer, size: u64::from(size) })
    }

    /// Appends a decision; `false` if there is no room until the kernel has drained some.
    pub fn submit(&mut self, decision: &abi::decision) -> bool {
        let length = size_of::<abi::decision>() as u64;
        // SAFETY: the first word of each of the two pages is a position, used atomically by both
        // sides.
        let (consumed, produced) = unsafe {
            (
                self.consumer.at(0).cast::<AtomicU64>().as_ref(),
                self.producer.at(0).cast::<AtomicU64>().as_ref(),
            )
        };
        let position = produced.load(Ordering::Relaxed);
        // Pairs with the kernel's store-release in __bpf_user_ringbuf_sample_release: it has read
        // all that lies before.
        let used = position - consumed.load(Ordering::Acquire);
        if self.size - used < stride(length) {
            return false;
        }
        let offset = page_size() + (position % self.size) as usize;
        // SAFETY: the record lies in the data, which is mapped twice, so it may run over the end.
        // It is aligned to 8 bytes, and the kernel reads it only after the position is published.
        unsafe {
            self.producer.at(offset).cast::<[u32; 2]>().write([length as u32, 0]);
            self.producer.at(offset + HEADER as usize).cast::<abi::decision>().write(*decision);
        }
        // Pairs with the kernel's load-acquire in __bpf_user_ringbuf_peek.
        produced.store(position + stride(length), Ordering::Release);
        true
    }
}
