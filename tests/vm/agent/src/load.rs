// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init load run SEED DIR`: works on a mount until the kernel ends, and tells the host of each operation
//! that has returned. `/init load check SEED DIR COUNT…`: is all that was acknowledged there? Each thread's
//! next operation was under way: it has happened, or not, or in part where it is data.

use lab_agent::{LEDGER_DEVICE, LEDGER_SIZE};
use rpramfs_load::{mixed, Fate};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn main(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    match &args[..] {
        ["run", seed, dir] => run(number(seed)?, Path::new(dir)),
        ["check", seed, dir, counts @ ..] => {
            let counts = counts.iter().map(|count| number(count));
            check(
                number(seed)?,
                Path::new(dir),
                &counts.collect::<Result<Vec<_>, _>>()?,
            )
        }
        ["threads", seed] => {
            println!("{}", mixed(number(seed)?).len());
            Ok(())
        }
        _ => Err("usage: /init load run SEED DIR, /init load threads SEED, or /init load check SEED DIR COUNT…".to_owned()),
    }
}

fn run(seed: u64, dir: &Path) -> Result<(), String> {
    let ledger = ledger().map_err(|e| format!("the ledger: {e}"))?;
    let loads = mixed(seed);
    loads.iter().for_each(|load| load.prepare(dir));
    ledger[0].store(1, Ordering::Release);
    std::thread::scope(|scope| {
        for (mut load, count) in loads.into_iter().zip(&ledger[1..]) {
            scope.spawn(move || {
                while load.step(dir) {
                    count.fetch_add(1, Ordering::Release);
                }
            });
        }
    });
    Err("the mount is dead".to_owned())
}

/// The words that the host sees.
fn ledger() -> io::Result<&'static [AtomicU64]> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let dir = entry?.path();
        let is = |name: &str, value: &str| {
            fs::read_to_string(dir.join(name)).is_ok_and(|text| text.trim() == value)
        };
        if !is("vendor", LEDGER_DEVICE.0) || !is("device", LEDGER_DEVICE.1) {
            continue;
        }
        fs::write(dir.join("enable"), "1")?;
        let memory = dir.join("resource2");
        let file = OpenOptions::new().read(true).write(true).open(memory)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEDGER_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a page of memory that is never unmapped, of words that everybody changes whole.
        return Ok(unsafe { std::slice::from_raw_parts(base.cast(), LEDGER_SIZE / 8) });
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no such device"))
}

fn check(seed: u64, dir: &Path, counts: &[u64]) -> Result<(), String> {
    let loads = mixed(seed);
    if loads.len() != counts.len() {
        return Err(format!(
            "{} threads have counts, not {}",
            counts.len(),
            loads.len()
        ));
    }
    let checks: Vec<_> = std::thread::scope(|scope| {
        let one = |(mut load, count): (Box<dyn rpramfs_load::Load>, &u64)| {
            let count = *count;
            scope.spawn(move || {
                (0..count).for_each(|_| load.follow());
                load.follow_under_way();
                load.check(dir)
            })
        };
        let threads: Vec<_> = loads.into_iter().zip(counts).map(one).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut lost = 0;
    for (n, found) in checks.into_iter().enumerate() {
        match found.expect("a panic ends all") {
            Ok(Fate::Before | Fate::None) => println!("before"),
            Ok(Fate::Part) => println!("part"),
            Ok(Fate::After) => println!("after"),
            Err(e) => {
                println!("thread {n}, after {} operations: {e}", counts[n]);
                lost += 1;
            }
        }
    }
    match lost {
        0 => Ok(()),
        n => Err(format!("{n} threads find something else than they left")),
    }
}
