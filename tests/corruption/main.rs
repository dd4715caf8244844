// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Damaged images: mounted, walked, read, written. Never a panic, never a loop, never a wrong
//! answer where a checksum could know better.
//!
//! `RPRAMFS_IMAGES` sets the number of images of each test; see also `flips.rs`.

mod flips;

use fs_core::{Error, Fs, Ino, Region, RenameMode, Seek, SetAttr, ROOT_INO};
use rpramfs_tests::checker;
use rpramfs_tests::crash::{quietly, resolve};
use rpramfs_tests::fixture::{drain, empty, format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::record::{Image, Metered, Scratch};
use rpramfs_tests::script::*;
use rpramfs_tests::tree::{extents, node, walk, Body, Tree};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

const BYTES: u64 = 2 << 20;

/// Every kind of structure at least once.
fn populate(fs: &Fs<&Scratch, TestHost>) -> Result<Vec<Ino>, Error> {
    mkdir(fs, "d")?;
    mkdir(fs, "d/sub")?;
    mkdir(fs, "many")?;
    for i in 0..120 {
        touch(fs, &format!("many/{i:060}"))?;
    }
    file(fs, "f", 10_000)?;
    link(fs, "f", "d/hard")?;
    file(fs, "d/g", 4096)?;
    file(fs, "d/sub/deep", 100)?;
    symlink(fs, "short", 20)?;
    symlink(fs, "long", 3000)?;
    comb(fs, "four", 4)?;
    comb(fs, "tree", 30)?;
    touch(fs, "unwritten")?;
    fallocate(
        fs,
        "unwritten",
        fs_core::Fallocate::Allocate { keep_size: false },
        0,
        40_960,
    )?;
    setxattr(fs, "f", "user.small", 30)?;
    setxattr(fs, "d", "user.large", 9000)?;
    setxattr(fs, "", "trusted.root", 9)?;
    file(fs, "sealed", 30_000)?;
    fs.seal(resolve(fs, "sealed")?)?;
    mknod(fs, "fifo", fs_core::S_IFIFO | 0o600)?;
    let orphan = comb(fs, "orphan", 6)?;
    unlink(fs, "orphan")?;
    let bare = tmpfile(fs, "d")?;
    Ok(vec![orphan, bare])
}

struct Specimen {
    image: Image,
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
    let held = populate(&fs).expect("populate");
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
    let seen = tour(&metered, &TestHost::new(4), &tree, true).expect("an undamaged tour");
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert_eq!(seen.lost, 0, "undamaged, and yet something is lost");
    let cost = u64::MAX - metered.left();
    println!(
        "{} words of metadata, {cost} accesses for a tour",
        words.len()
    );
    Specimen {
        image,
        tree,
        words,
        cost,
    }
}

#[derive(Debug, Default)]
struct Seen {
    mounted: bool,
    read_only: bool,
    /// Inodes that cannot be read whole any more.
    lost: u64,
    /// Answers that are neither right nor an error.
    wrong: Vec<String>,
}

/// Mounts, reads everything, then writes a little everywhere. `strict`: what is read is compared.
fn tour<R: Region>(region: R, host: &TestHost, want: &Tree, strict: bool) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    let fs = mount(region, host.clone())?;
    seen.mounted = true;
    for (ino, w) in want {
        let mut owned = Vec::new();
        match node(&fs, *ino, &mut owned) {
            Err(_) => seen.lost += 1,
            Ok(mut n) => {
                n.pages = w.pages;
                if strict && n != *w {
                    seen.wrong.push(format!(
                        "inode {ino}: {}",
                        rpramfs_tests::tree::diff_node(w, &n)
                    ));
                }
            }
        }
    }
    seen.read_only = fs.is_read_only();
    write_everywhere(&fs, want);
    Ok(seen)
}

fn write_everywhere<R: Region>(fs: &Fs<R, TestHost>, want: &Tree) {
    let mut all: Vec<Result<(), Error>> = Vec::new();
    let mut d = |r: Result<(), Error>| all.push(r);
    let _ = fs.statfs();
    for (ino, w) in want {
        match &w.body {
            Body::Dir { entries, .. } => {
                d(fs.create(*ino, b"new", &new(fs_core::S_IFREG | 0o644))
                    .map(drop));
                d(fs.create(*ino, b"newdir", &new(fs_core::S_IFDIR | 0o755))
                    .map(drop));
                d(fs.symlink(*ino, b"newlink", &[b't'; 500], &new(0o777))
                    .map(drop));
                if let Some(name) = entries.keys().next() {
                    d(
                        fs.rename(*ino, name, ROOT_INO, b"moved", RenameMode::Replace)
                            .map(drop),
                    );
                    d(
                        fs.rename(*ino, b"new", ROOT_INO, b"moved", RenameMode::Exchange)
                            .map(drop),
                    );
                }
                if let Some(name) = entries.keys().last() {
                    if let Ok(gone) = fs.unlink(*ino, name) {
                        if gone.nlink == 0 {
                            d(fs.evict(gone.ino));
                        }
                    }
                }
                d(fs.rmdir(*ino, b"newdir").map(drop));
            }
            Body::File(_) => {
                d(fs.write(*ino, 1000, &[1; 9000]).map(drop));
                d(fs.write(*ino, w.size, &[2; 100]).map(drop));
                d(fs.seek(*ino, 0, Seek::Data).map(drop));
                d(fs.seek(*ino, 0, Seek::Hole).map(drop));
                d(fs.fallocate(*ino, fs_core::Fallocate::PunchHole, 4096, 4096));
                let set = SetAttr {
                    size: Some(w.size / 2),
                    ..SetAttr::default()
                };
                d(fs.setattr(*ino, &set).map(drop));
                let mut at = 0;
                for _ in 0..100 {
                    match fs.verify(*ino, at) {
                        Ok(Some(next)) => at = next,
                        _ => break,
                    }
                }
                d(fs.unseal(*ino));
                d(fs.seal(*ino));
            }
            _ => {}
        }
        d(fs.setxattr(*ino, b"user.new", &[3; 3000], fs_core::XattrMode::Either));
        d(fs.removexattr(*ino, b"user.small"));
    }
    for _ in 0..200 {
        match fs.reclaim_step(&mut |_, f| f().map(|()| true)) {
            Ok(true) => {}
            _ => break,
        }
    }
    let _ = fs.statfs();
    let _ = fs.unmount();
}

/// May a mount of a damaged image fail so? Of what is corrupt, as a caller is told; only a
/// superblock whose checksum holds can ask for features (docs/LAYOUT.md, section 5), or for more
/// than the region has. Nobody else has the region, and it is ours.
fn may_refuse(structure: &str, mended: bool, e: &Error) -> bool {
    match e {
        Error::Corrupt(_) => true,
        Error::UnknownFeatures { .. } | Error::TooSmall => {
            mended && matches!(structure, "superblock" | "backup")
        }
        _ => false,
    }
}

/// Repairs, checks, mounts, walks, deletes everything. Returns of how many inodes something is
/// lost.
fn repaired<R: Region>(region: &R, host: &TestHost, want: &Tree) -> Result<u64, String> {
    match checker::repair(region, host) {
        // A superblock from the future, made whole by its checksum: not ours to repair.
        Err(Error::UnknownFeatures { .. }) => return Ok(0),
        Err(e) => return Err(format!("{e:?}")),
        Ok(_) => {}
    }
    checker::clean_structure(region, host).map_err(|e| format!("the second {e}"))?;
    let host = host.reborn();
    let fs = mount(region, host.clone()).map_err(|e| format!("mount: {e:?}"))?;
    let tree = walk(&fs, &[])?;
    drain(&fs)?;
    if !host.reports().is_empty() {
        return Err(format!("corruption reported: {:?}", host.reports()));
    }
    empty(&fs).map_err(|e| format!("deleting everything: {e}"))?;
    checker::clean(region, &host).map_err(|e| format!("when emptied, {e}"))?;
    let lost = want.iter().filter(|(ino, w)| tree.get(ino) != Some(w));
    Ok(lost.count() as u64)
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

/// Makes the checksums around `off` right again (docs/LAYOUT.md, section 4), so that what is
/// damaged has to be found by looking at it.
fn mend(mem: &Scratch, image: &Image, off: u64) {
    let sb = |at: u64| image.mem.load(at).expect("inside");
    let seed = sb(112) as u32;
    let crc = |start: u32, at: u64, len: usize, hole: std::ops::Range<usize>, with_off: bool| {
        let mut bytes = vec![0u8; len];
        mem.read(at, &mut bytes).expect("inside");
        bytes[hole].fill(0);
        let mut h = crc32fast::Hasher::new_with_initial(start);
        if with_off {
            h.update(&at.to_le_bytes());
        }
        h.update(&bytes);
        h.finalize()
    };
    let put = |at: u64, v: u32| mem.write(at, &v.to_le_bytes()).expect("inside");
    let sector = off & !255;
    let page = off & !4095;
    match region_of(image, off) {
        "superblock" => put(12, crc(0, 0, 256, 12..16, false)),
        "backup" if off % 4096 < 256 => put(sector + 12, crc(0, sector, 256, 12..16, false)),
        "mount marker" => put(256 + 40, crc(0, 256, 40, 0..0, false)),
        "chunk descriptors" => {
            let at = off & !127;
            put(at + 4, crc(seed, at, 128, 4..8, true));
        }
        "node" => {
            let s = (off % 4096) / 256;
            if s > 0 {
                put(page + 64 + 4 * (s - 1), crc(seed, sector, 256, 0..0, true));
            }
            put(page + 4, crc(seed, page, 256, 4..8, true));
        }
        "xattr block" => put(page + 4, crc(seed, page, 4096, 4..8, true)),
        "journal" => {
            let mut bytes = [0u8; 4];
            mem.read(sector, &mut bytes).expect("inside");
            match &bytes {
                b"RPJS" => {
                    let mut b = vec![0u8; 256];
                    mem.read(sector, &mut b).expect("inside");
                    b[4..8].fill(0);
                    b[16..24].fill(0);
                    let mut h = crc32fast::Hasher::new_with_initial(seed);
                    h.update(&sector.to_le_bytes());
                    h.update(&b);
                    put(sector + 4, h.finalize());
                }
                b"RPJA" => put(sector + 4, crc(seed, sector, 256, 4..8, true)),
                _ => {}
            }
        }
        "struct pages" | "value or target" | "?" => {}
        _ => put(sector + 4, crc(seed, sector, 256, 4..8, true)),
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
    std::env::var("RPRAMFS_IMAGES")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(daily)
}

/// Damages one word of each image, with or without mended checksums.
fn damage(what: &str, daily: u64, mended: bool, repair: bool) {
    let s = specimen();
    let n = images(daily);
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    // Structure: images, not mounted, read-only afterwards, inodes lost (sum and most),
    // inodes of which something is lost after repair.
    let table: Mutex<BTreeMap<&str, [u64; 6]>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let scratch = Scratch::new(&s.image);
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    let mut rng = Rng(i);
                    let off = s.words[rng.below(s.words.len() as u64) as usize];
                    let other = s.words[rng.below(s.words.len() as u64) as usize];
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
                        continue;
                    }
                    scratch.store(off, new).expect("inside");
                    if mended {
                        mend(&scratch, &s.image, off);
                    }
                    let metered = Metered::new(&scratch, s.cost * 30 + 100_000);
                    let host = TestHost::new(4);
                    let structure = region_of(&s.image, off);
                    let mut bad = Vec::new();
                    let mut repair_lost = 0;
                    let mut seen = Seen::default();
                    match quietly(|| tour(&metered, &host, &s.tree, !mended)) {
                        Err(panic) => bad.push(panic),
                        Ok(Err(e)) => {
                            if !may_refuse(structure, mended, &e) {
                                bad.push(format!("mount: {e:?}"));
                            }
                            if std::env::var_os("RPRAMFS_VERBOSE").is_some() {
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
                    // One word costs what its structure describes: an inode, and the listings of
                    // the directories that name it; of what is there a fixed number of times,
                    // nothing.
                    let most = match structure {
                        "inode" => 3,
                        "node" | "xattr block" | "value or target" => 1,
                        _ => 0,
                    };
                    if !mended && seen.lost > most {
                        bad.push(format!("{} inodes are lost", seen.lost));
                    }
                    // The same damage, repaired: what a second check finds clean, works.
                    if repair {
                        scratch.reset(&s.image.mem);
                        scratch.store(off, new).expect("inside");
                        if mended {
                            mend(&scratch, &s.image, off);
                        }
                        metered.refill(s.cost * 30 + 100_000);
                        let repaired = quietly(|| repaired(&metered, &host, &s.tree));
                        match repaired.and_then(|r| r) {
                            Ok(lost) => repair_lost = lost,
                            Err(e) => bad.push(format!("repair: {e}")),
                        }
                        if metered.exceeded() {
                            bad.push("repair: out of its budget of accesses".into());
                        }
                    }
                    let mut t = table.lock().expect("not poisoned");
                    let row = t.entry(structure).or_default();
                    row[0] += 1;
                    row[1] += u64::from(!seen.mounted);
                    row[2] += u64::from(seen.read_only);
                    row[3] += seen.lost;
                    row[4] = row[4].max(seen.lost);
                    row[5] += repair_lost;
                    drop(t);
                    for b in bad {
                        failures.lock().expect("not poisoned").push(format!(
                            "image {i}: {structure} at {off:#x} {damage:?} ({old:#x} -> {new:#x}): {b}"
                        ));
                    }
                }
            });
        }
    });
    println!("corruption, {what}: {n} images");
    println!(
        "{:20} {:>8} {:>12} {:>10} {:>10} {:>6} {:>10}",
        "structure", "images", "not mounted", "read-only", "lost", "most", "repaired"
    );
    for (k, r) in table.lock().expect("not poisoned").iter() {
        println!(
            "{k:20} {:>8} {:>12} {:>10} {:>10} {:>6} {:>10}",
            r[0], r[1], r[2], r[3], r[4], r[5]
        );
    }
    let failures = failures.into_inner().expect("not poisoned");
    for f in failures.iter().take(12) {
        println!("VIOLATION {f}");
    }
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
            mend(&scratch, &s.image, off);
            match repaired(&scratch, &TestHost::new(4), &s.tree) {
                Ok(0) => {}
                other => bad.push(format!("{off:#x} {old:#x} -> {new:#x}: {other:?}")),
            }
        }
    }
    assert_eq!(bad, Vec::<String>::new());
}
