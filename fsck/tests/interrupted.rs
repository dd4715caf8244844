// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A repair that is cut short, after any store, can be repeated, and loses nothing by it.

mod common;

use common::*;
use fs_core::check::Image;
use fs_core::Region;
use host::{UserHost, UserRegion};
use rpramfs_tests::record::Stopping;

fn cut_short(name: &str, damage: &dyn Fn(&UserRegion), lossy: &[&str], lost_names: bool) {
    let region = format(LEN);
    populate(&region);
    let before = read_tree(&region).expect("tree");
    damage(&region);
    let damaged = snapshot(&region);
    let whole = run(&region, true, false).expect("repair");
    assert!(!whole.findings.is_empty(), "{name}: nothing found");
    let after = read_tree(&region).expect("tree");
    // How many steps there are.
    let mut steps = 1;
    loop {
        restore(&region, &damaged);
        if run(&Stopping::tearing(&region, steps), true, false).is_ok() {
            break;
        }
        steps *= 2;
    }
    // Every step of a short repair, a sample of a long one.
    let stride = (steps / 150).max(1);
    for n in (0..steps).step_by(stride as usize) {
        restore(&region, &damaged);
        let _ = run(&Stopping::tearing(&region, n), true, false);
        let again = run(&region, true, false).unwrap_or_else(|e| panic!("{name}: {n}: {e}"));
        assert_eq!(again.report.left(), 0);
        let clean = run(&region, false, false).expect("check");
        assert!(
            clean.findings.is_empty(),
            "{name}: after {n} of {steps} steps: {:#?}",
            clean.findings
        );
        let tree = read_tree(&region).unwrap_or_else(|e| panic!("{name}: {n}: {e}"));
        for (path, node) in &before {
            if lossy.iter().any(|l| path.starts_with(l)) {
                continue;
            }
            let found = if lost_names {
                tree.values().find(|t| t.ino == node.ino)
            } else {
                tree.get(path)
            };
            let Some(found) = found else {
                panic!("{name}: after {n} of {steps} steps: {path} is gone");
            };
            assert_eq!(
                (&found.data, found.mode),
                (&node.data, node.mode),
                "{name}: after {n} of {steps}: {path}"
            );
        }
        // What an uninterrupted repair saves of the damaged parts is saved now, too.
        for (path, node) in after.iter().filter(|(p, _)| !p.starts_with("/lost+found")) {
            assert_eq!(
                tree.get(path).map(|t| &t.data),
                Some(&node.data),
                "{name}: after {n} of {steps} steps: {path}"
            );
        }
    }
}

fn zero(region: &UserRegion, off: u64, len: u64) {
    region.zero(off, len).expect("zero");
}

/// The n-th node of the tree of a path.
fn node_of(region: &UserRegion, path: &str, n: usize) -> u64 {
    let host = UserHost::new();
    let image = Image::open(region, &host).expect("open");
    let inode = image.resolve(path.as_bytes()).expect(path);
    let nodes = match image.entries(&inode) {
        Ok((_, scan)) => scan.nodes,
        Err(_) => image.records(&inode).expect(path).1.nodes,
    };
    nodes[n] * 4096
}

#[test]
fn root_of_a_directory() {
    let damage = |r: &UserRegion| zero(r, node_of(r, "/many", 0), 4096);
    cut_short("inner node of /many", &damage, &[], false);
}

#[test]
fn leaf_of_a_directory() {
    let damage = |r: &UserRegion| zero(r, node_of(r, "/many", 2) + 512, 256);
    cut_short("leaf of /many", &damage, &[], true);
}

#[test]
fn inner_node_of_extents() {
    let damage = |r: &UserRegion| zero(r, node_of(r, "/sparse", 0), 4096);
    cut_short("inner node of /sparse", &damage, &[], false);
}

#[test]
fn system_page_and_bitmaps() {
    let damage = |r: &UserRegion| {
        zero(r, 4096, 8192);
        zero(r, 4 * 4096, 3 * 4096);
    };
    cut_short(
        "system page, shards, summaries, chunks",
        &damage,
        &[],
        false,
    );
}

#[test]
fn inode_table_lost() {
    let damage = |r: &UserRegion| {
        zero(r, 4096 + 512, 256);
        zero(r, LEN - 4096 + 512, 256);
    };
    cut_short("both inodes of the table", &damage, &[], false);
}

#[test]
fn an_inode() {
    let damage = |r: &UserRegion| {
        let host = UserHost::new();
        let off = {
            let image = Image::open(r, &host).expect("open");
            image.resolve(b"/a/b").expect("path").offset
        };
        zero(r, off, 256);
    };
    cut_short("inode of /a/b", &damage, &["/a/b"], true);
}
