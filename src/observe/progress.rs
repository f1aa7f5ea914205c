//! A line that shows how far long work has come. On a terminal it is written again in its place, so
//! that it scrolls nothing away. Where standard error is no terminal, a program shows no line, or
//! an ordinary one now and then.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line on standard error, erased when it is dropped.
#[derive(Debug)]
pub struct ProgressLine {
    is_terminal: bool,
    /// Shortest time between two lines; None for no line at all.
    interval: Option<Duration>,
    shown_at: Option<Instant>,
    /// Number of characters of the line on the terminal.
    width: usize,
}

impl ProgressLine {
    /// Returns a line that is shown on a terminal alone.
    pub fn on_terminal() -> ProgressLine {
        ProgressLine::new(None)
    }

    /// Returns a line that is an ordinary one every few seconds where there is no terminal.
    pub fn on_terminal_or_in_lines() -> ProgressLine {
        ProgressLine::new(Some(ORDINARY_INTERVAL))
    }

    fn new(ordinary: Option<Duration>) -> ProgressLine {
        let is_terminal = io::stderr().is_terminal();
        let interval = if is_terminal { Some(TERMINAL_INTERVAL) } else { ordinary };
        // An ordinary line is for work that takes longer than the interval.
        let shown_at = (!is_terminal).then(Instant::now);
        ProgressLine { is_terminal, interval, shown_at, width: 0 }
    }

    /// Shows `text` instead of the text before, unless that is recent.
    pub fn show(&mut self, text: impl Display) {
        let Some(interval) = self.interval else { return };
        if self.shown_at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        self.shown_at = Some(Instant::now());
        let text = text.to_string();
        if !self.is_terminal {
            let _ = writeln!(io::stderr(), "{text}");
            return;
        }
        // The cursor goes back to the start, so that a line of the log overwrites the text.
        let _ = write!(io::stderr(), "\r{text:width$}\r", width = self.width);
        self.width = text.chars().count();
    }

    /// Erases the line, for other output.
    fn erase(&mut self) {
        if self.width > 0 {
            let _ = write!(io::stderr(), "\r{:width$}\r", "", width = self.width);
            self.width = 0;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.erase();
    }
}

/// Shortest time between two texts on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest time between two ordinary lines.
const ORDINARY_INTERVAL: Duration = Duration::from_secs(5);
