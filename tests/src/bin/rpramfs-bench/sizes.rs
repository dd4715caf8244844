// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! mkfs, mount and the first write, whatever the size of the region and what is in it.

use crate::{measure, regular, seconds, turns};
use fs_core::layout::{slot, PAGE, SECTOR};
use fs_core::{Fallocate, Fs, Region, ROOT_INO};
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::forge::Forge;
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::{Backing, MemRegion};
use rpramfs_tests::script::{fallocate, file, mkdir, touch, unlink};
use rpramfs_tests::tree::extents;
use serde_json::Value;
use std::hint::black_box;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const KEEP: Fallocate = Fallocate::Allocate { keep_size: true };

type World<'r> = Fs<&'r MemRegion, TestHost>;

/// A region with some files in it, and what `fill` adds.
fn region(host: &TestHost, size: u64, fill: impl FnOnce(&World<'_>)) -> MemRegion {
    let mem = MemRegion::with_backing(size, Backing::Memfd);
    format(&mem, host);
    let fs = mount(&mem, host.clone()).expect("mount");
    fill(&fs);
    fs.unmount().expect("unmount");
    drop(fs);
    mem
}

fn some_files(fs: &World<'_>) {
    mkdir(fs, "d").expect("mkdir");
    for i in 0..200 {
        file(fs, &format!("d/{i}"), 10_000).expect("write");
    }
}

/// Seconds that a mount of a clean region takes, and unmounting it.
fn cycle(host: &TestHost, mem: &MemRegion) -> f64 {
    seconds(|| {
        for _ in 0..20 {
            let fs = mount(mem, host.clone()).expect("mount");
            black_box(fs.statfs());
            fs.unmount().expect("unmount");
        }
    }) / 20.0
}

/// A region whose owner is killed again and again, at the worst moment for the next mount: each slot
/// holds a committed transaction of all its sectors, of which nothing was copied home.
struct Killed {
    host: TestHost,
    mem: MemRegion,
    /// Commit words and where they go.
    commits: Vec<(u64, u64)>,
    /// Pages that the transactions store to.
    homes: Vec<u64>,
}

impl Killed {
    fn new(host: &TestHost, size: u64) -> Self {
        let mut homes = Vec::new();
        let mem = region(host, size, |fs| {
            some_files(fs);
            for i in 0..1000 {
                let name = format!("orphan {i}");
                file(fs, &name, 5000).expect("write");
                unlink(fs, &name).expect("unlink");
            }
            // Unwritten pages: what they hold is nobody's.
            let slots = fs.info().geometry.slots;
            let ino = touch(fs, "homes").expect("create");
            let bytes = slots * slot::SECTORS * SECTOR;
            fallocate(fs, "homes", KEEP, 0, bytes).expect("allocate");
            for e in extents(fs, ino).expect("extents") {
                homes.extend(e.page..e.page + e.len);
            }
        });
        let forge = Forge::new(&mem, host);
        let sectors = |n: u64| {
            let first = n * slot::SECTORS;
            (first..first + slot::SECTORS).map(|s| {
                let per_page = PAGE / SECTOR;
                let page = homes[(s / per_page) as usize];
                page * PAGE + s % per_page * SECTOR
            })
        };
        let commits = (0..forge.geo.slots)
            .map(|n| {
                let noise = Rng(n).bytes((slot::SECTORS * SECTOR) as usize);
                let homes: Vec<u64> = sectors(n).collect();
                forge.transaction(n, &homes, &noise)
            })
            .collect();
        Killed {
            host: host.clone(),
            mem,
            commits,
            homes,
        }
    }

    fn mount(&self) -> f64 {
        for page in &self.homes {
            self.mem.zero(page * PAGE, PAGE).expect("inside");
        }
        for (at, word) in &self.commits {
            self.mem.store(*at, *word).expect("inside");
        }
        let mut fs = None;
        let took = seconds(|| fs = Some(mount(&self.mem, self.host.clone()).expect("mount")));
        let stats = fs.expect("mounted").stats();
        assert_eq!(stats.replayed, self.commits.len() as u64);
        assert!(stats.pending >= 1000);
        // Nothing is unmounted.
        took
    }
}

pub fn sizes(out: &mut Vec<Value>, rounds: usize) {
    let host = TestHost::new(1);
    let mut add = |name: &str, ours: &mut dyn FnMut() -> f64, base: &mut dyn FnMut() -> f64| {
        let (ours, base) = turns(rounds, ours, base);
        out.push(measure(name, "us", 1e6, &ours, &base, false));
    };
    let small = region(&host, GIB, some_files);
    for (name, size) in [("64g", 64 * GIB), ("16t", 16 * TIB)] {
        let large = region(&host, size, some_files);
        let name = if name == "64g" {
            "mount.64g_vs_1g_clean".to_string()
        } else {
            format!("mount.{name}_vs_1g")
        };
        add(&name, &mut || cycle(&host, &large), &mut || {
            cycle(&host, &small)
        });
    }

    let (one, many) = (Killed::new(&host, GIB), Killed::new(&host, 64 * GIB));
    add("mount.64g_vs_1g_killed", &mut || many.mount(), &mut || {
        one.mount()
    });

    // A new file each time, as mkfs finds it: the pages it touches are not there yet.
    let make = |size: u64| {
        let mem = MemRegion::with_backing(size, Backing::Memfd);
        seconds(|| format(&mem, &host))
    };
    let write = |size: u64| {
        let mem = MemRegion::with_backing(size, Backing::Memfd);
        format(&mem, &host);
        let fs = mount(&mem, host.clone()).expect("mount");
        let data = [7; 4096];
        seconds(|| {
            let ino = fs.create(ROOT_INO, b"f", &regular()).expect("create").ino;
            fs.write(ino, 0, &data).expect("write");
        })
    };
    for (name, size) in [("64g", 64 * GIB), ("16t", 16 * TIB)] {
        add(
            &format!("mkfs.{name}_vs_1g"),
            &mut || make(size),
            &mut || make(GIB),
        );
    }
    add(
        "write_first.16t_vs_1g",
        &mut || write(16 * TIB),
        &mut || write(GIB),
    );
}

/// A mount does not look at what there is.
pub fn contents(out: &mut Vec<Value>, rounds: usize) {
    let host = TestHost::new(1);
    let mut against_empty = |name: &str, size: u64, fill: &dyn Fn(&World<'_>)| {
        let full = region(&host, size, fill);
        let empty = region(&host, size, |_| {});
        let (ours, base) = turns(rounds, || cycle(&host, &full), || cycle(&host, &empty));
        out.push(measure(name, "us", 1e6, &ours, &base, false));
    };
    against_empty("mount.1m_files_vs_empty", 2 * GIB, &|fs| {
        for d in 0..1000 {
            let dir = mkdir(fs, &format!("{d}")).expect("mkdir");
            for f in 0..1000 {
                let name = format!("file {f}");
                fs.create(dir, name.as_bytes(), &regular()).expect("create");
            }
        }
        assert!(fs.statfs().inodes > 1_000_000);
    });
    // Neighbours in the file are none in the region: a page is left out each time.
    against_empty("mount.1m_extents_vs_empty", 8 * GIB, &|fs| {
        let ino = touch(fs, "f").expect("create");
        for n in 0..1_000_000 {
            fs.fallocate(ino, KEEP, n * 2 * PAGE, PAGE)
                .expect("allocate");
        }
    });
    against_empty("mount.1t_full_vs_empty", TIB, &|fs| {
        let ino = touch(fs, "f").expect("create");
        let mut at = 0;
        for step in [64 * GIB, GIB, 1 << 24, 1 << 20, PAGE] {
            while fs.fallocate(ino, KEEP, at, step).is_ok() {
                at += step;
            }
        }
        assert_eq!(fs.statfs().available, 0, "meant to be full");
    });
}
