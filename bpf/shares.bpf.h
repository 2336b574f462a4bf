/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The weights of the groups: what share of the machine each is due, and the effective weights of
 * tasks that follow from it.
 *
 * The hierarchy is flattened. A group's share of what its parent has is its weight over the weights
 * of all that compete there: groups with runnable tasks, and the parent's own runnable tasks. The
 * share of the machine is the product on the way up to the root. A task's effective weight is its
 * own one times the factor of its group, which makes the effective weights of the group's runnable
 * tasks add up to its share. The average of all factors is 1, by weight.
 *
 * No task can use more than a CPU. A group that is due more than a CPU for each of its tasks is due
 * just that, and what is left is dealt to the others (`spread`).
 *
 * A pass over the groups that are active computes this every SHARES_NS. The CPUs that ask for work
 * make it, SHARES_STEP groups at a time. Without tasks outside of the root there is no pass, and
 * nothing is counted.
 *
 * Invariant: each runnable task that has begun to run or wait since the first group had a task is
 * counted once, in `group_loads`, and exactly that is subtracted when it sleeps.
 */
#ifndef MANYLAND_SHARES_BPF_H
#define MANYLAND_SHARES_BPF_H

#include "groups.bpf.h"

/* How often the shares are computed. */
#define SHARES_NS 5000000
/* How many groups, and slots with or without one, a CPU goes through at once, interrupts off. */
#define SHARES_STEP 32
#define SHARES_SLOTS 512

/* The factor 1, and an effective weight of 1. */
#define FACTOR_ONE (1 << 16)
#define EXACT_ONE 1024
/* The whole machine, as a share. */
#define SHARE_ALL (1ULL << 32)
/* A group competes with this times its weight. One that is idle, with IDLE_WEIGHT. */
#define WEIGHT_PARTS 16
#define IDLE_WEIGHT 5
/* More CPU time than this since a decision is not converted to another weight. */
#define SINCE_MAX_NS 1000000000000
/* A count of runnable tasks adds this to the sum of their weights. */
#define LOAD_TASK (1ULL << 40)
/* A sample is a fourth of the new average of a group's load. */
#define LOAD_AVERAGE 4
/* How often the CPU times of the groups are measured. */
#define MEASURE_NS 100000000
/* A correction changes by this part of the error, and is at most so large. */
#define CORRECTION 8
#define CORRECTION_MAX 2

/* The runnable tasks of a group in one shard of the machine: LOAD_TASK for each, plus weights. */
struct group_load {
	u64 load;
	u64 ran_ns; /* CPU time of its tasks, counted here */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GROUPS_MAX);
	__type(key, u32);
	__type(value, struct group_load);
} group_loads SEC(".maps");

/* What the pass keeps of a group. */
struct group_sum {
	u32 active; /* 1: its bit in `active_groups` is set, or about to be */
	u32 sum_pass; /* the pass that `sum` is of */
	u32 counted_pass; /* the pass that has added its weight to its parent's sum */
	u64 sum; /* of what competes in the group: WEIGHT_PARTS for a weight of 1 */
	u64 tasks; /* its own runnable tasks, averaged, in parts of 1024 */
	u64 weight; /* the sum of their weights, likewise */
	bool runs; /* it had runnable tasks at the last pass */
	bool rested; /* it had none at some pass since its CPU time was last measured */
	u64 ran_ns; /* its CPU time when that was last measured */
	u64 used_ns; /* what it had of it since the time before */
	u64 got; /* the share of all CPU time that it had, averaged */
	u64 correction; /* of its factor, times EXACT_ONE; 0: 1 */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GROUPS_MAX);
	__type(key, u32);
	__type(value, struct group_sum);
} group_sums SEC(".maps");

struct active_word {
	u64 slots;
};

/* The slots of groups with runnable tasks, 64 to a word. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GROUPS_MAX / 64);
	__type(key, u32);
	__type(value, struct active_word);
} active_groups SEC(".maps");

enum shares_phase {
	SHARES_DONE, /* no pass is under way */
	SHARES_SUM, /* it sums up what competes in each group */
	SHARES_DEAL, /* it gives each group its share and its factor */
};

GLOBAL struct share_state {
	u64 at_ns; /* when the last pass began */
	u32 pass; /* its number */
	u32 phase; /* enum shares_phase */
	u32 next; /* the next slot */
	u32 seen; /* groups that this CPU has gone through */
	u32 busy; /* 1: a CPU goes on with the pass */
	u64 weight; /* the sum of the weights of all runnable tasks, in parts of 1024 */
	u64 measured_ns; /* when CPU times were last measured */
	u64 used_ns; /* the CPU time of all groups since the time before */
	u32 measures; /* 1: this pass measures them */
	u64 corrected; /* the sum of the shares, each corrected */
	u64 scale; /* the same of the pass before; 0: 1 */
	u64 capped; /* the shares of groups that are due all that they can use */
	u64 free; /* the shares of the others, before the spread */
	u64 spread; /* by how much those have more than these, times FACTOR_ONE; 0: 1 */
} shares;

static struct group_load *group_load_at(u32 at)
{
	return bpf_map_lookup_elem(&group_loads, &at);
}

static struct group_sum *group_sum_at(u32 slot)
{
	return bpf_map_lookup_elem(&group_sums, &slot);
}

static struct active_word *active_word_at(u32 word)
{
	return bpf_map_lookup_elem(&active_groups, &word);
}

/* A task of the group becomes runnable, and none was for a while. */
static void activate_group(struct group_sum *sum, u32 slot)
{
	struct active_word *word = active_word_at(slot / 64);

	WRITE_ONCE(sum->active, 1);
	if (word)
		__sync_fetch_and_or(&word->slots, 1ULL << slot % 64);
}

/*
 * The task is no longer counted. Global, as the functions below are, so that the verifier checks it
 * once.
 */
__weak int uncount(struct task_ctx *taskc __arg_nonnull)
{
	struct group_load *load = group_load_at(taskc->counted_at);

	if (load)
		__sync_fetch_and_sub(&load->load, LOAD_TASK + taskc->counted_weight);
	taskc->counted_weight = 0;
	return 0;
}

/* The task sleeps, or leaves its group. */
static void uncount_runnable(struct task_ctx *taskc)
{
	if (taskc->counted_weight)
		uncount(taskc);
}

/*
 * The task is runnable, with this weight of its own. Domains count in shards, so that their CPUs do
 * not share cache lines.
 */
__weak int count_in_group(struct task_ctx *taskc __arg_nonnull, u32 weight)
{
	struct group_sum *sum = group_sum_at(taskc->group);
	struct group_load *load;

	if (taskc->counted_weight)
		uncount(taskc);
	taskc->counted_at = taskc->home % (nr_shards ?: 1) * GROUPS_MAX + taskc->group;
	load = group_load_at(taskc->counted_at);
	if (!load || !sum)
		return 0;
	__sync_fetch_and_add(&load->load, LOAD_TASK + weight);
	taskc->counted_weight = weight;
	if (!READ_ONCE(sum->active))
		activate_group(sum, taskc->group);
	return 0;
}

static void count_runnable(struct task_struct *p, struct task_ctx *taskc)
{
	if (groups_are_used() && taskc->counted_weight != p->scx.weight)
		count_in_group(taskc, p->scx.weight);
}

/* The task has run for a time. */
__weak int note_run(struct task_ctx *taskc __arg_nonnull, u64 used)
{
	struct group_load *load = group_load_at(taskc->counted_at);

	if (load)
		__sync_fetch_and_add(&load->ran_ns, used);
	return 0;
}

/* The effective weight of a task of a group, in parts of EXACT_ONE, by its own. */
__weak u64 weight_in_group(u32 own, u32 slot)
{
	struct group *group = group_at(slot);
	u64 weight = (u64)own * EXACT_ONE;

	if (group && group->factor)
		weight = (u64)own * group->factor / (FACTOR_ONE / EXACT_ONE);
	return weight ?: 1;
}

static u64 exact_weight(struct task_struct *p, struct task_ctx *taskc)
{
	u32 own = p->scx.weight ?: WEIGHT_NICE_0;

	return groups_are_used() ? weight_in_group(own, taskc->group) : (u64)own * EXACT_ONE;
}

/* An effective weight as an integer. */
static u32 rounded(u64 exact)
{
	exact = (exact + EXACT_ONE / 2) / EXACT_ONE;
	return exact < 1 ? 1 : exact > WEIGHT_MAX ? WEIGHT_MAX : exact;
}

/* The same as an integer. */
static u32 effective_weight(struct task_struct *p, struct task_ctx *taskc)
{
	return groups_are_used() ? rounded(weight_in_group(p->scx.weight, taskc->group)) :
				   p->scx.weight;
}

/* Whether the weight that user space knows of the task is right within an eighth. */
static bool is_near(struct task_ctx *taskc, u64 exact)
{
	u64 known = (u64)taskc->weight * EXACT_ONE;

	return exact <= known + known / 8 && exact + known / 8 >= known;
}

/* Whether user space need not know another weight of the task. */
static bool weight_holds(struct task_struct *p, struct task_ctx *taskc)
{
	return groups_are_used() ? is_near(taskc, weight_in_group(p->scx.weight, taskc->group)) :
				   taskc->weight == p->scx.weight;
}

/*
 * The weight with which user space is about to know the task. It remains while it holds, so that
 * decisions stand; charge() makes up for the difference. What the task has used since its last
 * decision was counted by the weight of that, and user space divides it by the new one.
 */
__weak int weigh_by(struct task_ctx *taskc __arg_nonnull, u64 exact)
{
	u64 since = taskc->used_ns - taskc->carried.used_ns, then = taskc->weight;
	u32 weight = rounded(exact);

	if (then && since < SINCE_MAX_NS) {
		taskc->policy_vtime_used_ns += since * weight / then - since;
		taskc->used_ns = taskc->carried.used_ns + since * weight / then;
	}
	taskc->weight = weight;
	return 0;
}

static void weigh(struct task_struct *p, struct task_ctx *taskc)
{
	if (!weight_holds(p, taskc))
		weigh_by(taskc, exact_weight(p, taskc));
}

static u64 weight_of_group(struct group *group)
{
	return group->idle ? IDLE_WEIGHT : (u64)group->weight * WEIGHT_PARTS;
}

/* Adds to what competes in the group of `slot`. */
static void add_to_sum(struct group_sum *sum, u64 weight)
{
	if (sum->sum_pass != shares.pass) {
		sum->sum_pass = shares.pass;
		sum->sum = 0;
	}
	sum->sum += weight;
}

/* What the shards have of a group, of its loads or of its CPU times, together. */
__weak u64 sum_of_shards(u32 slot, bool ran)
{
	struct group_load *load;
	u64 all = 0;
	u32 i;

	bpf_for(i, 0, nr_shards) {
		load = group_load_at(i * GROUPS_MAX + slot);
		if (load)
			all += ran ? READ_ONCE(load->ran_ns) : READ_ONCE(load->load);
	}
	return all;
}

/* The runnable tasks of a group, as `struct group_load` has them. */
static u64 load_of_group(u32 slot)
{
	return sum_of_shards(slot, false);
}

/* How many tasks of a group count as runnable: 0 if it is not active. */
static u32 runnable_in(u32 slot)
{
	struct group_sum *sum = group_sum_at(slot);

	return sum && sum->active ? load_of_group(slot) / LOAD_TASK : 0;
}

/*
 * The group has had no runnable task for a while. A task that becomes runnable at this moment either
 * finds the group inactive, or is found here.
 */
static void deactivate_group(struct group_sum *sum, struct active_word *word, u32 slot)
{
	__sync_fetch_and_and(&word->slots, ~(1ULL << slot % 64));
	sum->tasks = sum->weight = 0;
	__sync_lock_test_and_set(&sum->active, 0);
	if (load_of_group(slot))
		activate_group(sum, slot);
}

static u64 averaged(u64 average, u64 sample)
{
	return average ? (average * (LOAD_AVERAGE - 1) + sample) / LOAD_AVERAGE : sample;
}

static void measure_group(struct group_sum *sum, u32 slot)
{
	u64 ran_ns = ran_by_group(slot);

	sum->used_ns = ran_ns - sum->ran_ns;
	sum->ran_ns = ran_ns;
	shares.used_ns += sum->used_ns;
}

/*
 * What the group has had of the machine is compared with its share. Tasks are too few and too
 * different for the domains to have equal loads, so one group has more than its share and another
 * less. The factor is corrected until they have what they are due: at once within a domain, and
 * between domains since the loads change with it.
 */
static void correct(struct group_sum *sum, u64 share, bool capped)
{
	u64 now = sum->correction ?: EXACT_ONE, ratio, least;

	sum->got = averaged(sum->got, sum->used_ns * FACTOR_ONE / (shares.used_ns ?: 1) + 1);
	ratio = share / FACTOR_ONE * EXACT_ONE / sum->got;
	if (sum->rested)
		ratio = EXACT_ONE * EXACT_ONE / now;
	ratio = ratio < EXACT_ONE / 2 ? EXACT_ONE / 2 :
		ratio > 2 * EXACT_ONE ? 2 * EXACT_ONE :
					ratio;
	now = now * ((CORRECTION - 1) * EXACT_ONE + ratio) / (CORRECTION * EXACT_ONE);
	least = capped ? EXACT_ONE : EXACT_ONE / CORRECTION_MAX;
	sum->correction = now < least			   ? least :
			  now > EXACT_ONE * CORRECTION_MAX ? EXACT_ONE * CORRECTION_MAX :
							     now;
	sum->rested = false;
}

/* SHARES_SUM for one group: samples its load, and adds its weight to the sums above it. */
__weak int sum_group(u32 slot)
{
	struct active_word *word = active_word_at(slot / 64);
	struct group_sum *sum = group_sum_at(slot), *above;
	struct group *group = group_at(slot);
	u64 load = load_of_group(slot);
	u32 i;

	if (!word || !sum || !group)
		return 0;
	sum->runs = load;
	sum->tasks = averaged(sum->tasks, load / LOAD_TASK * EXACT_ONE);
	sum->weight = averaged(sum->weight, load % LOAD_TASK * EXACT_ONE);
	if (!load && sum->weight < EXACT_ONE * WEIGHT_NICE_0 / 16) {
		deactivate_group(sum, word, slot);
		return 0;
	}
	if (shares.measures)
		measure_group(sum, slot);
	if (!load) {
		sum->rested = true;
		return 0;
	}
	shares.weight += sum->weight;
	add_to_sum(sum, sum->weight * WEIGHT_PARTS / EXACT_ONE);
	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		if (!slot || sum->counted_pass == shares.pass)
			break;
		sum->counted_pass = shares.pass;
		above = group_sum_at(group->parent);
		if (!above)
			break;
		add_to_sum(above, weight_of_group(group));
		sum = above;
		slot = group->parent;
		group = group_at(slot);
		if (!group)
			break;
	}
	return 0;
}

/*
 * The share of the machine that the own tasks of a group are due. On the way up it finds whether a
 * group is idle.
 */
static u64 share_of_tasks(struct group *group, struct group_sum *sum, u32 slot)
{
	struct group *own = group;
	u64 share = SHARE_ALL;
	u32 idle = 0, i;

	share = share * (sum->weight * WEIGHT_PARTS / EXACT_ONE) / (sum->sum ?: 1);
	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		if (!slot)
			break;
		slot = group->parent;
		sum = group_sum_at(slot);
		if (!sum)
			break;
		share = share * weight_of_group(group) / (sum->sum ?: 1);
		idle |= group->idle;
		group = group_at(slot);
		if (!group)
			break;
	}
	WRITE_ONCE(own->below_idle, idle);
	return share < SHARE_ALL ? share : SHARE_ALL;
}

/* SHARES_DEAL for one group: its share, and the factor that follows. */
__weak int deal_to_group(u32 slot)
{
	struct group_sum *sum = group_sum_at(slot);
	struct group *group = group_at(slot);
	u64 share, most;
	bool capped;

	if (!sum || !group || !sum->runs || !sum->weight || sum->sum_pass != shares.pass)
		return 0;
	share = share_of_tasks(group, sum, slot);
	/* A CPU for each task. */
	most = sum->tasks * (SHARE_ALL / EXACT_ONE) / (nr_offered_cpus ?: 1);
	capped = share * (shares.spread ?: FACTOR_ONE) / FACTOR_ONE >= most;
	if (capped) {
		shares.capped += most;
		share = most;
	} else {
		shares.free += share;
		share = share * (shares.spread ?: FACTOR_ONE) / FACTOR_ONE;
	}
	group->share = share;
	if (shares.measures)
		correct(sum, share, capped);
	share = share * (sum->correction ?: EXACT_ONE) / EXACT_ONE;
	shares.corrected += share;
	share = share * FACTOR_ONE / (shares.scale / FACTOR_ONE ?: FACTOR_ONE);
	/* Both are in parts of 1024. A share has 32 bits, a factor 16. */
	share = (share >> 8) * (shares.weight / EXACT_ONE ?: 1) / (sum->weight / EXACT_ONE ?: 1) >>
		8;
	WRITE_ONCE(group->factor, share ?: 1);
	return 0;
}

/*
 * The pass is done. What groups cannot use of their shares is dealt to the others, by their shares,
 * in the next passes: each may find more groups that cannot use what they are due.
 */
static void end_pass(void)
{
	u64 left = shares.capped < SHARE_ALL ? SHARE_ALL - shares.capped : 0, now;

	if (shares.free) {
		now = left / (shares.free / FACTOR_ONE ?: 1);
		shares.spread = now < FACTOR_ONE || !left ? FACTOR_ONE : now;
	}
	shares.scale = shares.corrected;
	shares.capped = shares.free = shares.corrected = 0;
	shares.phase = SHARES_DONE;
}

/* Goes through the next groups. What counts up is in memory, for the verifier. */
static void go_on_sharing(void)
{
	struct active_word *word;
	u32 slot, i;

	shares.seen = 0;
	bpf_for(i, 0, SHARES_SLOTS) {
		slot = shares.next;
		if (shares.seen >= SHARES_STEP || slot > group_state.used_slots)
			break;
		word = active_word_at(slot / 64);
		if (!word || !word->slots) {
			shares.next = (slot | 63) + 1;
			continue;
		}
		shares.next = slot + 1;
		if (!(word->slots >> slot % 64 & 1))
			continue;
		shares.seen++;
		if (shares.phase == SHARES_SUM)
			sum_group(slot);
		else
			deal_to_group(slot);
	}
	if (shares.next <= group_state.used_slots)
		return;
	shares.next = 0;
	if (shares.phase == SHARES_SUM)
		shares.phase = SHARES_DEAL;
	else
		end_pass();
}

/* A CPU that asks for work begins a pass if one is due, or goes on with the one under way. */
__weak int compute_shares(u64 now)
{
	if (__sync_lock_test_and_set(&shares.busy, 1))
		return 0;
	if (shares.phase == SHARES_DONE && now - shares.at_ns >= SHARES_NS) {
		shares.at_ns = now;
		shares.weight = shares.used_ns = 0;
		shares.measures = now - shares.measured_ns >= MEASURE_NS;
		if (shares.measures)
			shares.measured_ns = now;
		shares.pass++;
		shares.phase = SHARES_SUM;
	}
	if (shares.phase != SHARES_DONE)
		go_on_sharing();
	WRITE_ONCE(shares.busy, 0);
	return 0;
}

static bool shares_are_due(u64 now)
{
	return groups_are_used() && (READ_ONCE(shares.phase) != SHARES_DONE ||
				     now - READ_ONCE(shares.at_ns) >= SHARES_NS);
}

/* A runnable task is on no queue meanwhile. */
void BPF_STRUCT_OPS(manyland_cgroup_move, struct task_struct *p, struct cgroup *from,
		    struct cgroup *to)
{
	struct task_ctx *taskc = task_ctx(p);

	if (!taskc)
		return;
	uncount_runnable(taskc);
	leave_group(taskc);
	enter_group(taskc, slot_of(to));
}

#endif /* MANYLAND_SHARES_BPF_H */
