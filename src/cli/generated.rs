//! What is made from the command line itself: completions for shells, and manual pages.
//!
//! Invariant: an option or a command that `--help` shows is in all of them.

use super::{Cli, PROGRAM};
use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use scx_manyland::program;
use std::fs;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManualArgs {
    /// The folder to write the pages to
    folder: PathBuf,
}

/// The section of the manual: system administration.
const SECTION: &str = "8";

/// What the first page says that no option does, as roff(7).
const MORE: &str = r#".SH "EXIT STATUS"
0 after an end that was asked for, 2 where the command line is at fault, 1 for anything else.
A failure is one line on standard error.
.SH FILES
.TP
\fI/var/run/scx/root/stats\fR
the socket that answers statistics while the scheduler runs
.TP
\fI/sys/kernel/sched_ext/root/ops\fR
the name of the scheduler that is attached
.SH "REPORTING BUGS"
\fBscx_manyland report\fR \fIFILE\fR writes what a bug report needs.
.SH SIGNALS
SIGINT, SIGTERM and SIGHUP give the machine back to the kernel's own scheduler, and so does the end
of the process in any other way.
"#;

fn command() -> Command {
    program::complete(Cli::command())
}

impl CompletionsArgs {
    /// Prints the completions.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn run(self) -> Result<()> {
        program::print(&completions(self.shell))
    }
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), PROGRAM, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

impl ManualArgs {
    /// Writes a page for the program and for each of its commands.
    ///
    /// # Errors
    /// If a page cannot be written.
    pub fn run(self) -> Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the folder {}", self.folder.display()))?;
        for (name, text) in pages()? {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The manual pages, by their file names.
fn pages() -> Result<Vec<(String, String)>> {
    let mut whole = command();
    whole.build();
    let commands = whole.get_subcommands().filter(|it| !it.is_hide_set());
    let commands: Vec<&Command> = commands.filter(|it| it.get_name() != "help").collect();
    let mut pages = vec![page(&whole, MORE)?];
    for command in &commands {
        pages.push(page(command, "")?);
    }
    Ok(pages)
}

fn page(command: &Command, more: &str) -> Result<(String, String)> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut text = Vec::new();
    Man::new(command.clone())
        .section(SECTION)
        .manual("System Administration")
        .source(concat!("scx_manyland ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)?;
    text.extend_from_slice(more.as_bytes());
    let others = if more.is_empty() { PROGRAM } else { "scx_manyland-topology" };
    text.extend_from_slice(format!(".SH \"SEE ALSO\"\n{others}({SECTION})\n").as_bytes());
    Ok((format!("{name}.{SECTION}"), String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::io::Write;
    use std::process::{Command as Process, Stdio};

    /// The long options that a command's help shows.
    fn options(command: &Command) -> Vec<String> {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown.filter_map(|arg| Some(arg.get_long()?.to_owned())).collect()
    }

    #[test]
    fn completions_have_every_option_and_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            let mut command = command();
            command.build();
            for one in [&command].into_iter().chain(command.get_subcommands()) {
                for option in options(one) {
                    assert!(text.contains(&option), "{shell}: no {option}");
                }
                assert!(text.contains(one.get_name()), "{shell}: no {}", one.get_name());
            }
        }
        assert_eq!(Shell::value_variants().len(), 5);
    }

    #[test]
    fn bash_accepts_its_completions() {
        let mut bash = Process::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(completions(Shell::Bash).as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success());
    }

    #[test]
    fn there_is_a_page_for_each_command_with_all_of_its_options() {
        let pages = pages().unwrap();
        let mut whole = command();
        whole.build();
        let shown: Vec<_> = whole
            .get_subcommands()
            .filter(|it| !it.is_hide_set() && it.get_name() != "help")
            .collect();
        assert_eq!(pages.len(), shown.len() + 1);
        for command in [&whole].into_iter().chain(shown) {
            let name = command.get_display_name().unwrap_or(PROGRAM);
            let name = format!("{name}.8");
            let page = pages.iter().find(|(page, _)| *page == name);
            let (_, text) = page.unwrap_or_else(|| panic!("no page {name}"));
            for option in options(command) {
                let escaped = option.replace('-', "\\-");
                assert!(text.contains(&escaped), "{name}: no {option}");
            }
            assert!(text.contains(".TH") && text.contains("SEE ALSO"), "{text}");
        }
        assert!(pages[0].0 == "scx_manyland.8" && pages[0].1.contains("EXIT STATUS"));
    }
}
