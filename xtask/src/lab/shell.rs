// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Where the commands of a bench are run.

use crate::lab::Guest;
use anyhow::Result;

/// A guest, or the machine itself.
pub trait Shell {
    /// Runs a shell command that has to succeed within so many seconds. Returns what it wrote to its standard
    /// output, and the seconds it took.
    fn timed(&self, script: &str, limit: u64) -> Result<(String, f64)>;

    fn run(&self, script: &str) -> Result<String> {
        Ok(self.timed(script, 180)?.0)
    }
}

impl Shell for Guest {
    fn timed(&self, script: &str, limit: u64) -> Result<(String, f64)> {
        let output = self.command(script).timeout(limit).succeed()?;
        Ok((output.stdout(), output.seconds()))
    }
}
