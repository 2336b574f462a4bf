//! The two rings of a domain, with the kernel's records: a header of eight bytes, then the message.
//!
//! A record that begins near the end of the data runs on behind it, where there is room for the
//! longest one; the kernel maps its data twice for that.
//!
//! Invariant: a ring never holds more bytes than its size. A record that is still being written
//! hides all later ones, as in the kernel.

use super::hostile::Hostility;
use crate::abi;
use crate::domains::seam::Message;
use crate::kernel::rings::stride;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// A ring's memory and positions.
struct Ring {
    data: Box<[u64]>,
    size: u64,
    produced: u64,
    consumed: u64,
}

impl Ring {
    fn new(size: u32, longest: u64) -> Ring {
        let size = u64::from(size);
        let words = (size + stride(longest)) / 8;
        Ring { data: vec![0; words as usize].into(), size, produced: 0, consumed: 0 }
    }

    /// The header of the record at a position.
    fn header(&mut self, position: u64) -> *mut u32 {
        let word = (position % self.size / 8) as usize;
        self.data[word..].as_mut_ptr().cast()
    }

    /// The message of the record at a position.
    fn message(&mut self, position: u64) -> *mut u64 {
        let word = (position % self.size / 8) as usize + 1;
        self.data[word..].as_mut_ptr()
    }

    /// Makes room for a message of `length` bytes and writes its header, whose second half is
    /// `mark`. Null if there is none.
    fn append(&mut self, length: u64, mark: u32) -> *mut u64 {
        if self.size - (self.produced - self.consumed) < stride(length) {
            return std::ptr::null_mut();
        }
        let position = self.produced;
        self.produced += stride(length);
        // SAFETY: a header has two words, which lie in the data.
        unsafe { self.header(position).cast::<[u32; 2]>().write([length as u32, mark]) };
        self.message(position)
    }

    /// The length of the first message.
    fn first_length(&mut self) -> u64 {
        // SAFETY: the record was written by append().
        unsafe { u64::from(*self.header(self.consumed)) }
    }
}

/// The notices of a domain.
pub struct Notices {
    ring: Ring,
    domain: u32,
    /// When each record in the ring is complete.
    complete_ns: VecDeque<u64>,
    /// When the lock of its producers becomes free.
    pub locked_until_ns: u64,
}

impl Notices {
    /// An empty ring of `size` bytes for a domain.
    pub fn new(size: u32, domain: u32) -> Notices {
        let longest = size_of::<abi::notice_part>() as u64;
        let ring = Ring::new(size, longest);
        Notices { ring, domain, complete_ns: VecDeque::new(), locked_until_ns: 0 }
    }

    /// Room for a message of `length` bytes, complete at `complete_ns`; null if there is none.
    pub fn reserve(&mut self, length: u64, complete_ns: u64) -> *mut u64 {
        let message = self.ring.append(length, self.domain);
        if !message.is_null() {
            self.complete_ns.push_back(complete_ns);
        }
        message
    }

    /// The domain of a message that was reserved.
    ///
    /// # Safety
    /// `message` is the result of [`Notices::reserve`], and not null.
    pub unsafe fn domain_of(message: *const u64) -> usize {
        // SAFETY: the header's second half lies before the message.
        unsafe { *message.cast::<u32>().sub(1) as usize }
    }

    /// The bytes in the ring.
    pub fn bytes(&self) -> u64 {
        self.ring.produced - self.ring.consumed
    }

    /// How many plain notices these bytes would be.
    pub fn pending(&self) -> usize {
        (self.bytes() / stride(size_of::<abi::notice>() as u64)) as usize
    }

    /// Hands the notices that are complete at `now_ns` to `receive`, and returns how many they are.
    pub fn drain(&mut self, now_ns: u64, mut receive: impl FnMut(Message<'_>)) -> usize {
        let mut drained = 0;
        while self.complete_ns.front().is_some_and(|&complete_ns| complete_ns <= now_ns) {
            let length = self.ring.first_length();
            let message = self.ring.message(self.ring.consumed);
            // SAFETY: bpf/notify.bpf.h reserves messages of these two types, which differ in size,
            // and has filled them in; they are aligned to 8 bytes.
            unsafe {
                if length == size_of::<abi::notice_part>() as u64 {
                    receive(Message::Part(&*message.cast()));
                } else {
                    receive(Message::Plain(&*message.cast()));
                }
            }
            self.complete_ns.pop_front();
            self.ring.consumed += stride(length);
            drained += 1;
        }
        drained
    }
}

/// When a domain thread makes a decision.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// When it begins to decide.
    pub begun_ns: u64,
    /// When the kernel can see the decision.
    pub at_ns: u64,
}

/// The decisions of a domain.
pub struct Decisions {
    ring: Ring,
    /// The decisions of this round of the thread, in the ring already, whose times are not known
    /// yet.
    pub fresh: Vec<abi::decision>,
    /// Those that the kernel cannot see yet.
    later: VecDeque<Made>,
    /// Those that it can see and has not drained.
    visible: VecDeque<Made>,
    /// What the thread writes instead, if it is not to be trusted.
    pub hostility: Option<Rc<RefCell<Hostility>>>,
    /// Whether a CPU drains them, or until when one does.
    pub draining: bool,
    pub draining_until_ns: u64,
}

impl Decisions {
    /// An empty ring of `size` bytes.
    pub fn new(size: u32) -> Decisions {
        Decisions {
            ring: Ring::new(size, size_of::<abi::decision>() as u64),
            fresh: Vec::new(),
            later: VecDeque::new(),
            visible: VecDeque::new(),
            hostility: None,
            draining: false,
            draining_until_ns: 0,
        }
    }

    /// Appends a decision; false if there is no room.
    pub fn submit(&mut self, decision: &abi::decision) -> bool {
        let Some(hostility) = &self.hostility else { return self.append(decision) };
        let written = hostility.borrow_mut().submit(decision);
        written.iter().all(|decision| self.append(decision))
    }

    /// Changes bits of a byte of a decision in the ring.
    pub fn write(&mut self, decision: u8, byte: u8, bits: u8) {
        let stride = stride(size_of::<abi::decision>() as u64);
        let count = (self.ring.produced - self.ring.consumed) / stride;
        if count == 0 {
            return;
        }
        // The first is the one that may be in the middle of being carried out.
        let record = u64::from(decision / 32) % count;
        let message = self.ring.message(self.ring.consumed + record * stride);
        let byte = usize::from(byte) % size_of::<abi::decision>();
        // SAFETY: the message is a decision, and the byte is one of its bytes.
        unsafe { *message.cast::<u8>().add(byte) ^= bits | 1 };
    }

    fn append(&mut self, decision: &abi::decision) -> bool {
        let message = self.ring.append(size_of::<abi::decision>() as u64, 0);
        if message.is_null() {
            return false;
        }
        // SAFETY: there is room for a decision, aligned to 8 bytes.
        unsafe {
            message.cast::<abi::decision>().write(*decision);
        }
        self.fresh.push(*decision);
        true
    }

    /// Says when the next of the fresh decisions is made.
    pub fn time(&mut self, made: Made) {
        self.later.push_back(made);
    }

    /// When the kernel sees the next decision.
    pub fn next_ns(&self) -> Option<u64> {
        self.later.front().map(|made| made.at_ns)
    }

    /// Lets the kernel see what is made by `at_ns`; how many decisions those are.
    pub fn publish(&mut self, at_ns: u64) -> u64 {
        let mut count = 0;
        while let Some(&made) = self.later.front().filter(|made| made.at_ns <= at_ns) {
            self.later.pop_front();
            self.visible.push_back(made);
            count += 1;
        }
        count
    }

    /// The first visible decision, which remains in the ring until [`Decisions::release`].
    pub fn first(&mut self) -> Option<(*mut u64, Made)> {
        let made = *self.visible.front()?;
        Some((self.ring.message(self.ring.consumed), made))
    }

    /// Gives up the record of the first decision.
    pub fn release(&mut self) {
        self.visible.pop_front();
        self.ring.consumed += stride(size_of::<abi::decision>() as u64);
    }

    /// Whether the kernel has decisions that it can see and has not drained.
    pub fn has_visible(&self) -> bool {
        !self.visible.is_empty()
    }
}
