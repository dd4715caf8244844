// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! This machine, as far as a checkpoint tells of it.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The running kernel.
#[must_use]
pub fn release() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(
        |_| "?".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}

/// What tells this boot from all others.
///
/// # Errors
/// /proc is not mounted.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(PATH).context(PATH)?.trim().to_owned())
}

/// A number of bytes for a person.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Signals wait as long as this is there, in the thread that began it and in what that starts.
pub struct Uninterrupted(Option<SigSet>);

impl Uninterrupted {
    #[must_use]
    pub fn begin() -> Uninterrupted {
        Uninterrupted(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _ = before.thread_set_mask();
        }
    }
}
