// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Kernels that panic with a region mounted by the module: as many as asked for, and what was lost.

use crate::host;
use crate::lab::{EmulatorFault, Lab};
use crate::scenarios::sudden_end::{self, Course, End, Findings, Programs};
use anyhow::{ensure, Result};
use serde_json::json;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Of each kind of end without a panic there is one in so many panics.
const OTHERS: u64 = 6;

#[derive(Default)]
struct Sums {
    panics: u64,
    kexecs: u64,
    resets: u64,
    findings: Vec<Findings>,
    /// Rounds that did not come to an end.
    failed: u64,
}

/// Lets `count` kernels panic, and some end otherwise; figures in `target/test/panic.json`.
pub fn run(count: u64, seed: u64) -> Result<()> {
    let start = Instant::now();
    let courses = courses(count, seed);
    let lab = Lab::open("panic")?;
    let programs = Programs::new(&lab)?;
    lab.accel()?;
    let (next, sums) = (AtomicUsize::new(0), Mutex::new(Sums::default()));
    let guests = side_by_side();
    let labs: Vec<Lab> = (1..=guests)
        .map(|n| Lab::open(&format!("panic/{n}")))
        .collect::<Result<_>>()?;
    std::thread::scope(|scope| {
        for lab in labs {
            let (next, courses, sums, programs) = (&next, &courses, &sums, &programs);
            scope.spawn(move || {
                while let Some(course) = courses.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let result =
                        EmulatorFault::outlived(|| sudden_end::run(&lab, programs, course));
                    note(course, result, begin.elapsed(), &lab, sums);
                    let written = figures(&sums.lock().expect("nobody panics"), seed, start);
                    if let Err(e) = written {
                        println!("{e:#}");
                    }
                }
            });
        }
    });
    let sums = sums.into_inner().expect("nobody panics with it");
    let (text, bad) = figures(&sums, seed, start)?;
    println!("{text}");
    ensure!(bad == 0, "something was lost, or a round did not end");
    Ok(())
}

fn courses(count: u64, seed: u64) -> Vec<Course> {
    let mut all = Vec::new();
    for n in 0..count {
        let ends = match n % OTHERS {
            2 => vec![End::Panic, End::Kexec],
            5 => vec![End::Panic, End::Reset],
            _ => vec![End::Panic],
        };
        for end in ends {
            let seed = seed * 1_000_000 + all.len() as u64;
            let random = scramble(seed);
            let (mut old, mut new) = ("7.x", "7.x-1");
            if n % 2 == 1 {
                (old, new) = (new, old);
            }
            // A crash kernel is mostly the same as the one that crashes.
            if end == End::Reset || random & 1 == 0 {
                new = old;
            }
            all.push(Course {
                seed,
                old: old.to_owned(),
                new: new.to_owned(),
                end,
                delay: Duration::from_millis(500 + (random >> 8) % 3500),
            });
        }
    }
    all
}

/// Spreads a number over 64 bits.
fn scramble(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n ^ (n >> 32)
}

/// Guests at a time: `RPRAMFS_THREADS`, or one for each CPU of a small machine.
fn side_by_side() -> usize {
    let asked = std::env::var("RPRAMFS_THREADS").ok();
    let all = || {
        std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(4)
    };
    asked
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(all)
        .max(1)
}

fn note(course: &Course, result: Result<Findings>, time: Duration, lab: &Lab, sums: &Mutex<Sums>) {
    let mut sums = sums.lock().expect("nobody panics with it");
    let Course {
        seed,
        old,
        new,
        end,
        delay,
    } = course;
    let seconds = time.as_secs_f64();
    let what = format!(
        "{end:?} of {old}, then {new}, seed {seed}, after {} ms: {seconds:.1} s",
        delay.as_millis()
    );
    let bad = match result {
        Ok(found) => {
            println!(
                "{what}: {} acknowledged; under way: {} before, {} part, {} after",
                found.acknowledged, found.before, found.part, found.after
            );
            match end {
                End::Panic => sums.panics += 1,
                End::Kexec => sums.kexecs += 1,
                End::Reset => sums.resets += 1,
            }
            let bad = found.all_is_well().err();
            sums.findings.push(found);
            bad
        }
        Err(e) => {
            sums.failed += 1;
            println!("{what}");
            Some(e)
        }
    };
    if let Some(e) = bad {
        let dir = lab.dir();
        println!(
            "FAILED: {what}: {e:#}\n(the newest log in {})",
            dir.display()
        );
    }
}

/// Writes down what there is until now, so that a run that is ended has its figures too. Returns them,
/// and how many rounds were bad.
fn figures(sums: &Sums, seed: u64, start: Instant) -> Result<(String, u64)> {
    let count = |is: fn(&Findings) -> bool| sums.findings.iter().filter(|f| is(f)).count();
    let sum = |what: fn(&Findings) -> u64| sums.findings.iter().map(what).sum::<u64>();
    let (lost, unmountable, dirty) = (
        count(|f| f.lost.is_some()),
        count(|f| f.unmountable.is_some()),
        count(|f| f.dirty.is_some()),
    );
    let figures = json!({
        "panics": sums.panics,
        "lost": lost,
        "unmountable": unmountable,
        "dirty": dirty,
        "kexecs": sums.kexecs,
        "resets": sums.resets,
        "failed": sums.failed,
        "seed": seed,
        "acknowledged": sum(|f| f.acknowledged),
        "before": sum(|f| f.before),
        "part": sum(|f| f.part),
        "after": sum(|f| f.after),
        "seconds": start.elapsed().as_secs(),
    });
    let dir = host::root().join("target/test");
    fs::create_dir_all(&dir)?;
    let text = serde_json::to_string_pretty(&figures)?;
    let path = dir.join("panic.json");
    fs::write(&path, format!("{text}\n"))?;
    let text = format!("{text}\nfigures: {}", path.display());
    let bad = (lost + unmountable + dirty) as u64 + sums.failed;
    Ok((text, bad))
}
