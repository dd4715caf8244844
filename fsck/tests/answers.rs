// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the caller answers counts: nothing is repaired against a no, a stop stops, and a region
//! without a free page can be repaired too.

mod common;

use common::*;
use fs_core::check::{check, CheckOptions, Decision, Event, Finding, Image, Report};
use fs_core::{OwnerKind, Region, ROOT_INO, S_IFREG};
use host::{UserHost, UserRegion};

fn run_with(region: &UserRegion, answer: &mut dyn FnMut(&Finding) -> Decision) -> Report {
    check(
        region,
        &UserHost::new(),
        &CheckOptions {
            repair: true,
            data: false,
            quick: false,
            owner: Some(owner(OwnerKind::Tool)),
            alive: &|_| false,
        },
        &mut |e| match e {
            Event::Finding(f) => answer(f),
            _ => Decision::Repair,
        },
    )
    .expect("check")
}

/// Damages a bit of everything.
fn ruin(region: &UserRegion) {
    let host = UserHost::new();
    let image = Image::open(region, &host).expect("open");
    let g = *image.geometry();
    let path = |p: &str| image.resolve(p.as_bytes()).expect(p);
    let (many, sparse) = (path("/many"), path("/sparse"));
    let many_nodes = image.entries(&many).expect("entries").1.nodes;
    let sparse_nodes = image.records(&sparse).expect("records").1.nodes;
    for off in [
        0,
        g.system_offset(0),
        g.system_offset(1),
        g.system_offset(4),
        g.shard_offset(0),
        g.chunk_offset(0),
        g.summary_offset(0),
        g.slot_offset(0) + 256,
        path("/a/b").offset,
        many_nodes[1] * 4096 + 768,
        sparse_nodes[0] * 4096,
        path("/attributes").xattr * 4096,
    ] {
        region.zero(off, 128).expect("zero");
    }
}

#[test]
fn a_no_changes_nothing() {
    let region = format(LEN);
    populate(&region);
    ruin(&region);
    let before = snapshot(&region);
    let report = run_with(&region, &mut |_| Decision::Leave);
    assert!(report.found > 10);
    assert_eq!(report.repaired, 0);
    let after = snapshot(&region);
    let differ = before
        .iter()
        .zip(&after)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(i, _)| i);
    for i in differ {
        assert!((256..304).contains(&i), "offset {i:#x} was changed");
    }
}

#[test]
fn some_yes_some_no_then_all() {
    let region = format(LEN);
    populate(&region);
    let whole = read_tree(&region).expect("tree");
    ruin(&region);
    let damaged = snapshot(&region);
    for pattern in 0..40u64 {
        restore(&region, &damaged);
        let mut n = 0;
        run_with(&region, &mut |_| {
            n += 1;
            if pattern >> (n % 6) & 1 == 0 {
                Decision::Leave
            } else {
                Decision::Repair
            }
        });
        let out = run(&region, true, false).expect("repair");
        assert_eq!(out.report.left(), 0, "{pattern}: {:#?}", out.findings);
        assert_clean(&region, &format!("pattern {pattern}"));
        let tree = read_tree(&region).expect("tree");
        for path in ["/small", "/three pages", "/some extents", "/sealed"] {
            assert_eq!(tree.get(path), whole.get(path), "pattern {pattern}: {path}");
        }
        // Half a repair in the wrong order may cost names, never bytes.
        let sparse = tree.values().find(|t| t.ino == whole["/sparse"].ino);
        assert!(
            sparse.is_some_and(|s| s.data == whole["/sparse"].data),
            "pattern {pattern}"
        );
    }
}

#[test]
fn stopped_anywhere() {
    let region = format(LEN);
    populate(&region);
    ruin(&region);
    let damaged = snapshot(&region);
    for n in 0.. {
        restore(&region, &damaged);
        let first = run_until(&region, true, false, n).expect("check");
        let again = run(&region, true, false).expect("repair");
        assert_eq!(again.report.left(), 0, "{n}: {:#?}", again.findings);
        assert_clean(&region, &format!("stopped at event {n}"));
        if !first.report.stopped {
            assert!(n > 20);
            break;
        }
    }
}

#[test]
fn without_a_free_page() {
    let region = format(2 << 20);
    let fs = mount(&region);
    let mut names = 0;
    // Small files fill inodes and directory; then one takes what is left.
    while names < 300 {
        let name = format!("a file with quite a long name, number {names}");
        if fs
            .create(ROOT_INO, name.as_bytes(), &new(S_IFREG | 0o644))
            .is_err()
        {
            break;
        }
        names += 1;
    }
    let big = fs
        .create(ROOT_INO, b"big", &new(S_IFREG | 0o644))
        .expect("create")
        .ino;
    let mut at = 0;
    while let Ok(n @ 1..) = fs.write(big, at, &bytes(at, 4096)) {
        at += n as u64;
    }
    fs.unmount().expect("unmount");
    let before = read_tree(&region).expect("tree");
    let host = UserHost::new();
    let nodes = {
        let image = Image::open(&region, &host).expect("open");
        let root = image.resolve(b"/").expect("root");
        let g = *image.geometry();
        // Not even the reserve is left: every page is marked, and belongs to the big file.
        let free: Vec<u64> = {
            let claims = fs_core::check::owners(&region, &host).expect("owners");
            (g.data_start..g.data_end)
                .filter(|p| claims.owner(*p).is_none())
                .collect()
        };
        assert!(!free.is_empty() && free.len() <= 32, "{}", free.len());
        image.entries(&root).expect("entries").1.nodes
    };
    // A leaf of the root loses a sector.
    region
        .zero(nodes[nodes.len() - 1] * 4096 + 256, 256)
        .expect("zero");
    let out = run(&region, true, false).expect("repair");
    assert_eq!(out.report.left(), 0, "{:#?}", out.findings);
    assert_clean(&region, "repaired");
    let after = read_tree(&region).expect("tree");
    for (path, node) in &before {
        let found = after.values().find(|n| n.ino == node.ino);
        assert_eq!(found.map(|n| &n.data), Some(&node.data), "{path}");
    }
}
