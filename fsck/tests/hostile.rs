// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Images that lie, with right checksums: no panic, no endless loop, and after a repair nothing is
//! left to find.

mod common;

use common::*;
use fs_core::check::{Image, Inode, Store};
use fs_core::layout::{self, body};
use fs_core::Region;
use host::{UserHost, UserRegion};

/// A small generator: the tests give the same numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn seed_of(region: &UserRegion) -> u32 {
    let mut sb = [0; 256];
    region.read(0, &mut sb).expect("read");
    u32::from_le_bytes(sb[112..116].try_into().expect("4"))
}

/// Makes all checksums right again around a place that was changed: of the sector, of a node's
/// header, of a pair of descriptors.
fn reseal(region: &UserRegion, off: u64) {
    let host = UserHost::new();
    let seed = seed_of(region);
    let page = off / 4096 * 4096;
    let sum = |off: u64, b: &[u8]| layout::checksum(&host, seed, off, b);
    let mut node = [0; 4096];
    region.read(page, &mut node).expect("read");
    let magic = u32::from_le_bytes(node[..4].try_into().expect("4"));
    if magic == layout::NODE_MAGIC {
        for s in 1..16u64 {
            let at = (s * 256) as usize;
            let crc = sum(page + s * 256, &node[at..at + 256]);
            let field = 64 + 4 * (s as usize - 1);
            node[field..field + 4].copy_from_slice(&crc.to_le_bytes());
        }
        node[4..8].fill(0);
        let crc = sum(page, &node[..256]);
        node[4..8].copy_from_slice(&crc.to_le_bytes());
        region.write(page, &node).expect("write");
        return;
    }
    if magic == layout::XATTR_MAGIC {
        node[4..8].fill(0);
        let crc = sum(page, &node);
        node[4..8].copy_from_slice(&crc.to_le_bytes());
        region.write(page, &node).expect("write");
        return;
    }
    let sector = off / 256 * 256;
    let mut s = [0; 256];
    region.read(sector, &mut s).expect("read");
    let len = match u32::from_le_bytes(s[..4].try_into().expect("4")) {
        layout::CHUNK_MAGIC => 128,
        layout::FRONTIER_MAGIC
        | layout::IFRONTIER_MAGIC
        | layout::SHARD_MAGIC
        | layout::SUMMARY_MAGIC
        | layout::ACCOUNT_MAGIC
        | layout::INODE_MAGIC => 256,
        _ => return,
    };
    for part in (0..256).step_by(len) {
        let b = &mut s[part..part + len];
        b[4..8].fill(0);
        let crc = sum(sector + part as u64, b);
        b[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    region.write(sector, &s).expect("write");
}

fn converges(region: &UserRegion, what: &str) {
    let check = run(region, false, true).unwrap_or_else(|e| panic!("{what}: {e}"));
    let repair = run(region, true, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(repair.report.left(), 0, "{what}: {:#?}", repair.findings);
    let again = run(region, false, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(
        again.findings.is_empty(),
        "{what}: first {:#?}\nthen {:#?}",
        repair.findings,
        again.findings
    );
    if !check.findings.is_empty() {
        read_tree(region).unwrap_or_else(|e| panic!("{what}: {e}: {:#?}", repair.findings));
    }
}

/// Offsets of metadata: everything before the data, and pages that hold nodes, inodes, attributes.
fn metadata(region: &UserRegion) -> Vec<u64> {
    let host = UserHost::new();
    let image = Image::open(region, &host).expect("open");
    let g = *image.geometry();
    let mut pages: Vec<u64> = (1..g.data_start).collect();
    for page in g.data_start..g.data_end {
        let b = image.store().page(page).expect("page");
        let magic = |s: usize| u32::from_le_bytes(b[s..s + 4].try_into().expect("4"));
        if matches!(magic(0), layout::NODE_MAGIC | layout::XATTR_MAGIC)
            || magic(256) == layout::INODE_MAGIC
        {
            // Nodes and inodes are where it hurts.
            pages.extend([page; 8]);
        }
    }
    pages
}

fn fuzz(seed: u64, runs: u64) {
    let region = format(LEN);
    populate(&region);
    let image = snapshot(&region);
    let pages = metadata(&region);
    let mut random = Random(seed);
    for n in 0..runs {
        restore(&region, &image);
        let mut what = format!("seed {seed}, run {n}:");
        for _ in 0..=random.below(4) {
            let page = pages[random.below(pages.len() as u64) as usize];
            // Mostly within the first sectors, where the fields are.
            let at = if random.below(2) == 0 {
                random.below(320) / 8 * 8
            } else {
                random.below(4096) / 8 * 8
            };
            let off = page * 4096 + at;
            let old = region.load(off).expect("load");
            let new = match random.below(8) {
                0 => 0,
                1 => u64::MAX,
                2 => old ^ 1 << random.below(64),
                3 => old.wrapping_add(1),
                4 => random.below(6144),
                5 => random.next(),
                6 => {
                    // A word from elsewhere in the metadata.
                    let other = pages[random.below(pages.len() as u64) as usize];
                    region
                        .load(other * 4096 + random.below(512) * 8)
                        .expect("load")
                }
                _ => old.wrapping_sub(1),
            };
            region.store(off, new).expect("store");
            let fixed = random.below(4) > 0;
            if fixed {
                reseal(&region, off);
            }
            what += &format!(
                " {off:#x}: {old:#x} -> {new:#x}{};",
                if fixed { "" } else { " bare" }
            );
        }
        converges(&region, &what);
    }
}

/// How many damaged images; the environment asks for more.
fn runs() -> u64 {
    std::env::var("RPRAMFS_FUZZ_RUNS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(300)
}

#[test]
fn random_words_a() {
    fuzz(1, runs());
}

#[test]
fn random_words_b() {
    fuzz(2, runs());
}

/// Puts an inode back after `change`.
fn with_inode(region: &UserRegion, path: &str, change: &dyn Fn(&mut Inode)) {
    let host = UserHost::new();
    let image = Image::open(region, &host).expect("open");
    let mut inode = image.resolve(path.as_bytes()).expect(path);
    change(&mut inode);
    let store: &Store<'_> = image.store();
    let bytes = inode.encode(store);
    region.write(inode.offset, &bytes).expect("write");
}

fn fresh() -> UserRegion {
    let region = format(LEN);
    populate(&region);
    region
}

#[test]
fn a_tree_that_contains_itself() {
    let region = fresh();
    let host = UserHost::new();
    let (root, first_child) = {
        let image = Image::open(&region, &host).expect("open");
        let inode = image.resolve(b"/many").expect("many");
        let nodes = image.entries(&inode).expect("entries").1.nodes;
        (nodes[0], nodes[1])
    };
    // The second child is the root, the third the first.
    region.store(root * 4096 + 256 + 24, root).expect("store");
    region
        .store(root * 4096 + 256 + 40, first_child)
        .expect("store");
    reseal(&region, root * 4096);
    converges(&region, "a tree that contains itself");
}

#[test]
fn extents_of_the_whole_region() {
    let region = fresh();
    with_inode(&region, "/small", &|i| {
        i.format = body::INLINE;
        i.count = 4;
        i.size = 1 << 62;
        for (n, r) in i.body.chunks_exact_mut(24).enumerate() {
            r[..8].copy_from_slice(&((n as u64) << 40).to_le_bytes());
            r[8..16].copy_from_slice(&40u64.to_le_bytes());
            r[16..24].copy_from_slice(&6000u64.to_le_bytes());
        }
    });
    converges(&region, "extents of the whole region");
}

#[test]
fn two_files_with_the_same_pages() {
    let region = fresh();
    let before = read_tree(&region).expect("tree");
    let host = UserHost::new();
    let body = Image::open(&region, &host)
        .expect("open")
        .resolve(b"/three pages")
        .expect("file")
        .body;
    // A later claimant: its number is higher.
    with_inode(&region, "/reserved", &|i| i.body = body);
    let out = run(&region, true, false).expect("repair");
    assert!(out.findings.iter().any(|f| f.contains("extent")));
    assert_clean(&region, "repaired");
    let after = read_tree(&region).expect("tree");
    assert_eq!(after["/three pages"], before["/three pages"]);
}

#[test]
fn a_directory_below_itself() {
    let region = fresh();
    let host = UserHost::new();
    let (node, a) = {
        let image = Image::open(&region, &host).expect("open");
        let c = image.resolve(b"/a/b/c").expect("c");
        let a = image.resolve(b"/a").expect("a").ino;
        (image.entries(&c).expect("entries").1.nodes[0], a)
    };
    // "deep" becomes a second name of /a.
    let entry = node * 4096 + 256;
    region.store(entry + 8, a).expect("store");
    let word = region.load(entry + 16).expect("load");
    region
        .store(entry + 16, word & !(0xff << 24) | 4 << 24)
        .expect("store");
    reseal(&region, node * 4096);
    converges(&region, "a directory below itself");
    // Cut off from the root, too: the loop hangs in the air.
    let region = fresh();
    region.store(entry + 8, a).expect("store");
    region
        .store(entry + 16, word & !(0xff << 24) | 4 << 24)
        .expect("store");
    reseal(&region, node * 4096);
    with_inode(&region, "/", &|i| {
        i.format = 0;
        i.depth = 0;
        i.count = 0;
        i.body = [0; 112];
    });
    converges(&region, "a loop in the air");
    let tree = read_tree(&region).expect("tree");
    assert!(tree.keys().any(|p| p.starts_with("/lost+found/#")));
}

#[test]
fn a_free_list_that_is_a_ring() {
    let region = fresh();
    let host = UserHost::new();
    let image = Image::open(&region, &host).expect("open");
    let g = *image.geometry();
    for n in 0..g.shards {
        let off = g.shard_offset(n);
        let head = region.load(off + 16).expect("load");
        if head != 0 {
            let at = image.inode_offset(head).expect("inode");
            region.store(at + 96, head).expect("store");
            reseal(&region, at);
        }
    }
    converges(&region, "a ring of free inodes");
}

#[test]
fn two_directories_name_a_third() {
    let region = fresh();
    let before = read_tree(&region).expect("tree");
    let host = UserHost::new();
    let (node, many) = {
        let image = Image::open(&region, &host).expect("open");
        let c = image.resolve(b"/a/b/c").expect("c");
        let many = image.resolve(b"/many").expect("many").ino;
        (image.entries(&c).expect("entries").1.nodes[0], many)
    };
    let entry = node * 4096 + 256;
    region.store(entry + 8, many).expect("store");
    let word = region.load(entry + 16).expect("load");
    region
        .store(entry + 16, word & !(0xff << 24) | 4 << 24)
        .expect("store");
    reseal(&region, node * 4096);
    converges(&region, "two parents");
    let after = read_tree(&region).expect("tree");
    assert_eq!(after["/many"].ino, before["/many"].ino);
    assert!(!after.contains_key("/a/b/c/deep"));
    let deep = after
        .iter()
        .find(|(p, _)| p.starts_with("/lost+found/#"))
        .expect("lost and found");
    assert_eq!(deep.1.data, before["/a/b/c/deep"].data);
}

#[test]
fn sealed_bytes_that_changed() {
    let region = fresh();
    let host = UserHost::new();
    let page = {
        let image = Image::open(&region, &host).expect("open");
        let i = image.resolve(b"/sealed").expect("sealed");
        image.records(&i).expect("records").0[0].a
    };
    let off = page * 4096 + 5000;
    let mut b = [0];
    region.read(off, &mut b).expect("read");
    region.write(off, &[b[0] ^ 1]).expect("write");
    // Not looked at without --data.
    assert!(run(&region, false, false)
        .expect("check")
        .findings
        .is_empty());
    let out = run(&region, true, true).expect("repair");
    assert_eq!(out.findings.len(), 1, "{:#?}", out.findings);
    // It cannot be repaired, and is not hidden either.
    assert_eq!(out.report.left(), 1);
    assert_eq!(run(&region, false, true).expect("check").findings.len(), 1);
}

/// Bad memory flips bits: wherever one flips in metadata, nothing at all is lost.
#[test]
fn a_flipped_bit_anywhere() {
    let region = format(LEN);
    populate(&region);
    let before = read_tree(&region).expect("tree");
    let image = snapshot(&region);
    let mut pages = metadata(&region);
    pages.dedup();
    let mut random = Random(7);
    for n in 0..runs() {
        restore(&region, &image);
        let off = pages[random.below(pages.len() as u64) as usize] * 4096 + random.below(512) * 8;
        let bit = random.below(64);
        region
            .store(off, region.load(off).expect("load") ^ 1 << bit)
            .expect("store");
        let what = format!("run {n}: bit {bit} of {off:#x}");
        let repair = run(&region, true, false).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(repair.report.left(), 0, "{what}");
        assert_clean(&region, &what);
        let after = read_tree(&region).expect("tree");
        assert!(after == before, "{what}: {:#?}", repair.findings);
    }
}
