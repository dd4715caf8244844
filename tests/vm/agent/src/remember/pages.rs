// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The memory of other processes as they stand still: what is mapped, and what each page holds.

use super::random::mix;
use super::system::{self, PAGE};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const PIECE: u64 = 256;

pub fn main(args: &[String]) -> Result<(), String> {
    let (action, file, pids) = match args {
        [action, file, pids @ ..] if !pids.is_empty() => (action.as_str(), file, pids),
        _ => return Err("usage: /init pages save|compare FILE PID...".to_owned()),
    };
    let mut now = BTreeSet::new();
    for pid in pids {
        // Who traces it may read what it cannot read itself.
        system::trace(pid.parse().map_err(|_| format!("{pid} is no PID"))?)
            .map_err(|e| format!("process {pid}: {e}"))?;
        process(pid, &mut now).map_err(|e| format!("process {pid}: {e}"))?;
    }
    if action == "save" {
        let lines: Vec<&str> = now.iter().map(String::as_str).collect();
        println!("{} lines", lines.len());
        return fs::write(file, lines.join("\n")).map_err(|e| e.to_string());
    }
    let before = fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let before: BTreeSet<String> = before.lines().map(str::to_owned).collect();
    let gone = before
        .difference(&now)
        .map(|line| format!("{line} (before)"));
    let new = now.difference(&before).map(|line| format!("{line} (now)"));
    let mut differ: Vec<String> = gone.chain(new).collect();
    differ.sort_unstable();
    if differ.is_empty() {
        println!("{} lines are equal", now.len());
        return Ok(());
    }
    let some: Vec<&str> = differ.iter().take(40).map(String::as_str).collect();
    Err(format!(
        "{} differences:\n{}",
        differ.len(),
        some.join("\n")
    ))
}

/// Lines for what is mapped with which rights, and for all pages that are not zeros.
fn process(pid: &str, lines: &mut BTreeSet<String>) -> std::io::Result<()> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    // Mappings side by side may be one afterwards.
    let mut mapped: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        // CRIU 4.2 gives a child what its parent had of a mapping that both have, and the right to write; where the
        // parent had none, a child that may read and write may only write. On x86 that is the same.
        let rights = rights.replace("-w", "rw");
        let inode = fields.nth(2).unwrap_or("");
        let name = fields.next().unwrap_or("");
        // The kernel's, and changed by it at any time.
        if name.starts_with("[v") {
            continue;
        }
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = range.split_once('-').expect("a range");
        let (start, end) = (number(start), number(end));
        let anonymous = inode == "0" && rights.ends_with('p');
        for piece in (start..end).step_by((PIECE * PAGE) as usize) {
            let pages = PIECE.min((end - piece) / PAGE);
            let mut flags = vec![0; pages as usize * 8];
            pagemap.read_exact_at(&mut flags, piece / PAGE * 8)?;
            for (page, flags) in (0..).zip(flags.chunks_exact(8)) {
                let addr = piece + page * PAGE;
                let flags = u64::from_ne_bytes(flags.try_into().expect("8 bytes"));
                // Neither there nor swapped out: zeros, unless it is a file's.
                if anonymous && flags >> 62 == 0 {
                    continue;
                }
                let mut bytes = vec![0; PAGE as usize];
                match memory.read_exact_at(&mut bytes, addr) {
                    Ok(()) if bytes.iter().all(|byte| *byte == 0) => {}
                    Ok(()) => drop(lines.insert(format!("{pid} {addr:012x} {:016x}", sum(&bytes)))),
                    Err(e) => drop(lines.insert(format!("{pid} {addr:012x} {e}"))),
                }
            }
        }
        let before = mapped
            .iter()
            .next_back()
            .map(|(start, (end, rights))| (*start, *end, rights.clone()));
        match before {
            Some((first, last, alike)) if last == start && alike == rights => {
                mapped.insert(first, (end, alike));
            }
            _ => drop(mapped.insert(start, (end, rights))),
        }
    }
    for (start, (end, rights)) in mapped {
        lines.insert(format!("{pid} {start:012x}-{end:012x} {rights}"));
    }
    Ok(())
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(0, |sum, word| {
        mix(sum ^ u64::from_ne_bytes(word.try_into().expect("8 bytes")))
    })
}

pub fn change(args: &[String]) -> Result<(), String> {
    let usage = "usage: /init change FILE OFFSET COUNT";
    let [path, offset, count] = args else {
        return Err(usage.to_owned());
    };
    let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16).map_err(|_| usage)?;
    let count = count.parse().map_err(|_| usage)?;
    flip(path, offset, count).map_err(|e| format!("{path}: {e}"))
}

/// Some pages apart, so that no deed of the program hits all of them.
fn flip(path: &str, mut offset: u64, count: u64) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    for _ in 0..count {
        let at = system::data_behind(&file, offset)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1], at)?;
        offset = at + 40 * PAGE;
    }
    Ok(())
}
