// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What processes share with others that are not carried along with them: pipes, memory, local connections. Each
//! side gets one of its own, or none; CRIU says nothing of it.

use crate::{processes, sockets};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

/// Something shared that will not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub what: &'static str,
    /// Who has the other end, as far as it is known.
    pub other: String,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.what, self.other)
    }
}

/// What these processes share with others. A service's standard output to the journal is none: it is connected
/// anew.
///
/// # Errors
/// /proc cannot be read, or the kernel does not list its sockets.
pub fn with_others(pids: &[u32]) -> Result<Vec<Link>> {
    let mut ours = BTreeMap::new();
    for pid in pids {
        ours.extend(shared(*pid));
    }
    let mut links = BTreeSet::new();
    for other in processes::all()? {
        if pids.contains(&other) {
            continue;
        }
        for (key, what) in shared(other) {
            if ours.contains_key(&key) {
                let other = format!("process {other} ({})", processes::command(other));
                links.insert(Link { what, other });
            }
        }
    }
    for cut in sockets::cut(pids)? {
        if cut.peer.as_deref() != Some(sockets::JOURNAL) {
            let other = cut.peer.unwrap_or_else(|| "a process".to_owned());
            links.insert(Link {
                what: "a connection",
                other,
            });
        }
    }
    Ok(links.into_iter().collect())
}

/// A process's pipes and shared memory, each by a key that is the same for all who have it. Nothing, if it has ended.
fn shared(pid: u32) -> BTreeMap<String, &'static str> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = entries.into_iter().flatten().flatten();
    let targets = links.filter_map(|entry| {
        fs::read_link(entry.path())
            .ok()?
            .into_os_string()
            .into_string()
            .ok()
    });
    let mut all: BTreeMap<String, &'static str> = targets
        .filter(|target| target.starts_with("pipe:["))
        .map(|target| (target, "a pipe"))
        .collect();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    all.extend(
        maps.lines()
            .filter_map(memory)
            .map(|key| (key, "shared memory")),
    );
    all
}

/// The key of a mapping, if it is of memory that is shared and no file's (`proc_pid_maps(5)`): device and inode.
fn memory(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (permissions, device, inode) = (words.nth(1)?, words.nth(1)?, words.next()?);
    let name = words.next()?;
    let anonymous = ["/dev/zero", "/SYSV", "/memfd:"];
    let is = permissions.ends_with('s') && anonymous.iter().any(|start| name.starts_with(start));
    is.then(|| format!("memory:{device}:{inode}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings() {
        let shared = "7f30-7f40 rw-s 00000000 00:01 42                         /dev/zero (deleted)";
        assert_eq!(memory(shared).unwrap(), "memory:00:01:42");
        for line in [
            "7f30-7f40 rw-p 00000000 00:01 42 /dev/zero (deleted)",
            "7f30-7f40 rw-s 00000000 fe:00 42 /var/lib/db",
            "7f30-7f40 rw-p 00000000 00:00 0",
        ] {
            assert_eq!(memory(line), None, "{line}");
        }
    }

    #[test]
    fn a_pipe_to_another_process_is_one() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let links = with_others(&[child.id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        let here = format!("process {} ", std::process::id());
        let links = links.unwrap();
        let found = |link: &Link| link.what == "a pipe" && link.other.starts_with(&here);
        assert!(links.iter().any(found), "{links:?}");
    }
}
