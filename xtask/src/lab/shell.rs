// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Where commands can be run: in a guest, or on this machine itself.

use super::guest::Guest;
use super::here::Here;
use anyhow::Result;

/// Seconds that a command has if nobody says how many.
const PATIENCE: u64 = 180;

pub trait Shell {
    /// Runs a shell command that has to succeed within so many seconds. Returns what it wrote to its standard
    /// output, and the seconds it took.
    fn timed(&self, script: &str, limit: u64) -> Result<(String, f64)>;

    fn run(&self, script: &str) -> Result<String> {
        Ok(self.timed(script, PATIENCE)?.0)
    }

    /// Sees that the kernel has nothing to complain about, as far as it is there for us alone.
    fn check(&self) -> Result<()>;
}

impl Shell for Guest {
    fn timed(&self, script: &str, limit: u64) -> Result<(String, f64)> {
        let output = self.command(script).timeout(limit).succeed()?;
        Ok((output.stdout(), output.seconds()))
    }

    fn check(&self) -> Result<()> {
        Guest::check(self)
    }
}

impl Shell for Here {
    fn timed(&self, script: &str, limit: u64) -> Result<(String, f64)> {
        Here::timed(self, script, limit)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}
