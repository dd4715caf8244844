// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Who holds a region, and whether they still live.

use crate::{uuid, Error, Kind, Result};
use fs_core::{Owner, OwnerKind};
use std::fs;

/// Id of the running kernel's boot.
pub fn boot_id() -> Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|e| {
        Error::io(format!("cannot read {path}"), &e)
            .hint("is /proc mounted? mount -t proc proc /proc")
    })?;
    uuid::parse(text.trim())
        .map_err(|_| Error::new(Kind::System, format!("{path} holds no UUID: {text:?}")))
}

/// The mark this process leaves in a region. A daemon asks after its last fork: the mark names
/// the process that asks.
pub fn current(kind: OwnerKind) -> Result<Owner> {
    let pid = std::process::id();
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path)
        .map_err(|e| Error::io(format!("cannot read {path}"), &e).hint("is /proc mounted?"))?;
    let (_, start) = parse_stat(&stat)
        .ok_or_else(|| Error::new(Kind::System, format!("{path} has no start time: {stat:?}")))?;
    Ok(Owner {
        boot_id: boot_id()?,
        kind,
        pid,
        start,
    })
}

/// Does the holder of a mount marker still live?
///
/// Nobody of another boot does. A kernel of this boot does. A process does as long as its pid
/// belongs to a process with the same start time that is no zombie. Where it cannot be found out
/// (no `/proc`), the answer is yes: a region is never taken from a holder that may live.
#[must_use]
pub fn alive(owner: &Owner) -> bool {
    let Ok(boot) = boot_id() else {
        return true;
    };
    if owner.boot_id != boot {
        return false;
    }
    if owner.kind == OwnerKind::Kernel {
        return true;
    }
    match fs::read_to_string(format!("/proc/{}/stat", owner.pid)) {
        Ok(stat) => match parse_stat(&stat) {
            Some((state, start)) => {
                (owner.start == 0 || start == owner.start) && !matches!(state, 'Z' | 'X' | 'x')
            }
            None => true,
        },
        // ENOENT: no such process. ESRCH: it ended while we read.
        Err(e) => !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)),
    }
}

/// Who that is, for an error message.
#[must_use]
pub fn describe(owner: &Owner) -> String {
    let name = || {
        fs::read_to_string(format!("/proc/{}/comm", owner.pid))
            .map(|comm| format!(" ({})", comm.trim()))
            .unwrap_or_default()
    };
    match owner.kind {
        OwnerKind::Kernel => "the kernel module".into(),
        OwnerKind::Fuse => format!("the FUSE daemon, process {}{}", owner.pid, name()),
        OwnerKind::Tool => format!("a tool, process {}{}", owner.pid, name()),
    }
}

/// State letter and start time (clock ticks since boot, field 22 of proc_pid_stat(5)). The
/// command's name in parentheses may hold anything, so fields are counted behind the last `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 3 is gone; 22 is the 19th of what is left.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces() {
        let stat = "12 (a) b (c) R 1 12 12 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_stat(stat), Some(('R', 4242)));
        assert_eq!(parse_stat("12 (a"), None);
        assert_eq!(parse_stat("12 (a) R 1"), None);
    }

    #[test]
    fn we_live() {
        let me = current(OwnerKind::Tool).expect("current");
        assert!(alive(&me));
        assert!(describe(&me).contains(&me.pid.to_string()));
    }

    #[test]
    fn others_do_not() {
        let me = current(OwnerKind::Fuse).expect("current");
        let other_start = Owner {
            start: me.start + 1,
            ..me
        };
        assert!(!alive(&other_start), "a reused pid");
        let mut boot_id = me.boot_id;
        boot_id[0] ^= 1;
        assert!(!alive(&Owner { boot_id, ..me }), "another boot");
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let pid = child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let (_, start) = parse_stat(&stat).expect("start");
        let owner = Owner { pid, start, ..me };
        child.wait().expect("wait");
        assert!(!alive(&owner), "an ended process");
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("spawn");
        let pid = child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let (_, start) = parse_stat(&stat).expect("start");
        let owner = Owner {
            pid,
            start,
            ..current(OwnerKind::Fuse).expect("current")
        };
        assert!(alive(&owner));
        child.kill().expect("kill");
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while alive(&owner) {
            assert!(std::time::Instant::now() < limit, "still counted as alive");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().expect("wait");
    }

    #[test]
    fn the_kernel_of_this_boot_lives() {
        let me = current(OwnerKind::Tool).expect("current");
        let kernel = Owner {
            kind: OwnerKind::Kernel,
            pid: 0,
            start: 0,
            ..me
        };
        assert!(alive(&kernel));
    }
}
