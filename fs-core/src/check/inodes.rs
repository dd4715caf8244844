// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The inodes one by one, and the nodes of their trees.

use super::checker::{Checker, Damaged, Info, Res, INTENT, LEFT, NO_TARGET};
use super::flip;
use super::inode::{is_type, Inode, Slot};
use super::report::{Finding, Phase, Structure};
use super::store::Sector;
use super::tree::{self, Visit};
use crate::bytes::get64;
use crate::layout::{
    body, iflag, inode as at, node, INODES_PER_PAGE, INODE_MAGIC, PAGE, PENDING_OWNER,
    PENDING_SETS, SECTOR,
};
use crate::types::{self, Ino, ROOT_INO};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;

/// Flags an inode of the table may have.
const KNOWN_FLAGS: u32 = iflag::IN_USE | iflag::SEALED | iflag::PENDING | iflag::SEAL;

/// Why an inode cannot be believed at all.
fn hopeless(inode: &Inode) -> Option<String> {
    if inode.flags & iflag::SYSTEM != 0 {
        return Some("a system inode in the table".into());
    }
    if inode.is_seal() {
        let odd = inode.mode != 0 || inode.size != 0 || inode.nlink != 0 || inode.seal != 0;
        return odd.then(|| "a seal with what only a file has".into());
    }
    if !is_type(inode.kind()) || inode.mode > 0o177_777 {
        return Some(format!("impossible mode {:o}", inode.mode));
    }
    if inode.size > types::FILE_SIZE_MAX {
        return Some(format!("impossible size {}", inode.size));
    }
    if inode.kind() == types::S_IFLNK {
        let right = match inode.format {
            body::TARGET => (1..=at::BODY_SIZE as u64).contains(&inode.size),
            body::TARGET_PAGE => (1..=types::SYMLINK_MAX as u64).contains(&inode.size),
            // One that is being reclaimed gives its target back first.
            body::INLINE => inode.nlink == 0 && inode.count == 0,
            _ => false,
        };
        return (!right).then(|| "a symbolic link without a target".into());
    }
    None
}

/// Why the body of a file, directory or seal cannot be used.
fn bad_body(inode: &Inode) -> Option<String> {
    let inline_most = match inode.kind() {
        types::S_IFREG => at::INLINE_RECORDS as u16,
        0 if inode.is_seal() => at::INLINE_RECORDS as u16,
        _ => 0,
    };
    let tree = inode.is_seal() || matches!(inode.kind(), types::S_IFREG | types::S_IFDIR);
    match inode.format {
        body::INLINE if inode.count <= inline_most => None,
        body::INLINE => Some(format!("{} inline records", inode.count)),
        body::TREE if tree => None,
        other => Some(format!("impossible body format {other}")),
    }
}

impl Checker<'_, '_> {
    pub(super) fn check_inodes(&mut self) -> Res<()> {
        self.check_pending_trees()?;
        let total = self.table.pages();
        let runs = self.table.runs.clone();
        for run in runs {
            for i in 0..run.len {
                let file_page = run.file_page.saturating_add(i);
                if file_page % 64 == 0 {
                    self.progress(Phase::Inodes, file_page, total)?;
                }
                let page = run.page.saturating_add(i);
                let bytes = self.store.page(page)?;
                for (s, sector) in bytes.chunks_exact(SECTOR as usize).enumerate() {
                    if let Ok(sector) = <&Sector>::try_from(sector) {
                        let ino = file_page * INODES_PER_PAGE + s as u64;
                        let off = page.saturating_mul(PAGE) + s as u64 * SECTOR;
                        self.check_sector(ino, off, sector)?;
                    }
                }
                self.store.commit()?;
            }
        }
        self.check_root()
    }

    fn check_sector(&mut self, ino: Ino, off: u64, sector: &Sector) -> Res<()> {
        let mut slot = Inode::classify(&self.store, off, ino, sector);
        if matches!(slot, Slot::Bad(_)) {
            if let Some(right) = self.store.mended(off, sector, INODE_MAGIC) {
                let again = Inode::classify(&self.store, off, ino, &right);
                let f = Finding::new(Structure::Inode, off, "one bit flipped")
                    .of(ino)
                    .fix("set right")
                    .harmless();
                if matches!(again, Slot::Inode(_)) && self.find(&f)? {
                    self.store.stage(off, &right);
                    slot = again;
                }
            }
        }
        let why = match slot {
            Slot::Zero if ino == 0 || self.is_unused(ino) => return Ok(()),
            Slot::Zero => {
                // With a shard lost nobody can tell which inodes were never used.
                if self.inode_frontier.is_none() || self.shards.iter().any(Option::is_none) {
                    return Ok(());
                }
                String::from("zeros, though it was used")
            }
            Slot::Bad(why) => why.into(),
            Slot::Inode(inode) if inode.in_use() => {
                self.last_formatted = self.last_formatted.max(ino);
                match hopeless(&inode) {
                    Some(why) => why,
                    None if ino == 0 => String::from("inode 0 is in use"),
                    None => return self.check_inode(inode),
                }
            }
            Slot::Inode(inode) => {
                self.last_formatted = self.last_formatted.max(ino);
                if inode.mode == 0 && inode.flags == 0 {
                    if ino != 0 {
                        self.free.push(ino);
                    }
                    return Ok(());
                }
                String::from("neither free nor in use")
            }
        };
        let f = Finding::new(Structure::Inode, off, why)
            .of(ino)
            .fix(if ino == ROOT_INO {
                "made anew as a directory; what it held is looked for"
            } else {
                "cleared; its names are removed"
            });
        if self.find(&f)? && ino != ROOT_INO {
            let generation = self.store.host().random() as u32 >> 1;
            let inode = Inode::free(off, ino, generation);
            self.put_inode(&inode);
            if ino != 0 {
                self.free.push(ino);
            }
            self.last_formatted = self.last_formatted.max(ino);
            self.shards_bad = true;
        }
        Ok(())
    }

    /// Fields of an inode in use, then its tree, its attributes and its target.
    fn check_inode(&mut self, mut inode: Inode) -> Res<()> {
        let ino = inode.ino;
        let before = inode.clone();
        let wrong = |what: String, fix: &str, c: &mut Self| {
            let f = Finding::new(Structure::Inode, before.offset, what)
                .of(ino)
                .fix(fix);
            c.find(&f)
        };
        if inode.flags & !KNOWN_FLAGS != 0
            && wrong(
                format!("unknown flags {:#x}", inode.flags & !KNOWN_FLAGS),
                "cleared",
                self,
            )?
        {
            inode.flags &= KNOWN_FLAGS;
        }
        let (count, depth) = match inode.format {
            body::INLINE => (inode.count, 0),
            body::TREE => (0, inode.depth),
            _ => (0, 0),
        };
        if (inode.count, inode.depth) != (count, depth)
            && wrong("fields of another body format".into(), "cleared", self)?
        {
            inode.count = count;
            inode.depth = depth;
        }
        let is_dir = inode.kind() == types::S_IFDIR;
        if inode.link != 0 && !is_dir && wrong("names a parent".into(), "cleared", self)? {
            inode.link = 0;
        }
        let file = inode.kind() == types::S_IFREG && !inode.is_seal();
        if (inode.intent_start > inode.intent_end || (!file && inode.has_intent()))
            && wrong(
                format!(
                    "impossible intent [{}, {})",
                    inode.intent_start, inode.intent_end
                ),
                "cleared",
                self,
            )?
        {
            inode.intent_start = 0;
            inode.intent_end = 0;
        }
        if (inode.seal != 0 || inode.flags & iflag::SEALED != 0)
            && !file
            && wrong("sealed, but no file".into(), "unsealed", self)?
        {
            inode.seal = 0;
            inode.flags &= !iflag::SEALED;
        }
        if inode.is_seal()
            && inode.xattr != 0
            && wrong("a seal with attributes".into(), "cleared", self)?
        {
            inode.xattr = 0;
        }
        let mut info = Info {
            ino,
            generation: inode.generation,
            mode: inode.mode,
            nlink: inode.nlink,
            flags: inode.flags,
            link: inode.link,
            seal: inode.seal,
            marks: if inode.has_intent() { INTENT } else { 0 },
            ..Info::default()
        };
        let tree_kind = if is_dir {
            node::KIND_DENTRIES
        } else {
            node::KIND_RECORDS
        };
        if inode.kind() == types::S_IFLNK {
            if let Some(why) = self.check_target(&inode, &mut info)? {
                let f = Finding::new(Structure::Inode, inode.offset, why)
                    .of(ino)
                    .fix("cleared; its names are removed");
                if self.find(&f)? {
                    let free = Inode::free(inode.offset, ino, inode.generation);
                    self.put_inode(&free);
                    self.free.push(ino);
                    self.shards_bad = true;
                    return Ok(());
                }
                info.marks |= LEFT;
            }
        } else if let Some(why) = bad_body(&inode) {
            if wrong(why, "emptied; what is left of its tree is looked for", self)? {
                inode.clear_body();
                self.damaged.insert(
                    ino,
                    Damaged {
                        lost: true,
                        ..Damaged::default()
                    },
                );
            } else {
                info.marks |= LEFT;
            }
        } else if inode.format == body::TREE {
            let mut visit = Visit::Claim(&mut self.claims);
            let mut scan = tree::walk(
                &self.store,
                &self.geo,
                &inode,
                tree_kind,
                &mut visit,
                &mut |_| {},
            )?;
            // Nodes that look sound, and too little in them: one may have forgotten a child.
            if inode.depth > 1 && scan.fault_count == 0 && scan.entries < inode.tree_records() {
                let what = format!(
                    "its tree should have {} entries and has {}",
                    inode.tree_records(),
                    scan.entries
                );
                scan.lose(inode.offset, what);
            }
            info.nodes = scan.nodes.len() as u64;
            info.pages = info.nodes;
            if scan.fault_count > 0 {
                let fix = if is_dir {
                    "directory rebuilt from the entries that are left"
                } else {
                    "tree rebuilt from the records that are left"
                };
                let fix = self.find_faults(ino, &scan, fix)?;
                if fix && scan.only_mends() {
                    // Set right; the count of entries is looked at with the others.
                    if scan.entries != inode.tree_records() {
                        let (root, depth) = (inode.root().unwrap_or(0), inode.depth);
                        inode.set_tree(root, depth, scan.entries);
                    }
                } else if fix {
                    let mut damaged = Damaged {
                        lost: scan.lost,
                        nodes: scan.nodes.iter().copied().collect(),
                        ..Damaged::default()
                    };
                    if is_dir {
                        damaged.entries = tree::entries(&self.store, &self.geo, &inode)?.0;
                    } else {
                        damaged.records = tree::records(&self.store, &self.geo, &inode)?.0;
                    }
                    self.damaged.insert(ino, damaged);
                } else {
                    info.marks |= LEFT;
                }
            } else if scan.entries != inode.tree_records()
                && wrong(
                    format!(
                        "its tree should have {} entries and has {}",
                        inode.tree_records(),
                        scan.entries
                    ),
                    "corrected",
                    self,
                )?
            {
                let (root, depth) = (inode.root().unwrap_or(0), inode.depth);
                inode.set_tree(root, depth, scan.entries);
            }
        }
        self.check_attributes(&mut inode, &mut info)?;
        if inode != before {
            self.put_inode(&inode);
        }
        self.inodes.push(info);
        Ok(())
    }

    /// The target of a symbolic link.
    fn check_target(&mut self, inode: &Inode, info: &mut Info) -> Res<Option<String>> {
        if inode.format == body::INLINE {
            info.marks |= NO_TARGET;
        }
        if inode.format != body::TARGET_PAGE {
            return Ok(None);
        }
        let page = get64(&inode.body, 0);
        if !self.geo.is_data(page, 1) {
            return Ok(Some(format!(
                "its target lies in page {page}, outside the data"
            )));
        }
        let off = page.saturating_mul(PAGE);
        let mut target = vec![0; usize::try_from(inode.size).unwrap_or(0).min(PAGE as usize)];
        self.store.read(off, &mut target)?;
        let sum = self.store.sum(off, &target);
        if sum != inode.body_crc {
            let mut right = target.clone();
            if !flip::mend(&mut right, sum, inode.body_crc) {
                return Ok(Some("wrong checksum of its target".into()));
            }
            let f = Finding::new(Structure::Inode, off, "one bit of its target flipped")
                .of(inode.ino)
                .fix("set right")
                .harmless();
            if self.find(&f)? {
                self.stage_bytes(off, &target, &right)?;
            }
        }
        if let Err(other) = self.claims.claim(page, 1, inode.ino) {
            return Ok(Some(format!(
                "its target lies in page {page} of inode {}",
                other.owner
            )));
        }
        info.pages = info.pages.saturating_add(1);
        self.report.pages_metadata = self.report.pages_metadata.saturating_add(1);
        Ok(None)
    }

    /// The root is there and is a directory.
    fn check_root(&mut self) -> Res<()> {
        let Some(off) = self.inode_offset(ROOT_INO) else {
            return Err(crate::Error::corrupt(0, "the inode table has no first page").into());
        };
        let kind = self.info(ROOT_INO).map(|i| i.mode & types::S_IFMT);
        if kind == Some(types::S_IFDIR) {
            return Ok(());
        }
        if kind.is_some() {
            let f = Finding::new(Structure::Inode, off, "the root is no directory")
                .of(ROOT_INO)
                .fix("made anew as a directory; what it held is looked for");
            if !self.find(&f)? {
                return Err(super::checker::Halt::Stop);
            }
            self.inodes.retain(|i| i.ino != ROOT_INO);
            self.damaged.remove(&ROOT_INO);
        } else if self.declined {
            self.note("the root directory is left damaged: stopping here")?;
            return Err(super::checker::Halt::Stop);
        } else if let Slot::Inode(i) = Inode::load(&self.store, off, ROOT_INO)? {
            if !i.in_use() {
                let f = Finding::new(Structure::Inode, off, "the root is not in use")
                    .of(ROOT_INO)
                    .fix("made anew as a directory; what it held is looked for");
                if !self.find(&f)? {
                    return Err(super::checker::Halt::Stop);
                }
            }
        }
        // The generation of the root's nodes is not known any more: it is taken from the first
        // node that is found.
        let generation = self.root_generation()?;
        let now = self.store.host().now();
        let mut root = Inode::free(off, ROOT_INO, generation);
        root.mode = types::S_IFDIR | 0o755;
        root.flags = iflag::IN_USE;
        root.nlink = 2;
        root.link = ROOT_INO;
        root.atime = now;
        root.mtime = now;
        root.ctime = now;
        root.btime = now;
        self.put_inode(&root);
        self.free.retain(|i| *i != ROOT_INO);
        self.last_formatted = self.last_formatted.max(ROOT_INO);
        let info = Info {
            ino: ROOT_INO,
            generation,
            mode: root.mode,
            nlink: 2,
            flags: root.flags,
            link: ROOT_INO,
            ..Info::default()
        };
        if let Err(i) = self.inodes.binary_search_by_key(&ROOT_INO, |i| i.ino) {
            self.inodes.insert(i, info);
        }
        self.damaged.insert(
            ROOT_INO,
            Damaged {
                lost: true,
                ..Damaged::default()
            },
        );
        self.store.commit()?;
        Ok(())
    }

    /// Trees of the pending sets; what they say is compared later.
    fn check_pending_trees(&mut self) -> Res<()> {
        for n in 0..PENDING_SETS {
            let ino = PENDING_OWNER + n;
            let off = self
                .geo
                .system_offset(crate::layout::system::PENDING.saturating_add(n));
            let mut set = super::checker::PendingSet::default();
            self.sector_set_right(Structure::Pending, off, INODE_MAGIC)?;
            let why = match Inode::load(&self.store, off, ino)? {
                Slot::Zero => Some(String::from("zeros")),
                Slot::Bad(why) => Some(why.into()),
                Slot::Inode(inode) => {
                    if !inode.is_system(0, inode.pages) {
                        Some("impossible fields".into())
                    } else {
                        let mut visit = Visit::Claim(&mut self.claims);
                        let scan = tree::walk(
                            &self.store,
                            &self.geo,
                            &inode,
                            node::KIND_RECORDS,
                            &mut visit,
                            &mut |_| {},
                        )?;
                        if scan.fault_count > 0 && !scan.only_mends() {
                            set.bad = true;
                            set.fix = self.find_faults(ino, &scan, "pending set rebuilt")?;
                            for page in &scan.nodes {
                                self.claims.release(*page, 1, ino);
                            }
                            None
                        } else {
                            if !scan.faults.is_empty() {
                                self.find_faults(ino, &scan, "set right")?;
                            }
                            set.nodes.clone_from(&scan.nodes);
                            set.records = tree::records(&self.store, &self.geo, &inode)?.0;
                            (inode.pages != scan.nodes.len() as u64
                                || (inode.format == body::TREE
                                    && inode.tree_records() != scan.entries))
                                .then(|| String::from("wrong counters"))
                        }
                    }
                }
            };
            if let Some(why) = why {
                let f = Finding::new(Structure::Pending, off, why)
                    .of(ino)
                    .fix("rebuilt from the inodes");
                set.bad = true;
                set.fix = self.find(&f)?;
            }
            self.pending.push(set);
        }
        Ok(())
    }

    /// Generation of the nodes of the root, if one is left.
    fn root_generation(&mut self) -> Res<u32> {
        let mut found = None;
        let mut seen = BTreeSet::new();
        self.each_lost_node(&mut |node| {
            if node.owner == ROOT_INO && node.kind == node::KIND_DENTRIES && seen.insert(node.page)
            {
                found = found.or(Some(node.generation));
            }
        })?;
        Ok(found.unwrap_or_else(|| self.store.host().random() as u32 >> 1))
    }
}

impl Checker<'_, '_> {
    /// What a quick check looks at besides frontiers and shards: the root and the table's inode.
    pub(super) fn check_quick(&mut self) -> Res<()> {
        self.check_table_quickly()?;
        self.check_accounts_quickly()
    }
}
