//! Which NUMA node holds the pages, and that they remain mapped there.
//!
//! Invariant: every policy set here lacks the kernel's "migrate on fault" flag.
//!
//! Automatic NUMA balancing unmaps pages now and then to see which CPUs touch them. It skips memory
//! whose policy lacks that flag:
//!
//! - `task_numa_work()` asks `vma_policy_mof()`.
//! - That checks the policy of the mapping, or else the policy of the running thread.
//! - Only `MPOL_F_NUMA_BALANCING` sets the flag on a policy of a user.
//!
//! Every thread of the process can be the running one, so all of them need a policy.
//!
//! The policies prefer a node and do not insist: slow memory is better for a scheduler than none.

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use std::ptr::{self, NonNull};

/// As many nodes as the largest kernel configuration has.
const MAX_NODES: usize = 1024;

/// A node set in the form of the system calls, and its length in bits. The kernel ignores the last
/// bit.
type NodeMask = [u64; MAX_NODES / 64];
const MASK_BITS: usize = MAX_NODES + 1;

/// Sets the NUMA node that the calling thread's new pages prefer: its stack, the heap, what it
/// maps. Without a node, they prefer the node that the thread runs on. It also exempts the
/// process's memory from the page faults of automatic NUMA balancing that this thread would cause.
/// Threads started later inherit the policy.
///
/// Returns whether the kernel accepted the node. It is false
///
/// - without a node,
/// - on a kernel without NUMA, or where a container forbids it,
/// - if the node has no memory or is outside the process's cpuset.
///
/// # Errors
/// If the kernel refuses for any other reason.
pub fn set_thread_policy(node: Option<u32>) -> Result<bool> {
    apply(node, |mode, mask, mask_bits| {
        // SAFETY: `mask` is null with length 0, or points to MASK_BITS - 1 readable bits.
        Errno::result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, mask_bits) })
    })
    .with_context(|| format!("cannot prefer memory of {} for a thread", name(node)))
}

/// Sets the node that the pages of a range of our own addresses prefer, before they exist. Returns
/// as [`set_thread_policy`] does.
///
/// # Errors
/// If the kernel refuses for another reason than those given there.
pub(super) fn bind(start: NonNull<u8>, bytes: usize, node: Option<u32>) -> Result<bool> {
    apply(node, |mode, mask, mask_bits| {
        let no_flags = 0;
        // SAFETY: `mask` as above; a policy changes neither contents nor access of the range.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_mbind, start.as_ptr(), bytes, mode, mask, mask_bits, no_flags)
        })
    })
    .with_context(|| format!("cannot bind {} KiB to {}", bytes >> 10, name(node)))
}

/// Prefers `node`, or the local one if there is none or it has no memory for this process.
fn apply(
    node: Option<u32>,
    set: impl Fn(libc::c_long, *const u64, usize) -> nix::Result<libc::c_long>,
) -> Result<bool> {
    if let Some(node) = node {
        let mask = mask_of(node)?;
        match set(libc::MPOL_PREFERRED.into(), mask.as_ptr(), MASK_BITS) {
            Ok(_) => return Ok(true),
            Err(Errno::EINVAL) => {}
            Err(Errno::ENOSYS | Errno::EPERM) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
    match set(libc::MPOL_LOCAL.into(), ptr::null(), 0) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn mask_of(node: u32) -> Result<NodeMask> {
    let node = node as usize;
    let mut mask: NodeMask = [0; MAX_NODES / 64];
    *mask
        .get_mut(node / 64)
        .ok_or_else(|| anyhow!("no kernel has NUMA nodes beyond {}", MAX_NODES - 1))? |=
        1 << (node % 64);
    Ok(mask)
}

fn name(node: Option<u32>) -> String {
    node.map_or("the local NUMA node".into(), |node| format!("NUMA node {node}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Arena, MIN_ARENA_BYTES};
    use super::*;
    use std::fs;
    use std::thread;

    /// Runs a test in a thread of its own, whose policy ends with it.
    fn in_a_thread(test: fn()) {
        thread::spawn(test).join().unwrap();
    }

    fn kernel_has_numa() -> bool {
        fs::exists("/sys/devices/system/node/has_memory").unwrap()
    }

    /// Mode and mode flags of the policy of an address, or else of the calling thread.
    fn policy_mode(address: Option<*const u8>) -> libc::c_int {
        let of_address: libc::c_ulong = if address.is_some() { 2 } else { 0 };
        let address = address.unwrap_or(ptr::null());
        let mut mode: libc::c_int = -1;
        // SAFETY: the kernel writes one int; no node mask is asked for.
        let result = unsafe {
            let no_mask = ptr::null_mut::<u64>();
            let mode = &raw mut mode;
            libc::syscall(libc::SYS_get_mempolicy, mode, no_mask, 0usize, address, of_address)
        };
        Errno::result(result).unwrap();
        mode
    }

    #[test]
    fn a_thread_prefers_its_node_without_being_balanced() {
        in_a_thread(|| {
            assert_eq!(set_thread_policy(Some(0)).unwrap(), kernel_has_numa());
            if kernel_has_numa() {
                assert_eq!(policy_mode(None), libc::MPOL_PREFERRED);
                assert!(!set_thread_policy(None).unwrap());
                assert_eq!(policy_mode(None), libc::MPOL_LOCAL);
            }
        });
    }

    #[test]
    fn an_arena_prefers_its_node_without_being_balanced() {
        let arena = Arena::new(MIN_ARENA_BYTES, Some(0)).unwrap();
        assert_eq!(arena.is_on_node(), kernel_has_numa());
        if kernel_has_numa() {
            let address = ptr::from_ref(arena.header()).cast();
            assert_eq!(policy_mode(Some(address)), libc::MPOL_PREFERRED);
        }
    }

    #[test]
    fn a_node_without_memory_means_local_memory() {
        in_a_thread(|| {
            assert!(!set_thread_policy(Some(MAX_NODES as u32 - 1)).unwrap());
            assert!(set_thread_policy(Some(MAX_NODES as u32)).is_err());
        });
    }
}
