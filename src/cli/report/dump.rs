//! The last dump in what a scheduler printed, without the names of programs.
//!
//! The kernel writes a task as `NAME[PID]`, and a user may have chosen the name.
//!
//! Invariant: no text of a user's choice gets through. What precedes `[PID]` is left out, except for
//! what the kernel itself writes there, and the names of the kernel's threads and of this program's.

use scx_manyland::run::program::{DUMP_BEGINS, DUMP_ENDS, HAS_ENDED};

/// How the names begin that are no user's. Of what follows only a number is kept.
const KNOWN: [&str; 10] = [
    "manyland/",
    "scx_manyland",
    "swapper/",
    "kworker/",
    "ksoftirqd/",
    "migration/",
    "rcu",
    "kswapd",
    "khugepaged",
    "watchdog",
];

/// The lines of the last dump, with the line that follows it; none if there is no dump.
pub fn last(log: &str) -> Vec<String> {
    let Some((_, rest)) = log.rsplit_once(DUMP_BEGINS) else { return Vec::new() };
    let (dump, after) = rest.split_once(DUMP_ENDS).unwrap_or((rest, ""));
    // The next message says why the scheduler ended.
    let why = after.lines().find(|line| line.contains(HAS_ENDED));
    let lines = dump.trim_matches('\n').lines().chain(why);
    lines.map(without_names).collect()
}

/// A line without the names of tasks in it.
fn without_names(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((at, end)) = task_number(rest) {
        let before = &rest[..at];
        let kept = written_by_kernel(before);
        text += kept;
        text += &known(&before[kept.len()..]);
        text += &rest[at..end];
        rest = &rest[end..];
    }
    text + rest
}

/// Where the next `[NUMBER]` is.
fn task_number(text: &str) -> Option<(usize, usize)> {
    text.char_indices().filter(|&(_, c)| c == '[').find_map(|(at, _)| {
        let inside = &text[at + 1..];
        let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0 && inside[digits..].starts_with(']')).then_some((at, at + digits + 2))
    })
}

/// What the kernel writes before a task's name.
fn written_by_kernel(before: &str) -> &str {
    // "          curr=NAME[PID]"
    if before.trim_start().starts_with("curr=") {
        return &before[..before.find('=').map_or(0, |at| at + 1)];
    }
    // " *R NAME[PID]": a mark for the CPU's own task, and the task's state.
    let bytes = before.as_bytes();
    if let [b' ', b' ' | b'*', state, b' ', ..] = bytes
        && state.is_ascii_alphabetic()
    {
        return &before[..4];
    }
    // "  runnable task stall (NAME[PID] failed to run for 30.1s)", and the program's own line of it.
    for start in ["runnable task stall (", "runnable task stall: "] {
        if let Some(at) = before.find(start) {
            return &before[..at + start.len()];
        }
    }
    ""
}

/// What of a name may be said. There is none where another number precedes.
fn known(name: &str) -> String {
    let Some(start) = KNOWN.into_iter().find(|start| name.starts_with(start)) else {
        return if name.is_empty() { "" } else { "task" }.to_owned();
    };
    let rest = name[start.len()..].chars();
    start.chars().chain(rest.take_while(char::is_ascii_digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_KERNEL: &str = "\
swapper/3[0] triggered exit kind 1026:
  runnable task stall ((my secret)[812] failed to run for 30.1s)

Backtrace:
  check_rq_for_timeouts+0xbd/0x130

CPU states
----------
CPU 0   : nr_run=3 flags=0x1 cpu_rel=0 ops_qseq=16 ksync=4
          curr=my secret [7][812] class=ext_sched_class
  manyland: domain 0, runs pid 812, own 0, bound 1
 *R my secret [7][812] -30123ms
      scx_state/flags=3/0x9 dsq_flags=0x0 ops_state/qseq=0/0
      manyland: waiting, home 0
  R manyland/1[77] +0ms
  S kworker/u8:secret[9] +0ms
made by hand, my secret[1]
";

    fn log(dump: &str) -> String {
        format!(
            "x\n{DUMP_BEGINS}\nan older one\n{DUMP_ENDS}\n{DUMP_BEGINS}\n{dump}{DUMP_ENDS}\n\
             the kernel has ended the scheduler: runnable task stall: my secret[812] failed to run \
             for 30.1s; attaching again\nmy secret line\n"
        )
    }

    #[test]
    fn the_last_dump_has_no_name_of_a_program() {
        let lines = last(&log(OF_KERNEL));
        let text = lines.join("\n");
        assert!(!text.contains("secret") && !text.contains("older"), "{text}");
        for kept in [
            "swapper/3[0] triggered exit kind 1026:",
            "  runnable task stall (task[812] failed to run for 30.1s)",
            "  check_rq_for_timeouts+0xbd/0x130",
            "          curr=task[7][812] class=ext_sched_class",
            " *R task[7][812] -30123ms",
            "      manyland: waiting, home 0",
            "  R manyland/1[77] +0ms",
            "  S kworker/[9] +0ms",
            "task[1]",
        ] {
            assert!(lines.iter().any(|line| line == kept), "no {kept:?} in:\n{text}");
        }
        assert!(
            lines
                .last()
                .unwrap()
                .ends_with("stall: task[812] failed to run for 30.1s; attaching again")
        );
    }

    #[test]
    fn a_log_without_a_dump_has_none() {
        assert!(last("attached: 2 domain threads\n").is_empty());
        assert_eq!(last(&format!("{DUMP_BEGINS}\nhalf of o")), ["half of o"]);
    }
}
