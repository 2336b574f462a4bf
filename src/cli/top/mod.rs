//! `scx_manyland top`: what a scheduler that runs is doing, on the whole screen.
//!
//! Invariant: however it ends, the terminal is as it was before.

mod draw;
mod view;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use scx_manyland::options::Seconds;
use scx_manyland::run::cgroups;
use scx_manyland::run::client::{Client, PATH};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use view::{Press, View};

#[derive(Debug, Args)]
pub struct TopArgs {
    /// How long an interval is, in seconds (0.1 to 3600)
    #[arg(short, long, value_name = "SECS", default_value = "1")]
    interval: Seconds,
    /// The scheduler's statistics socket
    #[arg(long, value_name = "PATH", default_value = PATH)]
    socket: PathBuf,
}

/// How long a scheduler may be silent before it counts as gone: keys wait for as long.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long until the next attempt to find a scheduler.
const AGAIN: Duration = Duration::from_secs(1);

impl TopArgs {
    /// Shows the screen until a key ends it.
    ///
    /// # Errors
    /// If there is no terminal, or this user may not ask the scheduler.
    pub fn run(self) -> Result<()> {
        let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        ensure!(is_terminal, "top needs a terminal; --monitor prints lines");
        // Who may not read the socket learns so in a line that remains.
        let client = self.connect()?;
        let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
        let result = self.show(&mut terminal, client);
        ratatui::try_restore().context("cannot restore the terminal")?;
        result
    }

    fn connect(&self) -> Result<Option<Client>> {
        let client = Client::connect(&self.socket)?;
        let client = client.map(|client| client.with_cgroups(Some(cgroups::MOST)));
        client.map(|client| client.with_patience(PATIENCE)).transpose()
    }

    fn show(&self, terminal: &mut DefaultTerminal, mut client: Option<Client>) -> Result<()> {
        let every = self.interval.duration();
        let mut view = View::new(every);
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due {
                if !view.is_paused {
                    if client.is_none() {
                        client = self.connect()?;
                    }
                    if !refresh(&mut view, client.as_mut()) {
                        client = None;
                    }
                }
                due = Instant::now() + if client.is_some() { every } else { AGAIN.min(every) };
            }
            terminal.draw(|frame| draw::draw(frame, &view)).context("cannot draw")?;
            let left = due.saturating_duration_since(Instant::now());
            if event::poll(left).context("cannot wait for keys")? {
                match event::read().context("cannot read a key")? {
                    Event::Key(key) if is_end(key) => return Ok(()),
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        press(key.code).into_iter().for_each(|press| view.press(press));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Asks the scheduler. Whether it has answered.
fn refresh(view: &mut View, client: Option<&mut Client>) -> bool {
    match client.map(Client::totals) {
        Some(Ok(received)) => {
            view.received(received);
            true
        }
        Some(Err(_)) | None => {
            view.lost(scx_manyland::kernel::probe::attached());
            false
        }
    }
}

fn is_end(key: KeyEvent) -> bool {
    let control_c = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn press(key: KeyCode) -> Option<Press> {
    const PAGE: usize = 20;
    match key {
        KeyCode::Char('s') => Some(Press::Sort),
        KeyCode::Char('r') => Some(Press::Reverse),
        KeyCode::Char('p' | ' ') => Some(Press::Pause),
        KeyCode::Up | KeyCode::Char('k') => Some(Press::Up(1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Press::Down(1)),
        KeyCode::PageUp => Some(Press::Up(PAGE)),
        KeyCode::PageDown => Some(Press::Down(PAGE)),
        KeyCode::Home => Some(Press::Up(usize::MAX)),
        KeyCode::End => Some(Press::Down(usize::MAX / 2)),
        _ => None,
    }
}
