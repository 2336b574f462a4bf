//! Threads as `/proc` tells of them: the kernel's own by their names, and all that can run.
//!
//! Invariant: no program is among the kernel's own, whatever it calls itself.

use std::fs;
use std::path::Path;

/// The flag of these threads in `/proc/PID/stat`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// The threads of the kernel with such names, by their numbers; none of them where a pid namespace
/// hides them.
pub fn named(is_wanted: impl Fn(&str) -> bool) -> Vec<libc::pid_t> {
    named_in(Path::new("/proc"), is_wanted)
}

fn named_in(proc: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<libc::pid_t> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<_> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            is_wanted(kernel_name(&stat)?).then_some(pid)
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// The threads of all processes that can run, or do.
pub fn runnable() -> Vec<libc::pid_t> {
    in_state(Path::new("/proc"), 'R')
}

/// The threads of all processes that wait in the kernel, and that no signal but SIGKILL ends, or none.
pub fn uninterruptible() -> Vec<libc::pid_t> {
    in_state(Path::new("/proc"), 'D')
}

/// Where in the kernel a thread waits: the functions, the innermost first. Empty if it runs, or this
/// process may not know (CAP_SYS_ADMIN).
pub fn kernel_stack(thread: libc::pid_t) -> String {
    fs::read_to_string(format!("/proc/{thread}/stack")).unwrap_or_default()
}

fn in_state(proc: &Path, state: char) -> Vec<libc::pid_t> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    entries(proc)
        .flat_map(|process| entries(&process.path().join("task")))
        .filter_map(|thread| {
            let tid = thread.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
            is_in_state(&stat, state).then_some(tid)
        })
        .collect()
}

/// Whether a line of `/proc/PID/stat` says that the thread is in a state.
fn is_in_state(stat: &str, state: char) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(state))
}

/// The name in a line of `/proc/PID/stat`, if that is of a thread of the kernel. Any task may have the
/// name of one, but not the flag.
fn kernel_name(stat: &str) -> Option<&str> {
    const FLAGS: usize = 6;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let flags: u32 = rest.split_whitespace().nth(FLAGS)?.parse().ok()?;
    (flags & PF_KTHREAD != 0).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_no_name_of_the_kernels() {
        let stat = |name: &str, flags: u32| format!("17 ({name}) I 2 0 0 0 -1 {flags} 0 0 0 0 0");
        for name in ["rcu_preempt", "rcuog/0", "a) (rcu_preempt"] {
            assert_eq!(kernel_name(&stat(name, 0x0020_8040)), Some(name));
            assert_eq!(kernel_name(&stat(name, 0x0040_0040)), None, "a program called {name}");
        }
        assert_eq!(kernel_name(""), None);
        assert_eq!(kernel_name("17 (rcu_preempt) I 2"), None);
    }

    #[test]
    fn finds_threads_by_their_states() {
        assert!(is_in_state("17 (a) S) R 2 0", 'R'));
        assert!(!is_in_state("17 (R) S 2 0", 'R') && !is_in_state("", 'R'));
        let folder = tempfile::tempdir().unwrap();
        for (process, thread, state) in [(3, 3, 'S'), (3, 4, 'R'), (5, 5, 'R'), (6, 6, 'D')] {
            let path = folder.path().join(format!("{process}/task/{thread}"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("stat"), format!("{thread} (sh) {state} 1")).unwrap();
        }
        let mut found = in_state(folder.path(), 'R');
        found.sort_unstable();
        assert_eq!(found, [4, 5]);
        assert_eq!(in_state(folder.path(), 'D'), [6]);
        assert_eq!(in_state(&folder.path().join("none"), 'R'), [] as [libc::pid_t; 0]);
    }

    #[test]
    fn finds_threads_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        for (pid, name) in
            [("9", "rcu_preempt"), ("x", "rcu_preempt"), ("7", "rcuog/1"), ("8", "sh")]
        {
            let process = folder.path().join(pid);
            fs::create_dir(&process).unwrap();
            let stat = format!("{pid} ({name}) I 2 0 0 0 -1 {PF_KTHREAD} 0");
            fs::write(process.join("stat"), stat).unwrap();
        }
        fs::create_dir(folder.path().join("10")).unwrap();
        let is_wanted = |name: &str| name.starts_with("rcu");
        assert_eq!(named_in(folder.path(), is_wanted), [7, 9]);
        assert_eq!(named_in(&folder.path().join("none"), is_wanted), [] as [libc::pid_t; 0]);
    }
}
