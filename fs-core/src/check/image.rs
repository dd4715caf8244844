// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A region looked at from outside: what the inspector stands on.

use super::claims::Claims;
use super::inode::{Inode, Slot};
use super::journal::read_slot;
use super::node::{DirList, Record};
use super::store::Store;
use super::superblock::{Superblock, Superblocks};
use super::tree::{self, Scan};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::{
    body, chunk, slot, system, Geometry, EXTENT_LEN, EXTENT_UNWRITTEN, INODES_PER_PAGE,
    ITABLE_OWNER, PAGE, PENDING_OWNER, PENDING_SETS, SECTOR,
};
use crate::region::Region;
use crate::types::{self, Ino, ROOT_INO};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// A filesystem that is read without being mounted. Committed transactions are taken into account;
/// nothing is written.
#[derive(Debug)]
pub struct Image<'a> {
    store: Store<'a>,
    supers: Superblocks,
    sb: Superblock,
    geo: Geometry,
}

/// What lies at an offset, by the geometry alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A structure with a fixed place, in words.
    Fixed(String),
    /// A page of the data zone.
    Data {
        /// The page.
        page: u64,
    },
    /// Behind the filesystem.
    Outside,
}

impl<'a> Image<'a> {
    /// Reads superblocks and journal.
    pub fn open(region: &'a dyn Region, host: &'a dyn Host) -> Result<Self> {
        let mut image = Image::raw(region, host)?;
        for index in 0..image.geo.slots {
            if let Ok(homes) = read_slot(&image.store, &image.geo, index)?.transaction {
                if !homes.is_empty() {
                    let off = image.geo.slot_offset(index);
                    image.store.replay(off, &homes)?;
                }
            }
        }
        Ok(image)
    }

    /// Reads superblocks only: what is seen is what lies in the region, and committed transactions
    /// are not taken into account.
    pub fn raw(region: &'a dyn Region, host: &'a dyn Host) -> Result<Self> {
        let supers = Superblocks::read(region, host, true)?;
        let sb = supers.best()?.clone();
        let geo = sb.geometry();
        let mut store = Store::new(region, host, false);
        store.set_seed(sb.crc_seed());
        Ok(Image {
            store,
            supers,
            sb,
            geo,
        })
    }

    /// The superblock that counts.
    #[must_use]
    pub const fn superblock(&self) -> &Superblock {
        &self.sb
    }
    /// Both superblocks.
    #[must_use]
    pub const fn superblocks(&self) -> &Superblocks {
        &self.supers
    }
    /// Where things lie.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geo
    }
    /// The region with committed transactions carried out.
    #[must_use]
    pub const fn store(&self) -> &Store<'a> {
        &self.store
    }

    /// Region offset of an inode: a number, or the owner id of a system inode.
    pub fn inode_offset(&self, ino: Ino) -> Result<u64> {
        if ino == ITABLE_OWNER {
            return Ok(self.geo.system_offset(system::ITABLE));
        }
        if let Some(n) = ino.checked_sub(PENDING_OWNER).filter(|n| *n < PENDING_SETS) {
            return Ok(self.geo.system_offset(system::PENDING + n));
        }
        let mut table = Inode::load(
            &self.store,
            self.geo.system_offset(system::ITABLE),
            ITABLE_OWNER,
        )?;
        if !matches!(table, Slot::Inode(_)) {
            table = Inode::load(&self.store, self.geo.itable_copy_offset(), ITABLE_OWNER)?;
        }
        let Slot::Inode(table) = table else {
            return Err(Error::corrupt(
                self.geo.system_offset(system::ITABLE),
                "the inode of the inode table is damaged",
            ));
        };
        let (records, _) = tree::records(&self.store, &self.geo, &table)?;
        let page = ino / INODES_PER_PAGE;
        for r in records {
            let len = r.b & EXTENT_LEN;
            if self.geo.is_data(r.a, len) {
                if let Some(at) = page.checked_sub(r.key).filter(|at| *at < len) {
                    return Ok((r.a + at) * PAGE + ino % INODES_PER_PAGE * SECTOR);
                }
            }
        }
        Err(Error::NotFound)
    }

    /// Reads an inode, in use or free.
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        let off = self.inode_offset(ino)?;
        match Inode::load(&self.store, off, ino)? {
            Slot::Inode(i) => Ok(i),
            Slot::Zero => Err(Error::NotFound),
            Slot::Bad(why) => Err(Error::corrupt(off, why)),
        }
    }

    /// Records of a file's extents, of a pending set, or of a seal.
    pub fn records(&self, inode: &Inode) -> Result<(Vec<Record>, Scan)> {
        tree::records(&self.store, &self.geo, inode)
    }

    /// Entries of a directory.
    pub fn entries(&self, inode: &Inode) -> Result<(DirList, Scan)> {
        if inode.kind() != types::S_IFDIR {
            return Err(Error::NotDirectory);
        }
        tree::entries(&self.store, &self.geo, inode)
    }

    /// Follows a path from the root; symbolic links in it are not followed.
    pub fn resolve(&self, path: &[u8]) -> Result<Inode> {
        let mut inode = self.inode(ROOT_INO)?;
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => {
                    inode = self.inode(inode.link)?;
                    continue;
                }
                _ => {}
            }
            let (list, _) = self.entries(&inode)?;
            let next = list
                .entries
                .iter()
                .find(|e| list.name(e) == part)
                .map(|e| e.ino)
                .ok_or(Error::NotFound)?;
            inode = self.inode(next)?;
        }
        Ok(inode)
    }

    /// Target of a symbolic link.
    pub fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let len = usize::try_from(inode.size).unwrap_or(usize::MAX);
        match inode.format {
            body::TARGET => Ok(inode.body.get(..len).ok_or(Error::Invalid)?.to_vec()),
            body::TARGET_PAGE if len <= PAGE as usize => {
                let page = crate::bytes::get64(&inode.body, 0);
                let mut target = vec![0; len];
                self.store.read(page.saturating_mul(PAGE), &mut target)?;
                Ok(target)
            }
            _ => Err(Error::Invalid),
        }
    }

    /// Hands the bytes of a file to `out` piece by piece, holes as zeros. `out` answers whether to
    /// go on.
    pub fn read_file(&self, inode: &Inode, out: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        let (extents, _) = self.records(inode)?;
        let mut buf = vec![0u8; 1 << 18];
        let zeros = vec![0u8; 1 << 18];
        let mut at = 0u64;
        let mut extents = extents.iter().peekable();
        while at < inode.size {
            let page = at / PAGE;
            while extents
                .next_if(|e| e.key.saturating_add(e.b & EXTENT_LEN) <= page)
                .is_some()
            {}
            let (source, end) = match extents.peek() {
                Some(e) if e.key <= page => {
                    let source = (e.b & EXTENT_UNWRITTEN == 0).then(|| {
                        (e.a.saturating_add(page - e.key)).saturating_mul(PAGE) + at % PAGE
                    });
                    (source, e.key.saturating_add(e.b & EXTENT_LEN))
                }
                Some(e) => (None, e.key),
                None => (None, u64::MAX),
            };
            let end = end.saturating_mul(PAGE).min(inode.size);
            let n = (end - at).min(buf.len() as u64);
            let part = match source {
                Some(off) => {
                    let part = buf.get_mut(..n as usize).unwrap_or(&mut []);
                    self.store.read(off, part)?;
                    &*part
                }
                None => zeros.get(..n as usize).unwrap_or(&[]),
            };
            if !out(part) {
                return Ok(());
            }
            at = at.saturating_add(n.max(1));
        }
        Ok(())
    }

    /// What lies at an offset, by the geometry alone.
    #[must_use]
    pub fn place(&self, offset: u64) -> Place {
        let g = &self.geo;
        let page = offset / PAGE;
        let sector = offset % PAGE / SECTOR;
        let within = |start: u64| offset.saturating_sub(start.saturating_mul(PAGE));
        let fixed = |s: String| Place::Fixed(s);
        match page {
            0 => fixed(match sector {
                0 => "primary superblock".into(),
                1 => "mount marker".into(),
                n => format!("page 0, sector {n} (unused)"),
            }),
            1 => fixed(match sector {
                system::FRONTIER => "frontier".into(),
                system::IFRONTIER => "inode frontier".into(),
                system::ITABLE => "inode of the inode table".into(),
                n if n < system::PENDING + PENDING_SETS => {
                    format!("inode of pending set {}", n - system::PENDING)
                }
                n => format!("system page, sector {n} (unused)"),
            }),
            2 => fixed(if sector < g.shards {
                format!("inode shard {sector}")
            } else {
                format!("page of the inode shards, sector {sector} (unused)")
            }),
            p if p < g.summary_start => {
                fixed(format!("top summary {}", within(g.top_start) / SECTOR))
            }
            p if p < g.chunk_start => fixed(format!(
                "group summary {}",
                within(g.summary_start) / SECTOR
            )),
            p if p < g.journal_start => {
                let n = within(g.chunk_start) / chunk::SIZE as u64;
                fixed(format!("chunk descriptor {n}"))
            }
            p if p < g.struct_start => {
                let at = within(g.journal_start);
                let n = at / (slot::PAGES * PAGE);
                let part = match at % (slot::PAGES * PAGE) {
                    0..256 => "header",
                    256..512 => "account",
                    512..2304 => "table",
                    2304..4096 => "padding",
                    _ => "contents",
                };
                fixed(format!("journal slot {n}, {part}"))
            }
            p if p < g.data_start => fixed("room for struct pages".into()),
            p if p < g.data_end => Place::Data { page: p },
            p if p == g.data_end => fixed(match sector {
                0 => "backup superblock".into(),
                2 => "copy of the inode table's inode".into(),
                n => format!("backup page, sector {n} (unused)"),
            }),
            _ => Place::Outside,
        }
    }
}

/// Who owns which page: walks the whole filesystem, read-only.
pub fn owners(region: &dyn Region, host: &dyn Host) -> Result<Claims> {
    super::checker::claims(region, host)
}
