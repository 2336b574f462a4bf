//! What the BPF side knows of the cgroups, as user space reads it.
//!
//! Invariant: every access is atomic, and nothing here is written.

use super::mapping::{Access, Mapping};
use crate::abi;
use crate::ids::CgroupId;
use crate::policy::{Group, Limit};
use anyhow::{Context, Result};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const COUNT: usize = abi::limits_GROUPS_MAX as usize;

/// What a group was due and had, when the gauges were last refreshed.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The group itself, with its share and its limit.
    pub group: Group,
    /// How many of its own tasks are runnable.
    pub runnable: u32,
    /// CPU time of its own tasks, in nanoseconds.
    pub ran_ns: u64,
    /// How often it had used up its quota since it has one.
    pub throttles: u64,
    /// For how long, in nanoseconds.
    pub throttled_ns: u64,
}

/// The mapped memory of all groups.
pub struct SharedGroups(Mapping);

// SAFETY: the mapping is only accessed atomically.
unsafe impl Sync for SharedGroups {}

/// Reads a field of a group.
macro_rules! read {
    ($at:ident.$name:ident as $atomic:ty) => {
        // SAFETY: the field lies in the mapping, is aligned, and is only accessed atomically.
        unsafe { <$atomic>::from_ptr(&raw mut (*$at.as_ptr()).$name) }.load(Ordering::Relaxed)
    };
}

impl SharedGroups {
    /// Maps the array of all groups.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    pub fn new(map: BorrowedFd<'_>) -> Result<Arc<Self>> {
        let mapping = Mapping::of_values::<abi::group>(map, COUNT, Access::Read)
            .context("cannot map the memory of the cgroups")?;
        Ok(Arc::new(Self(mapping)))
    }

    fn first(&self) -> NonNull<abi::group> {
        self.0.at(0).cast()
    }

    /// The group of a slot; `None` if the slot is free, or its group changes at this moment.
    pub fn group(&self, slot: u32) -> Option<Group> {
        // SAFETY: it is the memory of all groups, as long as this is there.
        unsafe { group(self.first(), slot) }
    }

    /// What the group of a slot was due and had; `None` as for [`SharedGroups::group`].
    pub fn usage(&self, slot: u32) -> Option<Usage> {
        // SAFETY: as above.
        let at = unsafe { group_at(self.first(), slot) }?;
        let usage = Usage {
            group: self.group(slot)?,
            runnable: read!(at.runnable as AtomicU32),
            ran_ns: read!(at.ran_ns as AtomicU64),
            throttles: read!(at.throttles as AtomicU64),
            throttled_ns: read!(at.throttled_ns as AtomicU64),
        };
        (read!(at.id as AtomicU64) == usage.group.id.0).then_some(usage)
    }
}

/// The memory of a slot.
///
/// # Safety
/// `first` is the first group of the memory of all, which outlives the result.
unsafe fn group_at(first: NonNull<abi::group>, slot: u32) -> Option<NonNull<abi::group>> {
    // SAFETY: the slot is one of that memory.
    ((slot as usize) < COUNT).then(|| unsafe { first.add(slot as usize) })
}

/// The group of a slot; `None` if the slot is free, or its group changes at this moment.
///
/// # Safety
/// `first` is the first group of the memory of all, which is only accessed atomically or by this thread.
pub unsafe fn group(first: NonNull<abi::group>, slot: u32) -> Option<Group> {
    // SAFETY: as the caller promises.
    let at = unsafe { group_at(first, slot) }?;
    let id = read!(at.id as AtomicU64);
    let parent = read!(at.parent as AtomicU32);
    // SAFETY: as above.
    let above = unsafe { group_at(first, parent) }?;
    let level = read!(at.level as AtomicU32);
    let quota_ns = read!(at.quota_ns as AtomicU64);
    let group = Group {
        id: CgroupId(id),
        parent: (level > 0).then(|| CgroupId(read!(above.id as AtomicU64))),
        level,
        weight: read!(at.weight as AtomicU32),
        idle: read!(at.idle as AtomicU32) != 0,
        share: read!(at.share as AtomicU64) as f64 / (1u64 << 32) as f64,
        limit: (quota_ns > 0).then(|| Limit {
            quota: Duration::from_nanos(quota_ns),
            period: Duration::from_nanos(read!(at.period_ns as AtomicU64)),
        }),
        throttled: read!(at.throttled as AtomicU32) != 0,
    };
    (id != 0 && read!(at.id as AtomicU64) == id).then_some(group)
}
