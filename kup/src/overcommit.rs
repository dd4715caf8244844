// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU maps what a process has mapped as memory to be written to, also where the process had only reserved
//! addresses: databases reserve terabytes. The kernel refuses a mapping larger than the machine, unless it is told not
//! to count (`vm.overcommit_memory`, proc_sys_vm(5)): it is, as long as such a restore runs.

use crate::images::{magic, pb, Images};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

const SETTING: &str = "/proc/sys/vm/overcommit_memory";
/// What it was, while anybody has a lock on this.
const KEPT: &str = "/run/kup-overcommit";
const ALWAYS: &str = "1";

/// The kernel does not count until this is dropped.
pub struct Allowed(Option<Flock<File>>);

/// Do these processes want it?
///
/// # Errors
/// An image cannot be read.
pub fn wanted(images: &Images) -> Result<bool> {
    let limit = machine()? / 2;
    for process in images.processes()? {
        let name = format!("mm-{}.img", process.pid);
        if !images.path(&name).exists() {
            // A zombie.
            continue;
        }
        let mm: pb::MmEntry = images.read_one(&name, magic::MM)?;
        if mm
            .vmas
            .iter()
            .any(|area| area.end.saturating_sub(area.start) > limit)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Bytes of memory.
fn machine() -> Result<u64> {
    const PATH: &str = "/proc/meminfo";
    let text = fs::read_to_string(PATH).context(PATH)?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no MemTotal in /proc/meminfo")? * 1024)
}

/// Tells the kernel.
///
/// # Errors
/// It does not listen.
pub fn allow() -> Result<Allowed> {
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600);
    let file = options
        .custom_flags(libc::O_NOFOLLOW)
        .open(KEPT)
        .context(KEPT)?;
    let lock = |file, how| Flock::lock(file, how).map_err(|(_, e)| e).context(KEPT);
    let mut first = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(first) => first,
        // Another restore is under way, and has seen to it.
        Err((file, Errno::EAGAIN)) => return Ok(Allowed(Some(lock(file, FlockArg::LockShared)?))),
        Err((_, e)) => return Err(e).context(KEPT),
    };
    // The first of several that restore at once notes what it was.
    let mut kept = String::new();
    first.read_to_string(&mut kept)?;
    if kept.is_empty() {
        let was = fs::read_to_string(SETTING).context(SETTING)?;
        first.write_all(was.trim().as_bytes())?;
    }
    fs::write(SETTING, ALWAYS).context(SETTING)?;
    first.relock(FlockArg::LockShared).context(KEPT)?;
    Ok(Allowed(Some(first)))
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let Some(lock) = self.0.take() else {
            return;
        };
        if let Err(e) = end(lock) {
            eprintln!("kup: {SETTING} stays {ALWAYS}: {e:#}");
        }
    }
}

/// The last one puts back what it was.
fn end(lock: Flock<File>) -> Result<()> {
    match lock.relock(FlockArg::LockExclusiveNonblock) {
        Err(Errno::EAGAIN) => return Ok(()),
        other => other.context(KEPT)?,
    }
    let was = fs::read_to_string(KEPT).context(KEPT)?;
    if !was.is_empty() {
        fs::write(SETTING, was).context(SETTING)?;
    }
    Ok(lock.set_len(0)?)
}
