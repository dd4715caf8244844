// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every field of every structure, damaged in every way, with checksums mended and without.
//!
//! `RPRAMFS_SEED` is the number of the first image, `RPRAMFS_IMAGES` how many follow; `RPRAMFS_FULL=1`
//! makes them so many that a million are damaged, `RPRAMFS_VERBOSE=1` names those after whose repair something is lost. A run ends with the number to go on from.

use super::images;
use fs_core::Region;
use rpramfs_tests::anatomy::{covers, Kind};
use rpramfs_tests::crash::quietly;
use rpramfs_tests::env;
use rpramfs_tests::figures;
use rpramfs_tests::harm::{Cases, Done, Saved};
use rpramfs_tests::host::TestHost;
use rpramfs_tests::ordeal::{may_refuse, repaired, tour, Repaired};
use rpramfs_tests::record::{Metered, Scratch};
use rpramfs_tests::specimen::{specimens, Specimen};
use rpramfs_tests::tree::{diff, Tree};
use rpramfs_tests::workers;
use std::collections::BTreeMap;
use std::time::Instant;

/// Images between two lines of figures: what a run that is cut short has shown.
const BATCH: u64 = 20_000;

#[derive(Clone, Copy, Default)]
struct Sums {
    images: u64,
    refused: u64,
    read_only: u64,
    unreadable: u64,
    panics: u64,
    hangs: u64,
    dirty: u64,
    other: u64,
    saved: Saved,
}

impl Sums {
    fn add(&mut self, o: &Sums) {
        self.images += o.images;
        self.refused += o.refused;
        self.read_only += o.read_only;
        self.unreadable += o.unreadable;
        self.panics += o.panics;
        self.hangs += o.hangs;
        self.dirty += o.dirty;
        self.other += o.other;
        self.saved += o.saved;
    }
}

/// Accesses of an undamaged tour.
fn cost(s: &Specimen) -> u64 {
    let metered = Metered::new(Scratch::new(&s.image), u64::MAX);
    let seen = tour(&metered, &TestHost::new(4), &s.tree, &|_| true, &|_| true)
        .expect("an undamaged tour");
    assert_eq!(seen.wrong, Vec::<String>::new(), "{}", s.name);
    assert!(seen.lost.is_empty(), "{}: undamaged, and yet lost", s.name);
    u64::MAX - metered.left()
}

/// Image `i`.
fn ordeal(i: u64, done: &Done<'_>, scratch: &Scratch, cost: u64, bad: &mut Vec<String>) -> Sums {
    let s = done.specimen;
    let budget = cost * 30 + 100_000;
    let mut sums = Sums {
        images: 1,
        ..Sums::default()
    };
    let begin = || {
        scratch.reset(&s.image.mem);
        done.apply(scratch);
        Metered::new(scratch, budget)
    };
    let mut fail = |sums: &mut Sums, what: &str, e: String| {
        if e.starts_with("panic") {
            sums.panics += 1;
        } else if e.starts_with("the second check") {
            sums.dirty += 1;
        } else {
            sums.other += 1;
        }
        bad.push(format!("{what}: {e}"));
    };
    let concerned = done.concerned();
    let strict = |ino| match &concerned {
        _ if done.is_plain() => true,
        Some(c) => !c.contains(&ino),
        None => false,
    };

    // What is near the damage, and a part of the rest, which differs from image to image.
    let written =
        |ino| concerned.as_ref().is_some_and(|c| c.contains(&ino)) || ino % 4 == i / 4 % 4;

    // As it is: read and written, and what that makes of it repaired.
    let metered = begin();
    let host = TestHost::new(4);
    match quietly(|| tour(&metered, &host, &s.tree, &strict, &written)) {
        Err(panic) => fail(&mut sums, "tour", panic),
        Ok(Err(e)) => {
            sums.refused += 1;
            let superblock = matches!(done.block.kind, Kind::Superblock | Kind::Backup);
            if !may_refuse(superblock, done.passes(), &e) {
                fail(&mut sums, "mount", format!("{e:?}"));
            }
        }
        Ok(Ok(seen)) => {
            sums.read_only += u64::from(seen.read_only);
            sums.unreadable += seen.lost.len() as u64;
            for w in seen.wrong {
                fail(&mut sums, "tour", w);
            }
            if let Some(c) = &concerned {
                for ino in seen.lost.iter().filter(|i| !c.contains(i)) {
                    fail(
                        &mut sums,
                        "tour",
                        format!("inode {ino} is undamaged, and cannot be read"),
                    );
                }
            }
        }
    }
    let mut hung = metered.exceeded();
    metered.refill(budget);
    match quietly(|| repaired(&metered, &host.reborn(), false)) {
        Err(panic) => fail(&mut sums, "written, then repaired", panic),
        Ok(Ok(_)) => {}
        Ok(Err(e)) => fail(&mut sums, "written, then repaired", e.to_string()),
    }
    hung |= metered.exceeded();

    // The same damage, repaired at once.
    let metered = begin();
    match quietly(|| repaired(&metered, &TestHost::new(4), i % 4 == 0)) {
        Err(panic) => fail(&mut sums, "repair", panic),
        Ok(Ok(Repaired::Refused)) => {}
        Ok(Ok(Repaired::Tree(tree))) => {
            sums.saved = done.saved(&tree);
            let s = sums.saved;
            let lost = (s.names_recoverable - s.names, s.bytes_recoverable - s.bytes);
            if lost != (0, 0) && env::is_verbose() {
                println!("image {i}: {done}: {} names, {} bytes lost", lost.0, lost.1);
            }
        }
        Ok(Err(e)) => fail(&mut sums, "repair", e.to_string()),
    }
    hung |= metered.exceeded();
    if hung {
        sums.hangs += 1;
        bad.push("out of its budget of accesses".into());
    }
    sums
}

#[test]
fn corruption_fields_are_covered() {
    let all = specimens();
    for s in &all {
        for b in &s.anatomy.blocks {
            if let Err(e) = covers(&b.fields, b.len) {
                panic!("{}: {:?} at {:#x}: {e}", s.name, b.kind, b.off);
            }
        }
        // No two structures have a byte in common.
        let mut ranges: Vec<_> = s.anatomy.blocks.iter().map(|b| b.range()).collect();
        ranges.sort_unstable_by_key(|r| r.start);
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{}: {pair:x?}", s.name);
        }
        // What is mended as it is stays as it is: the checksums are those of the layout.
        let scratch = Scratch::new(&s.image);
        for b in &s.anatomy.blocks {
            // What was never used has no checksum yet.
            let mut bytes = vec![0; b.len];
            scratch.read(b.off, &mut bytes).expect("inside");
            if bytes.iter().all(|b| *b == 0) {
                continue;
            }
            s.anatomy.mend(&scratch, b);
            let mut now = vec![0; 4096];
            let mut then = vec![0; 4096];
            let page = b.off / 4096 * 4096;
            scratch.read(page, &mut now).expect("inside");
            s.image.mem.read(page, &mut then).expect("inside");
            assert!(now == then, "{}: {:?} at {:#x}", s.name, b.kind, b.off);
        }
    }
}

/// The inode of the inode table without its flags: the copy serves for reading, and for repair.
#[test]
fn corruption_table_inode_not_in_use() {
    for s in &specimens() {
        let scratch = Scratch::new(&s.image);
        let off = 4096 + 512;
        let block = s.anatomy.at(off).expect("the table's inode");
        scratch.write(off + 36, &[0; 4]).expect("inside");
        s.anatomy.mend(&scratch, block);
        let host = TestHost::new(4);
        let seen = tour(&scratch, &host, &s.tree, &|_| true, &|_| true).expect("mount");
        assert!(seen.read_only && seen.lost.is_empty() && seen.wrong.is_empty());
        match repaired(&scratch, &host.reborn(), true) {
            Ok(Repaired::Tree(tree)) => assert_eq!(diff(&s.tree, &tree), None),
            other => panic!("{other:?}"),
        }
    }
}

/// A stale copy of the table's inode is whole, and does not know of the inodes that came later.
#[test]
fn corruption_stale_table_inode() {
    let mut grown = 0;
    for s in &specimens() {
        for earlier in &s.earlier {
            for at in [4096 + 512, s.image.mem.len() - 4096 + 512] {
                let scratch = Scratch::new(&s.image);
                let mut stale = [0; 256];
                earlier.mem.read(at, &mut stale).expect("inside");
                let mut now = [0; 256];
                scratch.read(at, &mut now).expect("inside");
                grown += u64::from(now != stale);
                scratch.write(at, &stale).expect("inside");
                match repaired(&scratch, &TestHost::new(4), true) {
                    Ok(Repaired::Tree(tree)) => assert_eq!(diff(&s.tree, &tree), None),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(grown > 0, "none of them is stale");
}

/// An inner node that tells of fewer children than it has, checksums mended: what is below the
/// others is found all the same.
#[test]
fn corruption_forgotten_children() {
    let mut nodes = 0;
    for s in &specimens() {
        let inner =
            s.anatomy.blocks.iter().filter(|b| {
                matches!(b.kind, Kind::DirInner | Kind::RecordInner) && b.owner < 1 << 63
            });
        for block in inner {
            let mut count = [0; 2];
            s.image
                .mem
                .read(block.off + 26, &mut count)
                .expect("inside");
            let count = u16::from_le_bytes(count);
            for count in [0, 1, count / 2, count - 1] {
                let scratch = Scratch::new(&s.image);
                let at = block.off + 26;
                scratch.write(at, &count.to_le_bytes()).expect("inside");
                s.anatomy.mend(&scratch, block);
                match repaired(&scratch, &TestHost::new(4), true) {
                    Ok(Repaired::Tree(tree)) => {
                        // A tree that is made anew may need fewer pages.
                        let bodies = |t: &Tree| {
                            t.iter()
                                .map(|(i, n)| (*i, n.body.clone()))
                                .collect::<Vec<_>>()
                        };
                        let same = bodies(&tree) == bodies(&s.tree);
                        assert!(
                            same,
                            "{:#x}, {count}: {:?}",
                            block.off,
                            diff(&s.tree, &tree)
                        );
                    }
                    other => panic!("{other:?}"),
                }
            }
            nodes += 1;
        }
    }
    assert!(nodes > 3, "{nodes} inner nodes");
}

#[test]
fn corruption_every_field() {
    let all = specimens();
    let costs: Vec<u64> = all.iter().map(cost).collect();
    println!("accesses of a tour: {costs:?}");
    let cases = Cases::new(&all);
    let (kinds, classes) = cases.count();
    let first = env::number("RPRAMFS_SEED", 0);
    let n = images(if env::is_full() { 1_180_000 } else { 1500 });
    println!("{classes} kinds of fields and structures, {kinds} kinds of damage to them");
    let began = Instant::now();
    let mut table: BTreeMap<_, Sums> = BTreeMap::new();
    let mut failures = Vec::new();
    let image = |scratches: &[Scratch], i| {
        let done = cases.pick(i)?;
        let which = all
            .iter()
            .position(|s| std::ptr::eq(s, done.specimen))
            .expect("one of them");
        let mut bad = Vec::new();
        let sums = ordeal(i, &done, &scratches[which], costs[which], &mut bad);
        for b in &mut bad {
            *b = format!("image {i}: {done}: {b}");
        }
        Some(((done.block.kind, done.mended), sums, bad))
    };
    let mut from = first;
    while from < first + n {
        let to = (from + BATCH).min(first + n);
        let mut sum = Sums::default();
        workers::share(
            from..to,
            || -> Vec<Scratch> { all.iter().map(|s| Scratch::new(&s.image)).collect() },
            |scratches, i| image(scratches, i),
            |shown| {
                let Some((what, sums, bad)) = shown else {
                    return;
                };
                sum.add(&sums);
                table.entry(what).or_default().add(&sums);
                failures.extend(bad);
            },
        );
        figures::append(&serde_json::json!({
            "test": "corruption_every_field",
            "seeds": format!("{from}..{to}"),
            "images": sum.images,
            "panics": sum.panics,
            "hangs": sum.hangs,
            "second_check_dirty": sum.dirty,
            "violations": sum.other,
            "names_recovered": sum.saved.names,
            "names_recoverable": sum.saved.names_recoverable,
            "bytes_recovered": sum.saved.bytes,
            "bytes_recoverable": sum.saved.bytes_recoverable,
        }));
        from = to;
    }
    report(&table, began);
    println!("RPRAMFS_SEED={} goes on", first + n);
    for f in failures.iter().take(40) {
        println!("VIOLATION {f}");
    }
    assert!(failures.is_empty(), "{} violations", failures.len());
}

fn report(table: &BTreeMap<(Kind, bool), Sums>, began: Instant) {
    println!(
        "{:24} {:>7} {:>8} {:>9} {:>10} {:>16} {:>10}",
        "structure", "images", "refused", "read-only", "unreadable", "names", "bytes"
    );
    let share = |a: u64, b: u64| 100.0 * a as f64 / b.max(1) as f64;
    let mut sum = Sums::default();
    for ((kind, mended), r) in table {
        sum.add(r);
        println!(
            "{:24} {:>7} {:>8} {:>9} {:>10} {:>15.3}% {:>9.3}%",
            format!("{kind:?}{}", if *mended { ", mended" } else { "" }),
            r.images,
            r.refused,
            r.read_only,
            r.unreadable,
            share(r.saved.names, r.saved.names_recoverable),
            share(r.saved.bytes, r.saved.bytes_recoverable),
        );
    }
    let s = sum.saved;
    println!(
        "{} images, {:.0} a second; {} panics, {} hangs, {} dirty; names {} of {} ({:.4} %), \
         bytes {} of {} ({:.4} %)",
        sum.images,
        sum.images as f64 / began.elapsed().as_secs_f64(),
        sum.panics,
        sum.hangs,
        sum.dirty,
        s.names,
        s.names_recoverable,
        share(s.names, s.names_recoverable),
        s.bytes,
        s.bytes_recoverable,
        share(s.bytes, s.bytes_recoverable),
    );
}
