//! `scx_manyland top` in a pseudo-terminal of 80 columns and 24 lines, over the socket of a
//! scheduler that this test plays.

mod played;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use played::Played;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use vt100::{Color, Parser};

const ROWS: NonZeroU16 = NonZeroU16::new(24).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(80).unwrap();

const LIMIT: Duration = Duration::from_secs(60);

/// The program in a terminal.
struct Terminal {
    process: Child,
    master: File,
    slave: OwnedFd,
    parser: Arc<Mutex<Parser>>,
}

impl Terminal {
    fn start(args: &[&str]) -> Terminal {
        let (ws_row, ws_col) = (ROWS.get(), COLUMNS.get());
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_scx_manyland"));
        command.args(args).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        // SAFETY: between fork and exec the child only makes system calls.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        let process = command.spawn().unwrap();
        let master = File::from(master);
        let parser = Arc::new(Mutex::new(Parser::new(ROWS, COLUMNS, 0)));
        let (mut from, to) = (master.try_clone().unwrap(), parser.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The terminal is gone when the last of its ends is closed.
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().process(&bytes[..length]);
            }
        });
        Terminal { process, master, slave, parser }
    }

    fn screen(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen has all of this on it.
    #[track_caller]
    fn shows(&self, expected: &[&str]) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            match expected.iter().find(|text| !screen.contains(**text)) {
                None => return screen,
                Some(text) if Instant::now() > deadline => panic!("no {text:?} on:\n{screen}"),
                Some(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Waits until these are the numbers of the domains, from the top.
    #[track_caller]
    fn lists(&self, expected: &[u32]) {
        self.comes_to("other domains", |terminal| {
            let screen = terminal.screen();
            let number = |line: &str| line.split_whitespace().next()?.parse::<u32>().ok();
            screen.lines().filter_map(number).eq(expected.iter().copied())
        });
    }

    /// Waits until a condition holds.
    #[track_caller]
    fn comes_to(&self, else_there_are: &str, condition: impl Fn(&Terminal) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{else_there_are}:\n{}", self.screen());
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn ends(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            match self.process.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("it goes on:\n{}", self.screen()),
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        assert!(status.success(), "{status}: {}", self.screen());
    }

    fn is_in_raw_mode(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ECHO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_scheduler_is_shown_from_its_start_to_its_end_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats");
    let mut terminal =
        Terminal::start(&["top", "--interval", "0.1", "--socket", path.to_str().unwrap()]);
    terminal.shows(&["No scheduler runs", "Waiting for scx_manyland", "q quit"]);
    assert!(terminal.is_in_raw_mode());
    for _ in 0..2 {
        let played = Played::start(&path);
        let screen =
            terminal.shows(&["policy vruntime", "2 domains (l3)", "9876 KiB", "4-7", "q quit"]);
        let head = screen.lines().find(|line| line.contains("DOM")).unwrap();
        assert!(head.ends_with("OUT/S"), "not all columns are there: {head:?}");
        // Each answer is a second after the one before, by the scheduler's clock.
        println!("{}", terminal.shows(&[" 700 ", " 900k", " 12.5 ", "█"]));
        drop(played);
        terminal.shows(&["No scheduler runs"]);
    }
    terminal.press("q");
    terminal.ends();
    assert!(!terminal.is_in_raw_mode(), "the terminal is not as before");
    terminal.comes_to("its screen remains", |terminal| {
        !terminal.parser.lock().unwrap().screen().alternate_screen()
    });
}

/// The picture has the screen's words, columns and rows; numbers may be others.
#[test]
fn the_picture_in_the_readme_is_true() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats");
    let _played =
        Played::with_cgroups(&path, &["/system.slice/build.service", "/user.slice/batch"]);
    let terminal = Terminal::start(&["top", "--socket", path.to_str().unwrap()]);
    let screen = terminal.shows(&[" 900k ", "every 1 s", "/user.slice/batch"]);
    let readme = include_str!("../README.md");
    let (_, picture) = readme.split_once("fills the screen, of 80 columns and more:\n\n").unwrap();
    let picture: Vec<_> = picture.lines().map_while(|line| line.strip_prefix("    ")).collect();
    let drawn: Vec<_> = screen.lines().filter(|line| !line.trim().is_empty()).collect();
    let head = |lines: &[&str]| lines.iter().find(|it| it.contains("DOM")).map(|it| it.to_string());
    assert_eq!(head(&picture), head(&drawn), "the columns are others");
    let form = |lines: &[&str]| lines.iter().map(|line| without_numbers(line)).collect::<Vec<_>>();
    assert_eq!(form(&picture), form(&drawn), "{screen}");
}

/// The names of some cgroups: more than there is room for, and one that no line has room for.
const NAMES: [&str; 20] = {
    let mut names = ["/busy.slice"; 20];
    names[2] = "/system.slice/of-a-name-that-is-longer-than-the-line/the-end.service";
    names[15] = "/last.slice";
    names[19] = "/idle.slice";
    names
};

#[test]
fn the_busiest_cgroups_are_shown_below_the_domains() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats");
    let played = Played::with_cgroups(&path, &NAMES);
    let terminal =
        Terminal::start(&["top", "--interval", "0.1", "--socket", path.to_str().unwrap()]);
    let screen = terminal.shows(&["THROT%", " 900k ", "/last.slice", "q quit"]);
    let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
    assert_eq!(lines.len(), usize::from(ROWS.get()), "{screen}");
    let domains = lines.iter().position(|line| line.starts_with("DOM")).unwrap();
    assert!(lines[domains + 2].starts_with("  1  "), "{screen}");
    assert_eq!(lines[domains + 3], "");
    let head = "WEIGHT     DUE     HAD RUNNABLE THROT/S THROT% CGROUP";
    assert_eq!(lines[domains + 4], head);
    let rows: Vec<String> = lines[domains + 5..lines.len() - 1]
        .iter()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(rows[0], "300 4.00 3.50 6 - - /busy.slice", "the busiest one, without a limit");
    assert_eq!(rows[1], "300 2.00 1.75 6 10 25.0 /busy.slice", "one with a limit");
    assert_eq!(rows[2], "300 1.33 1.17 6 - - …er-than-the-line/the-end.service");
    assert!(rows[15].ends_with("/last.slice") && rows.len() == 16, "{screen}");
    assert!(!screen.contains("/idle.slice"), "{screen}");
    drop(played);
    terminal.shows(&["No scheduler runs"]);
    terminal.comes_to("cgroups remain", |terminal| !terminal.screen().contains("slice"));
    let _played = Played::start(&path);
    let screen = terminal.shows(&[" 900k "]);
    assert!(!screen.contains("CGROUP"), "there is none:\n{screen}");
}

/// The words of a line, with `#` for each number.
fn without_numbers(line: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit() || ".:k-".contains(c);
    let word = |word: &str| match word.starts_with(|c: char| c.is_ascii_digit()) {
        true if word.chars().all(is_number) => "#".to_owned(),
        _ => word.to_owned(),
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn keys_sort_pause_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats");
    let _played = Played::start(&path);
    let mut terminal =
        Terminal::start(&["top", "--interval", "0.1", "--socket", path.to_str().unwrap()]);
    terminal.shows(&["700", "sort (domain)"]);
    terminal.lists(&[0, 1]);
    terminal.press("ss");
    terminal.shows(&["sort (decisions)"]);
    terminal.lists(&[1, 0]);
    terminal.press("r");
    terminal.shows(&["decisions, reversed"]);
    terminal.lists(&[0, 1]);
    terminal.press("j");
    terminal.lists(&[1]);
    terminal.press("p");
    let paused = terminal.shows(&["GO ON"]);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(terminal.screen(), paused);
    // The terminal's own colours only: any background will do.
    let parser = terminal.parser.lock().unwrap();
    let positions = (0..ROWS.get()).flat_map(|row| (0..COLUMNS.get()).map(move |at| (row, at)));
    for (row, column) in positions {
        let cell = parser.screen().cell(row, column).unwrap();
        assert_eq!((cell.fgcolor(), cell.bgcolor()), (Color::Default, Color::Default));
    }
    drop(parser);
    terminal.press("\x03");
    terminal.ends();
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_scx_manyland")).arg("top").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("--monitor"), "{error}");
}
