//! Weights by rule: a policy that reads a file while it schedules, and never waits for it.
//!
//! The file gives weights to tasks, one rule a line. The first rule that matches a task's name
//! counts. A task that no rule matches keeps the weight of its nice value.
//!
//! ```text
//! # name (with * and ?)    weight (1 to 10000; a task of nice 0 has 100)
//! cc1*                     20
//! game                     2000
//! ```
//!
//! When the file changes,
//!
//! 1. a thread of the notify crate reads and parses it;
//! 2. that thread hands the rules to each domain through a triple buffer (the crate of that name);
//! 3. the domain thread reads the buffer without waiting, and sees the old rules or the new ones,
//!    never half of either;
//! 4. the thread that writes frees the old rules when no domain uses them.
//!
//! A file with a fault is reported, and the old rules remain in force.
//!
//! A new weight counts from the task's next decision on. The shipped `vruntime` inside this policy
//! decides: it shares the CPU in the ratio of the weights, and need not know where they come from.
//!
//! `make try EXAMPLE=rules` runs it in a guest.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use glob::Pattern;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use scx_manyland::ids::DomainId;
use scx_manyland::policy::vruntime::Vruntime;
use scx_manyland::policy::{Choice, Context, Policy, Slices, Task};
use scx_manyland::{Builder, DomainAllocator, RunOptions, program};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use triple_buffer::{Input, Output, triple_buffer};

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

/// A CPU scheduler that weighs tasks by the rules in a file
#[derive(Parser)]
#[command(name = "rules", max_term_width = 100)]
struct Args {
    /// The rules: a name (with * and ?) and a weight (1 to 10000) on each line
    file: PathBuf,
    #[command(flatten)]
    run: RunOptions,
}

fn main() -> ExitCode {
    program::main(|args: Args| {
        let book = Arc::new(Book::open(&args.file)?);
        let _watcher = watch(Arc::clone(&book))?;
        Builder::new(move |setup| Ruled::new(setup.slices, book.reader(setup.domain.id)))
            .name("rules")
            .options(args.run)
            .run()
    })
}

/// `vruntime` with other weights.
struct Ruled {
    inner: Vruntime,
    rules: Output<Arc<Rules>>,
}

impl Ruled {
    fn new(slices: Slices, rules: Output<Arc<Rules>>) -> Ruled {
        Ruled { inner: Vruntime::new(slices), rules }
    }
}

impl Policy for Ruled {
    fn enqueue(&mut self, mut task: Task, context: &Context) {
        if let Some(weight) = self.rules.read().weight_of(task.name()) {
            task.weight = weight;
        }
        self.inner.enqueue(task, context);
    }

    fn next(&mut self, context: &Context) -> Option<Choice> {
        self.inner.next(context)
    }

    fn waiting(&self) -> usize {
        self.inner.waiting()
    }

    fn virtual_time(&self) -> u64 {
        self.inner.virtual_time()
    }

    fn give_away(&mut self, may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        self.inner.give_away(may)
    }

    fn adopt(&mut self, task: &mut Task, source: u64) {
        self.inner.adopt(task, source);
    }
}

/// The rules of a file.
#[derive(Debug, PartialEq)]
struct Rules(Vec<(Pattern, u32)>);

impl Rules {
    fn parse(text: &str) -> Result<Rules> {
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                let rule = Self::rule(line).with_context(|| format!("line {number}: {line:?}"))?;
                rules.push(rule);
            }
        }
        Ok(Rules(rules))
    }

    /// A name may have spaces in it; the weight is what follows the last one.
    fn rule(line: &str) -> Result<(Pattern, u32)> {
        let Some((name, weight)) = line.rsplit_once(char::is_whitespace) else {
            bail!("a rule is a name and a weight")
        };
        let weight = weight.parse().ok().filter(|weight| (1..=10_000).contains(weight));
        let weight = weight.context("a weight is a number from 1 to 10000")?;
        Ok((Pattern::new(name.trim_end()).context("not a pattern")?, weight))
    }

    fn weight_of(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(pattern, _)| pattern.matches(name)).map(|&(_, weight)| weight)
    }
}

/// A file of rules and the domains that read it.
struct Book {
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    rules: Arc<Rules>,
    readers: HashMap<DomainId, Input<Arc<Rules>>>,
}

impl Book {
    fn open(file: &Path) -> Result<Book> {
        let rules = Arc::new(Self::read(file)?);
        let state = Mutex::new(State { rules, readers: HashMap::new() });
        Ok(Book { file: file.to_owned(), state })
    }

    fn read(file: &Path) -> Result<Rules> {
        std::fs::read_to_string(file)
            .map_err(anyhow::Error::from)
            .and_then(|text| Rules::parse(&text))
            .with_context(|| format!("cannot use the rules in {}", file.display()))
    }

    /// A domain's end of the buffer. The caller does not schedule yet, so this may lock.
    fn reader(&self, domain: DomainId) -> Output<Arc<Rules>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, output) = triple_buffer(&state.rules);
        state.readers.insert(domain, input);
        output
    }

    /// Reads the file again and hands the rules to all domains.
    fn reload(&self) -> Result<usize> {
        let rules = Arc::new(Self::read(&self.file)?);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for reader in state.readers.values_mut() {
            reader.write(Arc::clone(&rules));
        }
        state.rules = Arc::clone(&rules);
        Ok(rules.0.len())
    }

    /// Whether the file is new and complete after this event: a writer has closed it, or an editor
    /// has renamed another file to it.
    fn is_changed_by(&self, event: &Event) -> bool {
        let whole = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
        );
        whole && event.paths.iter().any(|path| path.file_name() == self.file.file_name())
    }
}

/// Reloads the book whenever its file changes, on a thread of its own, until the returned watcher
/// is dropped. It watches the folder, because a watch on the file goes with a file that is
/// replaced.
fn watch(book: Arc<Book>) -> Result<RecommendedWatcher> {
    let file = book.file.clone();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let changed = event.as_ref().is_ok_and(|event| book.is_changed_by(event));
        if changed {
            match book.reload() {
                Ok(count) => eprintln!("rules: {count} in force"),
                Err(error) => eprintln!("rules: the old ones stay: {error:#}"),
            }
        }
    })
    .context("cannot watch files")?;
    ensure!(file.file_name().is_some(), "{} is no file", file.display());
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .with_context(|| format!("cannot watch {}", folder.display()))?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_manyland::ids::Pid;
    use std::fs;
    use std::time::{Duration, Instant};
    use tempfile::tempdir;

    const SLICES: Slices = Slices { base: Duration::from_millis(5), min: Duration::from_millis(1) };

    fn named(pid: i32, name: &str) -> Task {
        let mut task = Task::new(Pid(pid));
        task.comm[..name.len()].copy_from_slice(name.as_bytes());
        task
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules =
            Rules::parse("# a comment\n\ncc1plus 30 # C++\ncc1* 20\nWeb Content\t700\n* 90");
        let rules = rules.unwrap();
        for (name, weight) in
            [("cc1plus", 30), ("cc1", 20), ("cc1obj", 20), ("Web Content", 700), ("sh", 90)]
        {
            assert_eq!(rules.weight_of(name), Some(weight), "{name}");
        }
        assert_eq!(Rules::parse("a 1").unwrap().weight_of("b"), None);
    }

    #[test]
    fn a_fault_is_reported_with_its_line() {
        for (line, fault) in [
            ("game", "a name and a weight"),
            ("game 0", "from 1 to 10000"),
            ("game 10001", "from 1 to 10000"),
            ("game much", "from 1 to 10000"),
            ("[game 5", "not a pattern"),
        ] {
            let error = format!("{:#}", Rules::parse(&format!("ok 5\n{line}")).unwrap_err());
            assert!(error.starts_with("line 2: ") && error.contains(fault), "{error}");
        }
    }

    /// How often each of two tasks that never sleep runs in `count` slices.
    fn runs(policy: &mut Ruled, count: usize) -> [usize; 2] {
        let context = Context::with_cpus(1);
        policy.enqueue(named(0, "game"), &context);
        policy.enqueue(named(1, "cc1"), &context);
        let mut runs = [0; 2];
        for _ in 0..count {
            let choice = policy.next(&context).unwrap();
            runs[choice.task.pid.0 as usize] += 1;
            // All slices are equally long, and the kernel gives the weight of nice 0 again.
            policy.enqueue(Task { used_ns: 1_000_000, weight: 100, ..choice.task }, &context);
        }
        runs
    }

    #[test]
    fn shares_follow_the_rules_and_a_change_of_them() {
        let folder = tempdir().unwrap();
        let file = folder.path().join("rules");
        fs::write(&file, "cc1* 20\ngame 2000\n").unwrap();
        let book = Book::open(&file).unwrap();
        let mut policy = Ruled::new(SLICES, book.reader(DomainId(0)));
        let [game, cc1] = runs(&mut policy, 1010);
        assert!((90..=110).contains(&(game / cc1)), "{game} to {cc1}");

        fs::write(&file, "cc1* 200\n").unwrap();
        assert_eq!(book.reload().unwrap(), 1);
        let mut policy = Ruled::new(SLICES, policy.rules);
        let [game, cc1] = runs(&mut policy, 900);
        assert!((19..=21).contains(&(10 * cc1 / game)), "{game} to {cc1}");
    }

    #[test]
    fn a_faulty_file_changes_nothing() {
        let folder = tempdir().unwrap();
        let file = folder.path().join("rules");
        fs::write(&file, "game 7\n").unwrap();
        let book = Book::open(&file).unwrap();
        let mut reader = book.reader(DomainId(0));
        fs::write(&file, "game seven\n").unwrap();
        let error = format!("{:#}", book.reload().unwrap_err());
        assert!(error.contains("line 1"), "{error}");
        assert_eq!(reader.read().weight_of("game"), Some(7));
        assert!(Book::open(&folder.path().join("none")).is_err());
    }

    #[test]
    fn all_domains_see_a_file_that_is_written_or_replaced() {
        let folder = tempdir().unwrap();
        let file = folder.path().join("rules");
        fs::write(&file, "game 1\n").unwrap();
        let book = Arc::new(Book::open(&file).unwrap());
        let mut readers = [0, 1].map(|domain| book.reader(DomainId(domain)));
        let _watcher = watch(Arc::clone(&book)).unwrap();
        let mut expect = |weight| {
            let hangs = Instant::now() + Duration::from_secs(30);
            for reader in &mut readers {
                while reader.read().weight_of("game") != Some(weight) {
                    assert!(Instant::now() < hangs, "the rule for {weight} is not seen");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        };
        fs::write(&file, "game 2\n").unwrap();
        expect(2);
        let new = folder.path().join("new");
        fs::write(&new, "game 3\n").unwrap();
        fs::rename(&new, &file).unwrap();
        expect(3);
        fs::write(&file, "game 4\n").unwrap();
        expect(4);
    }
}
