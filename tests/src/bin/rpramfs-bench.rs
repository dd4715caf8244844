// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the core costs over the memory it stands on: a JSON array of measures on stdout.
//!
//! Ours and the baseline take turns in one process, on memory of the same kind that was touched
//! before; figures are medians, the spread is the width of the middle
//! half of the ratios, divided by their median.

use fs_core::{Fs, NewInode, SetAttr, ROOT_INO, S_IFREG};
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::{memcpy, Backing, MemRegion};
use rpramfs_tests::script::{file, mkdir};
use serde_json::{json, Value};
use std::hint::black_box;
use std::time::Instant;

const MIB: usize = 1 << 20;
/// Bytes of the file that is written and read: beyond any cache.
const FILE: usize = 128 * MIB;

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

/// A filesystem on memory that was all touched before.
fn warm(bytes: u64) -> MemRegion {
    let mem = MemRegion::new(bytes);
    let junk = Rng(1).bytes(MIB);
    for at in (0..bytes).step_by(MIB) {
        memcpy(&mem, at, &junk);
    }
    mem
}

fn copies(out: &mut Vec<Value>, rounds: usize, chunk: usize, tag: &str) {
    let host = TestHost::new(1);
    let mem = warm(3 * FILE as u64);
    format(&mem, &host);
    let fs: Fs<&MemRegion, TestHost> = mount(&mem, host.clone()).expect("mount");
    let plain = warm(FILE as u64);
    let data = Rng(2).bytes(chunk.max(4 * MIB));
    let mut back = vec![1u8; chunk];
    // A 4 KiB write every 4 KiB; a 1 MiB write every 1 MiB; the source moves through a few MiB.
    let sources = data.len() / chunk;
    let source = |i: usize| &data[i % sources * chunk..][..chunk];
    let count = FILE / chunk;
    let ino = fs.create(ROOT_INO, b"f", &regular()).expect("create").ino;

    let base_write = || {
        for i in 0..count {
            memcpy(&plain, (i * chunk) as u64, source(i));
        }
    };
    let write = |ino: u64| {
        for i in 0..count {
            let n = fs.write(ino, (i * chunk) as u64, source(i)).expect("write");
            assert_eq!(n, chunk);
        }
    };
    write(ino);
    let (mut ours, mut over, mut base, mut fresh) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        // Once around in each order, so that neither always comes second.
        let mut turns: [usize; 4] = [0, 1, 2, 3];
        turns.rotate_left(round % 4);
        for turn in turns {
            match turn {
                0 => base.push(seconds(base_write)),
                1 => ours.push(seconds(|| write(ino))),
                2 => {
                    // The first write of a tick records the time; all others are plain copies.
                    fs.write(ino, 0, source(0)).expect("write");
                    over.push(seconds(|| {
                        for i in 0..count {
                            let at = (i * chunk) as u64;
                            assert!(fs.overwrite(ino, at, source(i)).expect("overwrite"));
                        }
                    }));
                }
                _ => {
                    let new = fs.create(ROOT_INO, b"new", &regular()).expect("create").ino;
                    fresh.push(seconds(|| write(new)));
                    fs.unlink(ROOT_INO, b"new").expect("unlink");
                    fs.evict(new).expect("evict");
                }
            }
        }
        host.tick();
    }
    let gib = FILE as f64 / (1 << 30) as f64;
    let base = Samples(base);
    let name = |what: &str| format!("core.write_{tag}{what}_vs_memcpy");
    out.push(measure(
        &name(""),
        "GiB/s",
        gib,
        &Samples(ours),
        &base,
        true,
    ));
    out.push(measure(
        &name("_shared"),
        "GiB/s",
        gib,
        &Samples(over),
        &base,
        true,
    ));
    out.push(measure(
        &name("_new_file"),
        "GiB/s",
        gib,
        &Samples(fresh),
        &base,
        true,
    ));

    let (mut ours, mut base) = (vec![], vec![]);
    for round in 0..rounds {
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                base.push(seconds(|| {
                    for i in 0..count {
                        let at = (i * chunk) as u64;
                        fs_core::Region::read(&plain, at, &mut back).expect("inside");
                        black_box(&mut back);
                    }
                }));
            } else {
                ours.push(seconds(|| {
                    for i in 0..count {
                        let n = fs.read(ino, (i * chunk) as u64, &mut back).expect("read");
                        assert_eq!(n, chunk);
                        black_box(&mut back);
                    }
                }));
            }
        }
    }
    let name = format!("core.read_{tag}_vs_memcpy");
    out.push(measure(
        &name,
        "GiB/s",
        gib,
        &Samples(ours),
        &Samples(base),
        true,
    ));
}

fn sizes(out: &mut Vec<Value>, rounds: usize) {
    const GIB: u64 = 1 << 30;
    let host = TestHost::new(1);
    let region = |size: u64| {
        let mem = MemRegion::with_backing(size, Backing::Memfd);
        format(&mem, &host);
        let fs = mount(&mem, host.clone()).expect("mount");
        mkdir(&fs, "d").expect("mkdir");
        for i in 0..200 {
            file(&fs, &format!("d/{i}"), 10_000).expect("write");
        }
        let set = SetAttr::default();
        fs.setattr(ROOT_INO, &set).expect("setattr");
        fs.unmount().expect("unmount");
        mem
    };
    let (small, large) = (region(GIB), region(64 * GIB));
    let cycle = |mem: &MemRegion| {
        seconds(|| {
            for _ in 0..20 {
                let fs = mount(mem, host.clone()).expect("mount");
                black_box(fs.statfs());
                fs.unmount().expect("unmount");
            }
        }) / 20.0
    };
    let (mut one, mut many) = (vec![], vec![]);
    for round in 0..rounds {
        if round % 2 == 0 {
            one.push(cycle(&small));
            many.push(cycle(&large));
        } else {
            many.push(cycle(&large));
            one.push(cycle(&small));
        }
    }
    let (one, many) = (Samples(one), Samples(many));
    out.push(measure(
        "mount.64g_vs_1g_clean",
        "us",
        1e6,
        &many,
        &one,
        false,
    ));

    // A new file each time, as mkfs finds it: the pages it touches are not there yet.
    let make = |size: u64| {
        let mem = MemRegion::with_backing(size, Backing::Memfd);
        seconds(|| format(&mem, &host))
    };
    let (mut one, mut many) = (vec![], vec![]);
    for round in 0..rounds {
        if round % 2 == 0 {
            one.push(make(GIB));
            many.push(make(64 * GIB));
        } else {
            many.push(make(64 * GIB));
            one.push(make(GIB));
        }
    }
    let (one, many) = (Samples(one), Samples(many));
    out.push(measure("mkfs.64g_vs_1g", "us", 1e6, &many, &one, false));
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(21);
    let mut out = Vec::new();
    copies(&mut out, rounds, MIB, "1m");
    copies(&mut out, rounds, 4096, "4k");
    sizes(&mut out, rounds.max(51));
    println!("{}", serde_json::to_string_pretty(&out).expect("json"));
}
