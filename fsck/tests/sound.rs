// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A sound region is found sound.

mod common;

use common::*;

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
