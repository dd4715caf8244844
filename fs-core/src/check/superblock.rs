// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The two superblocks.

use super::checker::{Checker, Res};
use super::inode::{Inode, Slot};
use super::marker::Marker;
use super::node::Entry;
use super::report::{Finding, Phase, Structure};
use super::store::{Sector, Store};
use super::tree;
use crate::bytes::{get32, get64, get8, put};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::{self, sb, slot, system, Geometry, PAGE, SECTOR};
use crate::region::Region;
use crate::types::ROOT_INO;
use alloc::format;
use alloc::string::String;

/// A sound superblock.
#[derive(Clone, Debug)]
pub struct Superblock {
    bytes: Sector,
    geo: Geometry,
}

impl Superblock {
    /// Checks the bytes of a superblock of a region of `len` bytes.
    pub fn parse(bytes: &Sector, host: &dyn Host, len: u64) -> core::result::Result<Self, String> {
        if let Some(why) = unsound(bytes, host) {
            return Err(why.into());
        }
        let version = get32(bytes, sb::VERSION);
        if version != layout::VERSION {
            return Err(format!("version {version} is not known here"));
        }
        let total = get64(bytes, sb::TOTAL_PAGES);
        let slots = u64::from(get32(bytes, sb::SLOTS));
        let Some(geo) = Geometry::new(total, slots, get64(bytes, sb::STRUCT_PAGES)) else {
            return Err(format!("impossible size of {total} pages"));
        };
        let same = u64::from(get32(bytes, sb::SHARDS)) == geo.shards
            && get64(bytes, sb::DATA_START) == geo.data_start
            && get64(bytes, sb::DATA_END) == geo.data_end
            && get64(bytes, sb::TOP_START) == geo.top_start
            && get64(bytes, sb::SUMMARY_START) == geo.summary_start
            && get64(bytes, sb::CHUNK_START) == geo.chunk_start
            && get64(bytes, sb::JOURNAL_START) == geo.journal_start
            && get64(bytes, sb::STRUCT_START) == geo.struct_start
            && get64(bytes, sb::PPP_START) == 0
            && get64(bytes, sb::PPP_PAGES) == 0
            && get8(bytes, sb::PAGE_SHIFT) == 12
            && get8(bytes, sb::CHUNK_SHIFT) == 9
            && get8(bytes, sb::GROUP_SHIFT) == 9;
        // What a feature that is not known here lays out otherwise is not to be judged here.
        let ours = get64(bytes, sb::INCOMPAT) & !layout::KNOWN_INCOMPAT == 0;
        if ours && !same {
            return Err("contradicts itself about where things lie".into());
        }
        if ours && get32(bytes, sb::HASH) != layout::HASH_SIPHASH24 {
            return Err("unknown hash of names".into());
        }
        if geo.total_pages > len / PAGE {
            return Err(format!(
                "{} pages are more than the region's {}",
                geo.total_pages,
                len / PAGE
            ));
        }
        Ok(Superblock { bytes: *bytes, geo })
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Sector {
        &self.bytes
    }
    /// Where things lie.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geo
    }
    /// Start value of all checksums.
    #[must_use]
    pub fn crc_seed(&self) -> u32 {
        get32(&self.bytes, sb::CRC_SEED)
    }
    /// Key of the hash of names.
    #[must_use]
    pub fn hash_key(&self) -> [u64; 2] {
        [
            get64(&self.bytes, sb::HASH_KEY),
            get64(&self.bytes, sb::HASH_KEY + 8),
        ]
    }
    /// Which copy is newer.
    #[must_use]
    pub fn generation(&self) -> u64 {
        get64(&self.bytes, sb::GENERATION)
    }
    /// Feature flags that forbid to read.
    #[must_use]
    pub fn unknown_incompat(&self) -> u64 {
        get64(&self.bytes, sb::INCOMPAT) & !layout::KNOWN_INCOMPAT
    }
    /// Feature flags that forbid to write.
    #[must_use]
    pub fn unknown_ro_compat(&self) -> u64 {
        get64(&self.bytes, sb::RO_COMPAT) & !layout::KNOWN_RO_COMPAT
    }

    /// The same with another label or UUID, and a greater generation.
    #[must_use]
    pub fn renamed(
        &self,
        host: &dyn Host,
        label: Option<&[u8; 32]>,
        uuid: Option<&[u8; 16]>,
    ) -> Self {
        let mut bytes = self.bytes;
        if let Some(label) = label {
            put(&mut bytes, sb::LABEL, label);
        }
        if let Some(uuid) = uuid {
            put(&mut bytes, sb::UUID, uuid);
        }
        let generation = self.generation().wrapping_add(1);
        put(&mut bytes, sb::GENERATION, &generation.to_le_bytes());
        put(&mut bytes, sb::CRC, &[0; 4]);
        let crc = host.crc32(0, &bytes);
        put(&mut bytes, sb::CRC, &crc.to_le_bytes());
        Superblock {
            bytes,
            geo: self.geo,
        }
    }

    /// How much of the region's fixed structures, and of the names in the root, agrees with it.
    fn fit(&self, region: &dyn Region, host: &dyn Host) -> Result<u64> {
        let mut store = Store::new(region, host, false);
        store.set_seed(self.crc_seed());
        let g = &self.geo;
        let fixed = [
            (g.system_offset(system::FRONTIER), layout::FRONTIER_MAGIC),
            (g.system_offset(system::IFRONTIER), layout::IFRONTIER_MAGIC),
            (g.system_offset(system::ITABLE), layout::INODE_MAGIC),
            (g.itable_copy_offset(), layout::INODE_MAGIC),
        ];
        let sets = (0..layout::PENDING_SETS)
            .map(|n| (g.system_offset(system::PENDING + n), layout::INODE_MAGIC));
        let shards = (0..g.shards).map(|n| (g.shard_offset(n), layout::SHARD_MAGIC));
        let accounts = (0..g.slots).map(|n| {
            let off = g.slot_offset(n).saturating_add(slot::ACCOUNT);
            (off, layout::ACCOUNT_MAGIC)
        });
        let mut fit = 0u64;
        for (off, magic) in fixed.into_iter().chain(sets).chain(shards).chain(accounts) {
            fit = fit.saturating_add(u64::from(store.intact(off, &store.sector(off)?, magic)));
        }
        Ok(fit.saturating_add(self.names_that_fit(&store)?))
    }

    /// Names in the root that lie under their hash.
    fn names_that_fit(&self, store: &Store<'_>) -> Result<u64> {
        let off = self.geo.system_offset(system::ITABLE);
        let Slot::Inode(table) = Inode::load(store, off, layout::ITABLE_OWNER)? else {
            return Ok(0);
        };
        let (records, _) = tree::records(store, &self.geo, &table)?;
        let first = records.first().filter(|r| r.key == 0);
        let Some(page) = first.map(|r| r.a).filter(|p| self.geo.is_data(*p, 1)) else {
            return Ok(0);
        };
        let off = page * PAGE + ROOT_INO * SECTOR;
        let Slot::Inode(root) = Inode::load(store, off, ROOT_INO)? else {
            return Ok(0);
        };
        let (list, _) = tree::entries(store, &self.geo, &root)?;
        let hash = self.hash_key();
        let right = |e: &&Entry| layout::name_key(hash, list.name(e)) & !0xff == e.key & !0xff;
        Ok(list.entries.iter().filter(right).count() as u64)
    }

    /// Writes both copies, the backup first: one of them is whole at any time. The caller holds
    /// the mount marker.
    pub fn write(&self, region: &dyn Region) -> Result<()> {
        write_copy(region, self.geo.backup_offset(), &self.bytes)?;
        write_copy(region, 0, &self.bytes)
    }
}

/// Writes a copy, which has no magic while it is in pieces (docs/LAYOUT.md, section 5).
fn write_copy(region: &dyn Region, off: u64, bytes: &Sector) -> Result<()> {
    const MAGIC: usize = core::mem::size_of::<u64>();
    let (_, behind) = bytes.split_at(MAGIC);
    region.store(off, 0)?;
    region.persist()?;
    region.write(off + MAGIC as u64, behind)?;
    region.persist()?;
    region.store(off, get64(bytes, sb::MAGIC))?;
    region.persist()
}

/// Is it of a magic or checksum that is not right?
fn unsound(bytes: &Sector, host: &dyn Host) -> Option<&'static str> {
    if get64(bytes, sb::MAGIC) != layout::SUPER_MAGIC {
        return Some("no magic");
    }
    let mut zeroed = *bytes;
    put(&mut zeroed, sb::CRC, &[0; 4]);
    (host.crc32(0, &zeroed) != get32(bytes, sb::CRC)).then_some("wrong checksum")
}

/// A sound superblock of another version is nothing to repair.
fn later_version(bytes: &Sector, host: &dyn Host) -> Result<()> {
    if unsound(bytes, host).is_none() && get32(bytes, sb::VERSION) != layout::VERSION {
        return Err(Error::UnknownFeatures {
            flags: get64(bytes, sb::INCOMPAT),
        });
    }
    Ok(())
}

/// Both copies, as far as they are sound.
#[derive(Clone, Debug)]
pub struct Superblocks {
    /// At offset 0.
    pub primary: core::result::Result<Superblock, String>,
    /// In the last page.
    pub backup: core::result::Result<Superblock, String>,
}

impl Superblocks {
    /// Reads both. With `search`, and where neither offset 0 nor the last page holds one, looks for
    /// a backup in every page: the region may be longer than the filesystem.
    pub fn read(region: &dyn Region, host: &dyn Host, search: bool) -> Result<Self> {
        let len = region.len();
        let at = |off: u64| -> Result<core::result::Result<Superblock, String>> {
            let mut bytes = [0; SECTOR as usize];
            region.read(off, &mut bytes)?;
            later_version(&bytes, host)?;
            Ok(Superblock::parse(&bytes, host, len))
        };
        if len < PAGE * layout::MIN_PAGES {
            return Err(Error::TooSmall);
        }
        let mut primary = at(0)?;
        let last = (len / PAGE - 1) * PAGE;
        // A backup is one only where it says that it lies.
        let backup_at = |off: u64| -> Result<core::result::Result<Superblock, String>> {
            Ok(at(off)?.and_then(|b| {
                if b.geo.backup_offset() == off {
                    Ok(b)
                } else {
                    Err("is of a filesystem of another shape".into())
                }
            }))
        };
        let mut backup = match &primary {
            Ok(p) => match backup_at(p.geo.backup_offset())? {
                Err(why) => backup_at(last)?.or(Err(why)),
                found => found,
            },
            Err(_) => {
                let mut found = Err(String::from("no magic"));
                let mut page = len / PAGE - 1;
                while page >= layout::MIN_PAGES - 1 {
                    let off = page * PAGE;
                    if region.load(off)? == layout::SUPER_MAGIC {
                        match backup_at(off)? {
                            Ok(b) => {
                                found = Ok(b);
                                break;
                            }
                            Err(why) if off == last => found = Err(why),
                            Err(_) => {}
                        }
                    }
                    if !search {
                        break;
                    }
                    page -= 1;
                }
                found
            }
        };
        if let (Ok(p), Ok(b)) = (&primary, &backup) {
            // These never change. Where the copies differ in them, the region tells who is right.
            let same = p.geo == b.geo && p.crc_seed() == b.crc_seed();
            let why = || Err(String::from("does not fit what lies in the region"));
            if !same || p.hash_key() != b.hash_key() {
                if b.fit(region, host)? > p.fit(region, host)? {
                    primary = why();
                } else {
                    backup = why();
                }
            }
        }
        Ok(Superblocks { primary, backup })
    }

    /// The one that counts.
    pub fn best(&self) -> Result<&Superblock> {
        match (&self.primary, &self.backup) {
            (Ok(p), Ok(b)) if b.generation() > p.generation() => Ok(b),
            (Ok(p), _) => Ok(p),
            (Err(_), Ok(b)) => Ok(b),
            (Err(_), Err(_)) => Err(Error::NotOurs),
        }
    }
}

impl Checker<'_, '_> {
    pub(super) fn check_superblocks(&mut self, supers: &Superblocks, found: &Marker) -> Res<()> {
        self.progress(Phase::Superblock, 0, 3)?;
        let bytes = *self.sb.bytes();
        let backup_off = self.geo.backup_offset();
        self.report.from_backup = supers.primary.is_err();
        let mut write = [false, false];
        match (&supers.primary, &supers.backup) {
            (Ok(p), Ok(b)) if p.bytes() == b.bytes() => {}
            (Ok(p), Ok(b)) if p.generation() != b.generation() => {
                self.note("a change of the superblock was cut short between its two copies")?;
                if self.store.is_live() {
                    write = [true, true];
                }
            }
            (Ok(_), Ok(_)) => {
                let f = Finding::new(
                    Structure::Backup,
                    backup_off,
                    "differs from the primary of the same generation",
                )
                .fix("copied from the primary");
                write[1] = self.find(&f)?;
            }
            (Err(why), Ok(_)) => {
                let f = Finding::new(Structure::Superblock, 0, why.as_str())
                    .fix("restored from the backup");
                write[0] = self.find(&f)?;
            }
            (_, Err(why)) => {
                let f = Finding::new(Structure::Backup, backup_off, why.as_str())
                    .fix("copied from the primary");
                write[1] = self.find(&f)?;
            }
        }
        if self.store.is_live() {
            for (wanted, off) in write.into_iter().zip([0, backup_off]) {
                if wanted {
                    write_copy(self.store.base(), off, &bytes)?;
                }
            }
        }
        if let Some(why) = found.fault() {
            let f = Finding::new(Structure::Marker, layout::marker::OFFSET, why).fix("cleared");
            // Taking and giving back the marker for the repair clears it anyhow.
            self.find(&f)?;
        }
        Ok(())
    }
}
