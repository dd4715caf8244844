// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What else the machine does while a guest is measured.
//!
//! Where all CPUs are taken, a virtual CPU that was woken waits for one, some milliseconds each time.
//! A FUSE request wakes twice, a write to tmpfs never: on a busy machine the ratio of the two says
//! most of all how busy it is.

use crate::lab::Guest;
use anyhow::{Context, Result};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Above this share of all CPUs the others matter.
const TOO_MUCH: f64 = 0.15;
/// How long to wait for a quiet machine before a round is taken again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Since when, in clock ticks.
struct Others {
    process: u32,
    busy: u64,
    all: u64,
    ours: u64,
}

impl Others {
    /// Begins to watch all but `process`.
    fn watch(process: u32) -> Result<Self> {
        let (busy, all) = cpus(&fs::read_to_string("/proc/stat")?)?;
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let ours = used(&stat)?;
        Ok(Others {
            process,
            busy,
            all,
            ours,
        })
    }

    /// The share of all CPUs that they have had since.
    fn share(&self) -> Result<f64> {
        let now = Others::watch(self.process)?;
        let all = (now.all - self.all).max(1) as f64;
        let busy = (now.busy - self.busy) as f64;
        Ok(((busy - (now.ours - self.ours) as f64) / all).max(0.0))
    }
}

/// Waits until all but `process` leave the CPUs alone, for a time.
fn wait(process: u32, limit: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < limit {
        let others = Others::watch(process)?;
        sleep(Duration::from_secs(1));
        if others.share()? < TOO_MUCH {
            break;
        }
    }
    Ok(())
}

/// One round that is not counted, then the counted ones. As many again may be given up because others wanted
/// the CPUs.
pub fn rounds<T>(
    guest: &Guest,
    name: &str,
    rounds: usize,
    mut one: impl FnMut(usize) -> Result<T>,
) -> Result<Vec<T>> {
    one(0)?;
    counted(guest, name, rounds, one)
}

/// The same behind rounds of something like it.
pub fn counted<T>(
    guest: &Guest,
    name: &str,
    rounds: usize,
    mut one: impl FnMut(usize) -> Result<T>,
) -> Result<Vec<T>> {
    let (mut counted, mut spare) = (Vec::new(), rounds);
    while counted.len() < rounds {
        let others = Others::watch(guest.process())?;
        let result = one(counted.len() + 1)?;
        let others = others.share()?;
        if others > TOO_MUCH {
            println!(
                "{name}: others had {:.0} % of this machine: {}",
                others * 100.0,
                if spare > 0 {
                    "the round is taken again"
                } else {
                    "THE FIGURES ARE THEIRS AS MUCH AS OURS"
                }
            );
            if spare > 0 {
                spare -= 1;
                wait(guest.process(), PATIENCE)?;
                continue;
            }
        }
        counted.push(result);
    }
    Ok(counted)
}

/// Ticks that the CPUs worked (or the machine's own host withheld), and all ticks.
fn cpus(stat: &str) -> Result<(u64, u64)> {
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks = line.split_whitespace().skip(1).take(8).map(str::parse);
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>()?;
    let all: u64 = ticks.iter().sum();
    // The fourth and fifth are idle and waiting for I/O.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// User and system ticks of a process.
fn used(stat: &str) -> Result<u64> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse);
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read() {
        let stat = "cpu  100 20 30 400 50 6 7 8 9 9\ncpu0 1 2 3\n";
        assert_eq!(cpus(stat).unwrap(), (171, 621));
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 1 2 3 4 700 30 5 6 20 0";
        assert_eq!(used(stat).unwrap(), 730);
        assert!(cpus("").is_err());
    }
}
