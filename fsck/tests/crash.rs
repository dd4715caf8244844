// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a crash leaves is sound: the check takes committed transactions into account, and pending
//! work is no damage.

mod common;

use common::*;
use fs_core::{
    Fallocate, Fs, MountOptions, OwnerKind, RenameMode, Result, SetAttr, XattrMode, ROOT_INO,
    S_IFDIR, S_IFLNK, S_IFREG,
};
use host::{UserHost, UserRegion};
use rpramfs_tests::record::Stopping;

fn script(region: &Stopping<&UserRegion>) -> Result<()> {
    let fs = Fs::mount(
        region,
        UserHost::new(),
        &MountOptions {
            read_only: false,
            owner: owner(OwnerKind::Fuse),
            alive: &|_| false,
        },
    )?;
    let d = fs.create(ROOT_INO, b"new dir", &new(S_IFDIR | 0o755))?.ino;
    let f = fs.create(d, b"file", &new(S_IFREG | 0o644))?.ino;
    fs.write(f, 0, &bytes(1, 50_000))?;
    fs.write(f, 1 << 20, &bytes(2, 5000))?;
    fs.symlink(d, b"link", &[b'y'; 500], &new(S_IFLNK | 0o777))?;
    fs.rename(d, b"link", ROOT_INO, b"moved", RenameMode::Replace)?;
    fs.link(f, ROOT_INO, b"second")?;
    fs.setxattr(f, b"user.a", &bytes(3, 10_000), XattrMode::Either)?;
    fs.setxattr(f, b"user.a", b"short", XattrMode::Either)?;
    let many = fs.lookup(ROOT_INO, b"many")?;
    for i in 0..60 {
        let name = format!("another file, number {i}");
        fs.create(many, name.as_bytes(), &new(S_IFREG | 0o644))?;
    }
    let sparse = fs.lookup(ROOT_INO, b"sparse")?;
    fs.setattr(
        sparse,
        &SetAttr {
            size: Some(10_000),
            ..SetAttr::default()
        },
    )?;
    fs.fallocate(f, Fallocate::Allocate { keep_size: false }, 0, 3 << 20)?;
    fs.fallocate(f, Fallocate::PunchHole, 4096, 20_000)?;
    fs.fallocate(f, Fallocate::ZeroRange { keep_size: true }, 100, 9000)?;
    fs.seal(f)?;
    let sealed = fs.lookup(ROOT_INO, b"sealed")?;
    fs.unseal(sealed)?;
    for i in 0..30 {
        let name = format!("file number {i:04}");
        let ino = fs.unlink(many, name.as_bytes())?.ino;
        fs.evict(ino)?;
    }
    let ino = fs.unlink(ROOT_INO, b"sparse")?.ino;
    fs.evict(ino)?;
    fs.unlink(d, b"file")?;
    fs.rmdir(ROOT_INO, b"new dir")?;
    fs.evict(d)?;
    fs.unmount()
}

#[test]
fn stopped_after_any_store() {
    let region = format(LEN);
    populate(&region);
    let image = snapshot(&region);
    let all = Stopping::new(&region, u64::MAX);
    script(&all).expect("script");
    let total = u64::MAX - all.left();
    assert_clean(&region, "after the script");
    let stride = (total / 400).max(1);
    let mut replayed = 0;
    let mut pending = 0;
    for n in (0..total).step_by(stride as usize) {
        restore(&region, &image);
        let stopping = Stopping::new(&region, n);
        // The clock makes a few stores more or less.
        if script(&stopping).is_ok() {
            continue;
        }
        let before = snapshot(&region);
        let report = assert_clean(&region, &format!("after {n} of {total} stores"));
        replayed += report.replayed;
        pending = pending.max(report.pending);
        assert!(before == snapshot(&region), "a read-only check wrote");
        if n % 7 == 0 {
            // A repair carries the journal out, and finds nothing either.
            let out = run(&region, true, false).expect("repair");
            assert!(out.findings.is_empty(), "{n}: {:#?}", out.findings);
            assert_eq!(assert_clean(&region, "repaired").replayed, 0);
        }
        read_tree(&region).unwrap_or_else(|e| panic!("after {n}: {e}"));
    }
    assert!(replayed > 0, "no transaction was ever cut short");
    assert!(pending > 2, "no work was ever left");
}
