// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A single structure that says what is not so, its checksum right; and what is cut short in the midst of
//! mending one.

use super::{file, BYTES};
use fs_core::layout::{inode as at, marker, slot, system, PENDING_SETS};
use fs_core::{Error, Fs, MountOptions, OwnerKind, Region, XattrMode, ROOT_INO};
use rpramfs_tests::checker;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::forge::{body, Forge};
use rpramfs_tests::host::TestHost;
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::Stopping;

fn empty() -> (MemRegion, TestHost) {
    let (mem, host) = (MemRegion::new(BYTES), TestHost::new(21));
    format(&mem, &host);
    (mem, host)
}

/// Also with a pending record whose key is u64::MAX, and the sets behind it have their turn.
#[test]
fn reclaim_comes_to_an_end() {
    let (mem, host) = empty();
    {
        let fs = mount(&mem, host.clone()).unwrap();
        // An orphan in set 2 (root is 1), which a later mount has to reclaim.
        let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
        assert!(f % PENDING_SETS > 0);
        fs.unlink(ROOT_INO, b"f").unwrap();
    }
    let forge = Forge::new(&mem, &host);
    let set = forge.geo.system_offset(system::PENDING);
    for (n, w) in [u64::MAX, 0, 1].into_iter().enumerate() {
        forge.put(set + (at::BODY + 8 * n) as u64, &w.to_le_bytes());
    }
    forge.put(set + at::BODY_COUNT as u64, &[1, 0]);
    forge.seal(set);
    let fs = mount(&mem, host.reborn()).unwrap();
    let mut steps = 0u64;
    while fs
        .reclaim_step(&mut |_, work| work().map(|()| true))
        .unwrap()
    {
        steps += 1;
        if steps == 1_000_000 {
            panic!(
                "a million steps, {} still pending, corruptions {}",
                fs.stats().pending,
                fs.stats().corruptions
            );
        }
    }
}

/// One flipped bit in the details of the marker, or a look between the two stores of who takes it, does not
/// take the region from a process that lives.
#[test]
fn a_living_holder_with_unknown_details_is_busy() {
    let (mem, host) = empty();
    let me = host::owner::current(OwnerKind::Fuse).unwrap();
    let options = || MountOptions {
        read_only: false,
        owner: me,
        alive: &host::owner::alive,
    };
    let first = Fs::mount(&mem, host.clone(), &options()).unwrap();
    assert!(matches!(
        Fs::mount(&mem, host.reborn(), &options()),
        Err(Error::Busy)
    ));
    let w = mem.load(marker::OFFSET + marker::SINCE as u64).unwrap();
    mem.store(marker::OFFSET + marker::SINCE as u64, w ^ 1)
        .unwrap();
    let tool = host::owner::current(OwnerKind::Tool).unwrap();
    let by_fsck = fs_core::check::holder(&mem, &host, &tool, &host::owner::alive);
    assert!(matches!(by_fsck, Ok(Some(_))), "{by_fsck:?}");
    let second = Fs::mount(&mem, host.reborn(), &options()).map(drop);
    assert_eq!(second, Err(Error::Busy));
    drop(first);
}

/// The slot that it has committed is one that a mount carries out.
#[test]
fn a_repair_cut_short_leaves_what_a_mount_takes() {
    let (mem, host) = empty();
    {
        let fs = mount(&mem, host.clone()).unwrap();
        fs.create(ROOT_INO, b"f", &file()).unwrap();
        fs.unmount().unwrap();
    }
    // Nothing is damaged but a sum.
    let forge = Forge::new(&mem, &host);
    let account = forge.geo.slot_offset(1) + slot::ACCOUNT;
    forge.set(account, slot::ACCOUNT_FREE, 5);
    assert!(!mount(&MemRegion::copy_of(&mem), host.reborn())
        .unwrap()
        .is_read_only());
    let mut bad = Vec::new();
    for n in 0.. {
        let copy = MemRegion::copy_of(&mem);
        let done = checker::repair(&Stopping::new(&copy, n), &host).is_ok();
        let clean = checker::clean(&copy, &host).is_ok();
        let fs = mount(&copy, host.reborn()).unwrap();
        if fs.is_read_only() {
            bad.push(format!(
                "after {n} stores: check clean: {clean}, mount read-only: {:?}",
                fs.host().reports()
            ));
        }
        if done {
            break;
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// After the repair of a file whose seal has attributes.
#[test]
fn a_second_check_finds_nothing() {
    let (mem, host) = empty();
    let f = {
        let fs = mount(&mem, host.clone()).unwrap();
        let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
        fs.write(f, 0, &[7; 10_000]).unwrap();
        fs.seal(f).unwrap();
        let f = body(&fs, f);
        let seal = mem.load(f.off + at::SEAL as u64).unwrap();
        fs.setxattr(seal, b"user.x", b"why not", XattrMode::Either)
            .unwrap();
        fs.unmount().unwrap();
        f
    };
    let forge = Forge::new(&mem, &host);
    // Flags: in use, no longer sealed.
    forge.put(f.off + at::FLAGS as u64, &1u32.to_le_bytes());
    forge.seal(f.off);
    checker::repair(&mem, &host).unwrap();
    checker::clean(&mem, &host).unwrap();
}

/// Its transaction names the account of another slot.
#[test]
fn check_and_mount_agree_about_a_slot() {
    let (mem, host) = empty();
    let forge = Forge::new(&mem, &host);
    let home = forge.geo.slot_offset(1) + slot::ACCOUNT;
    let mut b = [0u8; 256];
    mem.read(home, &mut b).unwrap();
    let (off, word) = forge.transaction(0, &[home], &b);
    mem.store(off, word).unwrap();
    let clean = checker::clean(&mem, &host).map(|r| r.replayed);
    let copy = MemRegion::copy_of(&mem);
    let fs = mount(&copy, host.reborn()).unwrap();
    assert_eq!(clean.is_ok(), !fs.is_read_only());
}

/// A shard as it was some time ago, its checksum right: what was made since stays.
#[test]
fn a_stale_shard_does_not_overwrite_inodes() {
    let (mem, host) = empty();
    let geo = Forge::new(&mem, &host).geo;
    let shard = geo.shard_offset(0);
    let fs = mount(&mem, host.clone()).unwrap();
    fs.create(ROOT_INO, b"first", &file()).unwrap();
    let mut old = [0u8; 256];
    mem.read(shard, &mut old).unwrap();
    let f = fs.create(ROOT_INO, b"f", &file()).unwrap().ino;
    fs.write(f, 0, b"precious").unwrap();
    fs.unmount().unwrap();
    mem.write(shard, &old).unwrap();
    let fs = mount(&mem, host.reborn()).unwrap();
    let made = fs.create(ROOT_INO, b"g", &file()).map(|a| a.ino);
    let mut buf = [0; 8];
    let _ = fs.read(f, 0, &mut buf);
    assert!(matches!(made, Err(Error::Corrupt(_))) || &buf == b"precious");
}
