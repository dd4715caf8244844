// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that fails: a file loses the pages it had there, and nobody anything else.

use super::{file, fill, SMALL};
use fs_core::{Error, Fs, Region, Result, ROOT_INO, S_IFREG};
use parking_lot::RwLock;
use rpramfs_tests::checker;
use rpramfs_tests::fixture::{drain, format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::script::new;
use rpramfs_tests::tree::extents;
use std::collections::BTreeSet;

/// A region with pages that can be neither read nor stored to.
struct Failing {
    inner: MemRegion,
    bad: RwLock<BTreeSet<u64>>,
}

impl Failing {
    fn new(len: u64) -> Self {
        Failing {
            inner: MemRegion::new(len),
            bad: RwLock::default(),
        }
    }

    fn fail(&self, page: u64) {
        self.bad.write().insert(page);
    }

    fn good(&self, off: u64, len: u64) -> Result<()> {
        let end = (off + len).div_ceil(4096);
        match self.bad_page(off / 4096, end - off / 4096) {
            Some(page) if len > 0 => Err(Error::corrupt(page * 4096, "memory error")),
            _ => Ok(()),
        }
    }
}

impl Region for Failing {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        self.good(off, 8)?;
        self.inner.load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.good(off, 8)?;
        self.inner.store(off, value)
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<std::result::Result<(), u64>> {
        self.good(off, 8)?;
        self.inner.compare_exchange(off, old, new)
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.good(off, buf.len() as u64)?;
        self.inner.read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.good(off, buf.len() as u64)?;
        self.inner.write(off, buf)
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.good(off, len)?;
        self.inner.zero(off, len)
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.good(from, len)?;
        self.good(to, len)?;
        self.inner.copy(from, to, len)
    }
    fn bad_page(&self, page: u64, len: u64) -> Option<u64> {
        self.bad.read().range(page..page + len).next().copied()
    }
}

fn made() -> Fs<Failing, TestHost> {
    let host = TestHost::new(22);
    let region = Failing::new(SMALL);
    format(&region, &host);
    mount(region, host).expect("mount")
}

/// What a check finds, and then that it is repaired.
fn leaves(fs: Fs<Failing, TestHost>, pages: u64) {
    let (region, host) = fs.into_parts();
    // The memory is in order again, as after another boot.
    region.bad.write().clear();
    if pages > 0 {
        let found = checker::clean(&region, &host).expect_err("pages that nobody names");
        let what = format!("{pages} pages marked that nothing names");
        assert!(found.contains(&what), "{found}");
    }
    checker::repair(&region, &host).expect("repair");
    checker::clean(&region, &host).expect("clean");
}

#[test]
fn free_memory_that_fails_is_given_to_nobody() {
    let fs = made();
    let whole = {
        let ino = file(&fs, "whole");
        let size = fill(&fs, ino);
        fs.unlink(ROOT_INO, b"whole").expect("unlink");
        fs.evict(ino).expect("evict");
        drain(&fs).expect("drain");
        size
    };
    let mut rng = Rng(5);
    // None of them is in use but by what is metadata for good.
    let data = fs.info().geometry.data_start + 64..fs.info().geometry.data_end;
    for _ in 0..40 {
        fs.region()
            .fail(data.start + rng.below(data.end - data.start));
    }
    let bad = fs.region().bad.read().len() as u64;
    for round in 0..3 {
        let ino = file(&fs, "again");
        let size = fill(&fs, ino);
        assert!(whole - size <= (bad + 8) * 4096, "{round}: {whole}, {size}");
        for e in extents(&fs, ino).expect("extents") {
            assert_eq!(fs.region().bad_page(e.page, e.len), None, "{round}");
        }
        fs.unlink(ROOT_INO, b"again").expect("unlink");
        fs.evict(ino).expect("evict");
        drain(&fs).expect("drain");
    }
    assert_eq!(fs.host().reports(), []);
    assert!(!fs.is_read_only());
    leaves(fs, bad);
}

/// A hundred pages side by side, where the next page that is asked for would come from.
#[test]
fn many_side_by_side_are_passed_by() {
    let fs = made();
    let ino = file(&fs, "f");
    assert_eq!(fs.write(ino, 0, &[1; 4096]), Ok(4096));
    let first = extents(&fs, ino).expect("extents")[0].page;
    for page in first + 1..first + 101 {
        fs.region().fail(page);
    }
    for n in 0..50 {
        let name = format!("link {n}");
        fs.symlink(ROOT_INO, name.as_bytes(), &[b't'; 500], &new(0o777))
            .expect("a page for the target");
        let ino = file(&fs, &format!("file {n}"));
        assert_eq!(fs.write(ino, 0, &[2; 9 * 4096]), Ok(9 * 4096), "{n}");
    }
    assert_eq!(fs.host().reports(), []);
    assert!(!fs.is_read_only());
}

#[test]
fn a_file_loses_what_it_had_there() {
    let fs = made();
    let ino = file(&fs, "f");
    let bytes = Rng(6).bytes(64 * 4096);
    assert_eq!(fs.write(ino, 0, &bytes), Ok(bytes.len()));
    let first = extents(&fs, ino).expect("extents")[0];
    assert!(first.len >= 64);
    fs.region().fail(first.page + 10);
    let mut buf = [0; 4096];
    assert_eq!(fs.read(ino, 10 * 4096, &mut buf), Err(Error::Io));
    assert_eq!(fs.write(ino, 10 * 4096 + 100, b"new"), Err(Error::Io));
    // What comes before it is written, and told.
    let again = fs.write(ino, 8 * 4096, &bytes[8 * 4096..16 * 4096]);
    assert_eq!(again, Ok(2 * 4096));
    assert_eq!(fs.read(ino, 9 * 4096, &mut buf), Ok(4096));
    assert_eq!(buf, bytes[9 * 4096..10 * 4096]);
    assert_eq!(fs.write(ino, 11 * 4096, b"new"), Ok(3));
    // A seal reads all of it; so does a copy.
    assert_eq!(fs.seal(ino), Err(Error::Io));
    let other = file(&fs, "g");
    let at = 10 * 4096;
    assert_eq!(fs.copy_range(ino, 0, other, 0, 64 * 4096), Ok(at));
    let rest = fs.copy_range(ino, at, other, at, 64 * 4096 - at);
    assert_eq!(rest, Err(Error::Io));
    let mut copy = vec![0; at as usize];
    assert_eq!(fs.read(other, 0, &mut copy), Ok(copy.len()));
    assert!(copy == bytes[..copy.len()]);
    // None of this is damage of the filesystem.
    assert_eq!(fs.host().reports(), []);
    assert!(!fs.is_read_only());
    // A hole in place of the page: it can be written again, and the page is given to nobody.
    fs.fallocate(ino, fs_core::Fallocate::PunchHole, 10 * 4096, 4096)
        .expect("punch");
    assert_eq!(fs.write(ino, 10 * 4096, &bytes[..4096]), Ok(4096));
    assert_eq!(fs.read(ino, 10 * 4096, &mut buf), Ok(4096));
    assert_eq!(buf, bytes[..4096]);
    for f in ["f", "g"] {
        let ino = fs.unlink(ROOT_INO, f.as_bytes()).expect("unlink").ino;
        fs.evict(ino).expect("evict");
    }
    drain(&fs).expect("drain");
    leaves(fs, 1);
}

/// Where metadata was, the mount says so and goes on read-only.
#[test]
fn metadata_that_fails_is_corrupt() {
    let fs = made();
    let ino = file(&fs, "f");
    assert_eq!(fs.write(ino, 0, b"bytes"), Ok(5));
    let page = rpramfs_tests::fixture::inode(&fs, ino).expect("an inode") / 4096;
    fs.region().fail(page);
    let mut buf = [0; 5];
    assert!(matches!(fs.read(ino, 0, &mut buf), Err(Error::Corrupt(_))));
    assert!(fs.is_read_only());
    assert_eq!(fs.host().reports().len(), 1);
}

/// A transaction that was committed and cannot be carried out: nothing rests on it, the next mount does it.
#[test]
fn what_is_not_carried_out_is_by_the_next_mount() {
    let fs = made();
    // The copy of the inode table's inode is there, which is stored to without being read.
    fs.region().fail(fs.info().geometry.data_end);
    let mut made = 0;
    let error = loop {
        let name = format!("file {made}");
        match fs.create(ROOT_INO, name.as_bytes(), &new(S_IFREG | 0o644)) {
            Ok(_) => made += 1,
            Err(e) => break e,
        }
        assert!(made < 100_000, "the table does not grow");
    };
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    let next = fs.create(ROOT_INO, b"more", &new(S_IFREG | 0o644));
    assert_eq!(next.map(|a| a.ino), Err(Error::ReadOnly));
    let (region, host) = fs.into_parts();
    region.bad.write().clear();
    let fs = mount(&region, host.reborn()).expect("mount again");
    assert_eq!(fs.stats().replayed, 1);
    for n in 0..=made {
        let name = format!("file {n}");
        assert!(fs.lookup(ROOT_INO, name.as_bytes()).is_ok(), "{name}");
    }
    drop(fs);
    checker::clean(&region, &host).expect("clean");
}
