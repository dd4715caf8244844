// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Images that contradict themselves in ways that chance does not find: mounted, walked, written,
//! checked, repaired, in bounded time and memory. What they leave alone comes through.

use super::{file, watched, BYTES};
use fs_core::layout::{node, PAGE};
use fs_core::{Fs, Ino, Region, ROOT_INO, S_IFDIR};
use rpramfs_tests::checker;
use rpramfs_tests::crash::quietly;
use rpramfs_tests::figures;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::forge::{body, Body, Forge};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::ordeal::{repaired, tour, Repaired};
use rpramfs_tests::record::Metered;
use rpramfs_tests::script::new;
use rpramfs_tests::tree::{diff, walk, Tree};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what a thread has allocated.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no counters any more, and nothing to be counted.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(p, layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at once by `f`, beyond what there was before.
fn memory_of<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = NOW.with(Cell::get);
    MOST.with(|m| m.set(before));
    let done = f();
    let most = MOST.with(Cell::get);
    (done, (most - before).max(0) as u64)
}

/// Accesses of one check, or one repair: some for each sector of the region, and no more.
const CHECK: u64 = 4 * BYTES / 256;
/// Memory of one: not more than there is to check.
const MEMORY: u64 = BYTES;

/// What there is to forge with.
struct Ground {
    /// Twelve files of one page each.
    files: Vec<Body>,
    /// Directories, one in the other.
    dirs: Vec<Body>,
    /// Pages that belong to one file, for whoever needs a node.
    pages: Vec<u64>,
    sealed: Body,
    seal: Body,
    tree: Tree,
}

fn ground(fs: &Fs<&MemRegion, TestHost>) -> Ground {
    let sentinel = fs.create(ROOT_INO, b"sentinel", &file()).unwrap().ino;
    fs.write(sentinel, 0, &Rng(9).bytes(20_000)).unwrap();
    let quarry = fs.create(ROOT_INO, b"quarry", &file()).unwrap().ino;
    fs.write(quarry, 0, &vec![7; 600 * PAGE as usize]).unwrap();
    let mut pages = Vec::new();
    for p in 0..600 {
        pages.push(fs.extent_at(quarry, p).unwrap().unwrap().page);
        let e = fs.extent_at(quarry, p).unwrap().unwrap();
        let last = pages.last_mut().unwrap();
        *last = e.page + (p - e.file_page);
    }
    let mut dir = ROOT_INO;
    let mut dirs = Vec::new();
    for i in 0..12 {
        let d = fs.create(dir, b"dir", &new(S_IFDIR | 0o755)).unwrap().ino;
        fs.create(d, format!("in-{i}").as_bytes(), &file()).unwrap();
        dirs.push(d);
        dir = d;
    }
    let files: Vec<Ino> = (0..12)
        .map(|i| {
            let f = fs.create(ROOT_INO, format!("f{i}").as_bytes(), &file());
            let f = f.unwrap().ino;
            fs.write(f, 0, &[i; 4096]).unwrap();
            fs.setxattr(f, b"user.a", &[i; 100], fs_core::XattrMode::Either)
                .unwrap();
            f
        })
        .collect();
    let sealed = fs.create(ROOT_INO, b"sealed", &file()).unwrap().ino;
    fs.write(sealed, 0, &[5; 9000]).unwrap();
    fs.seal(sealed).unwrap();
    let at = body(fs, sealed);
    let seal = fs.region().load(at.off + 128).unwrap();
    let all = |list: &[Ino]| list.iter().map(|i| body(fs, *i)).collect();
    Ground {
        files: all(&files),
        dirs: all(&dirs),
        pages,
        sealed: at,
        seal: body(fs, seal),
        tree: walk(fs, &[]).unwrap(),
    }
}

type Build = fn(&Forge<'_, MemRegion>, &Ground);

/// Inline records.
fn inline(forge: &Forge<'_, MemRegion>, i: Body, records: &[[u64; 3]]) {
    forge.put(i.off + 136, &[0, 0, records.len() as u8, 0]);
    for (at, word) in (i.off + 144..).step_by(8).zip(records.as_flattened()) {
        forge.put(at, &word.to_le_bytes());
    }
    forge.seal(i.off);
}

fn set32(forge: &Forge<'_, MemRegion>, i: Body, at: u64, value: u32) {
    forge.put(i.off + at, &value.to_le_bytes());
    forge.seal(i.off);
}

/// A node's count, whatever it holds.
fn set_count(forge: &Forge<'_, MemRegion>, page: u64, count: u16) {
    forge.put(page * PAGE + 26, &count.to_le_bytes());
    forge.seal_node(page);
}

/// 0 the inode table, 1..=8 the pending sets.
fn system_inode(n: u64) -> Body {
    Body {
        ino: (1 << 63) + 2 + n,
        generation: 0,
        off: PAGE + 256 * (2 + n),
    }
}

const DIR: u8 = node::KIND_DENTRIES;
const FILE: u8 = node::KIND_RECORDS;

const IMAGES: &[(&str, Build)] = &[
    ("nothing", |_, _| {}),
    ("a node that is its own child", |f, g| {
        for (i, kind) in [(g.files[0], FILE), (g.dirs[3], DIR)] {
            let p = g.pages[usize::from(kind)];
            f.inner(i, kind, p, 1, &[(0, p), (9, p), (10, p)]);
            f.set_root(i, p, 2, 3);
        }
    }),
    ("two nodes that are each other's children", |f, g| {
        let (a, b) = (g.pages[0], g.pages[1]);
        f.inner(g.files[0], FILE, a, 2, &[(0, b)]);
        f.inner(g.files[0], FILE, b, 1, &[(0, a)]);
        f.set_root(g.files[0], a, 3, 3);
    }),
    ("every child the same", |f, g| {
        for (n, (i, kind)) in [(g.files[0], FILE), (g.dirs[3], DIR)].iter().enumerate() {
            let p = &g.pages[10 * n..];
            if *kind == FILE {
                f.records(*i, p[0], &[[3, p[9], 1]]);
            } else {
                f.entries(*i, p[0], ROOT_INO, &[(0x1000, b"root")]);
            }
            for l in 1..8usize {
                let all: Vec<(u64, u64)> = (0..240).map(|k| (0x100 * k, p[l - 1])).collect();
                f.inner(*i, *kind, p[l], l as u8, &all);
            }
            f.set_root(*i, p[7], 8, u64::MAX);
        }
    }),
    ("nine levels", |f, g| {
        f.records(g.files[0], g.pages[0], &[[3, g.pages[20], 1]]);
        for l in 1..9usize {
            f.inner(
                g.files[0],
                FILE,
                g.pages[l],
                l as u8,
                &[(0, g.pages[l - 1])],
            );
        }
        f.set_root(g.files[0], g.pages[8], 9, 1);
    }),
    ("full nodes, as many as there are pages", |f, g| {
        let leaves = &g.pages[2..242];
        for (n, leaf) in leaves.iter().enumerate() {
            let records: Vec<[u64; 3]> = (0..160)
                .map(|k| [160 * n as u64 + k, g.pages[300] + k, 1])
                .collect();
            f.records(g.files[0], *leaf, &records);
        }
        let children: Vec<(u64, u64)> = (0..240).map(|n| (160 * n, leaves[n as usize])).collect();
        f.inner(g.files[0], FILE, g.pages[0], 1, &children);
        f.set_root(g.files[0], g.pages[0], 2, 38_400);
    }),
    ("full directories of one name", |f, g| {
        for (n, leaf) in g.pages[2..242].iter().enumerate() {
            let entries: Vec<(u64, &[u8])> = (1..100)
                .map(|k| (0x1_0000 * (n as u64 + 1) + 0x100 * k, &b"name"[..]))
                .collect();
            f.entries(g.dirs[0], *leaf, g.files[n % 12].ino, &entries);
        }
        let children: Vec<(u64, u64)> = (0..240u64)
            .map(|n| (0x1_0000 * (n + 1), g.pages[2 + n as usize]))
            .collect();
        f.inner(g.dirs[0], DIR, g.pages[0], 1, &children);
        f.set_root(g.dirs[0], g.pages[0], 2, 23_760);
    }),
    ("counts beyond the page", |f, g| {
        f.records(g.files[0], g.pages[0], &[[0, g.pages[5], 1]]);
        f.set_root(g.files[0], g.pages[0], 1, u64::MAX);
        set_count(f, g.pages[0], u16::MAX);
        f.inner(g.files[1], FILE, g.pages[1], 1, &[(0, g.pages[2])]);
        f.set_root(g.files[1], g.pages[1], 2, u64::MAX);
        set_count(f, g.pages[1], u16::MAX);
        let root = f.root(g.dirs[1]);
        set_count(f, root, u16::MAX);
        f.put(g.files[2].off + 138, &[0xff, 0xff]);
        f.seal(g.files[2].off);
        let block = f.word(g.files[3].off + 104) * PAGE;
        f.put(block + 28, &[0xff; 4]);
    }),
    ("sizes and page counts at the limit", |f, g| {
        for (n, v) in [u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 51]
            .iter()
            .enumerate()
        {
            f.set(g.files[n].off, 40, *v);
            f.set(g.files[n + 4].off, 48, *v);
            f.set(g.dirs[n].off, 40, *v);
        }
    }),
    ("extents of the whole region, over each other", |f, g| {
        let most = (1 << 48) - 1;
        for (n, i) in g.files.iter().enumerate() {
            let n = n as u64;
            inline(
                f,
                *i,
                &[
                    [0, n, most],
                    [1, 0, BYTES / PAGE],
                    [2, u64::MAX, 1],
                    [u64::MAX, 1, most],
                ],
            );
        }
    }),
    ("pages of two files", |f, g| {
        let theirs = f.word(g.files[0].off + 152);
        for i in &g.files[1..] {
            inline(f, *i, &[[0, theirs, 1]]);
        }
    }),
    ("a node of two files", |f, g| {
        f.records(g.files[0], g.pages[0], &[[0, g.pages[5], 1]]);
        for i in &g.files {
            f.set_root(*i, g.pages[0], 1, 1);
        }
    }),
    ("an attribute block of two files", |f, g| {
        let theirs = f.word(g.files[0].off + 104);
        for i in &g.files[1..] {
            f.set(i.off, 104, theirs);
        }
        f.set(g.dirs[0].off, 104, 0);
        f.set(g.dirs[1].off, 104, 1);
        f.set(g.dirs[2].off, 104, u64::MAX);
    }),
    ("extents over metadata", |f, g| {
        for (n, i) in g.files.iter().enumerate() {
            inline(f, *i, &[[0, n as u64, 7]]);
        }
        inline(f, g.files[0], &[[0, BYTES / PAGE - 1, 1]]);
    }),
    ("directories in a ring", |f, g| {
        let (first, last) = (g.dirs[0], g.dirs[11]);
        f.entries(last, f.root(last), first.ino, &[(0x1000, b"ring")]);
        f.put(f.root(last) * PAGE + 256 + 19, &[4]);
        f.seal_node(f.root(last));
        f.set(first.off, 96, last.ino);
    }),
    ("directories that are their own parents", |f, g| {
        for d in &g.dirs {
            f.set(d.off, 96, d.ino);
        }
        f.set(g.dirs[5].off, 96, u64::MAX);
        f.set(g.dirs[6].off, 96, g.files[0].ino);
    }),
    ("a directory in all others", |f, g| {
        for d in &g.dirs[1..] {
            f.entries(*d, f.root(*d), g.dirs[0].ino, &[(0x1000, b"again")]);
            f.put(f.root(*d) * PAGE + 256 + 19, &[4]);
            f.seal_node(f.root(*d));
        }
    }),
    ("wrong link counts", |f, g| {
        for (n, v) in [0, 2, 1 << 31, u32::MAX].into_iter().enumerate() {
            set32(f, g.files[n], 32, v);
            set32(f, g.dirs[n], 32, v);
        }
    }),
    ("inodes of other kinds than their names say", |f, g| {
        for (n, kind) in [0o040_000, 0o120_000, 0o020_000, 0, 0o170_000, 0o030_000]
            .into_iter()
            .enumerate()
        {
            set32(f, g.files[n], 20, kind | 0o644);
            set32(f, g.dirs[n], 20, 0o100_644);
        }
    }),
    ("names that overlap, or are none", |f, g| {
        for (n, d) in g.dirs.iter().enumerate() {
            let leaf = f.root(*d);
            let at = leaf * PAGE + 256;
            let what: &[u8] = match n % 6 {
                0 => &[0, 0, 1],
                1 => &[0xff, 0x0f, 255],
                2 => &[0, 1, 255],
                3 => &[0xfc, 0x0f, 0],
                4 => &[0xff, 0xff, 255],
                _ => &[0, 0x10, 1],
            };
            f.put(at + 16, what);
            f.seal_node(leaf);
        }
    }),
    ("free inodes in a ring", |f, g| {
        for s in 0..f.geo.shards {
            f.set(f.geo.shard_offset(s), 16, g.files[0].ino);
            f.set(f.geo.shard_offset(s), 24, u64::MAX);
        }
        for (a, b) in [(0usize, 1usize), (1, 2), (2, 0)] {
            set32(f, g.files[a], 20, 0);
            set32(f, g.files[a], 36, 0);
            f.set(g.files[a].off, 96, g.files[b].ino);
        }
    }),
    ("shards that hand out what is in use", |f, _| {
        for s in 0..f.geo.shards {
            f.put(f.geo.shard_offset(s) + 32, &1u64.to_le_bytes());
            f.set(f.geo.shard_offset(s), 40, 64);
        }
    }),
    ("seals that are files, and files that are seals", |f, g| {
        f.set(g.sealed.off, 128, g.files[0].ino);
        f.set(g.seal.off, 128, g.seal.ino);
        set32(f, g.files[1], 36, 1 | 16);
        set32(f, g.files[2], 36, 1 | 2);
        f.set(g.files[2].off, 128, g.files[2].ino);
        f.set(g.files[3].off, 128, g.seal.ino);
    }),
    ("intents over everything", |f, g| {
        for (n, i) in g.files.iter().enumerate() {
            f.put(i.off + 112, &(n as u64 % 3).to_le_bytes());
            f.set(i.off, 120, u64::MAX >> n);
            set32(f, *i, 36, if n % 2 == 0 { 5 } else { 1 });
        }
    }),
    ("pending sets of everything", |f, g| {
        for n in 0..8u64 {
            let set = system_inode(1 + n);
            let records: Vec<[u64; 3]> = (0..160).map(|k| [8 * k + n, 0, 1]).collect();
            f.records(set, g.pages[n as usize], &records);
            f.set_root(set, g.pages[n as usize], 1, u64::MAX);
        }
    }),
    ("a pending set of itself", |f, _| {
        for n in 0..8u64 {
            let set = system_inode(1 + n);
            inline(f, set, &[[set.ino, 0, 1], [u64::MAX, 0, 1]]);
        }
    }),
    ("an inode table as large as the region", |f, _| {
        let table = system_inode(0);
        let first = f.word(table.off + 152);
        let have = f.word(table.off + 160);
        let end = BYTES / PAGE - 1;
        for off in [table.off, end * PAGE + 512] {
            let i = Body { off, ..table };
            inline(
                f,
                i,
                &[[0, first, have], [have, first + have, end - first - have]],
            );
            f.set(off, 40, (end - first) * PAGE);
        }
        f.set(PAGE + 256, 16, (end - first) * 16);
    }),
    ("an inode table that is made of one page", |f, _| {
        let table = system_inode(0);
        let first = f.word(table.off + 152);
        for off in [table.off, BYTES - PAGE + 512] {
            let i = Body { off, ..table };
            inline(
                f,
                i,
                &[[0, first, 1], [1, first, 1], [2, first, 1], [3, first, 1]],
            );
            f.set(off, 40, 4 * PAGE);
        }
    }),
    ("a journal of everything", |f, _| {
        for s in 0..f.geo.slots {
            let base = f.geo.slot_offset(s);
            for k in 0..224u64 {
                f.put(base + 512 + 8 * k, &(4096 * 3 + 256 * k).to_le_bytes());
            }
            f.put(base + 16, &[1, 0, 0xff, 0xff, 1, 2, 3, 4]);
        }
    }),
    ("accounts at the limit", |f, _| {
        for s in 0..f.geo.slots {
            let at = f.geo.slot_offset(s) + 256;
            for (word, v) in [(16, i64::MAX), (24, i64::MIN), (32, i64::MAX)] {
                f.set(at, word, v as u64);
            }
        }
    }),
    ("no page free, and orphans to be saved", |f, g| {
        for c in 0..BYTES / (512 * PAGE) {
            let at = f.word(176) * PAGE + 128 * c;
            f.put(at + 64, &[0xff; 64]);
        }
        // The quarry takes all that is left.
        for d in &g.dirs[..6] {
            f.entries(*d, f.root(*d), u64::MAX, &[(0x1000, b"nobody")]);
        }
        set32(f, g.dirs[7], 20, 0);
    }),
    ("symbolic links to elsewhere", |f, g| {
        for (n, page) in [0, 1, u64::MAX, BYTES / PAGE - 1].into_iter().enumerate() {
            set32(f, g.files[n], 20, 0o120_777);
            f.put(g.files[n].off + 136, &[3, 0, 0, 0]);
            f.put(g.files[n].off + 144, &page.to_le_bytes());
            f.set(g.files[n].off, 40, u64::MAX >> (20 * n));
        }
    }),
];

/// What one image took.
struct Took {
    tour: u64,
    check: u64,
    repair: u64,
    memory: u64,
}

fn one(build: Build, bad: &mut Vec<String>) -> Took {
    let region = MemRegion::new(BYTES);
    let host = TestHost::new(11);
    format(&region, &host);
    let fs = mount(&region, host.clone()).expect("mount");
    let ground = ground(&fs);
    drop(fs);
    build(&Forge::new(&region, &host), &ground);
    let sentinel = *ground
        .tree
        .iter()
        .find(|(_, n)| n.size == 20_000)
        .expect("the sentinel")
        .0;
    let budget = 50_000_000;

    let copy = MemRegion::copy_of(&region);
    let metered = Metered::new(&copy, budget);
    let watched = |ino| ino == sentinel;
    match quietly(|| {
        tour(
            &metered,
            &TestHost::new(12),
            &ground.tree,
            &watched,
            &|_| true,
        )
    }) {
        Err(panic) => bad.push(format!("tour: {panic}")),
        Ok(Err(_)) => {}
        Ok(Ok(seen)) => bad.extend(seen.wrong),
    }
    let tour = budget - metered.left();
    metered.refill(budget);
    match quietly(|| repaired(&metered, &TestHost::new(13), true)) {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => bad.push(format!("written, then repaired: {e}")),
        Err(panic) => bad.push(format!("written, then repaired: {panic}")),
    }

    let metered = Metered::new(&region, budget);
    let (checked, memory) =
        memory_of(|| quietly(|| checker::clean(&metered, &TestHost::new(14)).is_ok()));
    if let Err(panic) = checked {
        bad.push(format!("check: {panic}"));
    }
    let check = budget - metered.left();
    let metered = Metered::new(&region, budget);
    let (done, more) =
        memory_of(|| quietly(|| checker::repair(&metered, &TestHost::new(15)).map(drop)));
    match done {
        Ok(Ok(())) => {}
        other => bad.push(format!("repair: {other:?}")),
    }
    let repair = budget - metered.left();
    metered.refill(budget);
    match quietly(|| repaired(&metered, &TestHost::new(16), true)) {
        Ok(Ok(Repaired::Tree(tree))) => {
            if tree.get(&sentinel) != ground.tree.get(&sentinel) {
                bad.push("what was left alone is lost".into());
            }
        }
        Ok(Ok(Repaired::Refused)) => bad.push("refused".into()),
        Ok(Err(e)) => bad.push(format!("after repair: {e}")),
        Err(panic) => bad.push(format!("after repair: {panic}")),
    }
    Took {
        tour,
        check,
        repair,
        memory: memory.max(more),
    }
}

#[test]
fn hostile_constructed() {
    watched(|| {
        let mut failures = Vec::new();
        println!(
            "{:46} {:>9} {:>9} {:>9} {:>10}",
            "accesses, and bytes of memory", "tour", "check", "repair", "memory"
        );
        for (name, build) in IMAGES {
            let mut bad = Vec::new();
            let took = one(*build, &mut bad);
            println!(
                "{name:46} {:>9} {:>9} {:>9} {:>10}",
                took.tour, took.check, took.repair, took.memory
            );
            for (what, n, most) in [
                ("tour", took.tour, 10_000_000),
                ("check", took.check, CHECK),
                ("repair", took.repair, CHECK),
                ("memory", took.memory, MEMORY),
            ] {
                if n > most {
                    bad.push(format!("{what}: {n}, more than {most}"));
                }
            }
            failures.extend(bad.into_iter().map(|b| format!("{name}: {b}")));
        }
        figures::append(&serde_json::json!({
            "test": "hostile_constructed",
            "images": IMAGES.len(),
            "violations": failures.len(),
        }));
        for f in &failures {
            println!("VIOLATION {f}");
        }
        assert!(failures.is_empty(), "{} violations", failures.len());
    });
}

/// A map of the inode table that takes what is not its own: repair gives it back, and overwrites
/// nothing.
#[test]
fn hostile_table_over_everything() {
    watched(|| {
        let (_, build) = IMAGES
            .iter()
            .find(|(name, _)| *name == "an inode table as large as the region")
            .expect("one of them");
        let region = MemRegion::new(BYTES);
        let host = TestHost::new(11);
        format(&region, &host);
        let fs = mount(&region, host.clone()).expect("mount");
        let ground = ground(&fs);
        drop(fs);
        build(&Forge::new(&region, &host), &ground);
        match repaired(&region, &TestHost::new(13), true) {
            Ok(Repaired::Tree(tree)) => assert_eq!(diff(&ground.tree, &tree), None),
            other => panic!("{other:?}"),
        }
    });
}
