// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The superblock: who the region is, and where its parts lie.

use crate::bytes::{get32, get64, get8, put, put32, put64, put8};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::{self, sb, Geometry, HASH_SIPHASH24, MIN_PAGES, PAGE, SUPER_MAGIC, VERSION};
use crate::marker;
use crate::region::Region;
use crate::types::Owner;

/// What the superblock says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperInfo {
    /// Version of the superblock.
    pub version: u32,
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// Label, UTF-8, zero-padded.
    pub label: [u8; 32],
    /// Grows with each rewrite of the superblock.
    pub generation: u64,
    /// Bytes of the region that the filesystem covers.
    pub size: u64,
    /// Features that a reader may ignore.
    pub compat: u64,
    /// Features that a writer must know.
    pub ro_compat: u64,
    /// Features that everybody must know.
    pub incompat: u64,
    /// When it was made, ns since 1970.
    pub created: i64,
    /// Start value of checksums.
    pub crc_seed: u32,
    /// Key of the hash of names.
    pub hash_key: [u64; 2],
    /// Where the parts lie.
    pub geometry: Geometry,
    /// Was the primary superblock bad, so that this is the backup?
    pub from_backup: bool,
    /// Who holds the mount marker, if anybody. Whether that owner still lives is the caller's to find
    /// out.
    pub owner: Option<Owner>,
}

impl SuperInfo {
    /// Bytes of fixed metadata: superblocks, system structures, allocation tables, journal.
    #[must_use]
    pub fn metadata(&self) -> u64 {
        (self.geometry.struct_start + 1) * PAGE
    }

    /// Offset and length in bytes of the room for struct pages.
    #[must_use]
    pub fn struct_pages(&self) -> (u64, u64) {
        (
            self.geometry.struct_start * PAGE,
            self.geometry.struct_pages * PAGE,
        )
    }

    /// The label as text.
    #[must_use]
    pub fn label_str(&self) -> &str {
        let end = self
            .label
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(self.label.len());
        core::str::from_utf8(self.label.get(..end).unwrap_or_default()).unwrap_or("")
    }

    /// The bytes of the superblock.
    pub(crate) fn encode<H: Host>(&self, host: &H) -> [u8; sb::SIZE] {
        let g = &self.geometry;
        let mut b = [0u8; sb::SIZE];
        put64(&mut b, sb::MAGIC, SUPER_MAGIC);
        put32(&mut b, sb::VERSION, self.version);
        put(&mut b, sb::UUID, &self.uuid);
        put(&mut b, sb::LABEL, &self.label);
        put32(&mut b, sb::CRC_SEED, self.crc_seed);
        put32(&mut b, sb::HASH, HASH_SIPHASH24);
        put32(&mut b, sb::SLOTS, g.slots as u32);
        put32(&mut b, sb::SHARDS, g.shards as u32);
        for (at, v) in [
            (sb::GENERATION, self.generation),
            (sb::TOTAL_PAGES, g.total_pages),
            (sb::COMPAT, self.compat),
            (sb::RO_COMPAT, self.ro_compat),
            (sb::INCOMPAT, self.incompat),
            (sb::CREATED, self.created as u64),
            (sb::HASH_KEY, self.hash_key[0]),
            (sb::HASH_KEY + 8, self.hash_key[1]),
        ] {
            put64(&mut b, at, v);
        }
        for (at, v) in places(g) {
            put64(&mut b, at, v);
        }
        for (at, v) in SHIFTS {
            put8(&mut b, at, v);
        }
        let crc = host.crc32(0, &b);
        put32(&mut b, sb::CRC, crc);
        b
    }

    /// Checks the bytes of a superblock.
    fn decode<H: Host>(host: &H, b: &[u8; sb::SIZE], at: u64) -> Result<Self> {
        let bad = |what| Err(Error::corrupt(at, what));
        if get64(b, sb::MAGIC) != SUPER_MAGIC {
            return Err(Error::NotOurs);
        }
        let mut copy = *b;
        put32(&mut copy, sb::CRC, 0);
        if host.crc32(0, &copy) != get32(b, sb::CRC) {
            return bad("superblock: bad checksum");
        }
        let version = get32(b, sb::VERSION);
        let incompat = get64(b, sb::INCOMPAT);
        if version != VERSION {
            return Err(Error::UnknownFeatures { flags: incompat });
        }
        let geometry = Geometry::new(
            get64(b, sb::TOTAL_PAGES),
            u64::from(get32(b, sb::SLOTS)),
            get64(b, sb::STRUCT_PAGES),
        );
        let Some(geometry) = geometry else {
            return bad("superblock: bad sizes");
        };
        // What a newer version lays out otherwise is not for us to judge.
        if incompat & !layout::KNOWN_INCOMPAT == 0
            && (places(&geometry).iter().any(|(at, v)| get64(b, *at) != *v)
                || SHIFTS.iter().any(|(at, v)| get8(b, *at) != *v)
                || u64::from(get32(b, sb::SHARDS)) != geometry.shards
                || get32(b, sb::HASH) != HASH_SIPHASH24)
        {
            return bad("superblock: places do not follow from the sizes");
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(b.get(sb::UUID..sb::UUID + 16).unwrap_or(&[0; 16]));
        let mut label = [0; 32];
        label.copy_from_slice(b.get(sb::LABEL..sb::LABEL + 32).unwrap_or(&[0; 32]));
        Ok(SuperInfo {
            version,
            uuid,
            label,
            generation: get64(b, sb::GENERATION),
            size: geometry.total_pages * PAGE,
            compat: get64(b, sb::COMPAT),
            ro_compat: get64(b, sb::RO_COMPAT),
            incompat,
            created: get64(b, sb::CREATED) as i64,
            crc_seed: get32(b, sb::CRC_SEED),
            hash_key: [get64(b, sb::HASH_KEY), get64(b, sb::HASH_KEY + 8)],
            geometry,
            from_backup: false,
            owner: None,
        })
    }
}

/// Fields that follow from the geometry.
fn places(g: &Geometry) -> [(usize, u64); 10] {
    [
        (sb::DATA_START, g.data_start),
        (sb::DATA_END, g.data_end),
        (sb::TOP_START, g.top_start),
        (sb::SUMMARY_START, g.summary_start),
        (sb::CHUNK_START, g.chunk_start),
        (sb::JOURNAL_START, g.journal_start),
        (sb::STRUCT_START, g.struct_start),
        (sb::STRUCT_PAGES, g.struct_pages),
        (sb::PPP_START, 0),
        (sb::PPP_PAGES, 0),
    ]
}

const SHIFTS: [(usize, u8); 3] = [
    (sb::PAGE_SHIFT, 12),
    (sb::CHUNK_SHIFT, 9),
    (sb::GROUP_SHIFT, 9),
];

fn read_at<R: Region, H: Host>(region: &R, host: &H, at: u64) -> Result<SuperInfo> {
    let mut b = [0u8; sb::SIZE];
    region.read(at, &mut b)?;
    SuperInfo::decode(host, &b, at)
}

/// Reads and checks the superblocks, writing nothing.
///
/// # Errors
/// `NotOurs` where there is no trace of one; `Corrupt` where there is, but no copy is sound;
/// `TooSmall` where it covers more than the region; `UnknownFeatures` for another version.
pub fn probe<R: Region, H: Host>(region: &R, host: &H) -> Result<SuperInfo> {
    let pages = region.len() / PAGE;
    if pages < MIN_PAGES {
        return Err(Error::TooSmall);
    }
    let first = read_at(region, host, 0);
    // The primary says where the backup is; without it, the end of the region does.
    let backup_at = match &first {
        Ok(s) if s.size <= region.len() => s.geometry.backup_offset(),
        _ => (pages - 1) * PAGE,
    };
    let backup = match read_at(region, host, backup_at) {
        Ok(s) if s.geometry.backup_offset() == backup_at => Ok(s),
        Ok(_) => Err(Error::NotOurs),
        Err(e) => Err(e),
    };
    let mut info = match (first, backup) {
        // Which of two versions is the newer one, only a reader of both can tell.
        (Err(e @ Error::UnknownFeatures { .. }), _)
        | (_, Err(e @ Error::UnknownFeatures { .. })) => return Err(e),
        (Ok(a), Ok(b)) if b.generation > a.generation => SuperInfo {
            from_backup: true,
            ..b
        },
        (Ok(a), _) => a,
        (Err(_), Ok(b)) => SuperInfo {
            from_backup: true,
            ..b
        },
        (Err(Error::NotOurs), Err(e)) | (Err(e), Err(_)) => return Err(e),
    };
    if info.size > region.len() {
        return Err(Error::TooSmall);
    }
    info.owner = marker::read(region, host)?;
    Ok(info)
}

/// Writes both copies of a superblock, the backup first, as LAYOUT.md (section 5) says. For tools that
/// hold the mount marker and change a label or UUID: `info.generation` must be greater than before.
///
/// # Errors
/// Those of the region.
pub fn write_super<R: Region, H: Host>(region: &R, host: &H, info: &SuperInfo) -> Result<()> {
    let b = info.encode(host);
    for at in [info.geometry.backup_offset(), 0] {
        // Without magic while it is in pieces.
        region.store(at, 0)?;
        region.persist()?;
        region.write(at + 8, b.get(8..).unwrap_or_default())?;
        region.persist()?;
        region.store(at, SUPER_MAGIC)?;
        region.persist()?;
    }
    Ok(())
}
