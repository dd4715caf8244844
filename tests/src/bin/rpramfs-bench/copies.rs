// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Reads and writes beside memcpy.

use crate::{measure, regular, seconds, warm, Samples, MIB};
use fs_core::{Fs, PAGE_SIZE, ROOT_INO};
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::{memcpy, memcpy_out, MemRegion};
use serde_json::Value;
use std::hint::black_box;

/// Bytes of the file that is written and read: beyond any cache.
const FILE: usize = 128 * MIB;

pub fn copies(out: &mut Vec<Value>, rounds: usize, chunk: usize, tag: &str) {
    let host = TestHost::new(1);
    let mem = warm(3 * FILE as u64);
    format(&mem, &host);
    let fs: Fs<&MemRegion, TestHost> = mount(&mem, host.clone()).expect("mount");
    let data = Rng(2).bytes(chunk.max(4 * MIB));
    let mut back = vec![1u8; chunk];
    // A 4 KiB write every 4 KiB; a 1 MiB write every 1 MiB; the source moves through a few MiB.
    let sources = data.len() / chunk;
    let source = |i: usize| &data[i % sources * chunk..][..chunk];
    let count = FILE / chunk;
    let ino = fs.create(ROOT_INO, b"f", &regular()).expect("create").ino;

    let write = |ino: u64| {
        for i in 0..count {
            let n = fs.write(ino, (i * chunk) as u64, source(i)).expect("write");
            assert_eq!(n, chunk);
        }
    };
    write(ino);
    // The baseline stores to the very pages of the file: two places in memory differ by more than the work.
    let places: Vec<u64> = (0..count)
        .map(|i| {
            let page = (i * chunk) as u64 / PAGE_SIZE;
            let run = fs.extent_at(ino, page).expect("extent").expect("data");
            assert!(run.len * PAGE_SIZE >= chunk as u64, "a piece in two places");
            run.page * PAGE_SIZE
        })
        .collect();
    let base_write = || {
        for (i, place) in places.iter().enumerate() {
            memcpy(&mem, *place, source(i));
        }
    };
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
                    for place in &places {
                        memcpy_out(&mem, *place, &mut back);
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
