// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Does a process live in namespaces (namespaces(7)) that are not ours?

use std::fs;
use std::path::PathBuf;

/// Those that systemd makes for a service by its settings: mounts (PrivateTmp=, ProtectSystem= and many more), host
/// name, IPC, network and control groups. They are what `nsenter` takes CRIU into.
const MADE_BY_SYSTEMD: [&str; 5] = ["mnt", "uts", "ipc", "net", "cgroup"];

/// Has it any that systemd makes?
#[must_use]
pub fn own(pid: u32) -> bool {
    MADE_BY_SYSTEMD.iter().any(|kind| differs(pid, kind))
}

/// Has it users of its own (PrivateUsers=)?
#[must_use]
pub fn own_users(pid: u32) -> bool {
    differs(pid, "user")
}

/// Has it process numbers of its own (PrivatePIDs=, a container), or will its children have some?
#[must_use]
pub fn own_pids(pid: u32) -> bool {
    // One that has ended meanwhile, or is a zombie, has none.
    ["pid", "pid_for_children"]
        .iter()
        .any(|kind| of(&pid.to_string(), kind).is_some() && differs(pid, kind))
}

/// Has it a network of its own?
#[must_use]
pub fn own_network(pid: u32) -> bool {
    differs(pid, "net")
}

fn differs(pid: u32, kind: &str) -> bool {
    of(&pid.to_string(), kind) != of("self", kind)
}

fn of(process: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_nowhere_else() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(!own_pids(child.id()));
        child.wait().unwrap();
        assert!(!own_pids(child.id()) && !own_pids(std::process::id()));
    }
}
