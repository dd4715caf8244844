// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! How far a check is.

use fs_core::check::Phase;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Where progress goes.
#[derive(Debug)]
pub enum Progress {
    /// Nowhere.
    None,
    /// A bar on a terminal, from the moment the check takes noticeable time.
    Bar(Bar),
    /// Lines of `pass done total device`, as fsck(8) and systemd-fsck read them.
    Lines(Lines),
}

/// A bar on standard output.
#[derive(Debug)]
pub struct Bar {
    started: Instant,
    wait: Duration,
    last: Option<Instant>,
    shown: bool,
}

/// Lines for another program.
#[derive(Debug)]
pub struct Lines {
    out: File,
    name: String,
    last: Option<Instant>,
    pass: u32,
}

/// Time between two updates.
const STEP: Duration = Duration::from_millis(100);

/// The passes of fsck(8), of which programs know five, and how far in it a phase begins and ends
/// (in thousandths).
const fn pass(phase: Phase) -> (u32, u64, u64) {
    match phase {
        Phase::Superblock => (1, 0, 10),
        Phase::Journal => (1, 10, 20),
        Phase::System => (1, 20, 100),
        Phase::Inodes => (1, 100, 600),
        Phase::Salvage => (1, 600, 700),
        Phase::Extents => (1, 700, 850),
        Phase::Seals => (1, 850, 1000),
        Phase::Directories => (2, 0, 1000),
        Phase::Counts => (3, 0, 1000),
        Phase::Pending => (4, 0, 500),
        Phase::FreeInodes => (4, 500, 1000),
        Phase::Allocation => (5, 0, 950),
        _ => (5, 950, 1000),
    }
}

impl Progress {
    /// A bar, right away if it was asked for; else only on a terminal, and when it takes long.
    #[must_use]
    pub fn bar(asked: bool) -> Self {
        if !asked && !io::stdout().is_terminal() {
            return Progress::None;
        }
        Progress::Bar(Bar {
            started: Instant::now(),
            wait: if asked {
                Duration::ZERO
            } else {
                Duration::from_secs(1)
            },
            last: None,
            shown: false,
        })
    }

    /// Lines to an open file.
    #[must_use]
    pub fn lines(out: File, name: &str) -> Self {
        Progress::Lines(Lines {
            out,
            name: name.to_string(),
            last: None,
            pass: 0,
        })
    }

    /// `done` of `total` of a phase.
    pub fn update(&mut self, phase: Phase, done: u64, total: u64) {
        let (pass, from, to) = pass(phase);
        let part = match total {
            0 => 0,
            _ => (u128::from(done.min(total)) * 1000 / u128::from(total)) as u64,
        };
        let now = Instant::now();
        let due = |last: Option<Instant>| last.is_none_or(|l| now.duration_since(l) >= STEP);
        match self {
            Progress::None => {}
            Progress::Bar(bar) => {
                if now.duration_since(bar.started) < bar.wait || !due(bar.last) {
                    return;
                }
                bar.last = Some(now);
                bar.shown = true;
                let filled = (part * 40 / 1000) as usize;
                print!(
                    "\r\x1b[K{:>2}/{} {:<12} [{}{}] {:>3} %",
                    phase.number(),
                    Phase::COUNT,
                    phase.to_string(),
                    "#".repeat(filled),
                    " ".repeat(40 - filled),
                    part / 10
                );
                let _ = io::stdout().flush();
            }
            Progress::Lines(lines) => {
                if pass == lines.pass && !due(lines.last) {
                    return;
                }
                lines.last = Some(now);
                lines.pass = pass;
                let at = from + (to - from) * part / 1000;
                // A reader that went away is no reason to stop a check.
                let _ = writeln!(lines.out, "{pass} {at} 1000 {}", lines.name);
            }
        }
    }

    /// Takes the bar away, so that something can be printed.
    pub fn clear(&mut self) {
        if let Progress::Bar(bar) = self {
            if bar.shown {
                print!("\r\x1b[K");
                let _ = io::stdout().flush();
                bar.shown = false;
            }
        }
    }
}
