// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Regions made by somebody who means harm: every checksum is right, and what they vouch for is
//! not. An answer is right or it is `Corrupt`; it comes in time and on a small stack.

mod constructed;
mod lies;

use fs_core::layout::{name_key, node, shard, system, IFRONTIER_CAPACITY, IFRONTIER_NEXT, PAGE};
use fs_core::{
    Error, Fallocate, Fs, Host, Ino, NewInode, Region, Seek, SetAttr, ROOT_INO, S_IFDIR, S_IFREG,
};
use rpramfs_tests::checker;
use rpramfs_tests::fixture::{drain, format, mount};
use rpramfs_tests::forge::{body, Body, Forge};
use rpramfs_tests::host::{own_cpu, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::{Metered, Recorder, Scratch};
use rpramfs_tests::script::new;
use rpramfs_tests::stack::{stack_of, OPERATION};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::Duration;

const BYTES: u64 = 16 << 20;
/// Accesses to the region that one operation may make. The undamaged ones here make far fewer.
const BUDGET: u64 = 200_000;

type Metre<'r> = Metered<&'r MemRegion>;
type Mounted<'r> = Fs<Metre<'r>, TestHost>;

fn file() -> NewInode {
    new(S_IFREG | 0o644)
}

/// A loop that looks at nothing in the region is not counted: then time ends it, and the process.
fn watched(f: impl FnOnce()) {
    let (alive, dead) = channel::<()>();
    let dog = std::thread::spawn(move || {
        if dead.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("an operation does not come to an end");
            std::process::abort();
        }
    });
    f();
    drop(alive);
    dog.join().expect("no panic");
}

/// A region, formatted and filled by `fill`, then forged by `forge`.
fn made<T>(
    fill: impl FnOnce(&Fs<&MemRegion, TestHost>) -> T,
    forge: impl FnOnce(&Forge<'_, MemRegion>, &T),
) -> (MemRegion, TestHost, T) {
    let region = MemRegion::new(BYTES);
    let host = TestHost::new(11);
    format(&region, &host);
    let fs = mount(&region, host.clone()).expect("mount");
    let facts = fill(&fs);
    drop(fs);
    forge(&Forge::new(&region, &host), &facts);
    (region, host, facts)
}

/// Mounts a copy and lets `f` loose on it; all it does stays within the budget.
fn on_copy<T>(region: &MemRegion, f: impl FnOnce(&Mounted<'_>) -> T) -> T {
    let copy = MemRegion::copy_of(region);
    let fs = mount(Metered::new(&copy, BUDGET), TestHost::new(12)).expect("mount");
    fs.region().refill(BUDGET);
    let done = f(&fs);
    assert!(!fs.region().exceeded(), "work without bounds");
    done
}

/// As [`on_copy`] for what does not write: no copy is made.
fn looking<T>(region: &MemRegion, f: impl FnOnce(&Mounted<'_>) -> T) -> T {
    let fs = mount(Metered::new(region, BUDGET), TestHost::new(12)).expect("mount");
    let done = f(&fs);
    assert!(!fs.region().exceeded(), "work without bounds");
    done
}

/// The value of an answer; `None` where it is that the region is corrupt.
fn right<T>(what: &str, r: Result<T, Error>) -> Option<T> {
    match r {
        Ok(v) => Some(v),
        Err(Error::Corrupt(_)) => None,
        Err(e) => panic!("{what}: {e:?}"),
    }
}

/// As [`right`], on a mount that may have become read-only by an earlier answer.
fn later<T>(what: &str, r: Result<T, Error>) -> Option<T> {
    match r {
        Err(Error::ReadOnly) => None,
        r => right(what, r),
    }
}

/// Every operation that goes through a file's extents, each on a mount of its own.
fn work_on_file(region: &MemRegion, f: Ino, pages: u64) {
    let mut at: Vec<u64> = (0..pages).step_by(7).collect();
    at.extend([pages - 1, 1 << 40]);
    on_copy(region, |fs| {
        for p in &at {
            fs.region().refill(BUDGET);
            right("read", fs.read(f, p * PAGE, &mut [0; 16]));
            for what in [Seek::Data, Seek::Hole] {
                match fs.seek(f, p * PAGE, what) {
                    Err(Error::PastEnd) => {}
                    r => drop(right("seek", r)),
                }
            }
            right("extent", fs.extent_at(f, *p));
            assert!(!fs.region().exceeded(), "work without bounds");
        }
    });
    for p in at.iter().step_by(5) {
        on_copy(region, |fs| right("write", fs.write(f, p * PAGE, b"y")));
        on_copy(region, |fs| {
            let what = Fallocate::Allocate { keep_size: true };
            right("allocate", fs.fallocate(f, what, p * PAGE, 3 * PAGE))
        });
        on_copy(region, |fs| {
            let what = Fallocate::PunchHole;
            right("punch", fs.fallocate(f, what, p * PAGE, 100 * PAGE))
        });
        on_copy(region, |fs| {
            let set = SetAttr {
                size: Some(p * PAGE),
                ..SetAttr::default()
            };
            right("setattr", fs.setattr(f, &set))
        });
    }
    on_copy(region, |fs| {
        if right("seal", fs.seal(f)).is_some() {
            right("verify", fs.verify(f, 0));
            right("unseal", fs.unseal(f));
        }
    });
    on_copy(region, |fs| {
        right("unlink", fs.unlink(ROOT_INO, b"f"));
        later("evict", fs.evict(f));
    });
}

/// Extents below the leaf's own bounds, though sorted among their neighbours.
#[test]
fn hostile_unsorted_records() {
    watched(|| {
        let (region, _, (f, lost)) = made(
            |fs| {
                let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
                for i in 0..400 {
                    fs.write(f, i * 2 * PAGE, b"x").unwrap();
                }
                (body(fs, f), std::cell::Cell::new(0))
            },
            |forge, (f, lost)| {
                let (key, leaf) = forge.child(forge.root(*f), 1);
                lost.set(key);
                forge.set_key(leaf, 0, 5);
            },
        );
        let (f, lost) = (f.ino, lost.get());
        for p in 0..799 {
            let what = format!("read of page {p}");
            let mut buf = [0xee];
            let read = looking(&region, |fs| fs.read(f, p * PAGE, &mut buf));
            if right(&what, read).is_some() && p != lost {
                let want = if p % 2 == 0 { b'x' } else { 0 };
                assert_eq!(buf, [want], "{what}");
            }
        }
        // Here the search ends in the forged record, which lies before the place asked for.
        let sought = on_copy(&region, |fs| fs.seek(f, (lost - 1) * PAGE, Seek::Data));
        if let Some(at) = right("seek", sought) {
            assert!(at >= (lost - 1) * PAGE, "data before the offset: {at}");
        }
        work_on_file(&region, f, 800);
    });
}

/// Names whose keys go backwards: a listing ends, and no cookie is given twice.
#[test]
fn hostile_unsorted_names() {
    watched(|| {
        let (region, _, (d, inos)) = made(
            |fs| {
                let d = fs.create(ROOT_INO, b"d", &new(S_IFDIR | 0o755)).unwrap();
                let inos: Vec<Ino> = (0..400)
                    .map(|i| {
                        let name = format!("name{i}");
                        fs.create(d.ino, name.as_bytes(), &file()).unwrap().ino
                    })
                    .collect();
                (body(fs, d.ino), inos)
            },
            |forge, (d, _)| {
                let root = forge.root(*d);
                let (_, leaf) = forge.child(root, forge.count(root) - 1);
                forge.set_key(leaf, 0, 0x100);
            },
        );
        let d = d.ino;
        on_copy(&region, |fs| {
            let (mut last, mut n) = (0, 0);
            let listed = fs.readdir(d, 0, &mut |e| {
                assert!(e.cookie > last, "cookies go backwards");
                last = e.cookie;
                n += 1;
                n < 10_000
            });
            if right("readdir", listed).is_some() {
                assert_eq!(n, 400);
            }
        });
        let mut missing = 0;
        for (i, ino) in inos.iter().enumerate() {
            let name = format!("name{i}");
            match looking(&region, |fs| fs.lookup(d, name.as_bytes())) {
                Ok(found) => assert_eq!(found, *ino, "{name}"),
                Err(Error::Corrupt(_)) => {}
                // The one name whose key is another now.
                Err(Error::NotFound) => missing += 1,
                Err(e) => panic!("lookup of {name}: {e:?}"),
            }
        }
        assert!(missing <= 1, "{missing} names are not found");
    });
}

/// Counts at the end of what 64 bits hold.
#[test]
fn hostile_records_at_the_limit() {
    watched(|| {
        for records in [u64::MAX, u64::MAX - 1, 1 << 63, 0] {
            let (region, _, (f, d)) = made(
                |fs| {
                    let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
                    for i in 0..10 {
                        fs.write(f, i * 2 * PAGE, b"x").unwrap();
                    }
                    let d = fs.create(ROOT_INO, b"d", &new(S_IFDIR | 0o755)).unwrap();
                    fs.create(d.ino, b"old", &file()).unwrap();
                    (body(fs, f), body(fs, d.ino))
                },
                |forge, (f, d)| {
                    forge.set(f.off, 152, records);
                    forge.set(d.off, 152, records);
                },
            );
            work_on_file(&region, f.ino, 20);
            on_copy(&region, |fs| {
                if let Some(made) = right("create", fs.create(d.ino, b"new", &file())) {
                    assert_eq!(fs.lookup(d.ino, b"new"), Ok(made.ino));
                }
                for name in [&b"old"[..], b"new"] {
                    match fs.unlink(d.ino, name) {
                        Err(Error::NotFound) => {}
                        r => drop(later("unlink", r)),
                    }
                }
                match fs.rmdir(ROOT_INO, b"d") {
                    Err(Error::NotEmpty) => {}
                    r => drop(later("rmdir", r)),
                }
            });
        }
    });
}

/// A shard that says it has as many freed inodes as can be.
#[test]
fn hostile_free_count_at_the_limit() {
    watched(|| {
        let (region, _, f) = made(
            |fs| fs.create(ROOT_INO, b"f", &file()).unwrap().ino,
            |forge, _| {
                for s in 0..forge.geo.shards {
                    forge.set(forge.geo.shard_offset(s), shard::FREE_COUNT, u64::MAX);
                }
            },
        );
        on_copy(&region, |fs| {
            right("unlink", fs.unlink(ROOT_INO, b"f"));
            if later("evict", fs.evict(f)).is_some() {
                assert_eq!(fs.getattr(f), Err(Error::Stale));
            }
            later("create", fs.create(ROOT_INO, b"g", &file()));
        });
    });
}

/// An inode table that says it is larger than anything.
#[test]
fn hostile_capacity_at_the_limit() {
    watched(|| {
        let top = !15u64;
        for (next, capacity, agreed) in [
            (1 << 62, 1 << 62, false),
            (1 << 62, 1 << 63, false),
            (32, top, false),
            (top, top, false),
            (top, 32, false),
            (top - 16, top, false),
            // The table's own size says the same.
            (1 << 54, 1 << 54, true),
            (32, 1 << 54, true),
            ((1 << 55) - 16, (1 << 55) - 16, true),
        ] {
            let (region, ..) = made(
                |_| (),
                |forge, ()| {
                    let off = forge.geo.system_offset(system::IFRONTIER);
                    forge.put(off + IFRONTIER_NEXT as u64, &u64::to_le_bytes(next));
                    forge.set(off, IFRONTIER_CAPACITY, capacity);
                    if agreed {
                        let table = forge.geo.system_offset(system::ITABLE);
                        forge.set(table, fs_core::layout::inode::SIZE, capacity * 256);
                    }
                },
            );
            on_copy(&region, |fs| {
                for i in 0..100 {
                    let name = format!("n{i}");
                    fs.region().refill(BUDGET);
                    match later("create", fs.create(ROOT_INO, name.as_bytes(), &file())) {
                        Some(a) => assert_eq!(fs.lookup(ROOT_INO, name.as_bytes()), Ok(a.ino)),
                        None => break,
                    }
                    assert!(!fs.region().exceeded(), "work without bounds");
                }
                assert_eq!(fs.getattr(u64::MAX), Err(Error::Stale));
            });
        }
    });
}

/// The last record of a seal cannot be found by its key: giving the seal back ends all the same.
#[test]
fn hostile_seal_that_cannot_be_emptied() {
    watched(|| {
        let (region, host, f) = made(
            |fs| {
                let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
                for i in 0..400 {
                    fs.write(f, i * (2 << 20), b"x").unwrap();
                }
                fs.seal(f).unwrap();
                let at = body(fs, f);
                let seal = fs.region().load(at.off + 128).unwrap();
                (f, body(fs, seal))
            },
            |forge, (_, seal)| {
                let root = forge.root(*seal);
                let (_, leaf) = forge.child(root, forge.count(root) - 1);
                assert!(forge.count(leaf) > 1);
                forge.set_key(leaf, forge.count(leaf) - 1, 5);
            },
        );
        let f = f.0;
        on_copy(&region, |fs| {
            right("unseal", fs.unseal(f));
        });
        on_copy(&region, |fs| {
            right("unlink", fs.unlink(ROOT_INO, b"f"));
            later("evict", fs.evict(f));
        });
        // Again, by way of what the next mount finds pending.
        let metre = Metered::new(&region, BUDGET);
        let fs = mount(&metre, host.clone()).expect("mount");
        right("unseal", fs.unseal(f));
        drop(fs);
        metre.refill(BUDGET);
        let fs = mount(&metre, host.reborn()).expect("mount again");
        for _ in 0..1000 {
            let more = fs.reclaim_step(&mut |_, work| work().map(|()| true));
            if right("reclaim", more) != Some(true) {
                break;
            }
        }
        assert!(!metre.exceeded(), "work without bounds");
    });
}

/// A directory, and pages for a tree of its own.
fn directory_and_pages(fs: &Fs<&MemRegion, TestHost>) -> (Body, Vec<u64>) {
    let d = fs.create(ROOT_INO, b"d", &new(S_IFDIR | 0o755)).unwrap();
    let f = fs.create(ROOT_INO, b"quarry", &file()).unwrap().ino;
    let n = node::MAX_DEPTH as u64;
    fs.write(f, 0, &vec![0; (n * PAGE) as usize]).unwrap();
    let page = |i| fs.extent_at(f, i).unwrap().unwrap().page;
    (body(fs, d.ino), (0..n).map(page).collect())
}

/// Eight levels of full nodes: one more name divides them all.
#[test]
fn hostile_every_level_full() {
    watched(|| {
        let names: Vec<[u8; 240]> = (0..14).map(|i| [b'a' + i; 240]).collect();
        // Above the first half of all keys, so that names of both halves are met.
        let middle = 1 << 62;
        let (region, host, (d, _)) = made(directory_and_pages, |forge, (d, pages)| {
            let leaf: Vec<(u64, &[u8])> = (0x1000u64..)
                .step_by(0x100)
                .zip(names.iter().map(|n| &n[..]))
                .collect();
            forge.entries(*d, pages[0], ROOT_INO, &leaf);
            for l in 1..pages.len() {
                let children: Vec<(u64, u64)> = (0..node::INNER_MAX)
                    .map(|i| (middle + i, pages[l - 1]))
                    .collect();
                let kind = node::KIND_DENTRIES;
                forge.inner(*d, kind, pages[l], l as u8, &children);
            }
            forge.set_root(*d, pages[7], 8, 14);
        });
        let hash_key = fs_core::probe(&&region, &host).unwrap().hash_key;
        let mut halves = [0, 0];
        for i in 0.. {
            let name = format!("{i:0>200}").into_bytes();
            let half = usize::from(name_key(hash_key, &name) >= middle);
            halves[half] += 1;
            if halves[half] > 3 {
                if halves.iter().all(|n| *n >= 3) {
                    break;
                }
                continue;
            }
            let copy = MemRegion::copy_of(&region);
            let fs = mount(Metered::new(&copy, BUDGET), host.clone()).expect("mount");
            let mut answer = None;
            let used = stack_of(&mut || answer = Some(fs.create(d.ino, &name, &file())));
            assert!(!fs.region().exceeded(), "work without bounds");
            assert!(used <= OPERATION, "{used} bytes of stack");
            let answer = answer.unwrap();
            if half == 0 {
                assert!(
                    matches!(answer, Err(Error::Corrupt(_))),
                    "a ninth level: {answer:?}"
                );
            } else if let Some(made) = right("create", answer) {
                assert_eq!(fs.lookup(d.ino, &name), Ok(made.ino));
            }
        }
    });
}

/// Depths that no tree has, as the inode says them.
#[test]
fn hostile_depths() {
    watched(|| {
        for depth in [0, 2, 8, 9, 255] {
            let (region, _, (d, _)) = made(directory_and_pages, |forge, (d, pages)| {
                forge.entries(*d, pages[0], ROOT_INO, &[(0x1000, b"name")]);
                forge.set_root(*d, pages[0], depth, 1);
            });
            on_copy(&region, |fs| {
                let found = fs.lookup(d.ino, b"name");
                assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
                let listed = fs.readdir(d.ino, 0, &mut |_| true);
                assert!(matches!(listed, Err(Error::Corrupt(_))), "{listed:?}");
            });
        }
    });
}

/// Every child of every level is the same node: as many paths as there are atoms, one leaf.
#[test]
fn hostile_every_child_the_same() {
    watched(|| {
        for depth in 2..=8u8 {
            let top = usize::from(depth) - 1;
            let probe = b"probe";
            let (region, _, (d, _)) = made(directory_and_pages, |forge, (d, pages)| {
                // The key asked for, but the name of another: the search goes on behind it.
                let info = fs_core::probe(forge.region(), &TestHost::new(1)).unwrap();
                let key = name_key(info.hash_key, probe);
                forge.entries(*d, pages[0], ROOT_INO, &[(key, b"other")]);
                for l in 1..=top {
                    let children: Vec<(u64, u64)> = (0..node::INNER_MAX)
                        .map(|i| ((1 << 63) + i, pages[l - 1]))
                        .collect();
                    let kind = node::KIND_DENTRIES;
                    forge.inner(*d, kind, pages[l], l as u8, &children);
                }
                forge.set_root(*d, pages[top], depth, 1);
            });
            let d = d.ino;
            on_copy(&region, |fs| match fs.lookup(d, probe) {
                Err(Error::NotFound) => {}
                r => drop(right("lookup", r)),
            });
            on_copy(&region, |fs| {
                let (mut n, mut last) = (0u64, 0);
                let listed = fs.readdir(d, 0, &mut |e| {
                    assert!(e.cookie > last, "cookies go backwards");
                    last = e.cookie;
                    n += 1;
                    true
                });
                right("readdir", listed);
                assert!(n <= 1, "one leaf, {n} names");
            });
            on_copy(&region, |fs| {
                right("create", fs.create(d, probe, &file()));
            });
            on_copy(&region, |fs| {
                match fs.unlink(d, probe) {
                    Err(Error::NotFound) => {}
                    r => drop(right("unlink", r)),
                };
            });
        }
    });
}

/// The same with the extents of a file.
#[test]
fn hostile_every_child_the_same_extents() {
    watched(|| {
        for depth in [3, 8u8] {
            let top = usize::from(depth) - 1;
            let (region, _, (f, _)) = made(
                |fs| {
                    let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
                    let set = SetAttr {
                        size: Some(1 << 40),
                        ..SetAttr::default()
                    };
                    fs.setattr(f, &set).unwrap();
                    (body(fs, f), directory_and_pages(fs).1)
                },
                |forge, (f, pages)| {
                    // Unwritten: who looks for data looks on behind it.
                    let e = [3, pages[7], 1 << 63 | 1];
                    forge.records(*f, pages[0], &[e]);
                    for l in 1..=top {
                        let children: Vec<(u64, u64)> = (0..node::INNER_MAX)
                            .map(|i| ((1 << 50) + i, pages[l - 1]))
                            .collect();
                        let kind = node::KIND_RECORDS;
                        forge.inner(*f, kind, pages[l], l as u8, &children);
                    }
                    forge.set_root(*f, pages[top], depth, 1);
                },
            );
            work_on_file(&region, f.ino, 20);
        }
    });
}

/// A slot of the journal that cannot be trusted says nothing about the others: what they committed
/// has happened.
#[test]
fn hostile_bad_slot_hides_no_good_one() {
    watched(|| {
        for good in [0, 1] {
            journal_with_bad_slots(good);
        }
    });
}

/// A transaction committed in slot `good`, and others scribbled on.
fn journal_with_bad_slots(good: u64) {
    let host = TestHost::new(13);
    let tape = Recorder::new(Scratch::zeroed(BYTES));
    format(&tape, &host);
    let fs = mount(&tape, host.clone()).expect("mount");
    for i in 0..10 {
        let name = format!("a{i}");
        fs.create(ROOT_INO, name.as_bytes(), &file()).unwrap();
    }
    let base = tape.inner().image();
    let geo = fs.info().geometry;
    tape.start();
    std::thread::scope(|s| {
        s.spawn(|| {
            // Slots go by CPU.
            own_cpu();
            while host.cpu() as u64 % geo.slots != good {
                own_cpu();
            }
            fs.create(ROOT_INO, b"new", &file()).unwrap();
        });
    });
    let log = tape.stop();
    let commit = geo.slot_offset(good) + 16;
    let committed = |s: &rpramfs_tests::record::Store| s.off == commit;
    let first = log.stores.iter().position(|s| committed(s) && s.new != 0);
    let last = log.stores.iter().rposition(|s| committed(s) && s.new == 0);
    let (first, last) = (first.expect("a commit"), last.expect("and its end"));
    assert!(last > first + 4, "stores that carry the transaction out");
    let bad = (0..geo.slots).filter(|s| *s != good);
    for (bad, scribble) in bad.flat_map(|b| {
        [0x1234_5678_0001_0001, 0xffff_ffff, u64::MAX, 0x10_0000].map(|word| (b, word))
    }) {
        for k in [first + 1, first + 3, last] {
            let scratch = Scratch::new(&base);
            for s in &log.stores[..k] {
                scratch.store(s.off, s.new).unwrap();
            }
            let off = geo.slot_offset(bad) + 16;
            scratch.store(off, scribble).unwrap();
            let host = host.reborn();
            let fs = mount(&scratch, host.clone()).expect("mount");
            assert!(fs.is_read_only(), "a bad slot, and yet writable");
            assert!(!host.reports().is_empty(), "nobody was told");
            let made = fs.lookup(ROOT_INO, b"new").expect("it was committed");
            assert_eq!(fs.getattr(made).unwrap().nlink, 1);
            for i in 0..10 {
                let name = format!("a{i}");
                fs.lookup(ROOT_INO, name.as_bytes()).expect("it was there");
            }
            assert_eq!(scratch.load(off), Ok(scribble), "evidence is left alone");
            assert_eq!(scratch.load(commit), Ok(0), "replayed");
            drop(fs);
            checker::repair(&scratch, &host.reborn()).expect("repair");
            checker::clean(&scratch, &host.reborn()).expect("clean");
            let fs = mount(&scratch, host.reborn()).expect("mount");
            fs.lookup(ROOT_INO, b"new").expect("still");
            drain(&fs).expect("drain");
        }
    }
}
