// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the core costs over the memory it stands on: a JSON array of measures on stdout.
//!
//! Ours and the baseline take turns in one process, on memory of the same kind that was touched
//! before; figures are medians, the spread is the width of the middle
//! half of the ratios, divided by their median.
//!
//! Arguments: rounds of each measure (21), rounds of ageing (20), parts to do (all).

mod age;
mod copies;
mod scaling;
mod sizes;

use fs_core::{NewInode, S_IFREG};
use rpramfs_tests::host::Rng;
use rpramfs_tests::mem::{memcpy, MemRegion};
use serde_json::{json, Value};
use std::time::Instant;

const MIB: usize = 1 << 20;

struct Samples(Vec<f64>);

impl Samples {
    fn at(&self, part: f64) -> f64 {
        let mut v = self.0.clone();
        v.sort_by(f64::total_cmp);
        v[((v.len() - 1) as f64 * part).round() as usize]
    }
    fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// Both take turns; neither always comes second.
fn turns(
    rounds: usize,
    mut ours: impl FnMut() -> f64,
    mut base: impl FnMut() -> f64,
) -> (Samples, Samples) {
    let (mut a, mut b) = (vec![], vec![]);
    for round in 0..rounds {
        if round % 2 == 0 {
            b.push(base());
            a.push(ours());
        } else {
            a.push(ours());
            b.push(base());
        }
    }
    (Samples(a), Samples(b))
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

/// `ours` and `base`: seconds; the ratio is that of throughputs (`speed`) or of times.
fn measure(
    name: &str,
    unit: &str,
    amount: f64,
    ours: &Samples,
    base: &Samples,
    speed: bool,
) -> Value {
    let ratios = Samples(
        ours.0
            .iter()
            .zip(&base.0)
            .map(|(o, b)| if speed { b / o } else { o / b })
            .collect(),
    );
    let value = |s: &Samples| {
        if speed {
            amount / s.median()
        } else {
            s.median() * amount
        }
    };
    json!({
        "measure": name,
        "value": value(ours),
        "unit": unit,
        "baseline": value(base),
        "ratio": ratios.median(),
        "spread": (ratios.at(0.75) - ratios.at(0.25)) / ratios.median(),
    })
}

fn regular() -> NewInode {
    NewInode {
        mode: S_IFREG | 0o644,
        ..NewInode::default()
    }
}

/// Memory that was all touched before.
fn warm(bytes: u64) -> MemRegion {
    let mem = MemRegion::new(bytes);
    let junk = Rng(1).bytes(MIB);
    for at in (0..bytes).step_by(MIB) {
        memcpy(&mem, at, &junk);
    }
    mem
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default| {
        let given = args.next();
        given.map_or(default, |a| a.parse().expect("a number"))
    };
    let (rounds, ageing) = (number(21), number(20));
    let parts: Vec<String> = args.collect();
    let chosen = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let mut out = Vec::new();
    if chosen("copies") {
        copies::copies(&mut out, rounds, MIB, "1m");
        copies::copies(&mut out, rounds, 4096, "4k");
    }
    if chosen("scaling") {
        scaling::scaling(&mut out, rounds);
    }
    if chosen("sizes") {
        sizes::sizes(&mut out, rounds.max(51));
    }
    if chosen("contents") {
        sizes::contents(&mut out, rounds.max(51));
    }
    if chosen("share") {
        age::share_full(&mut out);
    }
    if chosen("age") {
        age::age(&mut out, ageing);
    }
    println!("{}", serde_json::to_string_pretty(&out).expect("json"));
}
