// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A region that is nearly full: what is free can be had, what is kept back is there for those
//! who give something up, and looking for room costs no more than there is to look at.

mod bad_memory;
mod nth;

use fs_core::{
    Error, Fallocate, Fs, Ino, Region, RenameMode, SetAttr, XattrMode, PAGE_SIZE, ROOT_INO,
    S_IFDIR, S_IFREG,
};
use rpramfs_tests::checker;
use rpramfs_tests::fixture::{audit, drain, format, mount};
use rpramfs_tests::host::{own_cpu, set_cpu, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::{Metered, Polite};
use rpramfs_tests::script::{new, WHITEOUT};
use rpramfs_tests::tree::walk;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;

const SMALL: u64 = 8 << 20;

fn file<R: Region>(fs: &Fs<R, TestHost>, name: &str) -> Ino {
    fs.create(ROOT_INO, name.as_bytes(), &new(S_IFREG | 0o644))
        .expect("create")
        .ino
}

fn made<R: Region>(region: R) -> Fs<R, TestHost> {
    let host = TestHost::new(21);
    format(&region, &host);
    mount(region, host).expect("mount")
}

/// Pages kept back, told by a filesystem with room.
fn reserve<R: Region>(fs: &Fs<R, TestHost>) -> u64 {
    let st = fs.statfs();
    assert!(st.available > 0);
    st.free - st.available
}

/// Writes to a file until nothing more can be had; returns where that was.
fn fill<R: Region>(fs: &Fs<R, TestHost>, ino: Ino) -> u64 {
    let buf = vec![7; 65_536];
    let mut at = 0;
    loop {
        match fs.write(ino, at, &buf) {
            Ok(n) => at += n as u64,
            Err(Error::NoSpace) => break,
            Err(e) => panic!("write: {e:?}"),
        }
    }
    assert_eq!(fs.statfs().available, 0, "NoSpace while there is space");
    at
}

/// As [`fill`], without touching the memory.
fn allocate_all<R: Region>(fs: &Fs<R, TestHost>, ino: Ino) -> u64 {
    let keep = Fallocate::Allocate { keep_size: false };
    let mut at = 0;
    for step in [1 << 24, 1 << 20, 1 << 16, PAGE_SIZE] {
        while fs.fallocate(ino, keep, at, step).is_ok() {
            at += step;
        }
    }
    assert_eq!(fs.statfs().available, 0, "NoSpace while there is space");
    at
}

/// Everything adds up, now and after another mount.
fn sound<R: Region>(fs: Fs<R, TestHost>) {
    assert_eq!(fs.host().reports(), []);
    assert!(!fs.is_read_only());
    drain(&fs).expect("drain");
    let tree = walk(&fs, &[]).expect("walk");
    audit(&fs, &tree).expect("audit");
    let (region, host) = fs.into_parts();
    checker::clean(&region, &host).expect("clean");
    let fs = mount(&region, host.reborn()).expect("mount again");
    let again = walk(&fs, &[]).expect("walk");
    audit(&fs, &again).expect("audit after another mount");
}

/// Two pages are wanted, the value's and the block's: they can be had while two are available.
fn attribute_fits<R: Region>(fs: &Fs<R, TestHost>, ino: Ino) {
    let available = fs.statfs().available;
    match fs.setxattr(ino, b"user.v", &[1; 2000], XattrMode::Either) {
        Ok(()) => fs.removexattr(ino, b"user.v").expect("removexattr"),
        Err(Error::NoSpace) if available < 2 => {}
        Err(e) => panic!("{available} pages available: {e:?}"),
    }
    assert_eq!(fs.statfs().available, available, "pages were lost");
}

/// The last page of a class of chunks may lie in a chunk that this very transaction opened: pages
/// of one file in between.
#[test]
fn space_is_found_to_the_last_page_beside_one_file() {
    let fs = made(MemRegion::new(SMALL));
    let a = file(&fs, "a");
    let big = file(&fs, "big");
    let mut n = 0;
    while fs.statfs().available > 0 {
        attribute_fits(&fs, a);
        match fs.write(big, n * 3 * PAGE_SIZE, b"x") {
            Ok(_) => n += 1,
            // A page, and perhaps two nodes of the extents' tree.
            Err(Error::NoSpace) if fs.statfs().available < 3 => break,
            Err(e) => panic!("write {n} of {:?}: {e:?}", fs.statfs()),
        }
    }
    assert!(n > 1500, "only {n} pages");
    sound(fs);
}

/// The same with files of a page each.
#[test]
fn space_is_found_to_the_last_page_among_many_files() {
    let fs = made(MemRegion::new(SMALL));
    let a = file(&fs, "a");
    let files: Vec<Ino> = (0..1850).map(|i| file(&fs, &format!("f{i}"))).collect();
    for (i, f) in files.iter().enumerate() {
        attribute_fits(&fs, a);
        match fs.write(*f, 0, b"x") {
            Ok(_) => {}
            Err(Error::NoSpace) if fs.statfs().available == 0 => break,
            Err(e) => panic!("write {i} of {:?}: {e:?}", fs.statfs()),
        }
    }
    assert_eq!(fs.statfs().available, 0, "meant to be filled");
    sound(fs);
}

/// More threads than pages: none of them gets what is kept back, whoever looked first.
#[test]
fn space_reserve_survives_many_threads() {
    const THREADS: usize = 8;
    // A reserve of more than the least, slots for all.
    let mem = Polite::new(MemRegion::new(300 << 20), 3);
    let fs = made(&mem);
    let reserve = reserve(&fs);
    let big = file(&fs, "big");
    let end = allocate_all(&fs, big);
    assert!(end > 200 << 20);
    let files: Vec<Ino> = {
        // Names and inodes need room as well.
        fs.fallocate(big, Fallocate::PunchHole, 0, 8 * PAGE_SIZE)
            .expect("punch");
        (0..THREADS).map(|i| file(&fs, &format!("f{i}"))).collect()
    };
    let (begin, done) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let over = AtomicBool::new(false);
    let mut got = 0;
    std::thread::scope(|s| {
        let (fs, begin, done, over) = (&fs, &begin, &done, &over);
        for f in &files {
            s.spawn(move || {
                own_cpu();
                loop {
                    begin.wait();
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        match fs.write(*f, 0, &[1; 8 * PAGE_SIZE as usize]) {
                            Ok(_) | Err(Error::NoSpace) => {}
                            Err(e) => panic!("write: {e:?}"),
                        }
                    }));
                    done.wait();
                    if let Err(p) = r {
                        std::panic::resume_unwind(p);
                    }
                }
            });
        }
        let mut least = u64::MAX;
        for round in 0..300 {
            let at = (8 + round % 64 * 16) * PAGE_SIZE;
            fs.fallocate(big, Fallocate::PunchHole, at, 6 * PAGE_SIZE)
                .expect("punch");
            begin.wait();
            done.wait();
            least = least.min(fs.statfs().free);
            for f in &files {
                let set = SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                };
                got += fs.getattr(*f).expect("getattr").pages;
                fs.setattr(*f, &set).expect("truncate");
            }
            let keep = Fallocate::Allocate { keep_size: true };
            match fs.fallocate(big, keep, at, 6 * PAGE_SIZE) {
                Ok(()) | Err(Error::NoSpace) => {}
                Err(e) => panic!("allocate: {e:?}"),
            }
        }
        over.store(true, Ordering::SeqCst);
        begin.wait();
        println!("space: {least} pages were left at the worst, {reserve} are kept back");
        assert!(least >= reserve, "{least} of {reserve} pages kept back");
    });
    assert!(got > 300, "the threads got {got} pages");
    sound(fs);
}

/// A full region, and what it takes to empty it: renames cannot use that up.
#[test]
fn space_renames_leave_the_reserve() {
    let fs = made(MemRegion::new(SMALL));
    let reserve = reserve(&fs);
    let mkdir = |name: &str| {
        fs.create(ROOT_INO, name.as_bytes(), &new(S_IFDIR | 0o755))
            .expect("mkdir")
            .ino
    };
    let src = mkdir("src");
    let dirs: Vec<Ino> = (0..100).map(|i| mkdir(&format!("d{i}"))).collect();
    for i in 0..100 {
        let name = format!("x{i}");
        fs.create(src, name.as_bytes(), &new(S_IFREG | 0o644))
            .expect("create");
    }
    let victims: Vec<(String, Ino)> = (0..400)
        .map(|i| (format!("victim{i}"), file(&fs, &format!("victim{i}"))))
        .collect();
    let big = file(&fs, "big");
    let end = fill(&fs, big);
    assert!(end > 6 << 20);
    let full = fs.statfs().free;
    assert!(full >= reserve, "{full} of {reserve} pages kept back");
    // An empty directory needs a node for its first entry.
    for (i, d) in dirs.iter().enumerate() {
        let name = format!("x{i}").into_bytes();
        for mode in [RenameMode::Replace, RenameMode::NoReplace, WHITEOUT] {
            let moved = fs.rename(src, &name, *d, b"y", mode);
            assert_eq!(moved, Err(Error::NoSpace), "{mode:?}");
        }
    }
    assert_eq!(fs.statfs().free, full, "what failed took nothing");
    // What replaces another gives space back, in the end: it may go some way into the reserve.
    for (i, (name, _)) in victims.iter().enumerate().take(50) {
        let from = format!("x{i}").into_bytes();
        let gone = fs.rename(src, &from, ROOT_INO, name.as_bytes(), RenameMode::Replace);
        assert!(gone.expect("replace").is_some());
    }
    let left = fs.statfs().free;
    assert!(left >= reserve / 2, "{left} of {reserve} pages are left");
    // Open files without names, all of them: the pending sets become trees.
    for (name, _) in &victims {
        fs.unlink(ROOT_INO, name.as_bytes()).expect("unlink");
    }
    fs.fallocate(big, Fallocate::PunchHole, 2 * PAGE_SIZE, PAGE_SIZE)
        .expect("punch");
    fs.fallocate(big, Fallocate::PunchHole, 1000 * PAGE_SIZE + 1, 10_000)
        .expect("punch");
    let set = SetAttr {
        size: Some(end - 3 * PAGE_SIZE - 5),
        ..SetAttr::default()
    };
    fs.setattr(big, &set).expect("truncate");
    let set = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    fs.setattr(big, &set).expect("truncate to nothing");
    let now = fs.statfs();
    assert!(now.available > end / PAGE_SIZE - 64, "{now:?}");
    // By their numbers nobody knows any more who was replaced: the next mount reclaims all.
    let (region, host) = fs.into_parts();
    let fs = mount(region, host.reborn()).expect("mount");
    sound(fs);
}

/// What was allocated was promised: writing there succeeds on a full region, also where it divides
/// extents and needs nodes.
#[test]
fn space_promised_is_there() {
    let fs = made(MemRegion::new(SMALL));
    let a = file(&fs, "a");
    let big = file(&fs, "big");
    let pages = 512;
    let keep = Fallocate::Allocate { keep_size: false };
    fs.fallocate(a, keep, 0, pages * PAGE_SIZE)
        .expect("allocate");
    fill(&fs, big);
    let mut order: Vec<u64> = (0..pages).step_by(2).collect();
    order.extend((1..pages).step_by(2));
    for p in order {
        assert_eq!(fs.write(a, p * PAGE_SIZE + 9, b"x"), Ok(1), "page {p}");
    }
    let mut page = vec![0xee; PAGE_SIZE as usize];
    for p in 0..pages {
        fs.read(a, p * PAGE_SIZE, &mut page).expect("read");
        let right = page.iter().enumerate();
        let right = right.filter(|(i, b)| **b == if *i == 9 { b'x' } else { 0 });
        // The size ends in the last page as it was allocated.
        assert_eq!(right.count(), PAGE_SIZE as usize, "page {p}");
    }
    sound(fs);
}

/// A run of many pages is wanted where free pages lie one by one: every chunk is looked into at most
/// once for each way to use it, and if there is one place with room, it is found.
#[test]
fn space_search_for_a_run_is_bounded() {
    let bytes = 1 << 30;
    let region = Metered::new(MemRegion::new(bytes), u64::MAX);
    let fs = made(&region);
    let f = file(&fs, "f");
    let comb = file(&fs, "comb");
    let end = allocate_all(&fs, comb) / PAGE_SIZE;
    for p in (0..end).step_by(16) {
        fs.fallocate(comb, Fallocate::PunchHole, p * PAGE_SIZE, PAGE_SIZE)
            .expect("punch");
    }
    // What was kept back lay together: others have that now.
    let mut n = 0;
    for size in [65_536, 32_768] {
        loop {
            n += 1;
            let other = file(&fs, &format!("other{n}"));
            match fs.setxattr(other, b"user.big", &vec![2; size], XattrMode::Either) {
                Ok(()) => assert!(n < 100, "there are no such runs"),
                Err(Error::NoSpace) => break,
                Err(e) => panic!("setxattr: {e:?}"),
            }
        }
    }
    assert!(fs.statfs().available > 10_000);
    let chunks = bytes / (2 << 20);
    let cost = |size: usize, want: Result<(), Error>| {
        let budget = 64 * chunks;
        region.refill(budget);
        let value = vec![1; size];
        let set = fs.setxattr(f, b"user.big", &value, XattrMode::Either);
        assert_eq!(set, want, "{size} bytes");
        let cost = budget - region.left();
        region.refill(u64::MAX);
        println!("space: {size} bytes, {cost} accesses for {chunks} chunks");
        cost
    };
    let costs = [
        cost(32_768, Err(Error::NoSpace)),
        cost(65_536, Err(Error::NoSpace)),
        cost(4000, Ok(())),
    ];
    // One place with sixteen pages, far from where the search begins.
    for p in end - 2048..end - 2048 + 16 {
        fs.fallocate(comb, Fallocate::PunchHole, p * PAGE_SIZE, PAGE_SIZE)
            .expect("punch");
    }
    let last = cost(65_536, Ok(()));
    for cost in costs.iter().chain([&last]) {
        assert!(*cost < 8 * chunks, "{cost} accesses for {chunks} chunks");
    }
    assert_eq!(fs.getxattr(f, b"user.big", &mut []), Ok(65_536));
    assert_eq!(fs.host().reports(), []);
    drain(&fs).expect("drain");
    let (region, host) = fs.into_parts();
    checker::clean(&region, &host).expect("clean");
}

/// A run that lies in another group is found, also where the only room of the first is below the place at
/// which a processor begins to look.
#[test]
fn a_run_in_another_group_is_found() {
    let fs = made(MemRegion::new(2 << 30));
    let (big, f) = (file(&fs, "big"), file(&fs, "f"));
    let others: Vec<_> = (0..100).map(|n| file(&fs, &format!("o{n}"))).collect();
    let keep = Fallocate::Allocate { keep_size: false };
    let mut end = 0;
    for step in [1 << 24, 1 << 20, 1 << 16, PAGE_SIZE] {
        while fs.fallocate(big, keep, end, step).is_ok() {
            end += step;
        }
    }
    let chunk_of = |file_page: u64| fs.extent_at(big, file_page).unwrap().unwrap().page / 512;
    // Single pages in four whole chunks of group 0 that lie below 16.
    let low: Vec<u64> = (0..end / PAGE_SIZE / 512)
        .map(|c| c * 512)
        .filter(|p| (4..12).contains(&chunk_of(*p)) && chunk_of(p + 511) == chunk_of(*p))
        .take(6)
        .collect();
    assert!(low.len() >= 4, "{low:?}");
    for p in &low {
        for k in (1..512).step_by(2) {
            fs.fallocate(big, Fallocate::PunchHole, (p + k) * PAGE_SIZE, PAGE_SIZE)
                .unwrap();
        }
    }
    // What was kept back lay together: others have that now.
    let mut o = others.iter();
    for size in [65_536usize, 32_768, 16_384, 8_192] {
        loop {
            match fs.setxattr(
                *o.next().unwrap(),
                b"user.big",
                &vec![2; size],
                XattrMode::Either,
            ) {
                Ok(()) => {}
                Err(Error::NoSpace) => break,
                Err(e) => panic!("{e:?}"),
            }
        }
    }
    assert!(fs.statfs().available > 40);
    // Sixteen pages in one run, in group 1.
    let p = (0..end / PAGE_SIZE / 512)
        .map(|c| c * 512)
        .find(|p| chunk_of(*p) >= 512 + 100)
        .unwrap()
        + 64;
    fs.fallocate(big, Fallocate::PunchHole, p * PAGE_SIZE, 16 * PAGE_SIZE)
        .unwrap();
    set_cpu(1);
    let found = fs.setxattr(f, b"user.big", &vec![1; 65_536], XattrMode::Either);
    set_cpu(0);
    assert_eq!(found, Ok(()));
}
