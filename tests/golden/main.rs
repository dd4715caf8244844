// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Regions of every age: what earlier versions wrote is found and written to, what later ones wrote is
//! left alone as far as docs/LAYOUT.md (section 5) asks.

use fs_core::check::Superblocks;
use fs_core::layout::sb;
use fs_core::{
    Error, Fs, Host, MountOptions, NewInode, Owner, OwnerKind, Region, SetAttr, ROOT_INO, S_IFREG,
};
use rpramfs_tests::fixture::{audit, churn, drain, empty, mount_as};
use rpramfs_tests::host::TestHost;
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::Recorder;
use rpramfs_tests::tree::{walk, Body};
use rpramfs_tests::{checker, golden};
use serde_json::json;
use std::process::Command;

type Tape = Recorder<MemRegion>;

fn host() -> TestHost {
    TestHost::new(77)
}

fn try_mount<R: Region>(region: R, read_only: bool) -> Result<Fs<R, TestHost>, Error> {
    let options = MountOptions {
        read_only,
        owner: Owner {
            boot_id: *b"the next boot id",
            kind: OwnerKind::Fuse,
            pid: 1,
            start: 2,
        },
        alive: &|_| false,
    };
    Fs::mount(region, host(), &options)
}

fn mount<R: Region>(region: R) -> Fs<R, TestHost> {
    try_mount(region, false).expect("mount")
}

/// What its manifest says is what is found, recovery and pending work included.
fn as_told(name: &str, fs: &Fs<&MemRegion, TestHost>) {
    let want = golden::manifest(name);
    let stats = fs.stats();
    drain(fs).expect("drain");
    let got = json!({
        "about": want["about"],
        "superblock": golden::superblock(&fs.info()),
        "replayed": stats.replayed,
        "pending": stats.pending,
        "contents": golden::contents(fs).expect("contents"),
    });
    if let Some(diff) = golden::diff(&want, &got) {
        panic!("{name}:\n{diff}");
    }
    assert_eq!(fs.host().reports(), []);
}

#[test]
fn golden_images_hold_what_they_held() {
    let names = golden::names();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let region = golden::load(&name);
        checker::clean(&region, &host()).expect(&name);
        let fs = mount(&region);
        as_told(&name, &fs);
        let tree = walk(&fs, &[]).expect("walk");
        audit(&fs, &tree).expect(&name);
        for ino in tree.iter().filter(|(_, n)| n.sealed).map(|(ino, _)| *ino) {
            let mut at = 0;
            while let Some(next) = fs.verify(ino, at).expect("verify") {
                at = next;
            }
        }
        fs.unmount().expect("unmount");
        let report = checker::clean(&region, &host()).expect(&name);
        println!("{name}: {} inodes, {report:?}", tree.len());
    }
}

#[test]
fn golden_images_can_be_read_without_being_written() {
    for name in golden::names() {
        let want = golden::manifest(&name);
        if want["pending"] != 0 {
            continue;
        }
        let region = golden::load(&name);
        let fs = try_mount(&region, true).expect("mount");
        let got = golden::contents(&fs).expect("contents");
        assert_eq!(golden::diff(&want["contents"], &got), None, "{name}");
    }
}

#[test]
fn golden_images_can_be_written_to() {
    for name in golden::names() {
        let region = golden::load(&name);
        let fs = mount(&region);
        drain(&fs).expect("drain");
        // Into every file: over its first byte, behind its last extent's end, cut to half.
        let tree = walk(&fs, &[]).expect("walk");
        for (ino, node) in &tree {
            if !matches!(node.body, Body::File(_)) {
                continue;
            }
            if node.sealed {
                assert_eq!(fs.write(*ino, 0, b"x"), Err(Error::NotPermitted));
                fs.unseal(*ino).expect("unseal");
            }
            fs.host().tick();
            assert_eq!(fs.write(*ino, 0, b"x"), Ok(1), "{name}: {ino}");
            let far = node.size.min(1 << 47) + 10_000;
            assert_eq!(fs.write(*ino, far, b"yz"), Ok(2), "{name}: {ino}");
            let mut back = [0; 3];
            let n = fs.read(*ino, far, &mut back).expect("read");
            assert_eq!(&back[..2], b"yz", "{name}: {ino}");
            assert_eq!(n, if node.size > far + 3 { 3 } else { 2 });
            let set = SetAttr {
                size: Some(node.size / 2),
                ..SetAttr::default()
            };
            fs.setattr(*ino, &set).expect("truncate");
        }
        churn(&fs, 5).expect(&name);
        let tree = walk(&fs, &[]).expect("walk");
        audit(&fs, &tree).expect(&name);
        checker::clean(&region, &host()).expect(&name);
        drop(fs);
        let fs = mount_as(&region, host(), *b"and one more....").expect("mount");
        drain(&fs).expect("drain");
        let again = walk(&fs, &[]).expect("walk");
        assert_eq!(rpramfs_tests::tree::diff(&tree, &again), None, "{name}");
        empty(&fs).expect(&name);
        assert_eq!(fs.host().reports(), [], "{name}");
        checker::clean(&region, &host()).expect(&name);
    }
}

/// New images are made, old ones are not.
#[test]
fn golden_images_are_never_overwritten() {
    for name in golden::names() {
        let path = golden::image_path(&name);
        let before = std::fs::read(&path).expect("read");
        let out = Command::new(env!("CARGO_BIN_EXE_rpramfs-golden"))
            .args(["new", &name])
            .output()
            .expect("run");
        assert!(!out.status.success(), "{name}");
        assert!(std::fs::read(&path).expect("read") == before, "{name}");
    }
}

/// Changes the superblocks at these offsets, and makes their checksums right.
fn rewrite(region: &MemRegion, at: &[u64], change: impl Fn(&mut [u8; sb::SIZE])) {
    for at in at {
        let mut b = [0; sb::SIZE];
        region.read(*at, &mut b).expect("inside");
        change(&mut b);
        b[sb::CRC..sb::CRC + 4].fill(0);
        let crc = host().crc32(0, &b);
        b[sb::CRC..sb::CRC + 4].copy_from_slice(&crc.to_le_bytes());
        region.write(*at, &b).expect("inside");
    }
}

fn both(region: &MemRegion) -> [u64; 2] {
    let info = fs_core::probe(region, &host()).expect("probe");
    [0, info.geometry.backup_offset()]
}

/// Each image, changed so.
fn from_the_future(
    copies: fn(&MemRegion) -> Vec<u64>,
    change: impl Fn(&mut [u8; sb::SIZE]) + Copy,
) -> Vec<(String, Tape)> {
    let changed = |name: String| {
        let region = golden::load(&name);
        rewrite(&region, &copies(&region), change);
        (name, Recorder::new(region))
    };
    golden::names().into_iter().map(changed).collect()
}

/// Both copies.
fn all(region: &MemRegion) -> Vec<u64> {
    both(region).to_vec()
}

/// Neither mounted nor repaired, and nothing is stored.
fn refused(name: &str, tape: &Tape, flags: u64, read_only_too: bool) {
    tape.start();
    let want = Error::UnknownFeatures { flags };
    assert_eq!(try_mount(tape, false).map(drop), Err(want), "{name}");
    if read_only_too {
        assert_eq!(try_mount(tape, true).map(drop), Err(want), "{name}");
    }
    let repaired = checker::repair(tape, &host()).map(drop);
    assert_eq!(repaired, Err(want), "{name}");
    let log = tape.stop();
    assert!(log.calls.is_empty(), "{name}: stored {:?}", log.calls);
}

#[test]
fn future_incompat_bits_are_refused() {
    for bit in [0, 1, 40, 63] {
        let set = move |b: &mut [u8; sb::SIZE]| b[sb::INCOMPAT + bit / 8] |= 1 << (bit % 8);
        for (name, tape) in from_the_future(all, set) {
            refused(&name, &tape, 1 << bit, true);
            let checked = checker::clean(&tape, &host());
            assert!(checked.is_err(), "{name}: checked what it cannot know");
        }
    }
}

/// What the feature moved is not taken for damage, nor is the old superblock believed for it.
#[test]
fn future_incompat_bits_are_refused_whatever_else_changed() {
    let change = |b: &mut [u8; sb::SIZE]| {
        b[sb::INCOMPAT] |= 1;
        b[sb::PPP_START] = 100;
        b[sb::PPP_PAGES] = 100;
    };
    for (name, tape) in from_the_future(all, change) {
        refused(&name, &tape, 1, true);
    }
    // Stopped between the two copies: the greater generation counts.
    let change = |b: &mut [u8; sb::SIZE]| {
        b[sb::INCOMPAT] |= 1;
        b[sb::GENERATION] += 1;
    };
    for (name, tape) in from_the_future(|r| both(r)[1..].to_vec(), change) {
        refused(&name, &tape, 1, true);
    }
}

#[test]
fn future_ro_compat_bits_allow_reading_only() {
    for bit in [0, 1, 63] {
        let set = move |b: &mut [u8; sb::SIZE]| b[sb::RO_COMPAT + bit / 8] |= 1 << (bit % 8);
        for (name, tape) in from_the_future(all, set) {
            refused(&name, &tape, 1 << bit, false);
            checker::clean(&tape, &host()).expect(&name);
            let fs = try_mount(&tape, true).expect(&name);
            let mut want = golden::manifest(&name);
            if want["pending"] == 0 {
                let got = golden::contents(&fs).expect("contents");
                assert_eq!(golden::diff(&want["contents"], &got), None, "{name}");
            }
            want["superblock"]["ro_compat"] = json!(1u64 << bit);
            let got = golden::superblock(&fs.info());
            assert_eq!(golden::diff(&want["superblock"], &got), None, "{name}");
            let new = NewInode {
                mode: S_IFREG,
                ..NewInode::default()
            };
            let create = || fs.create(ROOT_INO, b"new", &new).map(drop);
            assert_eq!(create(), Err(Error::ReadOnly), "{name}");
            // A remount does not make known what is not.
            fs.set_read_only(false);
            assert!(fs.is_read_only(), "{name}");
            assert_eq!(create(), Err(Error::ReadOnly), "{name}");
            fs.unmount().expect("unmount");
        }
    }
}

#[test]
fn future_compat_bits_are_kept() {
    let bits = 1 << 63 | 1 << 20 | 1;
    let set = |b: &mut [u8; sb::SIZE]| {
        b[sb::COMPAT..sb::COMPAT + 8].copy_from_slice(&u64::to_le_bytes(1 << 63 | 1 << 20 | 1));
    };
    for (name, tape) in from_the_future(all, set) {
        let probe = || fs_core::probe(&tape, &host()).expect("probe").compat;
        checker::clean(&tape, &host()).expect(&name);
        let fs = mount(&tape);
        drain(&fs).expect("drain");
        let got = golden::contents(&fs).expect("contents");
        let want = golden::manifest(&name);
        assert_eq!(golden::diff(&want["contents"], &got), None, "{name}");
        churn(&fs, 6).expect(&name);
        fs.unmount().expect("unmount");
        assert_eq!(probe(), bits, "{name}: written to");
        // Another label.
        let supers = Superblocks::read(&tape, &host(), true).expect("superblocks");
        let renamed = supers
            .best()
            .expect("one")
            .renamed(&host(), Some(&[b'l'; 32]), None);
        renamed.write(&tape).expect("write");
        assert_eq!(probe(), bits, "{name}: another label");
        // Either copy restored from the other.
        for at in both(tape.inner()) {
            tape.zero(at, 256).expect("zero");
            let (report, _) = checker::repair(&tape, &host()).expect("repair");
            assert_eq!(report.found, report.repaired, "{name}");
            checker::clean(&tape, &host()).expect(&name);
            assert_eq!(probe(), bits, "{name}: repaired");
        }
    }
}

#[test]
fn future_versions_are_refused() {
    let next = |b: &mut [u8; sb::SIZE]| b[sb::VERSION] += 1;
    let copies: [fn(&MemRegion) -> Vec<u64>; 3] = [
        all,
        // Stopped between the two, in either order: nobody knows where such a one keeps its generation.
        |r| both(r)[1..].to_vec(),
        |r| both(r)[..1].to_vec(),
    ];
    for copies in copies {
        for (name, tape) in from_the_future(copies, next) {
            refused(&name, &tape, 0, true);
            let text = Error::UnknownFeatures { flags: 0 }.to_string();
            assert_eq!(text, "made by a newer version");
        }
    }
}
