// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What many rounds of deleting and writing leave of a filesystem.

use crate::{measure, regular, seconds, Samples, MIB};
use fs_core::layout::{chunk, class, CHUNK_PAGES, PAGE};
use fs_core::{Error, Fallocate, Fs, Ino, Region, ROOT_INO};
use rpramfs_tests::checker;
use rpramfs_tests::fixture::{audit, format, mount, pages};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::tree::{extents, Node, Tree};
use serde_json::{json, Value};
use std::collections::BTreeMap;

/// Bytes of the region that grows old.
const REGION: u64 = 2 << 30;

type World<'r> = Fs<&'r MemRegion, TestHost>;

/// Sizes of files: half of them small, most bytes in large ones, 2 MiB in the mean.
fn size(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..=4 => 1 + rng.below(64 << 10),
        5..=7 => (64 << 10) + rng.below(1984 << 10),
        _ => (2 << 20) + rng.below(13 << 20),
    }
}

struct Aged<'r> {
    fs: World<'r>,
    files: Vec<Ino>,
    made: u64,
}

impl<'r> Aged<'r> {
    fn new(mem: &'r MemRegion, host: &TestHost) -> Self {
        format(mem, host);
        Aged {
            fs: mount(mem, host.clone()).expect("mount"),
            files: Vec::new(),
            made: 0,
        }
    }

    /// Part of the pages that are in use.
    fn used(&self) -> f64 {
        let st = self.fs.statfs();
        1.0 - st.free as f64 / st.pages as f64
    }

    fn add(&mut self, size: u64, fill: &mut dyn FnMut(&World<'r>, Ino, u64) -> bool) -> bool {
        let name = format!("file {}", self.made);
        self.made += 1;
        let new = self.fs.create(ROOT_INO, name.as_bytes(), &regular());
        let Ok(attr) = new else {
            return false;
        };
        self.files.push(attr.ino);
        fill(&self.fs, attr.ino, size)
    }

    /// Deletes each file with a chance of one in four.
    fn thin(&mut self, rng: &mut Rng) {
        let mut names = BTreeMap::new();
        self.fs
            .readdir(ROOT_INO, 0, &mut |e| {
                names.insert(e.ino, e.name.to_vec());
                true
            })
            .expect("readdir");
        let fs = &self.fs;
        self.files.retain(|ino| {
            if !rng.one_in(4) {
                return true;
            }
            fs.unlink(ROOT_INO, &names[ino]).expect("unlink");
            fs.evict(*ino).expect("evict");
            false
        });
    }

    /// Chunks in which every page is free.
    fn free_chunks(&self) -> u64 {
        let geo = self.fs.info().geometry;
        let free = |index: &u64| {
            let word = self.fs.region().load(geo.chunk_offset(*index) + 16);
            word.expect("inside").to_le_bytes()[chunk::CLASS - 16] == class::FREE
        };
        // All groups are open once the region was full.
        (0..geo.chunks()).filter(free).count() as u64
    }

    /// Windows of 2 MiB of these files, from their `skip`th on: all, and those in one aligned chunk.
    fn windows(&self, files: &[Ino], skip: u64) -> (u64, u64) {
        let (mut all, mut aligned) = (0, 0);
        for ino in files {
            let size = self.fs.getattr(*ino).expect("getattr").size;
            let windows = size / PAGE / CHUNK_PAGES;
            all += windows.saturating_sub(skip);
            for e in extents(&self.fs, *ino).expect("extents") {
                if e.page % CHUNK_PAGES == e.file_page % CHUNK_PAGES {
                    let first = e.file_page.div_ceil(CHUNK_PAGES).max(skip);
                    let end = ((e.file_page + e.len) / CHUNK_PAGES).min(windows);
                    aligned += end.saturating_sub(first);
                }
            }
        }
        (all, aligned)
    }

    /// All there is, without what is in it.
    fn tree(&self) -> Tree {
        let inode = |ino: &Ino| {
            let a = self.fs.getattr(*ino).expect("getattr");
            (*ino, Node::bare(&a))
        };
        let root = inode(&ROOT_INO);
        self.files.iter().map(inode).chain([root]).collect()
    }

    /// MiB of the region that are neither file data nor free, and MiB of all of it.
    fn metadata(&self) -> (f64, f64) {
        let geo = self.fs.info().geometry;
        let extents = |ino: &Ino| extents(&self.fs, *ino).expect("extents");
        let data: u64 = self.files.iter().flat_map(extents).map(|e| e.len).sum();
        let free = self.fs.statfs().free;
        let mib = |pages: u64| (pages * PAGE) as f64 / MIB as f64;
        (mib(geo.total_pages - free - data), mib(geo.total_pages))
    }

    fn share(&self, name: &str) -> Value {
        let (metadata, all) = self.metadata();
        json!({
            "measure": name,
            "value": metadata,
            "unit": "MiB",
            "baseline": all,
            "ratio": metadata / all,
            "spread": 0.0,
        })
    }

    fn sound(&self, mem: &MemRegion) {
        audit(&self.fs, &self.tree()).expect("audit");
        checker::clean_structure(mem, self.fs.host()).expect("clean");
    }
}

/// What of a full region is not data.
pub fn share_full(out: &mut Vec<Value>) {
    let host = TestHost::new(1);
    for (name, size_of_region) in [("1g", 1u64 << 30), ("16g", 16 << 30)] {
        let mem = MemRegion::new(size_of_region);
        let mut rng = Rng(5);
        let mut fs = Aged::new(&mem, &host);
        let keep = Fallocate::Allocate { keep_size: false };
        while fs.add(size(&mut rng), &mut |fs, ino, size| {
            fs.fallocate(ino, keep, 0, size).is_ok()
        }) {}
        // What is left goes to one more file.
        let last = fs.files[fs.files.len() - 1];
        let mut at = 64 << 20;
        for step in [1 << 20, PAGE] {
            while fs.fs.fallocate(last, keep, at, step).is_ok() {
                at += step;
            }
        }
        assert_eq!(fs.fs.statfs().available, 0, "meant to be full");
        fs.sound(&mem);
        out.push(fs.share(&format!("meta.share_full_{name}")));
    }
}

/// Fills to nine tenths, then in each round deletes at random and fills again; the same files are
/// written to a new filesystem in turns with that.
pub fn age(out: &mut Vec<Value>, rounds: usize) {
    let host = TestHost::new(1);
    let (mem, other) = (crate::warm(REGION), crate::warm(REGION));
    let data = Rng(2).bytes(16 << 20);
    let mut write = |fs: &World<'_>, ino: Ino, size: u64| {
        let mut at = 0;
        while at < size {
            let n = (size - at).min(MIB as u64);
            let from = (ino * 4096 % (8 << 20) + at % (8 << 20)) as usize % (8 << 20);
            match fs.write(ino, at, &data[from..from + n as usize]) {
                Ok(n) => at += n as u64,
                Err(Error::NoSpace) => return false,
                Err(e) => panic!("write: {e:?}"),
            }
        }
        true
    };
    let mut rng = Rng(9);
    let mut old = Aged::new(&mem, &host);
    while old.used() < 0.9 {
        assert!(old.add(size(&mut rng), &mut write), "no space at 90 %");
    }
    let (mut aged, mut fresh) = (vec![], vec![]);
    // Parts of all windows, and of those behind a file's first.
    let mut aligned = [const { (Vec::new(), Vec::new()) }; 2];
    let mut unaged = Vec::new();
    for round in 0..rounds {
        old.thin(&mut rng);
        host.tick();
        let free = old.free_chunks();
        let kept = old.files.len();
        // The files of this round, by the room there is.
        let mut sizes = Vec::new();
        let st = old.fs.statfs();
        let mut room = (st.free as i64 - st.pages as i64 / 10) * PAGE as i64;
        while room > 0 {
            let n = size(&mut rng);
            room -= n.next_multiple_of(PAGE) as i64;
            sizes.push(n);
        }
        let bytes: u64 = sizes.iter().sum();
        let mut fill = |fs: &mut Aged<'_>| {
            let all = seconds(|| {
                for n in &sizes {
                    assert!(fs.add(*n, &mut write), "no space at 90 %");
                }
            });
            all / bytes as f64 * (1 << 30) as f64
        };
        let mut new = Aged::new(&other, &host);
        let (a, b);
        if round % 2 == 0 {
            a = fill(&mut old);
            b = fill(&mut new);
        } else {
            b = fill(&mut new);
            a = fill(&mut old);
        }
        // The first rounds still find what was never used.
        if round >= rounds / 2 {
            aged.push(a);
            fresh.push(b);
            for (skip, (got, ideal)) in (0..).zip(&mut aligned) {
                let (all, whole) = old.windows(&old.files[kept..], skip);
                got.push(whole as f64 / all as f64);
                ideal.push(all.min(free) as f64 / all as f64);
            }
            let (all, whole) = new.windows(&new.files, 0);
            unaged.push(whole as f64 / all as f64);
        }
        audit(&old.fs, &old.tree()).expect("audit");
        eprint!("\rageing: round {} of {rounds}", round + 1);
    }
    eprintln!();
    // Fractions are seconds upside down to `measure`: it divides what it is given.
    let [(got, ideal), (rest, rest_ideal)] = aligned;
    let (got, unaged) = (Samples(got), Samples(unaged));
    let mut part = |name: &str, ours: &Samples, base: &Samples| {
        out.push(measure(name, "part", 1.0, ours, base, false));
    };
    part("age.aligned_2m", &got, &Samples(ideal));
    part("age.aligned_2m_vs_new", &got, &unaged);
    part(
        "age.aligned_2m_behind_first",
        &Samples(rest),
        &Samples(rest_ideal),
    );
    out.push(measure(
        "age.write_last_vs_first",
        "GiB/s",
        1.0,
        &Samples(aged),
        &Samples(fresh),
        true,
    ));
    let sum = pages(&old.fs, &old.tree()).expect("pages");
    out.push(json!({
        "measure": "age.leak",
        "value": sum.leaked(),
        "unit": "pages",
        "baseline": sum.total,
        "ratio": sum.leaked() as f64 / sum.total as f64,
        "spread": 0.0,
    }));
    out.push(old.share("meta.share_aged"));
    old.sound(&mem);
}
