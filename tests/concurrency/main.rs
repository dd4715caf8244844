// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Many threads on one mount. Afterwards everything must add up; and a crash in the middle, two
//! operations half done, must leave as good a filesystem as one alone.
//!
//! `RPRAMFS_ROUNDS` sets the number of operations of each thread.

use fs_core::{
    Error, Fallocate, Ino, NewInode, Region, RenameMode, SetAttr, XattrMode, ROOT_INO, S_IFDIR,
    S_IFREG,
};
use host::Volume;
use rpramfs_tests::checker;
use rpramfs_tests::crash::quietly;
use rpramfs_tests::env;
use rpramfs_tests::fixture::{audit, drain, empty, format, mount};
use rpramfs_tests::host::{own_cpu, Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::{Polite, Recorder, Scratch};
use rpramfs_tests::script::{new, WHITEOUT};
use rpramfs_tests::tree::walk;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

fn rounds(daily: u64) -> u64 {
    env::number("RPRAMFS_ROUNDS", daily)
}

/// Errors that a race can lead to.
fn expected(e: &Error) -> bool {
    matches!(
        e,
        Error::NotFound
            | Error::Exists
            | Error::NotEmpty
            | Error::IsDirectory
            | Error::NotDirectory
            | Error::Stale
            | Error::NoSpace
            | Error::NotPermitted
            | Error::NoData
            | Error::Invalid
    )
}

fn check<T>(done: Result<T, Error>) -> Option<T> {
    match done {
        Ok(v) => Some(v),
        Err(e) => {
            assert!(expected(&e), "an error no race explains: {e:?}");
            None
        }
    }
}

/// What a thread does to names and files that all share.
fn shared_churn<R: Region>(v: &Volume<R, TestHost>, dirs: &[Ino], rng: &mut Rng) {
    let dir = *rng.pick(dirs);
    let to = *rng.pick(dirs);
    let name = format!("s{}", rng.below(12)).into_bytes();
    let other = format!("s{}", rng.below(12)).into_bytes();
    match rng.below(14) {
        0 | 1 => {
            check(v.create(dir, &name, &new(S_IFREG | 0o644)));
        }
        2 => {
            check(v.create(dir, &name, &new(S_IFDIR | 0o755)));
        }
        3 => {
            check(v.symlink(dir, &name, &[b't'; 300], &new(0o777)));
        }
        4 | 5 => {
            check(v.unlink(dir, &name));
        }
        6 => {
            check(v.rmdir(dir, &name));
        }
        7 | 8 => {
            let mode = match rng.below(4) {
                0 => RenameMode::Exchange,
                1 => RenameMode::NoReplace,
                2 => WHITEOUT,
                _ => RenameMode::Replace,
            };
            check(v.rename(dir, &name, to, &other, mode));
        }
        9 => {
            if let Some(a) = check(v.lookup_acquire(dir, &name)) {
                check(v.link(a.ino, to, &other));
                check(v.release(a.ino, 1));
            }
        }
        10 => {
            if let Some(a) = check(v.lookup_acquire(dir, &name)) {
                if a.mode & fs_core::S_IFMT == S_IFREG {
                    check(v.write(a.ino, rng.below(60_000), &[7; 5000]));
                    let mut buf = [0; 5000];
                    check(v.read(a.ino, rng.below(60_000), &mut buf));
                    if rng.one_in(3) {
                        let what = Fallocate::PunchHole;
                        check(v.fallocate(a.ino, what, rng.below(30_000), 20_000));
                    }
                }
                check(v.setxattr(a.ino, b"user.x", &name, XattrMode::Either));
                check(v.release(a.ino, 1));
            }
        }
        11 => {
            let mut seen = Vec::new();
            check(v.readdir(dir, 0, &mut |e| {
                seen.push(e.name.to_vec());
                true
            }));
            let n = seen.len();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(n, seen.len(), "readdir gave a name twice");
        }
        12 => {
            if let Some(a) = check(v.tmpfile(dir, &new(S_IFREG | 0o600))) {
                check(v.write(a.ino, 0, &[9; 3000]));
                if rng.one_in(2) {
                    check(v.link(a.ino, to, &other));
                }
                check(v.release(a.ino, 1));
            }
        }
        _ => {
            let _ = v.statfs();
            if let Some(ino) = check(v.lookup(dir, &name)) {
                check(v.getattr(ino));
            }
        }
    }
}

/// Files that only one thread changes: it knows what is in them.
struct Own {
    dir: Ino,
    files: BTreeMap<u64, (Ino, Vec<u8>)>,
}

impl Own {
    fn step<R: Region>(&mut self, v: &Volume<R, TestHost>, rng: &mut Rng) {
        let key = rng.below(6);
        let name = format!("own-{key}").into_bytes();
        match self.files.get_mut(&key) {
            None => {
                if let Some(a) = check(v.create(self.dir, &name, &new(S_IFREG | 0o644))) {
                    self.files.insert(key, (a.ino, Vec::new()));
                }
            }
            Some((ino, content)) => match rng.below(8) {
                0 => {
                    v.unlink(self.dir, &name).expect("unlink one's own");
                    self.files.remove(&key);
                }
                1 => {
                    let size = rng.below(40_000);
                    let set = SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    };
                    if check(v.setattr(*ino, &set)).is_some() {
                        content.resize(size as usize, 0);
                    }
                }
                2 | 3 => {
                    let mut buf = vec![0; 50_000];
                    let n = v.read(*ino, 0, &mut buf).expect("read one's own");
                    assert!(buf[..n] == content[..], "one's own file has other contents");
                }
                _ => {
                    let at = rng.below(30_000) as usize;
                    let len = 1 + rng.below(9000) as usize;
                    let data = rng.bytes(len);
                    if let Some(n) = check(v.write(*ino, at as u64, &data)) {
                        if content.len() < at + n {
                            content.resize(at + n, 0);
                        }
                        content[at..at + n].copy_from_slice(&data[..n]);
                    }
                }
            },
        }
    }
}

fn run<R: Region>(v: &Volume<R, TestHost>, host: &TestHost, threads: u64, rounds: u64, seed: u64) {
    let mut dirs = vec![ROOT_INO];
    for i in 0..3 {
        let name = format!("dir{i}");
        dirs.push(
            v.create(ROOT_INO, name.as_bytes(), &new(S_IFDIR | 0o755))
                .expect("mkdir")
                .ino,
        );
    }
    let still = AtomicBool::new(true);
    let done = AtomicI64::new(0);
    std::thread::scope(|s| {
        let dirs = &dirs;
        let mut running = Vec::new();
        for t in 0..threads {
            let done = &done;
            running.push(s.spawn(move || {
                own_cpu();
                let mut rng = Rng(seed * 1000 + t);
                let name = format!("thread{t}");
                let dir = v
                    .create(ROOT_INO, name.as_bytes(), &new(S_IFDIR | 0o755))
                    .expect("mkdir")
                    .ino;
                let mut own = Own {
                    dir,
                    files: BTreeMap::new(),
                };
                for _ in 0..rounds {
                    if rng.one_in(3) {
                        own.step(v, &mut rng);
                    } else {
                        shared_churn(v, dirs, &mut rng);
                    }
                    if rng.one_in(16) {
                        host.tick();
                    }
                }
                for (ino, content) in own.files.values() {
                    let mut buf = vec![0; 50_000];
                    let n = v.read(*ino, 0, &mut buf).expect("read one's own");
                    assert!(buf[..n] == content[..], "one's own file has other contents");
                }
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        // One that reclaims in the background, as a front end does.
        running.push(s.spawn(|| {
            own_cpu();
            while still.load(Ordering::Relaxed) && done.load(Ordering::SeqCst) < threads as i64 {
                check(v.reclaim_step());
                std::thread::yield_now();
            }
        }));
        // Whoever panics must not leave the reclaimer running.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&still);
        let begin = std::time::Instant::now();
        while done.load(Ordering::SeqCst) < threads as i64 {
            assert!(
                begin.elapsed().as_secs() < 300,
                "threads wait for each other"
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // A scope waits for its threads as well, but in std, which ThreadSanitizer does not look into.
        for thread in running {
            thread.join().expect("thread");
        }
    });
    assert!(
        host.reports().is_empty(),
        "corruption: {:?}",
        host.reports()
    );
    assert_eq!(host.held(), Vec::<usize>::new(), "locks are still held");
    assert_eq!(v.orphans(), 0, "orphans nobody holds");
}

#[test]
fn concurrency_churn() {
    for (seed, bytes, threads) in [(1, 32 << 20, 4), (2, 256 << 20, 8), (3, 2 << 20, 4)] {
        let mem = MemRegion::new(bytes);
        let host = TestHost::new(seed);
        format(&mem, &host);
        let v = Volume::new(mount(&mem, host.clone()).expect("mount"));
        let n = rounds(20_000);
        let begin = std::time::Instant::now();
        run(&v, &host, threads, n, seed);
        println!(
            "concurrency: {threads} threads, {} operations, {} ms",
            threads * n,
            begin.elapsed().as_millis()
        );
        let fs = v.into_fs();
        drain(&fs).expect("drain");
        let tree = walk(&fs, &[]).expect("walk");
        audit(&fs, &tree).expect("audit");
        checker::clean(&mem, &host).expect("clean");
        drop(fs);
        let fs = mount(&mem, host.reborn()).expect("mount again");
        let again = walk(&fs, &[]).expect("walk again");
        assert_eq!(rpramfs_tests::tree::diff(&tree, &again), None);
        empty(&fs).expect("empty");
        checker::clean(&mem, &host).expect("clean when empty");
    }
}

/// Threads interleaved as they happened to be, stopped anywhere.
#[test]
fn concurrency_crash() {
    let n = rounds(150);
    let mut states = 0;
    for seed in 1..=4 {
        let host = TestHost::new(seed);
        let tape = Recorder::new(Scratch::zeroed(8 << 20));
        format(&tape, &host);
        let fs = mount(&tape, host.clone()).expect("mount");
        let base = tape.inner().image();
        tape.start();
        let v = Volume::new(fs);
        run(&v, &host, 3, n, 100 + seed);
        drop(v);
        let log = tape.stop();
        let mut rng = Rng(seed);
        let points: Vec<usize> = {
            let most = log.stores.len() as u64;
            let mut p: Vec<usize> = (0..400).map(|_| rng.below(most + 1) as usize).collect();
            p.sort_unstable();
            p.dedup();
            p
        };
        let scratch = Scratch::new(&base);
        let rolling = base;
        let mut at = 0;
        for k in points {
            for s in &log.stores[at..k] {
                rolling.mem.store(s.off, s.new).expect("inside");
                scratch.touch(s.off, 8);
            }
            at = k;
            scratch.reset(&rolling.mem);
            states += 1;
            let host = host.reborn();
            quietly(|| {
                checker::clean(&scratch, &host)?;
                let fs = mount(&scratch, host.clone()).map_err(|e| format!("mount: {e:?}"))?;
                walk(&fs, &[])?;
                drain(&fs)?;
                let tree = walk(&fs, &[])?;
                audit(&fs, &tree)?;
                if !host.reports().is_empty() {
                    return Err(format!("corruption: {:?}", host.reports()));
                }
                checker::clean(&scratch, &host)?;
                empty(&fs)
            })
            .and_then(|r| r)
            .unwrap_or_else(|e| {
                panic!("seed {seed}, after {k} of {} stores: {e}", log.stores.len())
            });
        }
    }
    println!("concurrency: {states} crash states of interleaved threads");
}

/// Runs `other` again and again on a thread of its own until `f` is done.
fn beside(other: impl Fn() + Sync, f: impl FnOnce()) {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let thread = s.spawn(|| {
            own_cpu();
            while !over.load(Ordering::SeqCst) {
                other();
            }
        });
        let at_last = Over(&over);
        f();
        drop(at_last);
        thread.join().expect("thread");
    });
}

/// Everything adds up after threads have met.
fn sound<R: Region>(v: Volume<R, TestHost>, host: &TestHost) {
    assert_eq!(host.reports(), []);
    assert!(!v.is_read_only(), "read-only, and nobody said why");
    assert_eq!(host.held(), Vec::<usize>::new(), "locks are still held");
    let fs = v.into_fs();
    drain(&fs).expect("drain");
    let tree = walk(&fs, &[]).expect("walk");
    audit(&fs, &tree).expect("audit");
    let (region, host) = fs.into_parts();
    checker::clean(&region, &host).expect("clean");
}

/// A seal grows in a pending set, where work waits for whoever reclaims. This one is in somebody's
/// hands.
#[test]
fn concurrency_seal_and_reclaim() {
    let mem = Polite::new(MemRegion::new(64 << 20), 41);
    let host = TestHost::new(31);
    format(&mem, &host);
    let v = Volume::new(mount(&mem, host.clone()).expect("mount"));
    let f = v
        .create(ROOT_INO, b"f", &new(S_IFREG | 0o644))
        .expect("create")
        .ino;
    let windows = 6;
    for i in 0..windows {
        v.write(f, i * (2 << 20), b"x").expect("write");
    }
    let steps = AtomicI64::new(0);
    beside(
        || {
            v.reclaim_step().expect("reclaim");
            steps.fetch_add(1, Ordering::Relaxed);
        },
        || {
            for round in 0..rounds(24) {
                if let Err(e) = v.seal(f) {
                    panic!("round {round}: seal: {e:?}");
                }
                assert!(v.getattr(f).expect("getattr").sealed);
                if round % 8 == 0 {
                    let (mut at, mut n) = (Some(0), 0);
                    while let Some(from) = at {
                        at = v.fs().verify(f, from).expect("verify");
                        n += 1;
                    }
                    assert_eq!(n, windows, "windows of the seal");
                }
                if let Err(e) = v.unseal(f) {
                    panic!("round {round}: unseal: {e:?}");
                }
                while steps.load(Ordering::Relaxed) < round as i64 {
                    std::thread::yield_now();
                }
            }
        },
    );
    sound(v, &host);
}

/// Who comes by number may come while the number is given to a new inode. He sees one of the two
/// or none, never half of one.
#[test]
fn concurrency_getattr_and_reuse() {
    let mem = Polite::new(MemRegion::new(64 << 20), 41);
    let host = TestHost::new(32);
    format(&mem, &host);
    let v = Volume::new(mount(&mem, host.clone()).expect("mount"));
    let make = |i: u64| NewInode {
        mode: S_IFREG | 0o600 | (i % 8) as u32,
        uid: i as u32,
        gid: i as u32,
        rdev: 0,
    };
    let f = v.create(ROOT_INO, b"f", &make(0)).expect("create").ino;
    let (seen, stale) = (AtomicI64::new(0), AtomicI64::new(0));
    beside(
        || match v.getattr(f) {
            Ok(a) => {
                assert_eq!((a.ino, a.nlink, a.gid), (f, 1, a.uid));
                assert_eq!(a.mode, make(u64::from(a.uid)).mode);
                seen.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Stale) => drop(stale.fetch_add(1, Ordering::Relaxed)),
            Err(e) => panic!("getattr: {e:?}"),
        },
        || {
            for i in 1..=rounds(1000) {
                // Nobody holds it: what is unlinked is evicted.
                if let Err(e) = v.unlink(ROOT_INO, b"f") {
                    panic!("round {i}: unlink: {e:?}");
                }
                match v.create(ROOT_INO, b"f", &make(i)) {
                    Ok(a) => assert_eq!(a.ino, f, "the number is used anew"),
                    Err(e) => panic!("round {i}: create: {e:?}"),
                }
            }
        },
    );
    println!("concurrency: {seen:?} times an inode, {stale:?} times none");
    sound(v, &host);
}
