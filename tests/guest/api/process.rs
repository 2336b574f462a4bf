//! What the kernel tells of tasks, and how to change their affinity and niceness.

use anyhow::{Context, Result};
use nix::sched::{CpuSet as NixCpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::fs;
use std::time::Duration;

/// A thread of a process.
#[derive(Clone, Debug)]
pub struct Thread {
    pub tid: i32,
    pub name: String,
}

/// A process with a program: not a kernel thread, and not one that has ended and was not waited
/// for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub pid: i32,
    pub name: String,
}

/// All processes that have a program.
pub fn programs() -> Vec<Program> {
    let pid_of = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let mut pids: Vec<i32> =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(pid_of).collect();
    // Kernel threads and the dead have no command line.
    pids.retain(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()));
    pids.into_iter()
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Program { pid, name: name.trim().to_owned() }
        })
        .collect()
}

/// The thread of the kernel that has a name.
pub fn kernel_thread(name: &str) -> Option<i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let named = fs::read_to_string(entry.path().join("comm")).ok()?.trim() == name;
        let has_program = fs::read_link(entry.path().join("exe")).is_ok();
        (named && !has_program).then_some(pid)
    })
}

/// The processes that a process of one thread has started and not waited for.
pub fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// All descendants of a process of one thread, parents first.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

/// The threads of a process.
pub fn threads(pid: i32) -> Result<Vec<Thread>> {
    let folder = format!("/proc/{pid}/task");
    let mut threads = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let tid = entry?.file_name().to_string_lossy().parse().context("a thread's number")?;
        let name = fs::read_to_string(format!("{folder}/{tid}/comm"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        threads.push(Thread { tid, name });
    }
    Ok(threads)
}

/// The command lines of the processes that run a program, by the name of its file. One that has
/// ended does not run.
pub fn running(program: &str) -> Result<Vec<Vec<String>>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry?;
        // What is no process, and a process that has gone meanwhile, has neither.
        let Ok(path) = fs::read_link(entry.path().join("exe")) else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        if path.file_name().is_some_and(|name| name == program) {
            let line = String::from_utf8_lossy(&line);
            processes.push(line.trim_end_matches('\0').split('\0').map(str::to_owned).collect());
        }
    }
    Ok(processes)
}

/// A task's scheduling state: `R` running or runnable, `S` asleep, and so on.
pub fn state(tid: i32) -> Result<char> {
    Ok(stat(tid)?[0].chars().next().unwrap_or('?'))
}

/// The functions of the kernel that a thread waits in, innermost first; empty for one that runs.
pub fn kernel_stack(pid: i32, tid: i32) -> String {
    let stack = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stack")).unwrap_or_default();
    let function = |line: &str| Some(line.split_once("] ")?.1.split('+').next()?.to_owned());
    stack.lines().filter_map(function).collect::<Vec<_>>().join(" < ")
}

/// The CPU a task runs on, or ran on last, or is put to run on.
pub fn processor(tid: i32) -> Result<CpuId> {
    Ok(CpuId(stat(tid)?[36].parse().context("the processor in a stat file")?))
}

/// How long a task has run.
pub fn run_time(tid: i32) -> Result<Duration> {
    let path = format!("/proc/{tid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ns = text.split_whitespace().next().context("an empty schedstat file")?;
    Ok(Duration::from_nanos(ns.parse()?))
}

/// How often a task had to leave its CPU though it wanted to go on.
pub fn involuntary_switches(pid: i32) -> Result<u64> {
    status_number(pid, "nonvoluntary_ctxt_switches")
}

/// A line of a process's status file, in KiB.
pub fn status_kib(pid: i32, field: &str) -> Result<u64> {
    status_number(pid, field)
}

fn status_number(pid: i32, field: &str) -> Result<u64> {
    Ok(status(pid, field)?.parse()?)
}

/// The first word of a line of a task's status file.
pub fn status(tid: i32, field: &str) -> Result<String> {
    let path = format!("/proc/{tid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let word = line.with_context(|| format!("no {field} in {path}"))?.split_whitespace().next();
    Ok(word.context("an empty field")?.to_owned())
}

/// The CPUs a task may run on.
pub fn affinity(tid: i32) -> Result<CpuSet> {
    let set = sched_getaffinity(Pid::from_raw(tid))
        .with_context(|| format!("cannot get the affinity of {tid}"))?;
    Ok((0..NixCpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .map(|cpu| CpuId(cpu as u32))
        .collect())
}

/// Binds a task to CPUs.
pub fn bind(tid: i32, cpus: &CpuSet) -> Result<()> {
    let mut set = NixCpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu.index())?;
    }
    sched_setaffinity(Pid::from_raw(tid), &set)
        .with_context(|| format!("cannot bind {tid} to {cpus}"))
}

/// Whether a task has a real-time class.
pub fn is_real_time(tid: i32) -> bool {
    // SAFETY: sched_getscheduler takes no pointers.
    unsafe { libc::sched_getscheduler(tid) == libc::SCHED_FIFO }
}

/// A task's niceness.
pub fn niceness(tid: i32) -> Result<i32> {
    stat(tid)?[16].parse().context("the niceness in a stat file")
}

/// Sets a task's niceness.
pub fn renice(tid: i32, nice: i32) -> Result<()> {
    // SAFETY: setpriority takes no pointers.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as libc::id_t, nice) };
    nix::errno::Errno::result(done)
        .with_context(|| format!("cannot set the niceness of {tid} to {nice}"))?;
    Ok(())
}

/// Puts this thread into the real-time class; the threads and processes that it starts are ordinary
/// again.
pub fn become_real_time() {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` lives through the call, and 0 means the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &param) };
}

/// `SCHED_EXT` of `<linux/sched.h>`.
const SCHED_EXT: libc::c_int = 7;

/// Puts a task into the scheduling class SCHED_EXT.
pub fn choose_sched_ext(tid: i32) -> Result<()> {
    choose(tid, SCHED_EXT, 0).with_context(|| format!("cannot put {tid} into the class SCHED_EXT"))
}

/// Makes a task a real-time one (SCHED_FIFO), which goes before all of ours.
pub fn choose_real_time(tid: i32) -> Result<()> {
    choose(tid, libc::SCHED_FIFO, 1).with_context(|| format!("cannot make {tid} a real-time task"))
}

/// Makes a task an ordinary one (SCHED_OTHER).
pub fn choose_ordinary(tid: i32) -> Result<()> {
    choose(tid, libc::SCHED_OTHER, 0).with_context(|| format!("cannot make {tid} an ordinary task"))
}

fn choose(tid: i32, policy: libc::c_int, priority: libc::c_int) -> nix::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` lives through the call.
    let done = unsafe { libc::sched_setscheduler(tid, policy, &param) };
    nix::errno::Errno::result(done).map(drop)
}

/// Whether the attached sched_ext scheduler schedules a task.
pub fn is_ours(tid: i32) -> Result<bool> {
    let path = format!("/proc/{tid}/sched");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find(|line| line.starts_with("ext.enabled"));
    let line = line.with_context(|| format!("no ext.enabled in {path}"))?;
    Ok(line.trim_end().ends_with('1'))
}

/// One thread of another process that does not run until this is dropped, while its siblings do.
pub struct Frozen(Pid);

impl Frozen {
    /// Stops a thread, as a debugger does.
    pub fn freeze(tid: i32) -> Result<Frozen> {
        let tid = Pid::from_raw(tid);
        ptrace::seize(tid, ptrace::Options::empty())
            .with_context(|| format!("cannot trace {tid}"))?;
        let frozen = Frozen(tid);
        ptrace::interrupt(tid).with_context(|| format!("cannot interrupt {tid}"))?;
        waitpid(tid, Some(WaitPidFlag::__WALL)).with_context(|| format!("{tid} does not stop"))?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

/// The load average over one minute.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split(' ').next().context("an empty loadavg file")?.parse()?)
}

/// The fields of a task's stat file from its state on, the state being the first.
fn stat(tid: i32) -> Result<Vec<String>> {
    let path = format!("/proc/{tid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let (_, fields) =
        text.rsplit_once(") ").with_context(|| format!("not a stat file: {text:?}"))?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}
