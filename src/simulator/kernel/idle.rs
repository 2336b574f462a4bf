//! Which CPUs are idle, which of them a task gets, and kicks: `kernel/sched/ext_idle.c` and the
//! kicks of `ext.c`.
//!
//! Invariant: `cores` holds CPUs of cores that were idle when the last of their CPUs became so, and
//! of which no CPU has been claimed or left since.

use super::native::{self, cpumask};
use super::{K, Kernel};
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::simulator::TaskId;
use crate::simulator::events::Event;
use crate::topology::Topology;

/// The kernel's masks of idle CPUs.
pub struct Idle {
    pub(super) cpus: cpumask,
    pub(super) cores: cpumask,
    /// Some core has several CPUs.
    smt: bool,
    /// The machine has several L3s, or NUMA nodes: the nearest are searched first.
    has_l3s: bool,
    has_nodes: bool,
}

fn has(mask: &cpumask, cpu: CpuId) -> bool {
    mask.bits[cpu.index() / 64] & (1 << (cpu.index() % 64)) != 0
}

fn set(mask: &mut cpumask, cpu: CpuId, value: bool) {
    let bit = 1 << (cpu.index() % 64);
    let word = &mut mask.bits[cpu.index() / 64];
    *word = if value { *word | bit } else { *word & !bit };
}

/// The CPUs of a mask as a set.
pub(super) fn cpus_of(mask: &cpumask) -> CpuSet {
    CpuSet::from_words(mask.bits)
}

impl Idle {
    /// With no CPU idle.
    pub fn all(topology: &Topology) -> Idle {
        Idle {
            cpus: cpumask { bits: [0; _] },
            cores: cpumask { bits: [0; _] },
            smt: topology.cores().iter().any(|core| core.len() > 1),
            has_l3s: topology.l3_caches().len() > 1,
            has_nodes: topology.numa_nodes().len() > 1,
        }
    }

    /// The CPUs of idle cores; without SMT every CPU is a core.
    pub(super) fn cores_or_cpus(&self) -> *const cpumask {
        if self.smt { &raw const self.cores } else { &raw const self.cpus }
    }

    fn insert(&mut self, cpu: CpuId, siblings: &CpuSet) {
        set(&mut self.cpus, cpu, true);
        if siblings.is_subset(&cpus_of(&self.cpus)) {
            self.cores.bits = *cpus_of(&self.cores).union(siblings).words();
        }
    }

    fn remove(&mut self, cpu: CpuId, siblings: &CpuSet) -> bool {
        let was_idle = has(&self.cpus, cpu);
        set(&mut self.cpus, cpu, false);
        if has(&self.cores, cpu) {
            self.cores.bits = *cpus_of(&self.cores).difference(siblings).words();
        }
        was_idle
    }
}

/// The first CPU of two masks after `from`, or else the first of all.
fn first_after(a: &cpumask, b: &cpumask, from: u32) -> Option<CpuId> {
    let words = a.bits.len();
    let start = from as usize + 1;
    for i in 0..=words {
        let word = (start / 64 + i) % words;
        let mut bits = a.bits[word] & b.bits[word];
        if i == 0 {
            bits &= u64::MAX << (start % 64);
        } else if i == words {
            bits &= !(u64::MAX << (start % 64));
        }
        if bits != 0 {
            return Some(CpuId(word as u32 * 64 + bits.trailing_zeros()));
        }
    }
    None
}

impl Kernel {
    /// Marks a CPU as idle or busy in the kernel's masks.
    pub(super) fn mark_idle(&mut self, cpu: CpuId, idle: bool) {
        let siblings = &self.cpus[cpu.index()].siblings;
        match idle {
            true => self.idle.insert(cpu, siblings),
            false => drop(self.idle.remove(cpu, siblings)),
        }
    }

    /// Claims a CPU if it is idle.
    pub(super) fn claim(&mut self, cpu: CpuId) -> bool {
        self.idle.remove(cpu, &self.cpus[cpu.index()].siblings)
    }

    /// A CPU of both masks, another one than in the last search from this CPU if there are several:
    /// `cpumask_any_and_distribute()`.
    pub(super) fn distribute(&mut self, a: &cpumask, b: &cpumask) -> Option<CpuId> {
        let from = &mut self.cpus[self.here.index()].distributed;
        let found = first_after(a, b, *from)?;
        *from = found.0;
        Some(found)
    }

    /// Claims an idle CPU of a mask, of a whole idle core if there is one: `scx_pick_idle_cpu()`.
    pub(super) fn pick_idle(&mut self, allowed: &cpumask, whole_core: bool) -> Option<CpuId> {
        let (cores, cpus) = (self.idle.cores, self.idle.cpus);
        if self.idle.smt {
            if let Some(cpu) = self.distribute(&cores, allowed)
                && self.claim(cpu)
            {
                return Some(cpu);
            }
            if whole_core {
                return None;
            }
        }
        let cpu = self.distribute(&cpus, allowed)?;
        self.claim(cpu);
        Some(cpu)
    }

    /// As `scx_bpf_select_cpu_and()`: an idle CPU of `mask` that the task may use, on a whole core
    /// and near `prev` if there is one.
    pub(super) fn select_cpu_and(
        &mut self,
        id: TaskId,
        prev: CpuId,
        wake_flags: u64,
        mask: &cpumask,
    ) -> Option<CpuId> {
        let task = self.task(id);
        let allowed = cpus_of(mask).intersection(&cpus_of(&task.c.cpus_mask));
        if task.c.nr_cpus_allowed == 1 || task.migration_disabled {
            return (allowed.contains(prev) && self.claim(prev)).then_some(prev);
        }
        if allowed.is_empty() {
            return None;
        }
        let (here, prev_allowed) = (self.here, allowed.contains(prev));
        let c = &self.cpus[prev.index()];
        let near = |has: bool, cpus: &CpuSet| {
            has.then(|| cpumask { bits: *allowed.intersection(cpus).words() })
        };
        let rings = [
            near(self.idle.has_l3s, &c.l3),
            near(self.idle.has_nodes, &c.node),
            Some(cpumask { bits: *allowed.words() }),
        ];
        if wake_flags & native::SCX_WAKE_SYNC != 0 {
            if prev_allowed && c.l3.contains(here) && self.claim(prev) {
                return Some(prev);
            }
            let is_vacant = self.cpus[here.index()].local.is_empty();
            if is_vacant && !cpus_of(&self.idle.cpus).is_empty() && allowed.contains(here) {
                return Some(here);
            }
        }
        if self.idle.smt {
            if prev_allowed && has(&self.idle.cores, prev) && self.claim(prev) {
                return Some(prev);
            }
            for ring in rings.iter().flatten() {
                if let Some(cpu) = self.pick_idle(ring, true) {
                    return Some(cpu);
                }
            }
        }
        if prev_allowed && self.claim(prev) {
            return Some(prev);
        }
        rings.iter().flatten().find_map(|ring| self.pick_idle(ring, false))
    }

    /// As `scx_bpf_kick_cpu()`: an interrupt on this CPU will make the kick, so not before this CPU
    /// has unlocked its run queue.
    pub(super) fn ask_for_kick(&mut self, cpu: CpuId, anyway: bool) {
        if anyway || self.takes_kick(cpu) {
            self.cpus[self.here.index()].to_kick.push((cpu, anyway));
        }
    }

    /// The interrupts of this CPU are on again: it makes the kicks that it was asked for.
    pub fn make_kicks(&mut self) {
        let mut kicks = std::mem::take(&mut self.cpus[self.here.index()].to_kick);
        for (cpu, anyway) in kicks.drain(..) {
            self.kick(cpu, anyway);
        }
        self.cpus[self.here.index()].to_kick = kicks;
    }

    /// Whether a kick for an idle CPU has an effect: `can_skip_idle_kick()`.
    fn takes_kick(&self, cpu: CpuId) -> bool {
        let c = &self.cpus[cpu.index()];
        c.current.is_none() || c.in_balance
    }

    /// Makes a CPU schedule; one that is not idle only if `anyway` says so.
    pub(super) fn kick(&mut self, cpu: CpuId, anyway: bool) {
        let at_ns = self.at() + self.costs.kick;
        if !anyway && !self.takes_kick(cpu) {
            return;
        }
        let c = &mut self.cpus[cpu.index()];
        c.kicked_anyway |= anyway;
        if !c.kicked {
            c.kicked = true;
            self.events.at(at_ns, Event::Kicked(cpu));
        }
    }

    /// A kick has arrived: whether it makes the CPU schedule.
    pub fn receive_kick(&mut self, cpu: CpuId) -> bool {
        let c = &mut self.cpus[cpu.index()];
        c.kicked = false;
        let anyway = std::mem::take(&mut c.kicked_anyway);
        c.current.is_none() || anyway
    }
}

impl K {
    /// A CPU goes idle or leaves that state: ops.update_idle comes before the kernel's masks.
    pub(super) fn update_idle(mut self, cpu: CpuId, idle: bool) {
        self.call(|ops| {
            let update_idle = ops.update_idle.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call().
            unsafe { update_idle(cpu.0 as i32, idle) }
        });
        self.mark_idle(cpu, idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_begins_behind_the_last_find_and_wraps_around() {
        let mask = |cpus: &[u32]| {
            let set: CpuSet = cpus.iter().map(|&cpu| CpuId(cpu)).collect();
            cpumask { bits: *set.words() }
        };
        let all = mask(&[0, 3, 63, 64, 1023]);
        for (from, found) in [(0, 3), (3, 63), (63, 64), (64, 1023), (1023, 0), (2, 3), (700, 1023)]
        {
            assert_eq!(first_after(&all, &all, from), Some(CpuId(found)), "{from}");
        }
        assert_eq!(first_after(&mask(&[5]), &mask(&[5]), 5), Some(CpuId(5)));
        assert_eq!(first_after(&mask(&[5]), &mask(&[6]), 5), None);
    }
}
