// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! One flipped bit, anywhere in what a checksum covers: repair loses nothing at all.
//!
//! `RPRAMFS_FULL=1` flips every bit, `RPRAMFS_IMAGES` sets the number of bits of each specimen.

use super::{images, region_of};
use fs_core::check::{owners, Image as Inspector};
use fs_core::{Region, RenameMode};
use rpramfs_tests::checker;
use rpramfs_tests::crash::{quietly, resolve};
use rpramfs_tests::env;
use rpramfs_tests::figures;
use rpramfs_tests::fixture::{drain, empty, format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::record::{Image, Metered, Recorder, Scratch};
use rpramfs_tests::script::*;
use rpramfs_tests::specimen::levels;
use rpramfs_tests::tree::{diff, walk, Tree};
use rpramfs_tests::workers;
use std::collections::{BTreeMap, BTreeSet};

const BYTES: u64 = 4 << 20;
/// Where page numbers of the geometry stand in the superblock.
const JOURNAL_START: u64 = 184;
const STRUCT_START: u64 = 192;
const DATA_START: u64 = 144;
const DATA_END: u64 = 152;
/// Where the inode frontier tells how many inodes the table has room for.
const INODE_CAPACITY: u64 = 4096 + 256 + 16;

struct Specimen {
    name: &'static str,
    image: Image,
    /// What repair makes of it without a flipped bit.
    baseline: Image,
    tree: Tree,
    /// Sectors that a checksum covers.
    sectors: Vec<u64>,
    cost: u64,
}

impl Specimen {
    fn new(name: &'static str, image: Image) -> Self {
        let host = TestHost::new(4);
        let scratch = Scratch::new(&image);
        scratch.reset(&image.mem);
        let metered = Metered::new(&scratch, u64::MAX);
        checker::repair(&metered, &host).expect("repair of what is not damaged");
        let cost = u64::MAX - metered.left();
        let baseline = scratch.image();
        let fs = mount(&scratch, host.reborn()).expect("mount");
        let tree = walk(&fs, &[]).expect("walk");
        drop(fs);
        scratch.reset(&image.mem);
        let sectors = covered(&image);
        println!(
            "{name}: {} sectors, {cost} accesses to check",
            sectors.len()
        );
        Specimen {
            name,
            image,
            baseline,
            tree,
            sectors,
            cost,
        }
    }
}

/// Sectors that a checksum covers: of the fixed structures, of nodes, inodes, attributes, targets.
fn covered(image: &Image) -> Vec<u64> {
    let word = |at: u64| image.mem.load(at).expect("inside");
    let host = TestHost::new(4);
    let claims = owners(&image.mem, &host).expect("owners");
    let inspector = Inspector::open(&image.mem, &host).expect("an image");
    // Data of files has no checksum, whether they have a name or not.
    let mut data = BTreeSet::new();
    for ino in 1..word(INODE_CAPACITY) {
        let Ok(inode) = inspector.inode(ino) else {
            continue;
        };
        if inode.in_use() && inode.kind() == fs_core::S_IFREG {
            for r in inspector.records(&inode).expect("records").0 {
                data.extend(r.a..r.a + (r.b & 0xffff_ffff_ffff));
            }
        }
    }
    let lively = |at: u64| (0..32).any(|w| word(at + 8 * w) != 0);
    let mut sectors = Vec::new();
    for page in 0..BYTES / 4096 {
        let slot = page.wrapping_sub(word(JOURNAL_START)) / 15;
        let inside = page.wrapping_sub(word(JOURNAL_START)) % 15;
        let count = if (word(JOURNAL_START)..word(STRUCT_START)).contains(&page) {
            word((word(JOURNAL_START) + 15 * slot) * 4096 + 16) >> 16 & 0xffff
        } else {
            0
        };
        for s in 0..16 {
            let at = page * 4096 + s * 256;
            let wanted = match page {
                0 => s < 2,
                1 => s < 11,
                p if p < word(JOURNAL_START) => lively(at),
                p if p < word(STRUCT_START) => match (inside, s) {
                    (0, 0 | 1) => true,
                    (0, s) => s >= 2 && (s - 2) * 32 < count,
                    _ => (inside - 1) * 16 + s < count,
                },
                p if p < word(DATA_START) => false,
                p if p == word(DATA_END) => s == 0 || s == 2,
                p if claims.owner(p).is_none() || data.contains(&p) => false,
                // Behind a value or a target there is nothing.
                _ => region_of(image, at) != "value or target" || lively(at),
            };
            if wanted {
                sectors.push(at);
            }
        }
    }
    sectors
}

/// Is a page the same, but for the mount marker and what an empty journal slot holds?
fn same(image: &Image, a: &Scratch, b: &Image, page: u64) -> bool {
    let word = |at: u64| image.mem.load(at).expect("inside");
    let (mut x, mut y) = ([0u8; 4096], [0u8; 4096]);
    // The image has only what repair touched.
    let b = if b.pages.contains(&page) { b } else { image };
    a.read(page * 4096, &mut x).expect("inside");
    b.mem.read(page * 4096, &mut y).expect("inside");
    let journal = word(JOURNAL_START);
    if page == 0 {
        x[256..512].fill(0);
        y[256..512].fill(0);
    } else if (journal..word(STRUCT_START)).contains(&page) {
        let kept = if (page - journal) % 15 == 0 { 512 } else { 0 };
        x[kept..].fill(0);
        y[kept..].fill(0);
    }
    x == y
}

/// Repairs and compares; `Ok(true)` where the bytes are those that were there before.
fn judge(s: &Specimen, scratch: &Scratch) -> Result<bool, String> {
    let region = &Metered::new(scratch, s.cost * 100 + 100_000);
    let host = TestHost::new(4);
    let (_, found) = checker::repair(region, &host).map_err(|e| format!("{e:?}"))?;
    let touched = scratch.image().pages;
    let mut pages = touched.iter().chain(&s.baseline.pages);
    if pages.all(|p| same(&s.image, scratch, &s.baseline, *p)) {
        return Ok(true);
    }
    region.refill(1 << 26);
    let told = |e: String| format!("{e} (repaired: {})", found.join("; "));
    checker::clean(region, &host).map_err(|e| told(format!("the second {e}")))?;
    let host = host.reborn();
    let fs = mount(region, host.clone()).map_err(|e| told(format!("mount: {e:?}")))?;
    let tree = walk(&fs, &[]).map_err(told)?;
    if let Some(lost) = diff(&s.tree, &tree) {
        return Err(told(lost));
    }
    drain(&fs).map_err(told)?;
    checker::clean(region, &host).map_err(|e| told(format!("when drained, {e}")))?;
    empty(&fs).map_err(|e| told(format!("deleting everything: {e}")))?;
    checker::clean(region, &host).map_err(|e| told(format!("when emptied, {e}")))?;
    if !host.reports().is_empty() || fs.is_read_only() {
        return Err(told(format!("corruption reported: {:?}", host.reports())));
    }
    Ok(false)
}

/// Flips `some` bits of a specimen, or all.
fn flip(s: &Specimen, some: u64) {
    let all = env::is_full();
    let total = s.sectors.len() as u64 * 2048;
    // Half of a sample goes to the few sectors with a fixed place.
    let word = |at: u64| s.image.mem.load(at).expect("inside");
    let zone = word(DATA_START) * 4096..word(DATA_END) * 4096;
    let (moving, fixed): (Vec<u64>, Vec<u64>) = s.sectors.iter().partition(|at| zone.contains(at));
    let groups = [fixed, moving];
    let n = if all { total } else { images(some).min(total) };
    let choose = |i: u64| {
        if n == total {
            return (s.sectors[(i / 2048) as usize], i % 2048);
        }
        let mut rng = Rng(i);
        let group = match &groups[(i % 2) as usize] {
            g if g.is_empty() => &s.sectors,
            g => g,
        };
        (*rng.pick(group), rng.below(2048))
    };
    // Structure: bits, those of them after whose repair the bytes are the same.
    let mut table: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    let mut failures = Vec::new();
    workers::share(
        0..n,
        || Scratch::new(&s.image),
        |scratch, i| {
            let (sector, bit) = choose(i);
            let off = sector + bit / 64 * 8;
            scratch.reset(&s.image.mem);
            let old = scratch.load(off).expect("inside");
            scratch.store(off, old ^ 1 << (bit % 64)).expect("inside");
            (off, bit % 64, quietly(|| judge(s, scratch)).and_then(|r| r))
        },
        |(off, bit, outcome)| {
            let structure = region_of(&s.image, off);
            let row = table.entry(structure).or_default();
            row[0] += 1;
            row[1] += u64::from(outcome == Ok(true));
            if let Err(e) = outcome {
                let place = format!("{}: bit {bit} of {structure} at {off:#x}", s.name);
                failures.push(format!("{place}: {e}"));
            }
        },
    );
    println!("flipped bits, {}: {n} of {total}", s.name);
    for (k, r) in &table {
        println!("{k:20} {:>8} bits, {:>8} set right to the bit", r[0], r[1]);
    }
    for f in failures.iter().take(12) {
        println!("VIOLATION {f}");
    }
    figures::append(&serde_json::json!({
        "test": format!("flipped bits, {}", s.name),
        "flipped_bits": n,
        "violations": failures.len(),
    }));
    assert!(failures.is_empty(), "{} of {n} bits", failures.len());
}

fn filled() -> Recorder<Scratch> {
    let host = TestHost::new(3);
    let tape = Recorder::new(Scratch::zeroed(BYTES));
    format(&tape, &host);
    let fs = mount(&tape, host).expect("mount");
    levels(&fs).expect("populate");
    drop(fs);
    tape
}

#[test]
fn corruption_one_bit() {
    let image = filled().inner().image();
    let host = TestHost::new(4);
    let inspector = Inspector::open(&image.mem, &host).expect("an image");
    let depth = |inode: &fs_core::check::Inode| inode.root().map_or(0, |_| inode.depth);
    for (path, wanted) in [("many", 2), ("levels", 2), ("leaf", 1), ("inline", 0)] {
        let inode = inspector.resolve(path.as_bytes()).expect("there");
        assert_eq!(depth(&inode), wanted, "{path}");
    }
    let sealed = inspector.resolve(b"sealed").expect("there").seal;
    // The inode table, a pending set, a seal.
    for ino in [(1 << 63) + 2, (1 << 63) + 3, sealed] {
        let inode = inspector.inode(ino).expect("there");
        assert_eq!(depth(&inode), 1, "{ino:#x}");
    }
    flip(&Specimen::new("all structures", image.clone()), 6000);
}

/// A crash between commit and the end of a transaction: the journal has what the region has not.
#[test]
fn corruption_one_bit_of_a_transaction() {
    let tape = filled();
    let before = tape.inner().image();
    let fs = mount(&tape, TestHost::new(5)).expect("mount");
    tape.start();
    let many = resolve(&fs, "many").expect("many");
    fs.rename(
        many,
        &[b'0'; 30],
        fs_core::ROOT_INO,
        b"leaf",
        RenameMode::Replace,
    )
    .expect("rename");
    for i in 200..260 {
        remove(&fs, &format!("many/{i:030}")).expect("remove");
    }
    setxattr(&fs, "d", "user.inside", 900).expect("setxattr");
    // Long names, for which leaves are divided.
    for i in 0..8 {
        touch(&fs, &format!("many/{i:0200}")).expect("touch");
    }
    let log = tape.stop();
    drop(fs);
    // Commit words: of the first transaction, and of the greatest.
    let word = |at: u64| before.mem.load(at).expect("inside");
    let (from, to) = (word(JOURNAL_START) * 4096, word(STRUCT_START) * 4096);
    let commits: Vec<usize> = (0..log.stores.len())
        .filter(|i| {
            let s = &log.stores[*i];
            (from..to).contains(&s.off) && (s.off - from) % (15 * 4096) == 16 && s.new != 0
        })
        .collect();
    let first = commits[0];
    let greatest = commits
        .iter()
        .copied()
        .max_by_key(|i| log.stores[*i].new >> 16 & 0xffff)
        .expect("transactions");
    // Nothing carried out yet; half of it.
    let half = log.stores[greatest + 1..]
        .iter()
        .take_while(|s| !(from..to).contains(&s.off))
        .count()
        / 2;
    for (name, end) in [
        ("a transaction", first),
        ("the greatest transaction", greatest),
        ("half a transaction", greatest + half),
    ] {
        let scratch = Scratch::zeroed(BYTES);
        for page in &before.pages {
            let mut bytes = [0u8; 4096];
            before.mem.read(page * 4096, &mut bytes).expect("inside");
            scratch.write(page * 4096, &bytes).expect("inside");
        }
        for s in &log.stores[..=end] {
            scratch.store(s.off, s.new).expect("inside");
        }
        let mut specimen = Specimen::new(name, scratch.image());
        specimen.sectors.retain(|at| (from..to).contains(at));
        flip(&specimen, 1000);
    }
}
