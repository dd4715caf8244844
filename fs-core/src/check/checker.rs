// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The state of a check, and the order of its phases.

use super::claims::Claims;
use super::inode::Inode;
use super::node::{DirList, Record};
use super::report::{CheckOptions, Decision, Event, Finding, Phase, Report};
use super::store::Store;
use super::superblock::{Superblock, Superblocks};
use super::system::{Frontier, InodeFrontier, ShardState};
use super::table::Table;
use super::{marker, tree};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::{Geometry, SECTOR};
use crate::region::Region;
use crate::types::Ino;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Why a phase ends early.
pub(super) enum Halt {
    /// The caller wants to stop.
    Stop,
    /// The region cannot be read or written.
    Error(Error),
}

impl From<Error> for Halt {
    fn from(e: Error) -> Self {
        Halt::Error(e)
    }
}

pub(super) type Res<T> = core::result::Result<T, Halt>;

/// What is remembered of an inode in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Info {
    pub ino: Ino,
    /// Pages counted so far.
    pub pages: u64,
    /// Those of them that are nodes of the tree.
    pub nodes: u64,
    /// Recorded parent of a directory.
    pub link: Ino,
    /// Parent that names this directory.
    pub parent: Ino,
    pub seal: Ino,
    pub generation: u32,
    pub mode: u32,
    /// Recorded links.
    pub nlink: u32,
    /// Entries that name this inode.
    pub named: u32,
    /// Entries of this directory that name directories.
    pub subdirs: u32,
    pub flags: u32,
    pub marks: u8,
}

/// Pages of `[intent_start, intent_end)` are being removed.
pub(super) const INTENT: u8 = 1;
/// A file names this seal.
pub(super) const SEAL_NAMED: u8 = 2;
/// The directory has entries.
pub(super) const HAS_ENTRIES: u8 = 4;
/// A directory that the root reaches.
pub(super) const CONNECTED: u8 = 8;
/// A directory on the way that is being followed.
pub(super) const ON_WAY: u8 = 16;
/// The caller wants its tree left as it is.
pub(super) const LEFT: u8 = 32;
/// Freed by this check; taken out of the list at the end of the phase.
pub(super) const GONE: u8 = 64;
/// A symbolic link that gave its target back already.
pub(super) const NO_TARGET: u8 = 128;

/// Entries to be added to a directory: inode, type and name by key.
pub(super) type Added = BTreeMap<u64, (Ino, u8, Vec<u8>)>;

/// What could be read of a damaged tree.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    pub records: Vec<Record>,
    pub entries: DirList,
    /// Parts are out of reach; surviving leaves are looked for.
    pub lost: bool,
    /// Nodes of this tree found so far, in and out of it.
    pub nodes: BTreeSet<u64>,
}

pub(super) struct Checker<'a, 'e> {
    pub store: Store<'a>,
    pub sb: Superblock,
    pub geo: Geometry,
    pub options: &'a CheckOptions<'a>,
    pub events: &'e mut dyn FnMut(Event<'_>) -> Decision,
    pub report: Report,
    pub claims: Claims,
    /// Inodes in use, ascending.
    pub inodes: Vec<Info>,
    /// Inodes that are formatted and free, ascending.
    pub free: Vec<Ino>,
    /// Highest inode that is not all zeros.
    pub last_formatted: Ino,
    pub table: Table,
    pub frontier: Option<Frontier>,
    pub fix_frontier: bool,
    pub inode_frontier: Option<InodeFrontier>,
    pub shards: Vec<Option<ShardState>>,
    /// Shards and free lists are to be made anew.
    pub shards_bad: bool,
    pub damaged: BTreeMap<Ino, Damaged>,
    /// Records of files whose extents changed.
    pub changed: BTreeMap<Ino, Vec<Record>>,
    /// Directories whose entries changed.
    pub dirs: BTreeMap<Ino, DirList>,
    /// Entries to be added to them.
    pub added: BTreeMap<Ino, Added>,
    /// Directories whose entries in them are to be removed.
    pub removed: BTreeMap<Ino, BTreeSet<Ino>>,
    /// Records of the pending sets.
    pub pending: Vec<PendingSet>,
    /// Something was left unrepaired on request: pages without owner may belong to it.
    pub declined: bool,
    /// Where the search for a fresh page goes on.
    pub cursor: u64,
    pub desperate: bool,
    /// Pages of a tree that is being replaced, for want of fresh ones.
    pub pool: Vec<u64>,
    pub lost_found: Option<Ino>,
    /// Free pages, counted in the bitmaps.
    pub free_pages: u64,
    /// They could not be counted.
    pub skip_accounts: bool,
}

/// A pending set as found.
#[derive(Debug, Default)]
pub(super) struct PendingSet {
    pub records: Vec<Record>,
    pub nodes: Vec<u64>,
    pub bad: bool,
    pub fix: bool,
}

/// Checks a region, and repairs it where the options and the answers of `events` say so.
///
/// `Err(NotOurs)` where neither superblock can be used; `Err(Busy)` where a repair finds a living
/// holder of the mount marker.
pub fn check(
    region: &dyn Region,
    host: &dyn Host,
    options: &CheckOptions<'_>,
    events: &mut dyn FnMut(Event<'_>) -> Decision,
) -> Result<Report> {
    let supers = Superblocks::read(region, host, options.repair || !options.quick)?;
    let sb = supers.best()?.clone();
    let unknown = sb.unknown_incompat();
    if unknown != 0 {
        return Err(Error::UnknownFeatures { flags: unknown });
    }
    if options.repair && sb.unknown_ro_compat() != 0 {
        return Err(Error::UnknownFeatures {
            flags: sb.unknown_ro_compat(),
        });
    }
    let found = marker::Marker::read(region)?;
    if options.repair {
        let owner = options.owner.as_ref().ok_or(Error::Invalid)?;
        marker::take(region, host, owner, options.alive)?;
    }
    let mut checker = Checker::new(region, host, sb, options, events);
    let outcome = checker.run(&supers, &found);
    let mut report = checker.report;
    let outcome = match outcome {
        Err(Halt::Stop) => {
            report.stopped = true;
            Ok(())
        }
        Err(Halt::Error(e)) => Err(e),
        Ok(()) => Ok(()),
    };
    if options.repair {
        marker::release(region)?;
    }
    outcome.map(|()| report)
}

/// Who owns which page: walks the whole filesystem without writing, and takes what is damaged as
/// repair would leave it.
pub(super) fn claims(region: &dyn Region, host: &dyn Host) -> Result<Claims> {
    let options = CheckOptions {
        repair: false,
        data: false,
        quick: false,
        owner: None,
        alive: &|_| true,
    };
    let sb = Superblocks::read(region, host, true)?.best()?.clone();
    let mut events = |_: Event<'_>| Decision::Repair;
    let mut checker = Checker::new(region, host, sb, &options, &mut events);
    let outcome = checker
        .check_journal()
        .and_then(|()| checker.check_system())
        .and_then(|()| checker.check_table())
        .and_then(|()| checker.check_inodes())
        .and_then(|()| checker.salvage())
        .and_then(|()| checker.check_files());
    match outcome {
        Err(Halt::Error(e)) => Err(e),
        Ok(()) | Err(Halt::Stop) => Ok(checker.claims),
    }
}

impl<'a, 'e> Checker<'a, 'e> {
    fn new(
        region: &'a dyn Region,
        host: &'a dyn Host,
        sb: Superblock,
        options: &'a CheckOptions<'a>,
        events: &'e mut dyn FnMut(Event<'_>) -> Decision,
    ) -> Self {
        let mut store = Store::new(region, host, options.repair);
        store.set_seed(sb.crc_seed());
        Checker {
            store,
            geo: sb.geometry(),
            sb,
            options,
            events,
            report: Report::default(),
            claims: Claims::default(),
            inodes: Vec::new(),
            free: Vec::new(),
            last_formatted: 0,
            table: Table::default(),
            frontier: None,
            fix_frontier: false,
            inode_frontier: None,
            shards: Vec::new(),
            shards_bad: false,
            damaged: BTreeMap::new(),
            changed: BTreeMap::new(),
            dirs: BTreeMap::new(),
            added: BTreeMap::new(),
            removed: BTreeMap::new(),
            pending: Vec::new(),
            declined: false,
            cursor: 0,
            desperate: false,
            pool: Vec::new(),
            lost_found: None,
            free_pages: 0,
            skip_accounts: false,
        }
    }
}

impl Checker<'_, '_> {
    fn run(&mut self, supers: &Superblocks, found: &marker::Marker) -> Res<()> {
        self.check_superblocks(supers, found)?;
        self.check_journal()?;
        self.check_system()?;
        if self.options.quick {
            self.report.quick = true;
            self.check_quick()?;
            self.store.commit()?;
            return Ok(());
        }
        self.check_table()?;
        self.check_inodes()?;
        self.salvage()?;
        self.check_files()?;
        self.check_seals()?;
        self.rebuild_table()?;
        self.rebuild_files()?;
        self.check_directories()?;
        self.rebuild_directories()?;
        self.check_counts()?;
        self.check_pending()?;
        self.check_free_inodes()?;
        self.check_allocation()?;
        self.check_accounts()?;
        self.store.commit()?;
        self.figures();
        Ok(())
    }

    /// Tells of a finding. `true`: repair it (or, in a read-only check, think it repaired).
    pub fn find(&mut self, finding: &Finding) -> Res<bool> {
        self.report.found = self.report.found.saturating_add(1);
        let answer = (self.events)(Event::Finding(finding));
        if answer == Decision::Stop {
            return Err(Halt::Stop);
        }
        if finding.repair.is_none() {
            return Ok(false);
        }
        if !self.options.repair {
            return Ok(true);
        }
        if answer == Decision::Repair {
            self.report.repaired = self.report.repaired.saturating_add(1);
            return Ok(true);
        }
        self.declined = true;
        Ok(false)
    }

    /// A repair that was agreed to could not be done.
    pub fn could_not(&mut self, finding: &Finding) -> Res<()> {
        self.declined = true;
        self.find(finding).map(|_| ())
    }

    pub fn note(&mut self, text: &str) -> Res<()> {
        match (self.events)(Event::Note(text)) {
            Decision::Stop => Err(Halt::Stop),
            _ => Ok(()),
        }
    }

    pub fn progress(&mut self, phase: Phase, done: u64, total: u64) -> Res<()> {
        match (self.events)(Event::Progress { phase, done, total }) {
            Decision::Stop => Err(Halt::Stop),
            _ => Ok(()),
        }
    }

    /// Stages the sectors in which `new` differs from the bytes that lie at `off`, a multiple of
    /// 256.
    pub fn stage_bytes(&mut self, off: u64, old: &[u8], new: &[u8]) -> Res<()> {
        let size = SECTOR as usize;
        for (i, (old, new)) in old.chunks(size).zip(new.chunks(size)).enumerate() {
            if old != new {
                let at = off.saturating_add(i as u64 * SECTOR);
                let mut sector = self.store.sector(at)?;
                if let Some(part) = sector.get_mut(..new.len()) {
                    part.copy_from_slice(new);
                }
                self.store.stage(at, &sector);
            }
        }
        Ok(())
    }

    /// What is known of an inode in use.
    pub fn info(&self, ino: Ino) -> Option<&Info> {
        let i = self.inodes.binary_search_by_key(&ino, |i| i.ino).ok()?;
        self.inodes.get(i).filter(|i| i.marks & GONE == 0)
    }

    /// The same, to be changed.
    pub fn info_mut(&mut self, ino: Ino) -> Option<&mut Info> {
        let i = self.inodes.binary_search_by_key(&ino, |i| i.ino).ok()?;
        self.inodes.get_mut(i).filter(|i| i.marks & GONE == 0)
    }

    /// Region offset of an inode of the table.
    pub fn inode_offset(&self, ino: Ino) -> Option<u64> {
        self.table.offset(ino)
    }

    /// An inode that was found sound before.
    pub fn inode(&self, ino: Ino) -> Res<Option<Inode>> {
        let Some(off) = self.inode_offset(ino) else {
            return Ok(None);
        };
        match Inode::load(&self.store, off, ino)? {
            super::inode::Slot::Inode(i) => Ok(Some(i)),
            _ => Ok(None),
        }
    }

    /// Changes an inode.
    pub fn put_inode(&mut self, inode: &Inode) {
        let sector = inode.encode(&self.store);
        self.store.stage(inode.offset, &sector);
        // The table's own inode has a copy in the backup page.
        if inode.offset == self.geo.system_offset(crate::layout::system::ITABLE) {
            let mut copy = inode.clone();
            copy.offset = self.geo.itable_copy_offset();
            let sector = copy.encode(&self.store);
            self.store.stage(copy.offset, &sector);
        }
    }

    /// Takes the inodes that were freed out of the lists.
    pub fn sweep(&mut self) {
        self.inodes.retain(|i| i.marks & GONE == 0);
        self.free.sort_unstable();
        self.free.dedup();
    }

    /// Makes an inode of the table free. Its pages are given up by whoever claimed them, and the
    /// caller sweeps in the end.
    pub fn free_inode(&mut self, ino: Ino, generation: u32) {
        let Some(offset) = self.inode_offset(ino) else {
            return;
        };
        let inode = Inode::free(offset, ino, generation);
        self.put_inode(&inode);
        if let Some(info) = self.info_mut(ino) {
            info.marks |= GONE;
        }
        self.free.push(ino);
        self.last_formatted = self.last_formatted.max(ino);
        self.shards_bad = true;
    }

    /// Tells the faults of a tree; `true`: rebuild it.
    ///
    /// Where flipped bits are all that is wrong, they are set right here.
    pub fn find_faults(&mut self, ino: Ino, scan: &tree::Scan, repair: &str) -> Res<bool> {
        let mend = scan.only_mends();
        let mut fix = true;
        for fault in &scan.faults {
            let mut f = Finding::new(super::Structure::Node, fault.offset, fault.what.clone())
                .of(ino)
                .fix(if mend { "set right" } else { repair });
            f.harmless = mend;
            fix &= self.find(&f)?;
        }
        if mend && fix {
            for (off, sector) in &scan.mends {
                self.store.stage(*off, sector);
            }
        }
        let more = scan.fault_count.saturating_sub(scan.faults.len() as u64);
        if more > 0 {
            self.note(&alloc::format!(
                "{more} more faults in the tree of inode {ino}"
            ))?;
        }
        Ok(fix)
    }

    fn figures(&mut self) {
        self.report.pages = self.geo.data_end.saturating_sub(self.geo.data_start);
        self.report.pages_used = self.claims.pages();
        self.report.inode_capacity = self.table.capacity();
    }
}
