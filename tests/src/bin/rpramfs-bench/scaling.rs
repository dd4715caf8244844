// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a second thread adds.

use crate::{measure, regular, warm, Samples, MIB};
use fs_core::{Fs, NewInode, ROOT_INO, S_IFDIR, S_IFREG};
use host::UserHost;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::{memcpy, MemRegion};
use serde_json::Value;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// The same work on two threads, each in files and directories of its own, against one thread.
pub fn scaling(out: &mut Vec<Value>, rounds: usize) {
    const FILES: usize = 10_000;
    const BYTES: usize = 64 * MIB;
    const TIMES: usize = 4;
    let mem = warm(512 << 20);
    format(&mem, &TestHost::new(1));
    // The host of the mount: that of the tests has one lock for all that count checksums.
    let fs: Fs<&MemRegion, UserHost> = mount(&mem, UserHost::new()).expect("mount");
    let fs = &fs;
    let data = &Rng(2).bytes(MIB);
    let make = |dir: u64, name: &str, mode: u32| {
        let new = NewInode {
            mode,
            ..NewInode::default()
        };
        fs.create(dir, name.as_bytes(), &new).expect("create").ino
    };
    let places: Vec<(u64, u64, u64)> = (0..2)
        .map(|n| {
            let dir = make(ROOT_INO, &format!("d{n}"), S_IFDIR | 0o755);
            let full = make(dir, "full", S_IFDIR | 0o755);
            for i in 0..FILES {
                make(full, &format!("f{i}"), S_IFREG | 0o644);
            }
            let file = make(dir, "file", S_IFREG | 0o644);
            for at in (0..BYTES).step_by(MIB) {
                fs.write(file, at as u64, data).expect("write");
            }
            (dir, full, file)
        })
        .collect();
    let names: &Vec<String> = &(0..FILES).map(|i| format!("f{i}")).collect();
    let empty = |full: u64| {
        for name in names {
            let gone = fs.unlink(full, name.as_bytes()).expect("unlink");
            fs.evict(gone.ino).expect("evict");
        }
    };
    type Work<'a> = &'a (dyn Fn((u64, u64, u64)) + Sync);
    let create: Work = &|(_, full, _)| {
        for name in names {
            fs.create(full, name.as_bytes(), &regular())
                .expect("create");
        }
    };
    let write = |file: u64, chunk: usize| {
        for at in (0..TIMES * BYTES).step_by(chunk) {
            let data = &data[at % MIB..][..chunk];
            fs.write(file, (at % BYTES) as u64, data).expect("write");
        }
    };
    let write_4k: Work = &|(_, _, file)| write(file, 4096);
    let write_1m: Work = &|(_, _, file)| write(file, MIB);
    let lookup: Work = &|(_, full, _)| {
        for name in names.iter().cycle().take(10 * FILES) {
            black_box(fs.lookup(full, name.as_bytes()).expect("lookup"));
        }
    };
    // What the machine itself gives a second thread: of its CPUs, and of its memory.
    let spin: Work = &|(dir, _, _)| {
        let mut rng = Rng(dir);
        for _ in 0..20_000_000 {
            black_box(rng.word());
        }
    };
    let plain: Vec<MemRegion> = (0..2).map(|_| warm(BYTES as u64)).collect();
    let copy: Work = &|(dir, _, _)| {
        for at in (0..TIMES * BYTES).step_by(MIB) {
            memcpy(
                &plain[usize::from(dir != places[0].0)],
                (at % BYTES) as u64,
                data,
            );
        }
    };
    let gib = (TIMES * BYTES) as f64 / (1 << 30) as f64;
    let all: [(&str, &str, f64, Work); 6] = [
        ("spin", "Mop/s", 20.0, spin),
        ("memcpy_1m", "GiB/s", gib, copy),
        ("create", "kop/s", FILES as f64 / 1e3, create),
        ("lookup", "kop/s", 10.0 * FILES as f64 / 1e3, lookup),
        ("write_4k", "GiB/s", gib, write_4k),
        ("write_1m", "GiB/s", gib, write_1m),
    ];
    // From the first that begins to the last that ends.
    let run = |threads: usize, work: Work| {
        let start = &Barrier::new(threads);
        let times: Vec<(Instant, Instant)> = std::thread::scope(|s| {
            let one = |place: &(u64, u64, u64)| {
                let place = *place;
                s.spawn(move || {
                    start.wait();
                    let begin = Instant::now();
                    work(place);
                    (begin, Instant::now())
                })
            };
            let running: Vec<_> = places[..threads].iter().map(one).collect();
            let joined = running.into_iter().map(|t| t.join().expect("thread"));
            joined.collect()
        });
        let begin = times.iter().map(|t| t.0).min().expect("a thread");
        let end = times.iter().map(|t| t.1).max().expect("a thread");
        (end - begin).as_secs_f64() / threads as f64
    };
    for (name, unit, amount, work) in all {
        let (mut one, mut two) = (vec![], vec![]);
        let mut turn = |threads: usize| {
            let created = name == "create";
            if created {
                places[..threads].iter().for_each(|place| empty(place.1));
            }
            let times = if threads == 1 { &mut one } else { &mut two };
            times.push(run(threads, work));
        };
        for round in 0..rounds {
            turn(1 + round % 2);
            turn(2 - round % 2);
        }
        out.push(measure(
            &format!("scale.2_threads_vs_1_{name}"),
            unit,
            amount,
            &Samples(two),
            &Samples(one),
            true,
        ));
    }
}
