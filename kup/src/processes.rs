// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Processes: trees of them, and what may not be checkpointed.

use crate::checkpoint::Process;
use anyhow::{bail, ensure, Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Numbers below this may be taken under the next kernel, by its own threads and the first daemons.
pub const LOW: u32 = 10_000;

/// Is there a process of this number?
#[must_use]
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Does it run, or could it? A process that has ended may still be listed.
#[must_use]
pub fn lives(pid: u32) -> bool {
    let state = stat(pid).and_then(|stat| stat.first().cloned());
    state.is_some_and(|state| !matches!(state.as_str(), "Z" | "X"))
}

/// Does it run this program, by whatever name?
#[must_use]
pub fn runs(pid: u32, program: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let exe = file(Path::new(&format!("/proc/{pid}/exe")));
    exe.is_some() && file(program) == exe
}

/// Who has this number, a process or a thread of one.
#[must_use]
pub fn who(id: u32) -> Option<String> {
    // Threads are not listed in /proc, but they are there.
    exists(id).then(|| command(id))
}

/// A process and all its descendants, the process first.
///
/// # Errors
/// There is no such process.
pub fn tree(root: u32) -> Result<Vec<Process>> {
    ensure!(exists(root), "there is no process {root}");
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all()? {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        if let Some(more) = children.get(pid) {
            tree.extend(more);
        }
        next += 1;
    }
    let named = |pid| Process {
        pid,
        command: command(pid),
    };
    Ok(tree.into_iter().map(named).collect())
}

/// The numbers of a process and all its descendants.
///
/// # Errors
/// There is no such process.
pub fn pids(root: u32) -> Result<Vec<u32>> {
    Ok(tree(root)?.iter().map(|process| process.pid).collect())
}

/// The numbers of all processes.
pub(crate) fn all() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc")?;
    let number =
        |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Fields of /proc/PID/stat behind the name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The session of a process.
#[must_use]
pub fn session(pid: u32) -> Option<u32> {
    stat(pid)?.get(3)?.parse().ok()
}

/// The command line, or the name of one that has none.
#[must_use]
pub fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let line = line.trim_end_matches('\0').replace('\0', " ");
    if !line.is_empty() {
        return line;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("[{}]", name.trim_end())
}

/// The root of the tree that a control group consists of.
///
/// # Errors
/// The group is empty, or holds processes that are not one tree.
pub fn root_of_cgroup(cgroup: &str) -> Result<u32> {
    let group = cgroup
        .trim_start_matches('/')
        .trim_start_matches("sys/fs/cgroup/");
    let dir = Path::new("/sys/fs/cgroup").join(group);
    let mut pids = Vec::new();
    collect(&dir, &mut pids).with_context(|| format!("control group {cgroup}"))?;
    ensure!(!pids.is_empty(), "control group {cgroup} holds no process");
    let outside = |pid: &u32| parent(*pid).is_none_or(|parent| !pids.contains(&parent));
    let roots: Vec<u32> = pids.iter().copied().filter(outside).collect();
    match roots[..] {
        [root] => Ok(root),
        _ => bail!(
            "control group {cgroup} is not one tree of processes: {} have their parents elsewhere; \
             checkpoint them one by one with --pid",
            roots.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn collect(dir: &Path, pids: &mut Vec<u32>) -> Result<()> {
    let text = fs::read_to_string(dir.join("cgroup.procs"))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// Bytes that a checkpoint needs for a process: memory that is no file's; its part of what it shares with
/// others twice, as it is kept twice. 0 if it cannot be told.
#[must_use]
pub fn needs(pid: u32) -> u64 {
    let kib = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let own = ["RssAnon:", "VmSwap:"].map(|name| kib("status", name).unwrap_or(0));
    let shared = kib("smaps_rollup", "Pss_Shmem:").unwrap_or(0);
    (own.iter().sum::<u64>() + 2 * shared) * 1024
}

/// Is some memory of the process filled on demand by somebody (userfaultfd(2))? CRIU would dump it as if
/// what is still to come were zeros, and say that all is well.
///
/// # Errors
/// The process cannot be looked at.
pub fn is_filled_on_demand(pid: u32) -> Result<bool> {
    let path = format!("/proc/{pid}/smaps");
    // One that has ended meanwhile has no memory.
    let gone = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
    let file = match fs::File::open(&path) {
        Err(e) if gone(&e) => return Ok(false),
        other => other.with_context(|| path.clone())?,
    };
    for line in BufReader::new(file).lines() {
        let line = match line {
            Err(e) if gone(&e) => return Ok(false),
            other => other.with_context(|| path.clone())?,
        };
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if flags.split_whitespace().any(|flag| flag == "um") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
