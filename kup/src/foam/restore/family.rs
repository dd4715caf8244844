// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A process and the children it had since it was restored.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

/// Sends `signal` to `task` and to its descendants, but for those below one of `others`. A `task` of 0
/// is not known, and no one is sent anything.
pub fn kill_all(task: i32, others: &BTreeSet<i32>, signal: Signal) {
    if task <= 0 {
        eprintln!("kup: a process that must not go on cannot be killed: its pid is not known");
        return;
    }
    // All are looked up first: the children of a dead process are no longer its children.
    let mut family = vec![task];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            children(parent)
                .into_iter()
                .filter(|child| !others.contains(child)),
        );
        next += 1;
    }
    for pid in family {
        // It may be dead already.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .flat_map(str::parse)
                .collect::<Vec<_>>()
        })
        .collect()
}
