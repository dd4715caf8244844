// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU's first run under a kernel finds out what that can do, which takes several times as long as a restore; the
//! answers are kept in /run (`criu.kdat`). So it is had to do that early at boot, before anybody waits for it.

use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Held while it is under way.
const LOCK: &str = "/run/kup-prepare.lock";
/// How often it is looked whether it is done, and at most.
const PAUSE: Duration = Duration::from_millis(5);
const LOOKS: u32 = 1000;

/// Has CRIU find out.
///
/// # Errors
/// It cannot be run, or not yet.
pub fn prepare() -> Result<()> {
    // IFF_UP. Some of it is tried by a connection to itself, and what fails is noted as what the kernel cannot do.
    let flags = fs::read_to_string("/sys/class/net/lo/flags").unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    if flags & 1 == 0 {
        bail!("the loopback interface is down: `ip link set lo up` before this");
    }
    let mut options = File::options();
    let file = options.write(true).create(true).mode(0o600).open(LOCK);
    let lock = Flock::lock(file.context(LOCK)?, FlockArg::LockExclusiveNonblock);
    let _lock = match lock {
        // Somebody else does it.
        Err((_, Errno::EAGAIN)) => return Ok(()),
        other => other.map_err(|(_, e)| e).context(LOCK)?,
    };
    crate::criu::require_feature("mem_dirty_track")
}

/// The same, by a process of its own.
pub fn in_background() {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("kup").args(["--quiet", "prepare"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Without it, the first restore takes longer.
    let _ = command.process_group(0).spawn();
}

/// Waits for one that is under way: to do it at the same time would take longer.
pub fn wait() {
    let Ok(mut file) = File::open(LOCK) else {
        return;
    };
    for _ in 0..LOOKS {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((same, Errno::EAGAIN)) => file = same,
            _ => return,
        }
        std::thread::sleep(PAUSE);
    }
}
