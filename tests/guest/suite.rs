//! The list of guest tests: what runs on which machine, and for how long at most.

use crate::cases::*;
use crate::machine::{ANY_KERNEL, FAULTS, L3X1, L3X2, L3X4, LARGE, MALFORMED, Machine};
use crate::reliability::{self, Extent, Row};
use anyhow::Result;
use std::time::Duration;

/// A test that runs in a guest. An error or a panic fails it.
pub struct GuestTest {
    pub machine: &'static Machine,
    path: String,
    case: Case,
    pub limit: Duration,
    /// Whether it runs only when asked for.
    pub slow: bool,
    /// What the failure of a test that has to fail says.
    pub fails_with: Option<&'static str>,
}

/// What a test does.
enum Case {
    Plain(fn(&Machine) -> Result<()>),
    Row(&'static Row, Extent),
}

impl GuestTest {
    /// `MACHINE::MODULE::CASE`.
    pub fn name(&self) -> String {
        format!("{}::{}", self.machine.name, self.path)
    }

    /// Runs it, in a guest of its machine.
    pub fn run(&self) -> Result<()> {
        match self.case {
            Case::Plain(case) => case(self.machine),
            Case::Row(row, extent) => reliability::run(row, extent),
        }
    }

    /// A row of docs/reliability.md, in the time that `make test` has for it or in full.
    fn row(row: &'static Row, extent: Extent) -> GuestTest {
        let (group, limit) = match extent {
            Extent::Short => ("rows", Duration::from_secs(300)),
            // Attaching 200 times under load takes an hour and a half without KVM.
            Extent::Full => ("reliability", Duration::from_secs(9000)),
        };
        GuestTest {
            machine: &FAULTS,
            path: format!("{group}::{}", row.name),
            case: Case::Row(row, extent),
            limit,
            slow: extent == Extent::Full,
            fails_with: None,
        }
    }
}

/// The tests of a machine, each with its limit in seconds, and with what its failure says if it has to fail.
macro_rules! tests_on {
    ($machine:ident: $($seconds:literal $case:path $(=> $fails_with:literal)?,)*) => {
        vec![$(GuestTest {
            machine: &$machine,
            path: stringify!($case).replace(' ', ""),
            case: Case::Plain($case),
            limit: Duration::from_secs($seconds),
            slow: false,
            fails_with: None$(.or(Some($fails_with)))?,
        }),*]
    };
}

/// All guest tests, those of a machine together.
pub fn all() -> Vec<GuestTest> {
    let tests = [
        tests_on! { L3X1:
            20 guest::has_the_asked_topology,
            90 attach::attaches_and_detaches,
            60 domains::each_l3_has_its_thread,
            30 errors::the_only_cpu_cannot_be_dedicated,
            90 fairness::nice_shares_a_cpu_by_weight,
            90 fairness::interrupted_turns_go_on,
            240 fairness::the_time_in_which_the_scheduler_was_stopped_counts_for_all,
            90 library::the_shortest_policy_decides,
            120 library::newcomers_run_briefly,
            240 library::rules_weigh_and_change,
            150 library::tasks_run_where_a_policy_prefers,
            90 library::tasks_stay_where_a_policy_leaves_them,
            90 library::a_policy_sees_cgroups,
            150 library::a_decision_preempts_a_task,
            120 library::whom_a_policy_never_chooses_runs,
            90 library::under_a_policy_that_sleeps_tasks_run_late,
            90 library::a_policy_that_panics_ends_the_scheduler,
            90 library::a_decision_preempts_no_domain_thread_and_no_higher_class,
            90 rings::takes_every_record_however_often_the_ring_wraps,
            90 rings::a_full_ring_loses_nothing_and_is_as_large_again_when_emptied,
            90 rings::a_discarded_record_is_passed_over,
            90 rings::what_is_behind_an_unfinished_record_waits_for_it,
            90 rings::messages_are_taken_while_others_are_written,
            90 rings::the_kernel_sees_every_decision_however_often_the_ring_wraps,
            90 rings::a_full_queue_of_decisions_says_so_and_has_room_for_each_that_is_taken,
            20 harness::sees_an_error => "it did not work",
            20 harness::sees_a_panic => "it was not meant to be",
            3 harness::sees_a_hang => "hung for 3 s",
            20 harness::sees_what_the_kernel_complains_of => "BUG: said by a test",
            20 harness::tells_a_breakpoint_from_the_emulators_fault,
            20 harness::has_another_guest_when_the_emulator_loses_one => "the emulator has lost every guest",
            20 harness::sees_a_kernel_panic => "Kernel panic - not syncing: sysrq triggered crash",
        },
        tests_on! { L3X2:
            20 guest::has_the_asked_topology,
            20 guest::kernel_has_sched_ext,
            40 guest::runs_hackbench,
            210 idle::idle_system_stays_idle,
            90 attach::attaches_and_detaches,
            150 attach::load_survives_kill_9,
            60 domains::each_l3_has_its_thread,
            90 affinity::bound_tasks_stay_and_run,
            90 affinity::tasks_moved_while_waiting_stay,
            90 affinity::tasks_bound_anew_on_their_way_stay,
            90 affinity::tasks_bound_to_dedicated_cpus_run,
            120 load::hackbench_runs_by_decisions,
            90 stealing::an_idle_domain_helps,
            90 stealing::without_stealing_it_stays_idle,
            60 stealing::what_is_bound_is_not_stolen,
            90 homes::a_talking_pair_shares_a_cache,
            150 homes::uneven_loads_are_levelled,
            150 homes::another_program_may_have_another_home,
            150 attach::attaches_ten_times_under_load,
            60 attach::detaches_when_asked,
            90 attach::load_survives_a_crash,
            150 options::each_policy_decides,
            90 options::strict_runs_by_decisions_only,
            120 options::decisions_stand_unless_told_not_to,
            60 options::partial_leaves_the_others_alone,
            90 options::dedicated_cpus_are_kept_free,
            90 options::a_thread_that_lost_its_dedicated_cpu_sleeps,
            90 faults::tasks_run_while_the_scheduler_is_stopped,
            90 faults::tasks_run_while_the_strict_scheduler_is_stopped,
            90 faults::tasks_run_while_a_domain_thread_is_frozen,
            120 faults::the_lightest_task_has_its_turns,
            90 faults::tasks_leave_a_cpu_that_a_real_time_task_takes,
            90 faults::tasks_die_on_their_way_to_another_domain,
            180 hotplug::a_cpu_goes_and_comes,
            180 hotplug::a_cpu_goes_and_comes_again_and_again,
            180 hotplug::a_domain_goes_and_comes,
            90 hotplug::it_ends_when_asked_while_the_machine_changes,
            180 security::privileges_are_given_up,
            60 security::the_named_capabilities_suffice,
            60 security::the_environment_is_not_heeded,
            60 security::it_ends_with_its_parent,
            90 statistics::json_lines_are_complete,
            60 statistics::text_has_a_row_for_each_domain,
            60 statistics::ends_when_nobody_reads,
            240 statistics::patience_is_as_long_as_timers_are_late,
            240 hybrid::a_lone_hog_runs_on_a_fast_core,
            60 hybrid::without_preference_a_lone_hog_stays,
            120 hybrid::efficiency_starts_hogs_on_slow_cores,
            240 hybrid::efficiency_draws_a_lone_hog_to_a_slow_core,
            240 hybrid::a_waking_task_gets_the_preferred_kind,
            60 hybrid::strict_and_dedicate_are_kept,
            90 hybrid::hogs_spill_to_slow_cores_and_come_back,
            60 hybrid::affinity_goes_before_speed,
            150 hybrid::load_runs_on_all_kinds,
            60 hybrid::one_kind_is_not_worth_a_word,
            240 bench::compares_with_every_workload,
            240 bench::compares_with_others,
            240 bench::leaves_nothing_behind_when_interrupted,
            90 bench::refuses_while_a_scheduler_is_attached,
            40 errors::without_root_it_says_so,
            90 errors::a_second_scheduler_is_refused,
            60 errors::bad_options_are_usage_errors,
            90 library::a_cpu_of_another_domain_is_refused,
            60 errors::a_broken_topology_is_refused,
        },
        tests_on! { L3X4:
            20 guest::has_the_asked_topology,
            90 attach::attaches_and_detaches,
            60 domains::each_l3_has_its_thread,
            240 domains::each_granularity_has_its_threads,
            90 affinity::bound_tasks_stay_and_run,
            120 cores::hogs_that_share_a_core_part,
            60 cores::hogs_share_the_core_that_is_their_home,
            90 cores::whole_slow_cores_go_before_fast_siblings,
        },
        tests_on! { LARGE:
            60 guest::has_the_asked_topology,
            900 domains::each_granularity_has_its_threads,
        },
    ];
    let mut on_other_kernels = [
        tests_on! { ANY_KERNEL:
            20 guest::kernel_has_sched_ext,
            90 attach::attaches_and_detaches,
            90 faults::tasks_run_while_the_scheduler_is_stopped,
            90 faults::tasks_run_while_a_domain_thread_is_frozen,
            90 faults::tasks_leave_a_cpu_that_a_real_time_task_takes,
            180 security::privileges_are_given_up,
            60 security::the_named_capabilities_suffice,
        },
        tests_on! { MALFORMED:
            60 errors::a_kernel_with_malformed_btf_is_refused,
        },
    ];
    on_other_kernels.iter_mut().flatten().for_each(|test| test.slow = true);
    let minutes = std::env::var("MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let soak = GuestTest {
        machine: &FAULTS,
        path: "soak".into(),
        case: Case::Plain(reliability::soak::soaks),
        limit: Duration::from_secs(60 * (minutes + 10)),
        slow: true,
        fails_with: None,
    };
    let rows = || reliability::ROWS.iter();
    let short = rows().filter(|row| row.in_make_test).map(|row| GuestTest::row(row, Extent::Short));
    let full = rows().map(|row| GuestTest::row(row, Extent::Full));
    let tests = tests.into_iter().chain(on_other_kernels).flatten();
    tests.chain(short).chain(full).chain([soak]).collect()
}
