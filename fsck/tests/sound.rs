// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A sound region is found sound.

mod common;

use common::*;
use fs_core::check::Superblocks;
use fs_core::Region;

#[test]
fn just_formatted() {
    for len in [1 << 20, 24 << 20, 3 << 30] {
        let region = format(len);
        let report = assert_clean(&region, "formatted");
        assert_eq!((report.files, report.directories), (0, 1));
    }
}

#[test]
fn with_one_of_everything() {
    let region = format(LEN);
    populate(&region);
    let report = assert_clean(&region, "populated");
    assert_eq!(report.sealed, 1);
    assert_eq!(report.pending, 2);
    assert!(report.verified > 5 << 20);
    let tree = read_tree(&region).expect("tree");
    assert_clean(&region, "after a mount");
    let before = snapshot(&region);
    let out = run(&region, true, true).expect("repair");
    assert!(out.findings.is_empty());
    let after = snapshot(&region);
    let differ = before.iter().zip(&after).position(|(a, b)| a != b);
    // Only the mount marker changes.
    assert!(differ.is_none_or(|d| (256..304).contains(&d)), "{differ:?}");
    assert_eq!(read_tree(&region).expect("tree"), tree);
}

/// A region can be longer than the filesystem in it: its backup superblock is found all the same.
#[test]
fn a_longer_region() {
    let small = format(LEN);
    populate(&small);
    let tree = read_tree(&small).expect("tree");
    let region = host::UserRegion::anonymous(2 * LEN).expect("memory");
    restore(&region, &snapshot(&small));
    assert_clean(&region, "longer");
    region.zero(0, 256).expect("zero");
    let out = run(&region, true, false).expect("repair");
    assert_eq!((out.report.found, out.report.left()), (1, 0));
    assert_clean(&region, "repaired");
    assert_eq!(read_tree(&region).expect("tree"), tree);
}

/// A change of label that is cut short between the two superblocks is no damage.
#[test]
fn between_two_superblocks() {
    let region = format(LEN);
    let host = host::UserHost::new();
    let supers = Superblocks::read(&region, &host, false).expect("superblocks");
    let old = supers.best().expect("sound").clone();
    let new = old.renamed(&host, Some(&[b'n'; 32]), None);
    let at = old.geometry().backup_offset();
    region.write(at, new.bytes()).expect("write");
    let label = |r: &host::UserRegion| fs_core::probe(r, &host).expect("probe").label;
    let out = run(&region, false, false).expect("check");
    assert!(out.findings.is_empty() && out.notes.len() == 1);
    let out = run(&region, true, false).expect("repair");
    assert!(out.findings.is_empty());
    assert_eq!(label(&region), [b'n'; 32]);
    let mut primary = [0; 256];
    region.read(0, &mut primary).expect("read");
    assert_eq!(&primary, new.bytes());
}
