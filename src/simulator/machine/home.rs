//! Which domain is a task's home, and when that changes: `bpf/home.bpf.h` and `bpf/balance.bpf.h`.

use super::Machine;
use crate::abi;
use crate::policy::DEFAULT_WEIGHT;
use crate::simulator::TaskId;
use crate::simulator::dsq::DsqId;
use crate::simulator::task::NO_DOMAIN;

impl Machine<'_> {
    /// Moves a task's home; its virtual time keeps its distance from that of the domain.
    pub(super) fn set_home(&mut self, task: TaskId, home: usize) {
        let t = &mut self.tasks[task.index()].bpf;
        if t.home == home as u32 {
            return;
        }
        if t.home != NO_DOMAIN {
            let from = &mut self.domains[t.home as usize];
            t.vtime = t.vtime.wrapping_sub(from.net_vtime);
            from.tasks -= 1;
            from.counts.moved_out += 1;
            self.domains[home].counts.moved_in += 1;
        }
        let to = &mut self.domains[home];
        t.vtime = t.vtime.wrapping_add(to.net_vtime);
        to.tasks += 1;
        t.home = home as u32;
        t.away = 0;
        t.pulls = 0;
    }

    pub(super) fn may_run_in(&self, task: TaskId, d: usize) -> bool {
        let cpus = self.tasks[task.index()].cpus.as_ref();
        cpus.is_none_or(|cpus| self.domains[d].cpus.intersects(cpus))
    }

    /// The home domain of a task, which moves first if it has no CPU that the task may use.
    pub(super) fn home_of(&mut self, task: TaskId) -> usize {
        let t = &self.tasks[task.index()];
        let home = t.bpf.home as usize;
        if self.may_run_in(task, home) {
            return home;
        }
        let mut here = self.domain_of(t.cpu);
        if !self.may_run_in(task, here) {
            let cpus = t.cpus.map(|cpus| cpus.intersection(&self.online));
            let cpu =
                cpus.and_then(|cpus| cpus.first()).expect("a task may use a CPU of the machine");
            here = self.domain_of(cpu);
        }
        self.set_home(task, here);
        here
    }

    /// A CPU of domain `d` switches a task in.
    pub(super) fn note_run_domain(&mut self, task: TaskId, d: usize) {
        let no_steal = self.limits.no_steal;
        let t = &mut self.tasks[task.index()].bpf;
        if d as u32 == t.home || no_steal {
            t.away = 0;
            return;
        }
        if t.away_in != d as u32 {
            t.away_in = d as u32;
            t.away = 0;
        }
        t.away += 1;
        if t.away >= abi::AWAY_MAX {
            self.set_home(task, d);
        }
    }

    /// What runs on the CPU where `task` wakes up counts as its waker.
    pub(super) fn note_waker(&mut self, task: TaskId, waker: Option<TaskId>) {
        let Some(waker) = waker.filter(|_| !self.limits.no_steal) else { return };
        let there = self.tasks[waker.index()].bpf.home;
        let t = &mut self.tasks[task.index()].bpf;
        if there == t.home {
            t.pulls = 0;
            return;
        }
        if t.puller != there {
            t.puller = there;
            t.pulls = 0;
        }
        t.pulls += 1;
        if t.pulls < abi::PULLS_MAX {
            return;
        }
        t.pulls = 0;
        let (here, there) = (t.home as usize, there as usize);
        // It does not move to the longer queue.
        if self.ready[there].len() > self.ready[here].len() || !self.may_run_in(task, there) {
            return;
        }
        self.set_home(task, there);
        self.tasks[waker.index()].bpf.pulls = 0;
    }

    /// A task waits again, after waking up or not: moves its home if that levels the loads.
    pub(super) fn maybe_balance(&mut self, task: TaskId, woken: bool) {
        let t = &self.tasks[task.index()];
        let (home, weight) = (t.bpf.home as usize, u64::from(t.weight));
        let (moves, to) = (self.domains[home].moves, self.domains[home].move_to);
        if moves <= if woken { abi::MOVES_MIN as u32 } else { 0 } || !self.may_run_in(task, to) {
            return;
        }
        let size = |d: usize| self.domains[d].cpus.len() as u64;
        let (less, more) = (weight / size(home), weight / size(to));
        if self.domains[home].load <= self.domains[to].load + more {
            return;
        }
        self.domains[home].moves -= 1;
        self.domains[home].load = self.domains[home].load.saturating_sub(less);
        self.domains[to].load += more;
        self.set_home(task, to);
    }

    /// The sum of the weights of a queue, estimated from its first tasks.
    fn weight_of(&mut self, id: DsqId) -> u64 {
        const SAMPLE: usize = abi::LOAD_SAMPLE as usize;
        let dsq = self.dsq(id);
        let length = dsq.len();
        let first: Vec<TaskId> = dsq.iter().take(SAMPLE).collect();
        let sum: u64 = first.iter().map(|task| u64::from(self.tasks[task.index()].weight)).sum();
        match first.len() < SAMPLE {
            true => sum,
            false => sum * length as u64 / SAMPLE as u64,
        }
    }

    /// Sums up the weights of the tasks of each domain, and computes its load from that.
    pub(super) fn sample_loads(&mut self) {
        for d in 0..self.domains.len() {
            let weight =
                self.weight_of(DsqId::Ready(d as u32)) + self.weight_of(DsqId::Waiting(d as u32));
            self.domains[d].queue_weight = weight;
            let (ready, waiting) = (DsqId::Ready(d as u32), DsqId::Waiting(d as u32));
            self.domains[d].nr_queued = self.dsq(ready).len() + self.dsq(waiting).len();
            self.domains[d].weight = weight;
        }
        for cpu in self.online.iter() {
            let c = &self.cpus[cpu.index()];
            self.domains[c.domain].weight += u64::from(c.weight);
        }
        for dom in &mut self.domains {
            dom.load = (dom.load * 3 + dom.weight / dom.cpus.len() as u64) / 4;
        }
    }

    /// Lets the fullest domain in which tasks wait move some of them to the emptiest.
    pub(super) fn balance_loads(&mut self) {
        let (mut least, mut most) = (u64::MAX, 0);
        let (mut emptiest, mut fullest) = (None, None);
        for (d, dom) in self.domains.iter_mut().enumerate() {
            dom.moves = 0;
            if dom.load < least {
                (least, emptiest) = (dom.load, Some(d));
            }
            if dom.load >= most && dom.queue_weight > 0 {
                (most, fullest) = (dom.load, Some(d));
            }
        }
        if let (Some(from), Some(to)) = (fullest, emptiest)
            && from != to
            && most.saturating_sub(least) > most / u64::from(abi::LOAD_MARGIN)
        {
            // The weight whose move makes the two even.
            let cpus = |d: usize| self.domains[d].cpus.len() as u64;
            let even = (most - least) * cpus(from) * cpus(to) / (cpus(from) + cpus(to));
            let moves = even / (u64::from(DEFAULT_WEIGHT) * u64::from(abi::MOVES_PART));
            self.domains[from].move_to = to;
            self.domains[from].moves = (abi::MOVES_MIN as u32).max(moves as u32);
        }
    }
}
