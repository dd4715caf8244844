// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Damage to one field or one structure: every kind of it, to every field, and what it may cost.

use crate::anatomy::{Block, Kind};
use crate::host::{mix, Rng};
use crate::record::Scratch;
use crate::specimen::Specimen;
use crate::tree::{Body, Node, Tree};
use fs_core::{Ino, Region};
use std::collections::{BTreeMap, BTreeSet};

/// So many specimens come first and are small.
const SMALL: usize = 2;
const TABLE: u64 = (1 << 63) + 2;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Harm {
    Zero,
    Ones,
    HighBit,
    MiddleBit,
    LowBit,
    Plus,
    Minus,
    Random,
    /// The same field of another structure of its kind.
    Sibling,
    /// Another structure of its kind in its place.
    SameKind,
    /// Any other structure in its place.
    AnyKind,
    /// What was there earlier.
    Stale,
}

const TO_A_FIELD: [Harm; 9] = [
    Harm::Zero,
    Harm::Ones,
    Harm::HighBit,
    Harm::MiddleBit,
    Harm::LowBit,
    Harm::Plus,
    Harm::Minus,
    Harm::Random,
    Harm::Sibling,
];

const TO_A_BLOCK: [Harm; 6] = [
    Harm::Zero,
    Harm::Ones,
    Harm::Random,
    Harm::SameKind,
    Harm::AnyKind,
    Harm::Stale,
];

/// A specimen, a structure of it, a field of that.
type Place = (usize, usize, Option<usize>);

/// One kind of damage to one kind of field.
#[derive(Clone, Debug)]
struct Case {
    class: (Kind, Option<&'static str>),
    harm: Harm,
    mended: bool,
}

/// All kinds of damage to all kinds of fields.
#[derive(Debug)]
pub struct Cases<'s> {
    specimens: &'s [Specimen],
    classes: BTreeMap<(Kind, Option<&'static str>), Vec<Place>>,
    cases: Vec<Case>,
    stride: u64,
}

/// Damage that was done.
#[derive(Debug)]
pub struct Done<'s> {
    /// To whom.
    pub specimen: &'s Specimen,
    /// To what.
    pub block: &'s Block,
    /// The field; none: the whole structure.
    pub field: Option<&'static str>,
    /// What.
    pub harm: Harm,
    /// Checksums were made right afterwards.
    pub mended: bool,
    /// Bytes of the structure that were overwritten.
    pub range: std::ops::Range<usize>,
    new: Vec<u8>,
}

impl std::fmt::Display for Done<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Done { block, harm, .. } = self;
        write!(
            f,
            "{}: {:?} at {:#x} of {:#x}, {}, {harm:?}{}",
            self.specimen.name,
            block.kind,
            block.off,
            block.owner,
            self.field.unwrap_or("all"),
            if self.mended { ", mended" } else { "" }
        )?;
        if self.new.len() <= 16 {
            write!(f, " -> {:x?}", self.new)?;
        }
        Ok(())
    }
}

impl<'s> Cases<'s> {
    /// All of them.
    #[must_use]
    pub fn new(specimens: &'s [Specimen]) -> Self {
        let mut classes: BTreeMap<_, Vec<Place>> = BTreeMap::new();
        let mut vouched = BTreeSet::new();
        for (s, specimen) in specimens.iter().enumerate() {
            for (b, block) in specimen.anatomy.blocks.iter().enumerate() {
                if block.is_vouched_for() {
                    vouched.insert(block.kind);
                }
                classes
                    .entry((block.kind, None))
                    .or_default()
                    .push((s, b, None));
                for (f, field) in block.fields.iter().enumerate() {
                    classes
                        .entry((block.kind, Some(field.name)))
                        .or_default()
                        .push((s, b, Some(f)));
                }
            }
        }
        let mut cases = Vec::new();
        for &class in classes.keys() {
            let harms = match class.1 {
                None => &TO_A_BLOCK[..],
                Some(_) => &TO_A_FIELD[..],
            };
            // Mending undoes what is done to these.
            let sum = matches!(class.1, Some("crc" | "commit crc" | "sector crc"));
            for &harm in harms {
                for mended in [false, true] {
                    if !mended || (vouched.contains(&class.0) && !sum) {
                        cases.push(Case {
                            class,
                            harm,
                            mended,
                        });
                    }
                }
            }
        }
        let n = cases.len() as u64;
        let mut stride = n * 618 / 1000 + 1;
        while gcd(stride, n) != 1 {
            stride += 1;
        }
        Cases {
            specimens,
            classes,
            cases,
            stride,
        }
    }

    /// How many kinds of damage to how many kinds of fields. As many images in a row have each of
    /// them once.
    #[must_use]
    pub fn count(&self) -> (u64, usize) {
        (self.cases.len() as u64, self.classes.len())
    }

    /// The damage of image `i`; none where nothing would change.
    #[must_use]
    pub fn pick(&self, i: u64) -> Option<Done<'s>> {
        let n = self.cases.len() as u64;
        let case = &self.cases[(i % n * self.stride % n) as usize];
        let mut rng = Rng(mix(i));
        let places = &self.classes[&case.class];
        let any = |rng: &mut Rng, p: &[Place]| *rng.pick(p);
        // A large specimen takes its time: where a small one has the field, that mostly.
        let small = places.partition_point(|p| p.0 < SMALL);
        let places = match &places[..small] {
            [] => &places[..],
            _ if rng.one_in(16) => &places[..],
            some => some,
        };
        let (s, b, f) = any(&mut rng, places);
        let specimen = &self.specimens[s];
        let block = &specimen.anatomy.blocks[b];
        let bytes = |specimen: &Specimen, block: &Block, range: &std::ops::Range<usize>| {
            let mut bytes = vec![0; range.len()];
            let mem = &specimen.image.mem;
            let at = block.off + range.start as u64;
            let len = range.len().min((mem.len() - at) as usize);
            mem.read(at, &mut bytes[..len]).expect("inside");
            bytes
        };
        let range = f.map_or(0..block.len, |f| {
            let f = block.fields[f];
            f.at..f.at + f.size
        });
        let old = bytes(specimen, block, &range);
        let mut new = old.clone();
        let bits = 8 * new.len();
        match case.harm {
            Harm::Zero => new.fill(0),
            Harm::Ones => new.fill(0xff),
            Harm::HighBit => flip(&mut new, bits - 1),
            Harm::MiddleBit => flip(&mut new, bits / 2),
            Harm::LowBit => flip(&mut new, 0),
            Harm::Plus => add(&mut new, 1),
            Harm::Minus => add(&mut new, 0xff),
            Harm::Random => rng.fill(&mut new),
            Harm::Sibling => {
                let (s, b, f) = any(&mut rng, places);
                let other = &self.specimens[s].anatomy.blocks[b];
                let f = other.fields[f.expect("a field")];
                let part = bytes(&self.specimens[s], other, &(f.at..f.at + f.size));
                let n = part.len().min(new.len());
                new[..n].copy_from_slice(&part[..n]);
            }
            Harm::SameKind | Harm::AnyKind => {
                let among = &specimen.anatomy.blocks;
                let others: Vec<&Block> = among
                    .iter()
                    .filter(|o| o.off != block.off)
                    .filter(|o| case.harm == Harm::AnyKind || o.kind == block.kind)
                    .collect();
                if others.is_empty() {
                    return None;
                }
                let other = *rng.pick(&others);
                new = bytes(specimen, other, &range);
            }
            Harm::Stale => {
                let earlier = rng.pick(&specimen.earlier);
                earlier.mem.read(block.off, &mut new).expect("inside");
            }
        }
        (new != old).then(|| Done {
            specimen,
            block,
            field: f.map(|f| block.fields[f].name),
            harm: case.harm,
            mended: case.mended,
            range,
            new,
        })
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

fn flip(b: &mut [u8], bit: usize) {
    b[bit / 8] ^= 1 << (bit % 8);
}

/// Adds to a little-endian number; 0xff goes to every byte and so takes one away.
fn add(b: &mut [u8], d: u8) {
    let mut carry = 0u16;
    for (i, byte) in b.iter_mut().enumerate() {
        let d = if i == 0 || d == 0xff { d } else { 0 };
        let sum = u16::from(*byte) + u16::from(d) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
}

impl Done<'_> {
    /// Does it to an image.
    ///
    /// # Panics
    /// Where the image is not that of the specimen.
    pub fn apply(&self, scratch: &Scratch) {
        let at = self.block.off + self.range.start as u64;
        scratch.write(at, &self.new).expect("inside");
        if self.mended {
            self.specimen.anatomy.mend(scratch, self.block);
        }
    }

    /// Checksums hold: only what contradicts itself can be known to be wrong.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.mended || self.harm == Harm::Stale
    }

    /// Only errors may be told of what is concerned: a checksum fails, and nothing else is known.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let not_replayed = self.specimen.unstaged.is_some() && self.is_of_journal();
        !self.passes() && !not_replayed
    }

    fn is_of_journal(&self) -> bool {
        matches!(
            self.block.kind,
            Kind::SlotHeader | Kind::SlotTable | Kind::Staged
        )
    }

    /// Inodes of which something may be unreadable, or wrong where it is not [`Done::is_plain`];
    /// `None`: all.
    #[must_use]
    pub fn concerned(&self) -> Option<BTreeSet<Ino>> {
        let s = self.specimen;
        let named_by = |ino: Ino| s.names.iter().filter(move |n| n.2 == ino).map(|n| n.0);
        let whole = match self.block.kind {
            Kind::SlotHeader | Kind::SlotTable | Kind::Staged => !self.is_plain(),
            Kind::Superblock
            | Kind::Backup
            | Kind::Frontier
            | Kind::InodeFrontier
            | Kind::TableInode
            | Kind::TableInodeCopy => self.passes(),
            Kind::RecordLeaf | Kind::RecordInner => self.block.owner == TABLE,
            _ => false,
        };
        if whole {
            return None;
        }
        let mut all = BTreeSet::new();
        if (1..1 << 63).contains(&self.block.owner) {
            all.insert(self.block.owner);
            // Listings look at what they list.
            all.extend(named_by(self.block.owner));
        }
        Some(all)
    }

    /// What no other structure describes.
    fn alone(&self) -> Alone {
        let mut alone = Alone::default();
        let s = self.specimen;
        let b = self.block;
        match b.kind {
            Kind::Inode | Kind::Target => {
                alone.inodes.insert(b.owner);
            }
            Kind::DirLeaf | Kind::RecordLeaf => self.of_leaf(&mut alone),
            _ if self.is_of_journal() => {
                if let Some(before) = &s.unstaged {
                    for (dir, name, ino) in &s.names {
                        if entry(before, *dir, name) != Some(*ino) {
                            alone.names.insert((*dir, name.clone()));
                        }
                    }
                    let changed = |(i, n): &(&Ino, &Node)| before.get(i) != Some(n);
                    let files = s.tree.iter().filter(|(_, n)| !is_dir(n)).filter(changed);
                    alone.inodes.extend(files.map(|(i, _)| *i));
                }
            }
            _ => {}
        }
        alone
    }

    /// Entries of a leaf that the damaged sectors have a part of.
    fn of_leaf(&self, alone: &mut Alone) {
        let b = self.block;
        let mut page = [0u8; 4096];
        let mem = &self.specimen.image.mem;
        mem.read(b.off, &mut page).expect("inside");
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes"));
        // Without the header nothing vouches for the rest.
        let all = self.range.start < 256;
        let sectors = self.range.start / 256..self.range.end.div_ceil(256);
        let hit = |at: usize, len: usize| {
            all || (at / 256..(at + len).div_ceil(256)).any(|s| sectors.contains(&s))
        };
        let count = usize::from(u16::from_le_bytes([page[26], page[27]]));
        for at in (0..count).map(|i| 256 + 24 * i) {
            if b.kind == Kind::RecordLeaf {
                if hit(at, 24) {
                    let from = word(at);
                    let len = word(at + 16) & 0xffff_ffff_ffff;
                    alone.pages.push((b.owner, from, from + len));
                }
            } else {
                let name = usize::from(u16::from_le_bytes([page[at + 16], page[at + 17]]));
                let len = usize::from(page[at + 18]);
                if hit(at, 24) || hit(name, len) {
                    alone
                        .names
                        .insert((b.owner, page[name..name + len].to_vec()));
                }
            }
        }
    }

    /// What a repair saved, and what it could have.
    #[must_use]
    pub fn saved(&self, tree: &Tree) -> Saved {
        let alone = self.alone();
        let mut saved = Saved::default();
        for (dir, name, ino) in &self.specimen.names {
            if alone.inodes.contains(ino) || alone.names.contains(&(*dir, name.clone())) {
                continue;
            }
            saved.names_recoverable += 1;
            saved.names += u64::from(entry(tree, *dir, name) == Some(*ino));
        }
        for (ino, node) in &self.specimen.tree {
            if alone.inodes.contains(ino) {
                continue;
            }
            match &node.body {
                Body::File(pages) => {
                    for (page, bytes) in pages {
                        let lost = |&(i, from, to): &(Ino, u64, u64)| {
                            i == *ino && (from..to).contains(page)
                        };
                        if alone.pages.iter().any(lost) {
                            continue;
                        }
                        let len = node.size.saturating_sub(page * 4096).min(4096);
                        saved.bytes_recoverable += len;
                        let Some(Body::File(found)) = tree.get(ino).map(|n| &n.body) else {
                            continue;
                        };
                        if found.get(page) == Some(bytes) {
                            saved.bytes += len;
                        }
                    }
                }
                Body::Link(target) => {
                    saved.bytes_recoverable += target.len() as u64;
                    if tree.get(ino).is_some_and(|n| n.body == node.body) {
                        saved.bytes += target.len() as u64;
                    }
                }
                _ => {}
            }
        }
        saved
    }
}

fn is_dir(node: &Node) -> bool {
    matches!(node.body, Body::Dir { .. })
}

fn entry(tree: &Tree, dir: Ino, name: &[u8]) -> Option<Ino> {
    match &tree.get(&dir)?.body {
        Body::Dir { entries, .. } => entries.get(name).copied(),
        _ => None,
    }
}

/// What only the damaged structure knew.
#[derive(Debug, Default)]
struct Alone {
    /// Inodes with their names and their bytes.
    inodes: BTreeSet<Ino>,
    names: BTreeSet<(Ino, Vec<u8>)>,
    /// File pages `[from, to)` of an inode.
    pages: Vec<(Ino, u64, u64)>,
}

/// What came through a repair. What the damaged structure alone described is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Saved {
    pub names: u64,
    pub names_recoverable: u64,
    pub bytes: u64,
    pub bytes_recoverable: u64,
}

impl std::ops::AddAssign for Saved {
    fn add_assign(&mut self, other: Self) {
        self.names += other.names;
        self.names_recoverable += other.names_recoverable;
        self.bytes += other.bytes;
        self.bytes_recoverable += other.bytes_recoverable;
    }
}
