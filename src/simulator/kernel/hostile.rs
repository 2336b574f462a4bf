//! User space that is not to be trusted: what it submits is not what a scheduler has decided, and it
//! writes to the ring and to its part of the shared memory at any time.
//!
//! Invariant: it writes only where a domain thread can write.

use crate::abi;
use std::collections::VecDeque;

/// Values that a check might overlook.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    64,
    0xffff,
    0x1_0000,
    0xffff_ffff,
    1_000_000,
    abi::SLICE_MAX_NS,
    abi::SLICE_MAX_NS + 1,
    1 << 63,
    u64::MAX,
];

/// What bytes from outside make of a domain thread.
#[derive(Default)]
pub struct Hostility {
    /// What becomes of the next decisions; when it is used up they remain as they are.
    changes: VecDeque<u8>,
    /// Where and when the ring is written to, over and over: how many calls of the kernel pass
    /// before, what is written to, and where or what.
    writes: Vec<[u8; 3]>,
    next_write: usize,
    calls: u8,
    submitted: Vec<abi::decision>,
}

impl Hostility {
    /// Decisions are changed as these bytes say.
    pub fn changing(bytes: &[u8]) -> Hostility {
        Hostility { changes: bytes.iter().copied().collect(), ..Hostility::default() }
    }

    /// The ring is written to as these bytes say.
    pub fn writing(bytes: &[u8]) -> Hostility {
        let writes = bytes.chunks_exact(3).map(|write| [write[0], write[1], write[2]]).collect();
        Hostility { writes, ..Hostility::default() }
    }

    fn byte(&mut self) -> u8 {
        self.changes.pop_front().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        let byte = self.byte();
        match byte {
            0..0x80 => EDGES[usize::from(byte) % EDGES.len()],
            _ => u64::from(byte & 0x7f) << (self.byte() % 58),
        }
    }

    /// What is written to the ring instead of a decision.
    pub fn submit(&mut self, decision: &abi::decision) -> Vec<abi::decision> {
        let mut changed = *decision;
        let written = match self.byte() % 8 {
            0 => vec![changed],
            1 => Vec::new(),
            2 => vec![changed; 2],
            3 => {
                let old = usize::from(self.byte()) % self.submitted.len().max(1);
                vec![self.submitted.get(old).copied().unwrap_or(changed)]
            }
            4 => {
                let mut words = [0; size_of::<abi::decision>() / 8];
                words.fill_with(|| self.number());
                // SAFETY: a decision is made of as many bytes of integers.
                vec![unsafe { std::mem::transmute::<[u64; _], abi::decision>(words) }]
            }
            kind => {
                for _ in 5..=kind {
                    self.change(&mut changed);
                }
                vec![changed]
            }
        };
        self.submitted.extend(&written);
        written
    }

    fn change(&mut self, decision: &mut abi::decision) {
        let (field, number) = (self.byte() % 10, self.number());
        match field {
            0 => decision.seq = decision.seq.wrapping_add(number),
            1 => decision.slice_ns = number,
            2 => decision.vtime = number,
            3 => decision.pid = number as u32,
            4 => decision.cpu = number as u32,
            5 => decision.flags = number as u32,
            6 => decision.domain = number as u32,
            7 => decision.vtime_rate = number as u32,
            8 => decision.max_lag = number,
            _ => decision.carried.memo[0] = number,
        }
    }

    /// The kernel side has called the kernel. The next write, if it is time for it: what is written
    /// to, where or what, and the bits that change.
    pub fn write(&mut self) -> Option<[u8; 3]> {
        let [calls, target, value] = *self.writes.get(self.next_write)?;
        self.calls += 1;
        if self.calls <= calls % 16 {
            return None;
        }
        self.calls = 0;
        self.next_write = (self.next_write + 1) % self.writes.len();
        Some([target, value, calls])
    }
}
