// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every structure of LAYOUT.md, damaged in every way: the check tells, the repair repairs, a
//! second run finds nothing, and what was not damaged keeps its bytes.

mod common;

use common::*;
use fs_core::check::{Image, Place};
use fs_core::layout::{self, Geometry};
use fs_core::{Region, S_IFDIR, S_IFMT, S_IFREG};
use host::{UserHost, UserRegion};
use std::collections::BTreeMap;

/// What is damaged.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    off: u64,
    len: usize,
    /// Where the checksum field lies, and how it is made right again.
    sum: Sum,
    /// Files that may lose bytes or names, by the beginning of their paths.
    lossy: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Sum {
    /// `magic, crc`.
    Field,
    /// None of its own.
    None,
}

fn target(name: &str, off: u64, len: usize, sum: Sum, lossy: &[&'static str]) -> Target {
    Target {
        name: name.into(),
        off,
        len,
        sum,
        lossy: lossy.to_vec(),
    }
}

/// The parts of the region, each with what may get lost with it.
fn targets(region: &UserRegion) -> Vec<Target> {
    let host = UserHost::new();
    let image = Image::open(region, &host).expect("open");
    let g = *image.geometry();
    let mut all = vec![
        target("primary superblock", 0, 256, Sum::None, &[]),
        target("backup superblock", g.backup_offset(), 256, Sum::None, &[]),
        target("marker", 256, 256, Sum::None, &[]),
        target("frontier", g.system_offset(0), 256, Sum::Field, &[]),
        target("inode frontier", g.system_offset(1), 256, Sum::Field, &[]),
        target("table inode", g.system_offset(2), 256, Sum::Field, &[]),
        target("table copy", g.itable_copy_offset(), 256, Sum::Field, &[]),
        target("top summary", g.top_offset(0), 256, Sum::Field, &[]),
        target("group summary", g.summary_offset(0), 256, Sum::Field, &[]),
    ];
    for n in 0..8 {
        let name = format!("pending set {n}");
        all.push(target(&name, g.system_offset(3 + n), 256, Sum::Field, &[]));
    }
    for n in 0..g.shards {
        let name = format!("shard {n}");
        all.push(target(&name, g.shard_offset(n), 256, Sum::Field, &[]));
    }
    for n in 0..g.slots {
        let at = g.slot_offset(n);
        all.push(target(&format!("slot {n}"), at, 256, Sum::None, &[]));
        let at = at + layout::slot::ACCOUNT;
        all.push(target(&format!("account {n}"), at, 256, Sum::Field, &[]));
    }
    for n in 0..g.chunks() {
        let at = g.chunk_offset(n);
        all.push(target(&format!("chunk {n}"), at, 128, Sum::Field, &[]));
    }
    let page = g.chunk_start * 4096;
    all.push(target("all chunks", page, 4096, Sum::None, &[]));
    all.push(target("all summaries", 3 * 4096, 8192, Sum::None, &[]));
    all.push(target("system page", 4096, 4096, Sum::None, &[]));
    all.push(target("all shards", 8192, 4096, Sum::None, &[]));
    // Inodes, and the nodes of their trees.
    for (path, lossy) in [
        ("/", &["/"][..]),
        ("/small", &["/small"]),
        ("/a", &["/a"]),
        ("/a/linked", &["/a/linked", "/a/b/also linked"]),
        ("/many", &["/many"]),
        ("/sparse", &["/sparse"]),
        ("/some extents", &["/some extents"]),
        ("/short link", &["/short link"]),
        ("/long link", &["/long link"]),
        ("/device", &["/device"]),
        ("/attributes", &["/attributes"]),
        ("/sealed", &["/sealed"]),
    ] {
        let inode = image.resolve(path.as_bytes()).expect(path);
        let what = format!("inode of {path}");
        all.push(target(&what, inode.offset, 256, Sum::Field, lossy));
        let nodes = if inode.kind() == S_IFDIR {
            image.entries(&inode).expect(path).1.nodes
        } else if inode.kind() == S_IFREG {
            image.records(&inode).expect(path).1.nodes
        } else {
            Vec::new()
        };
        for (i, page) in nodes.iter().enumerate().take(4) {
            let off = page * 4096;
            let node = |part: &str| format!("node {i} of {path}, {part}");
            all.push(target(&node("header"), off, 256, Sum::Field, lossy));
            all.push(target(&node("sector 1"), off + 256, 256, Sum::None, lossy));
            all.push(target(&node("sector 2"), off + 512, 256, Sum::None, lossy));
            all.push(target(
                &node("sector 15"),
                off + 3840,
                256,
                Sum::None,
                lossy,
            ));
            all.push(target(&node("whole"), off, 4096, Sum::None, lossy));
        }
        if inode.xattr != 0 {
            let off = inode.xattr * 4096;
            all.push(target("attribute block", off, 4096, Sum::Field, lossy));
        }
        if inode.seal != 0 {
            let seal = image.inode(inode.seal).expect("seal");
            all.push(target("seal", seal.offset, 256, Sum::Field, lossy));
        }
    }
    // A page of the inode table, and all of it.
    let first = image.inode_offset(1).expect("root") / 4096 * 4096;
    all.push(target(
        "page of inodes",
        first,
        4096,
        Sum::None,
        &["inodes"],
    ));
    all
}

/// Ways to damage bytes.
fn ways(len: usize, old: &[u8], stale: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut out = vec![
        ("zeros".to_string(), vec![0; len]),
        ("ones".to_string(), vec![0xff; len]),
        ("noise".to_string(), bytes(99, len)),
        ("stale".to_string(), stale.to_vec()),
    ];
    for bit in [0, 37, 8 * 9 + 1, 8 * 17, 8 * 24 + 3, 8 * 41, 8 * len - 9] {
        let mut flipped = old.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        out.push((format!("bit {bit}"), flipped));
    }
    out
}

/// Puts the right checksum into damaged bytes.
fn reseal(region: &UserRegion, t: &Target, bytes: &mut [u8]) -> bool {
    let (Sum::Field, true) = (t.sum, bytes.len() >= 8) else {
        return false;
    };
    let host = UserHost::new();
    let mut sb = [0; 256];
    region.read(0, &mut sb).expect("read");
    let seed = u32::from_le_bytes(sb[112..116].try_into().expect("4"));
    bytes[4..8].fill(0);
    let crc = layout::checksum(&host, seed, t.off, bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    true
}

/// Sound, and what was not damaged is there with its bytes: where it was, or, where a directory
/// above it was damaged, anywhere.
fn assert_repaired(region: &UserRegion, what: &str, lossy: &[&str], before: &Tree) {
    let tree = match read_tree(region) {
        Ok(t) => t,
        Err(e) => panic!("{what}: {e}"),
    };
    let by_ino: BTreeMap<u64, &Node> = tree.values().map(|n| (n.ino, n)).collect();
    for (path, node) in before {
        if lossy.contains(&path.as_str()) || (lossy == ["inodes"] && node.ino < 16) {
            continue;
        }
        let below = lossy
            .iter()
            .any(|l| *l == "/" || *l == "inodes" || path.starts_with(&format!("{l}/")));
        if below {
            let Some(n) = by_ino.get(&node.ino) else {
                panic!("{what}: {path} is gone");
            };
            assert_eq!((&n.data, n.mode), (&node.data, node.mode), "{path}");
        } else {
            assert_eq!(tree.get(path), Some(node), "{what}: {path}");
        }
    }
}

fn check_one(region: &UserRegion, what: &str, lossy: &[&str], before: &Tree, must: bool) -> usize {
    let check = run(region, false, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    if check.findings.is_empty() {
        assert!(!must, "{what}: not found");
        return 0;
    }
    let repair = run(region, true, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(repair.report.left(), 0, "{what}: {:#?}", repair.findings);
    assert_eq!(
        check.findings.len(),
        repair.findings.len(),
        "{what}: the check says {:#?}, the repair {:#?}",
        check.findings,
        repair.findings
    );
    let again = run(region, false, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(
        again.findings.is_empty(),
        "{what}: first {:#?}\nthen {:#?}\n{:#?}",
        repair.findings,
        again.findings,
        repair.notes
    );
    assert_repaired(region, what, lossy, before);
    check.findings.len()
}

fn each_target(select: &dyn Fn(usize) -> bool) {
    let region = format(LEN);
    populate(&region);
    let before = read_tree(&region).expect("tree");
    let image = snapshot(&region);
    let all = targets(&region);
    let mut damages = 0;
    for (n, t) in all.iter().enumerate() {
        if !select(n) {
            continue;
        }
        let at = t.off as usize;
        let old = image[at..at + t.len].to_vec();
        // The same kind of structure from elsewhere: what lies before it.
        let other = if at >= t.len { at - t.len } else { at + t.len };
        let stale = image[other..other + t.len].to_vec();
        for (way, bytes) in ways(t.len, &old, &stale) {
            for fixed in [false, true] {
                let mut bytes = bytes.clone();
                if fixed && !reseal(&region, t, &mut bytes) {
                    continue;
                }
                if bytes == old {
                    continue;
                }
                let what = format!(
                    "{}: {way}{}",
                    t.name,
                    if fixed { ", checksum made right" } else { "" }
                );
                restore(&region, &image);
                region.write(t.off, &bytes).expect("write");
                // One flipped bit is found by its checksum and set right: nothing is lost.
                let flip = way.starts_with("bit") && !fixed && t.len == 256;
                let must = !fixed
                    && (matches!(t.sum, Sum::Field)
                        || t.name.contains("superblock")
                        || t.name.contains("sector"));
                let lossy = if flip { &[][..] } else { &t.lossy };
                check_one(&region, &what, lossy, &before, must);
                damages += 1;
            }
        }
    }
    assert!(damages > 0);
}

#[test]
fn each_structure_a() {
    each_target(&|n| n % 4 == 0);
}

#[test]
fn each_structure_b() {
    each_target(&|n| n % 4 == 1);
}

#[test]
fn each_structure_c() {
    each_target(&|n| n % 4 == 2);
}

#[test]
fn each_structure_d() {
    each_target(&|n| n % 4 == 3);
}

#[test]
fn places_have_names() {
    let region = format(LEN);
    let host = UserHost::new();
    let image = Image::open(&region, &host).expect("open");
    let g: Geometry = *image.geometry();
    assert_eq!(
        image.place(g.slot_offset(1) + 300),
        Place::Fixed("journal slot 1, account".into())
    );
    assert_eq!(
        image.place(g.data_start * 4096),
        Place::Data { page: g.data_start }
    );
    assert_eq!(image.place(LEN), Place::Outside);
    let _ = S_IFMT;
}
