// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Damaged images: mounted, walked, read, written. Never a panic, never a loop, never a wrong
//! answer where a checksum could know better.
//!
//! `RPRAMFS_IMAGES` sets the number of images of each test; see also `flips.rs` and `fields.rs`.

mod fields;
mod flips;

use fs_core::Region;
use rpramfs_tests::anatomy::Anatomy;
use rpramfs_tests::crash::quietly;
use rpramfs_tests::env;
use rpramfs_tests::figures;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::ordeal::{may_refuse, repaired, tour, Repaired, Seen};
use rpramfs_tests::record::{Image, Metered, Scratch};
use rpramfs_tests::specimen::flat;
use rpramfs_tests::tree::{extents, walk, Body, Tree};
use rpramfs_tests::workers;
use std::collections::BTreeMap;

const BYTES: u64 = 2 << 20;

struct Specimen {
    image: Image,
    anatomy: Anatomy,
    tree: Tree,
    /// Words that are not file contents.
    words: Vec<u64>,
    /// Accesses of an undamaged tour.
    cost: u64,
}

fn specimen() -> Specimen {
    let host = TestHost::new(3);
    let scratch = Scratch::zeroed(BYTES);
    format(&scratch, &host);
    let fs = mount(&scratch, host.clone()).expect("mount");
    let held = flat(&fs).expect("populate");
    let tree = walk(&fs, &[]).expect("walk");
    let mut data = vec![false; (BYTES / 4096) as usize];
    for ino in tree
        .iter()
        .filter(|(_, n)| matches!(n.body, Body::File(_)))
        .map(|(i, _)| *i)
        .chain(held)
    {
        for e in extents(&fs, ino).expect("extents") {
            for p in e.page..e.page + e.len {
                data[p as usize] = true;
            }
        }
    }
    drop(fs);
    let image = scratch.image();
    let mut words: Vec<u64> = (0..BYTES / 4096)
        .filter(|p| !data[*p as usize])
        .flat_map(|p| (0..512).map(move |w| p * 4096 + w * 8))
        .collect();
    // Pages nobody uses hold nothing to damage: look at what is not zero, and its neighbours.
    let lively: Vec<bool> = (0..BYTES / 256)
        .map(|s| {
            let mut sector = [0u8; 256];
            image.mem.read(s * 256, &mut sector).expect("inside");
            sector.iter().any(|b| *b != 0)
        })
        .collect();
    words.retain(|w| lively[(*w / 256) as usize]);
    let metered = Metered::new(Scratch::new(&image), u64::MAX);
    let seen =
        tour(&metered, &TestHost::new(4), &tree, &|_| true, &|_| true).expect("an undamaged tour");
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert!(seen.lost.is_empty(), "undamaged, and yet something is lost");
    let cost = u64::MAX - metered.left();
    println!(
        "{} words of metadata, {cost} accesses for a tour",
        words.len()
    );
    Specimen {
        anatomy: Anatomy::of(&image.mem),
        image,
        tree,
        words,
        cost,
    }
}

fn region_of(image: &Image, off: u64) -> &'static str {
    let word = |at: u64| image.mem.load(at).expect("inside");
    let page = off / 4096;
    let (top, summary, chunk, journal, st, data, end) = (
        word(160),
        word(168),
        word(176),
        word(184),
        word(192),
        word(144),
        word(152),
    );
    match page {
        0 if off < 256 => "superblock",
        0 => "mount marker",
        1 => "system page",
        2 => "shards",
        p if p >= end => "backup",
        p if p >= data => match (word(page * 4096) as u32, word(off & !255) as u32) {
            (0x444e_5052, _) => "node",
            (0x4158_5052, _) => "xattr block",
            (_, 0x4e49_5052) => "inode",
            _ => "value or target",
        },
        p if p >= st => "struct pages",
        p if p >= journal => "journal",
        p if p >= chunk => "chunk descriptors",
        p if p >= summary => "group summaries",
        p if p >= top => "top summaries",
        _ => "?",
    }
}

/// Of how many inodes something is lost after a repair.
fn lost(repaired: Repaired, want: &Tree) -> u64 {
    match repaired {
        Repaired::Refused => 0,
        Repaired::Tree(tree) => {
            let gone = want.iter().filter(|(ino, w)| tree.get(ino) != Some(w));
            gone.count() as u64
        }
    }
}

/// Makes the checksums around `off` right again, so that what is damaged has to be found by
/// looking at it.
fn mend(mem: &Scratch, anatomy: &Anatomy, off: u64) {
    if let Some(block) = anatomy.at(off) {
        anatomy.mend(mem, block);
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(u32),
    Zero,
    Ones,
    Add(i64),
    Random(u64),
    Elsewhere(u64),
}

fn images(daily: u64) -> u64 {
    env::number("RPRAMFS_IMAGES", daily)
}

/// What one image showed.
struct Shown {
    structure: &'static str,
    seen: Seen,
    /// Inodes of which something is lost after repair.
    lost: u64,
    /// What is wrong, for people.
    bad: Vec<String>,
}

/// Image `i`; `None` where the damage changes nothing.
fn image(i: u64, s: &Specimen, scratch: &Scratch, mended: bool, repair: bool) -> Option<Shown> {
    let mut rng = Rng(i);
    let off = *rng.pick(&s.words);
    let other = *rng.pick(&s.words);
    let damage = match rng.below(8) {
        0 | 1 => Damage::Flip(rng.below(64) as u32),
        2 => Damage::Zero,
        3 => Damage::Ones,
        4 => Damage::Add(1),
        5 => Damage::Add(-1),
        6 => Damage::Random(rng.word()),
        _ => Damage::Elsewhere(other),
    };
    scratch.reset(&s.image.mem);
    let old = scratch.load(off).expect("inside");
    let new = match damage {
        Damage::Flip(b) => old ^ 1 << b,
        Damage::Zero => 0,
        Damage::Ones => u64::MAX,
        Damage::Add(d) => old.wrapping_add_signed(d),
        Damage::Random(r) => r,
        Damage::Elsewhere(o) => scratch.load(o).expect("inside"),
    };
    if new == old {
        return None;
    }
    let harm = || {
        scratch.reset(&s.image.mem);
        scratch.store(off, new).expect("inside");
        if mended {
            mend(scratch, &s.anatomy, off);
        }
    };
    harm();
    let metered = Metered::new(scratch, s.cost * 30 + 100_000);
    let host = TestHost::new(4);
    let structure = region_of(&s.image, off);
    let mut bad = Vec::new();
    let mut repair_lost = 0;
    let mut seen = Seen::default();
    match quietly(|| tour(&metered, &host, &s.tree, &|_| !mended, &|_| true)) {
        Err(panic) => bad.push(panic),
        Ok(Err(e)) => {
            if !may_refuse(matches!(structure, "superblock" | "backup"), mended, &e) {
                bad.push(format!("mount: {e:?}"));
            }
            if env::is_verbose() {
                println!("{structure} at {off:#x} {damage:?}: not mounted: {e}");
            }
        }
        Ok(Ok(t)) => {
            bad.extend(t.wrong.iter().cloned());
            seen = t;
        }
    }
    if metered.exceeded() {
        bad.push("out of its budget of accesses".into());
    }
    // One word costs what its structure describes: an inode, and the listings of the directories
    // that name it; of what is there a fixed number of times, nothing.
    let most = match structure {
        "inode" => 3,
        "node" | "xattr block" | "value or target" => 1,
        _ => 0,
    };
    if !mended && seen.lost.len() > most {
        bad.push(format!("{} inodes are lost", seen.lost.len()));
    }
    // The same damage, repaired: what a second check finds clean, works.
    if repair {
        harm();
        metered.refill(s.cost * 30 + 100_000);
        match quietly(|| repaired(&metered, &host, true)) {
            Ok(Ok(r)) => repair_lost = lost(r, &s.tree),
            Ok(Err(e)) => bad.push(format!("repair: {e}")),
            Err(e) => bad.push(format!("repair: {e}")),
        }
        if metered.exceeded() {
            bad.push("repair: out of its budget of accesses".into());
        }
    }
    for b in &mut bad {
        *b = format!("image {i}: {structure} at {off:#x} {damage:?} ({old:#x} -> {new:#x}): {b}");
    }
    Some(Shown {
        structure,
        seen,
        lost: repair_lost,
        bad,
    })
}

/// Damages one word of each image, with or without mended checksums.
fn damage(what: &str, daily: u64, mended: bool, repair: bool) {
    let s = specimen();
    let n = images(daily);
    let mut failures = Vec::new();
    // Structure: images, not mounted, read-only afterwards, inodes lost (sum and most),
    // inodes of which something is lost after repair.
    let mut table: BTreeMap<&str, [u64; 6]> = BTreeMap::new();
    workers::share(
        0..n,
        || Scratch::new(&s.image),
        |scratch, i| image(i, &s, scratch, mended, repair),
        |shown| {
            let Some(shown) = shown else { return };
            let lost = shown.seen.lost.len() as u64;
            let row = table.entry(shown.structure).or_default();
            row[0] += 1;
            row[1] += u64::from(!shown.seen.mounted);
            row[2] += u64::from(shown.seen.read_only);
            row[3] += lost;
            row[4] = row[4].max(lost);
            row[5] += shown.lost;
            failures.extend(shown.bad);
        },
    );
    println!("corruption, {what}: {n} images");
    println!(
        "{:20} {:>8} {:>12} {:>10} {:>10} {:>6} {:>10}",
        "structure", "images", "not mounted", "read-only", "lost", "most", "repaired"
    );
    for (k, r) in &table {
        println!(
            "{k:20} {:>8} {:>12} {:>10} {:>10} {:>6} {:>10}",
            r[0], r[1], r[2], r[3], r[4], r[5]
        );
    }
    for f in failures.iter().take(12) {
        println!("VIOLATION {f}");
    }
    let lost: u64 = table.values().map(|r| r[5]).sum();
    figures::append(&serde_json::json!({
        "test": format!("corruption, {what}"),
        "images": n,
        "violations": failures.len(),
        "inodes_lost_by_repair": lost,
    }));
    assert!(failures.is_empty(), "{} of {n} images", failures.len());
}

#[test]
fn corruption_one_word() {
    damage("one word", 3000, false, true);
}

#[test]
fn corruption_one_word_checksums_mended() {
    damage("one word, checksums mended", 3000, true, false);
}

#[test]
fn corruption_one_word_checksums_mended_then_repaired() {
    damage(
        "one word, checksums mended, then repaired",
        3000,
        true,
        true,
    );
}

/// Every word of either superblock, its checksum mended: the other one is there, and nothing is
/// lost.
#[test]
fn corruption_superblocks_checksums_mended() {
    let s = specimen();
    let scratch = Scratch::new(&s.image);
    scratch.reset(&s.image.mem);
    let backup = s.image.mem.load(152).expect("inside") * 4096;
    let mut bad = Vec::new();
    for off in (0..256).step_by(8).flat_map(|at| [at, backup + at]) {
        let old = s.image.mem.load(off).expect("inside");
        for new in [old ^ 1, old ^ 1 << 33, 0, u64::MAX, Rng(off).word()] {
            scratch.reset(&s.image.mem);
            scratch.store(off, new).expect("inside");
            mend(&scratch, &s.anatomy, off);
            match repaired(&scratch, &TestHost::new(4), true).map(|r| lost(r, &s.tree)) {
                Ok(0) => {}
                other => bad.push(format!("{off:#x} {old:#x} -> {new:#x}: {other:?}")),
            }
        }
    }
    assert_eq!(bad, Vec::<String>::new());
}
