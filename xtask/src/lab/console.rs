// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Reads along with a guest's console: a kernel that oopses is seen at once.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What a kernel says when it is past saving.
const FATAL: &[&str] = &[
    "Kernel panic - not syncing",
    "BUG: kernel NULL pointer",
    "BUG: unable to handle",
    "BUG: Bad page",
    "kernel BUG at",
    "Oops: ",
    "general protection fault",
];

pub struct Console {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    text: String,
    seen: usize,
    tolerated: bool,
    fatal: Option<String>,
}

impl Console {
    pub fn new(path: &Path) -> Console {
        Console {
            path: path.to_owned(),
            state: Mutex::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole text until now.
    pub fn text(&self) -> String {
        let mut state = self.state.lock().unwrap();
        state.read(&self.path);
        state.text.clone()
    }

    /// From now on a panic is part of the plan.
    pub fn tolerate(&self) {
        let mut state = self.state.lock().unwrap();
        state.tolerated = true;
        state.fatal = None;
    }

    /// From now on it is an error again, whatever was said until now.
    pub fn expect_again(&self) {
        let mut state = self.state.lock().unwrap();
        state.read(&self.path);
        state.tolerated = false;
        state.fatal = None;
        state.seen = state.text.rfind('\n').map_or(0, |at| at + 1);
    }

    /// The line with which the kernel gave up, if it did.
    pub fn fatal(&self) -> Option<String> {
        let mut state = self.state.lock().unwrap();
        state.read(&self.path);
        let (seen, end) = (state.seen, state.text.rfind('\n').map_or(0, |at| at + 1));
        if seen < end && !state.tolerated && state.fatal.is_none() {
            let mut lines = state.text[seen..end].lines();
            state.fatal = lines.find(|line| is_fatal(line)).map(str::to_owned);
        }
        state.seen = end.max(seen);
        state.fatal.clone()
    }

    /// The last lines, for an error message.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl State {
    fn read(&mut self, path: &Path) {
        if self.file.is_none() {
            self.file = File::open(path).ok();
        }
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            let _ = file.read_to_end(&mut bytes);
        }
        self.text.push_str(&String::from_utf8_lossy(&bytes));
    }
}

fn is_fatal(line: &str) -> bool {
    FATAL.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oops_is_seen_once_its_line_is_whole() {
        let path = std::env::temp_dir().join(format!("rpramfs-console-{}", std::process::id()));
        std::fs::write(&path, "[ 1.0] all is well\n[ 2.0] Oops: 0002 [#1] SM").unwrap();
        let console = Console::new(&path);
        assert_eq!(console.fatal(), None);
        std::fs::write(&path, "[ 1.0] all is well\n[ 2.0] Oops: 0002 [#1] SMP\n").unwrap();
        assert_eq!(
            console.fatal().as_deref(),
            Some("[ 2.0] Oops: 0002 [#1] SMP")
        );
        console.tolerate();
        assert_eq!(console.fatal(), None);
        std::fs::remove_file(&path).unwrap();
    }
}
