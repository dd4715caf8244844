// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Does to the daemon of a restore what must not matter to anybody.

use super::random::Random;
use super::system;
use std::fs;
use std::time::{Duration, Instant};

/// Longer than any restore.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn main(args: &[String]) -> Result<(), String> {
    let usage = "usage: /init drain kill|stop|go COUNT";
    let [action, count] = args else {
        return Err(usage.to_owned());
    };
    let count: u64 = count.parse().map_err(|_| usage)?;
    let signal = match action.as_str() {
        "kill" => libc::SIGKILL,
        "stop" => libc::SIGSTOP,
        "go" => libc::SIGCONT,
        _ => return Err(usage.to_owned()),
    };
    let start = Instant::now();
    let mut random = Random(count);
    let (mut seen, mut done) = (false, 0);
    let mut last = 0;
    while done < count && start.elapsed() < PATIENCE {
        match daemon() {
            // Each of them once.
            Some(pid) if pid != last => {
                seen = true;
                std::thread::sleep(Duration::from_micros(random.below(20_000)));
                if system::signal(pid, signal) {
                    done += 1;
                    last = pid;
                }
            }
            // It has done its work.
            None if seen && supervisors().is_empty() => break,
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    println!("{done}");
    Ok(())
}

/// Processes that give memory: their numbers and their parents'.
fn drains() -> Vec<(i32, i32)> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !line.starts_with(b"@kup\0drain\0") {
            continue;
        }
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        all.extend(parent.map(|parent| (pid, parent)));
    }
    all
}

fn supervisors() -> Vec<i32> {
    let all = drains();
    let is_drain = |pid: i32| all.iter().any(|(other, _)| *other == pid);
    let first = all.iter().filter(|(_, parent)| !is_drain(*parent));
    first.map(|(pid, _)| *pid).collect()
}

fn daemon() -> Option<i32> {
    let all = drains();
    let is_drain = |pid: i32| all.iter().any(|(other, _)| *other == pid);
    all.iter()
        .find(|(_, parent)| is_drain(*parent))
        .map(|(pid, _)| *pid)
}
