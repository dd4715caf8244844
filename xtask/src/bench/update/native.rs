// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup` against plain CRIU on this machine itself, where a copy, a page fault and the start of a program cost what
//! they do. Both into tmpfs: there is no module of ours in this kernel.

use super::super::{criu, Measure, Pairs, Settings};
use super::{idle, one, Process, Taken, Way, GAPS};
use crate::lab::{Here, Shell};
use anyhow::{Context, Result};

const STORE: &str = criu::OURS;
const SIZES: [Process; 5] = [
    idle("64m", 64),
    idle("256m", 256),
    idle("1g", 1024),
    idle("2g", 2048),
    idle("4g", 4096),
];
const SMALL: usize = 0;
/// By simple dumps, and by `kup`.
const WAYS: [Way; 2] = [Way::Simple(STORE), Way::Foam];

/// Of one process, each way.
type Both = [Taken; WAYS.len()];

pub fn run(settings: &Settings) -> Result<Vec<Measure>> {
    let here = Here::start(STORE, &[("KUP_DIR", &format!("{STORE}/kup"))])?;
    let fits: Vec<&Process> = SIZES.iter().filter(|process| fits(process)).collect();
    let mut taken = Vec::new();
    // The first is not counted.
    for round in 0..=settings.rounds {
        let each = fits.iter().map(|process| both(&here, process, round));
        let all: Vec<Both> = each.collect::<Result<_>>()?;
        if round > 0 {
            taken.push(all);
        }
    }
    let mut measures = Vec::new();
    let mut add = |name: String, pick: &dyn Fn(&[Both]) -> (f64, f64)| {
        let pairs: Pairs = taken.iter().map(|round| pick(round)).collect();
        measures.push(pairs.measure(name, "s"));
    };
    for (n, process) in fits.iter().enumerate() {
        let name = process.name;
        add(format!("native.restore_{name}_vs_plain"), &|round| {
            let [simple, foam] = round[n];
            (foam.restore, simple.restore)
        });
        if n != SMALL {
            add(format!("native.restore_{name}_vs_64m"), &|round| {
                (round[n][1].restore, round[SMALL][1].restore)
            });
        }
        add(
            format!("native.restore_{name}_and_drain_vs_plain"),
            &|round| {
                let [simple, foam] = round[n];
                (foam.whole, simple.whole)
            },
        );
        add(format!("native.stop_{name}_vs_simple"), &|round| {
            let [simple, foam] = round[n];
            (foam.stop, simple.stop)
        });
    }
    Ok(measures)
}

/// Is there room for a process, and for its checkpoint twice?
fn fits(process: &Process) -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) >> 10 > process.mib * 3
}

/// Both ways in turns, with a process of its own each.
fn both(here: &Here, process: &Process, round: usize) -> Result<Both> {
    let mut taken = [Taken::default(); 2];
    for turn in 0..WAYS.len() {
        let which = (round + turn) % WAYS.len();
        let pid = criu::hold(here, process.mib << 20, &format!("gaps {GAPS}"))?;
        taken[which] = one(here, WAYS[which], &pid).context(process.name)?;
        here.run(&super::end(&pid))?;
    }
    let [simple, foam] = taken;
    println!(
        "{:4} round {round}: still {:.3} {:.3} s, restored {:.3} {:.3} s, all memory back {:.3} s",
        process.name, simple.stop, foam.stop, simple.restore, foam.restore, foam.whole
    );
    Ok(taken)
}
