// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Walks over trees that believe nothing.

use super::claims::Claims;
use super::inode::Inode;
use super::node::{DirList, Node, Record};
use super::store::{Sector, Store};
use crate::layout::{body, node as at, Geometry, PAGE};
use crate::types::Ino;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Faults of one tree that are kept for the report; the rest is counted.
const FAULTS_KEPT: usize = 8;

/// Something wrong in a tree.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Region offset.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Pages of sound nodes, in the order of the walk.
    pub nodes: Vec<u64>,
    /// Leaf entries.
    pub entries: u64,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// All faults.
    pub fault_count: u64,
    /// A subtree could not be reached.
    pub lost: bool,
    /// Sectors with one flipped bit, as they should be; each is a fault, too.
    pub mends: Vec<(u64, Sector)>,
}

impl Scan {
    /// Flipped bits are all that is wrong.
    #[must_use]
    pub fn only_mends(&self) -> bool {
        self.fault_count == self.mends.len() as u64
    }

    fn fault(&mut self, offset: u64, what: impl Into<String>) {
        self.fault_count = self.fault_count.saturating_add(1);
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(Fault {
                offset,
                what: what.into(),
            });
        }
    }

    /// A subtree is out of reach.
    pub(super) fn lose(&mut self, offset: u64, what: impl Into<String>) {
        self.lost = true;
        self.fault(offset, what);
    }
}

/// Takes pages for the walk, or refuses.
pub enum Visit<'a> {
    /// Claims them for the owner; a page of somebody else is a fault.
    Claim(&'a mut Claims),
    /// Only remembers them, so that no page is visited twice.
    Seen(BTreeSet<u64>),
}

impl Visit<'_> {
    fn take(&mut self, page: u64, owner: Ino) -> Result<(), Option<Ino>> {
        match self {
            Visit::Claim(claims) => claims.claim(page, 1, owner).map_err(|c| Some(c.owner)),
            Visit::Seen(seen) => seen.insert(page).then_some(()).ok_or(None),
        }
    }

    fn give_back(&mut self, page: u64, owner: Ino) {
        if let Visit::Claim(claims) = self {
            claims.release(page, 1, owner);
        }
    }
}

struct Step {
    page: u64,
    level: u8,
    low: u64,
    high: Option<u64>,
    named_at: u64,
}

/// Walks the tree of an inode from left to right and hands every leaf to `leaf`. Visits each page
/// at most once, whatever the tree looks like.
pub fn walk(
    store: &Store<'_>,
    geo: &Geometry,
    inode: &Inode,
    kind: u8,
    visit: &mut Visit<'_>,
    leaf: &mut dyn FnMut(&Node),
) -> crate::Result<Scan> {
    let mut scan = Scan::default();
    let Some(root) = inode.root() else {
        return Ok(scan);
    };
    if inode.depth == 0 || usize::from(inode.depth) > at::MAX_DEPTH {
        scan.lose(
            inode.offset,
            format!("impossible depth {} of the tree", inode.depth),
        );
        return Ok(scan);
    }
    let mut stack = Vec::new();
    stack.push(Step {
        page: root,
        level: inode.depth - 1,
        low: 0,
        high: None,
        named_at: inode.offset,
    });
    while let Some(step) = stack.pop() {
        if !geo.is_data(step.page, 1) {
            scan.lose(
                step.named_at,
                format!("names page {}, which is outside the data", step.page),
            );
            continue;
        }
        if let Err(other) = visit.take(step.page, inode.ino) {
            let whose = match other {
                Some(o) if o != inode.ino => format!("inode {o}"),
                _ => String::from("this tree"),
            };
            scan.lose(
                step.named_at,
                format!("names page {}, which {whose} has already", step.page),
            );
            continue;
        }
        let off = step.page.saturating_mul(PAGE);
        let node = match Node::load(store, step.page)? {
            Ok(n) => n,
            Err(why) => {
                visit.give_back(step.page, inode.ino);
                scan.lose(off, why);
                continue;
            }
        };
        let wrong = if node.owner != inode.ino {
            Some(format!("belongs to inode {}", node.owner))
        } else if node.generation != inode.generation {
            Some(format!(
                "is of generation {}, the inode of {}",
                node.generation, inode.generation
            ))
        } else if node.kind != kind {
            Some(format!("is of kind {}, wanted {kind}", node.kind))
        } else if node.level != step.level {
            Some(format!("is of level {}, wanted {}", node.level, step.level))
        } else if u64::from(node.count) > node.most() {
            Some(format!("counts {} entries", node.count))
        } else {
            None
        };
        if let Some(why) = wrong {
            visit.give_back(step.page, inode.ino);
            scan.lose(off, why);
            continue;
        }
        scan.nodes.push(step.page);
        for (off, sector) in node.mends() {
            scan.mends.push((off, *sector));
            scan.fault(off, "one bit flipped");
        }
        if node.count == 0 {
            // Of an inner node, that is: its children are out of reach.
            scan.lost |= node.level > 0;
            scan.fault(off, "has no entries");
        }
        for sector in 1..16u64 {
            if node.good & (1 << sector) == 0 {
                scan.fault(
                    off + sector * crate::layout::SECTOR,
                    format!("sector {sector} of the node fails its checksum"),
                );
            }
        }
        let names = kind == at::KIND_DENTRIES && node.level == 0;
        if !names && (u64::from(node.heap) != PAGE || node.dead != 0) {
            scan.fault(off, "has names, and is no leaf of a directory");
        }
        check_keys(&node, &step, &mut scan);
        if node.level == 0 {
            scan.entries = scan.entries.saturating_add(u64::from(node.count));
            if kind == at::KIND_DENTRIES {
                check_heap(&node, &mut scan);
            }
            leaf(&node);
            continue;
        }
        let first = stack.len();
        for i in 0..node.count {
            let Some(page) = node.child(i) else {
                scan.lost = true;
                continue;
            };
            let low = if i == 0 {
                step.low
            } else {
                node.key(i).unwrap_or(step.low)
            };
            let high = match i.checked_add(1).filter(|n| *n < node.count) {
                Some(n) => node.key(n).or(step.high),
                None => step.high,
            };
            stack.push(Step {
                page,
                level: node.level - 1,
                low,
                high,
                named_at: node.entry_offset(i),
            });
        }
        if let Some(children) = stack.get_mut(first..) {
            children.reverse();
        }
    }
    Ok(scan)
}

/// Keys ascend strictly and keep to the bounds that the parent sets.
fn check_keys(node: &Node, step: &Step, scan: &mut Scan) {
    // The first key of an inner node is not looked at.
    let start = u16::from(node.level > 0);
    let mut last: Option<u64> = None;
    for i in start..node.count {
        let Some(key) = node.key(i) else {
            last = None;
            continue;
        };
        if last.is_some_and(|l| key <= l) {
            scan.fault(
                node.entry_offset(i),
                format!("key {key:#x} is out of order"),
            );
        } else if key < step.low || step.high.is_some_and(|h| key >= h) {
            scan.fault(
                node.entry_offset(i),
                format!("key {key:#x} does not belong under this parent"),
            );
        }
        last = Some(key);
    }
}

/// Names and dead bytes make up the heap.
fn check_heap(node: &Node, scan: &mut Scan) {
    let low = at::ENTRIES + at::LEAF_ENTRY * u64::from(node.count);
    let heap = u64::from(node.heap);
    if heap < low || heap > PAGE {
        scan.fault(node.offset(), format!("the names begin at {heap}"));
        return;
    }
    let mut bytes = u64::from(node.dead);
    for i in 0..node.count {
        match node.dentry(i) {
            Some((_, _, _, name)) => bytes += name.len() as u64,
            None if node.good == u16::MAX => {
                scan.fault(node.entry_offset(i), "its name lies outside the node");
                return;
            }
            None => return,
        }
        if node.name_at(i).is_some_and(|at| at < node.heap) {
            scan.fault(
                node.entry_offset(i),
                "its name lies before the names of the node",
            );
            return;
        }
    }
    if bytes != PAGE - heap {
        scan.fault(
            node.offset(),
            format!("{bytes} bytes of names in a heap of {}", PAGE - heap),
        );
    }
}

/// Appends the sound records of a leaf.
pub fn take_records(node: &Node, out: &mut Vec<Record>) {
    out.extend((0..node.count).filter_map(|i| node.record(i)));
}

/// Appends the sound entries of a directory leaf.
pub fn take_entries(node: &Node, out: &mut DirList) {
    for i in 0..node.count {
        if let Some((key, ino, kind, name)) = node.dentry(i) {
            out.push(key, ino, kind, name, node.entry_offset(i));
        }
    }
}

/// All records of an inode that can be read, and the scan of its tree.
pub fn records(
    store: &Store<'_>,
    geo: &Geometry,
    inode: &Inode,
) -> crate::Result<(Vec<Record>, Scan)> {
    let mut out = Vec::new();
    if inode.format == body::INLINE {
        out.extend(inode.inline());
        return Ok((out, Scan::default()));
    }
    let mut visit = Visit::Seen(BTreeSet::new());
    let scan = walk(store, geo, inode, at::KIND_RECORDS, &mut visit, &mut |n| {
        take_records(n, &mut out);
    })?;
    Ok((out, scan))
}

/// All entries of a directory that can be read, and the scan of its tree.
pub fn entries(store: &Store<'_>, geo: &Geometry, inode: &Inode) -> crate::Result<(DirList, Scan)> {
    let mut out = DirList::default();
    let mut visit = Visit::Seen(BTreeSet::new());
    let scan = walk(store, geo, inode, at::KIND_DENTRIES, &mut visit, &mut |n| {
        take_entries(n, &mut out);
    })?;
    Ok((out, scan))
}
