// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Does a region hold something that somebody may want to keep?
//!
//! A table of magic numbers, as libblkid and the formats' own headers have them. Fresh RAM holds
//! junk, often the remains of earlier use, and must not be taken for a filesystem: where the
//! magic is short, other fields must make sense too.

use crate::{uuid, UserHost};
use fs_core::layout::KNOWN_INCOMPAT;
use fs_core::{Region, SuperInfo};

/// Something that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Its usual name: `ext4`, `LUKS`, `GPT partition table`, …
    pub name: String,
    /// Offset in bytes of its magic.
    pub offset: u64,
    /// Length in bytes of the magic.
    pub len: u64,
    /// For an RP-RAMFS that can be read: what its superblock says.
    pub ours: Option<SuperInfo>,
}

/// One row of the table.
struct Row {
    name: &'static str,
    offset: u64,
    magic: &'static [u8],
    /// Do the fields around the magic make sense? Gets the place to look at.
    sane: fn(&Place<'_>) -> bool,
}

/// Reads fields of a region; all `None` outside of it.
struct Place<'a> {
    region: &'a dyn Region,
}

impl Place<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut buf = [0; N];
        self.region.read(at, &mut buf).ok()?;
        Some(buf)
    }
    fn u8(&self, at: u64) -> u64 {
        self.bytes(at).map_or(u64::MAX, |[b]: [u8; 1]| b.into())
    }
    fn le16(&self, at: u64) -> u64 {
        self.bytes(at)
            .map_or(u64::MAX, |b| u16::from_le_bytes(b).into())
    }
    fn le32(&self, at: u64) -> u64 {
        self.bytes(at)
            .map_or(u64::MAX, |b| u32::from_le_bytes(b).into())
    }
    fn le64(&self, at: u64) -> u64 {
        self.bytes(at).map_or(u64::MAX, u64::from_le_bytes)
    }
    fn be16(&self, at: u64) -> u64 {
        self.bytes(at)
            .map_or(u64::MAX, |b| u16::from_be_bytes(b).into())
    }
    fn be32(&self, at: u64) -> u64 {
        self.bytes(at)
            .map_or(u64::MAX, |b| u32::from_be_bytes(b).into())
    }
    fn be64(&self, at: u64) -> u64 {
        self.bytes(at).map_or(u64::MAX, u64::from_be_bytes)
    }
    fn is(&self, at: u64, magic: &[u8]) -> bool {
        let mut buf = [0; 32];
        let Some(buf) = buf.get_mut(..magic.len()) else {
            return false;
        };
        self.region.read(at, buf).is_ok() && buf == magic
    }
}

/// For a magic so long that chance does not write it (8 bytes and more).
fn long(_: &Place<'_>) -> bool {
    true
}

fn power_of_two(n: u64, from: u64, to: u64) -> bool {
    n.is_power_of_two() && (from..=to).contains(&n)
}

/// A boot sector as FAT, exFAT and NTFS have it ends in 55 AA.
fn boot_sector(p: &Place<'_>) -> bool {
    p.is(510, &[0x55, 0xaa])
}

fn fat(p: &Place<'_>) -> bool {
    boot_sector(p)
        && power_of_two(p.le16(11), 512, 4096)
        && power_of_two(p.u8(13), 1, 128)
        && p.u8(16) - 1 < 4
}

fn minix(p: &Place<'_>) -> bool {
    let (inodes, imap, zmap) = (p.le16(1024), p.le16(1028), p.le16(1030));
    let first = p.le16(1032);
    // s_log_zone_size is 0 in every known one; 8192 inodes fit a block of the map.
    inodes > 0
        && p.le16(1034) == 0
        && imap == inodes / 8192 + 1
        && zmap > 0
        && first >= 2 + imap + zmap
        && p.le16(1042) <= 3
}

const TABLE: &[Row] = &[
    Row {
        name: "XFS",
        offset: 0,
        magic: b"XFSB",
        sane: |p| power_of_two(p.be32(4), 512, 65536),
    },
    Row {
        name: "btrfs",
        offset: 0x1_0040,
        magic: b"_BHRfS_M",
        sane: long,
    },
    Row {
        name: "F2FS",
        offset: 1024,
        magic: &0xf2f5_2010u32.to_le_bytes(),
        // log_blocksize: 4 KiB to 64 KiB.
        sane: |p| (12..=16).contains(&p.le32(1024 + 16)),
    },
    Row {
        name: "FAT",
        offset: 54,
        magic: b"FAT12   ",
        sane: fat,
    },
    Row {
        name: "FAT",
        offset: 54,
        magic: b"FAT16   ",
        sane: fat,
    },
    Row {
        name: "FAT",
        offset: 82,
        magic: b"FAT32   ",
        sane: fat,
    },
    Row {
        name: "exFAT",
        offset: 3,
        magic: b"EXFAT   ",
        sane: boot_sector,
    },
    Row {
        name: "NTFS",
        offset: 3,
        magic: b"NTFS    ",
        sane: boot_sector,
    },
    Row {
        name: "BitLocker",
        offset: 3,
        magic: b"-FVE-FS-",
        sane: long,
    },
    Row {
        name: "SquashFS",
        offset: 0,
        magic: b"hsqs",
        // block_size is 1 << block_log.
        sane: |p| (12..=20).contains(&p.le16(22)) && p.le32(12) == 1 << p.le16(22),
    },
    Row {
        name: "EROFS",
        offset: 1024,
        magic: &0xe0f5_e1e2u32.to_le_bytes(),
        sane: |p| (9..=16).contains(&p.u8(1024 + 12)),
    },
    Row {
        name: "ISO 9660",
        offset: 0x8001,
        magic: b"CD001",
        sane: |p| p.u8(0x8006) == 1,
    },
    Row {
        name: "UDF",
        offset: 0x8001,
        magic: b"BEA01",
        sane: |p| p.u8(0x8006) == 1,
    },
    Row {
        name: "LUKS",
        offset: 0,
        magic: b"LUKS\xba\xbe",
        sane: |p| matches!(p.be16(6), 1 | 2),
    },
    Row {
        name: "Linux RAID",
        offset: 0,
        magic: &0xa92b_4efcu32.to_le_bytes(),
        sane: |p| p.le32(4) == 1,
    },
    Row {
        name: "Linux RAID",
        offset: 4096,
        magic: &0xa92b_4efcu32.to_le_bytes(),
        sane: |p| p.le32(4100) == 1,
    },
    Row {
        name: "bcache",
        offset: 4096 + 24,
        magic: &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
        sane: long,
    },
    Row {
        name: "bcachefs",
        offset: 4096 + 24,
        magic: &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d,
            0xf7, 0xef,
        ],
        sane: long,
    },
    Row {
        name: "GFS2",
        offset: 65536,
        magic: &0x0116_1970u32.to_be_bytes(),
        sane: |p| p.be32(65540) == 1,
    },
    Row {
        name: "NILFS2",
        offset: 1024 + 6,
        magic: &0x3434u16.to_le_bytes(),
        // s_rev_level, s_bytes, s_log_block_size.
        sane: |p| p.le32(1024) == 2 && power_of_two_or(p.le16(1032), 280) && p.le32(1044) <= 6,
    },
    Row {
        name: "JFS",
        offset: 32768,
        magic: b"JFS1",
        sane: |p| matches!(p.le32(32772), 1 | 2),
    },
    Row {
        name: "ReiserFS",
        offset: 65536 + 52,
        magic: b"ReIsEr",
        sane: |p| power_of_two(p.le16(65536 + 44), 512, 65536 / 2),
    },
    Row {
        name: "ReiserFS",
        offset: 8192 + 52,
        magic: b"ReIsEr",
        sane: |p| power_of_two(p.le16(8192 + 44), 512, 65536 / 2),
    },
    Row {
        name: "Reiser4",
        offset: 65536,
        magic: b"ReIsEr4",
        sane: long,
    },
    Row {
        name: "Minix",
        offset: 1024 + 16,
        magic: &0x137fu16.to_le_bytes(),
        sane: minix,
    },
    Row {
        name: "Minix",
        offset: 1024 + 16,
        magic: &0x138fu16.to_le_bytes(),
        sane: minix,
    },
    Row {
        name: "Minix",
        offset: 1024 + 16,
        magic: &0x2468u16.to_le_bytes(),
        sane: minix,
    },
    Row {
        name: "Minix",
        offset: 1024 + 16,
        magic: &0x2478u16.to_le_bytes(),
        sane: minix,
    },
    Row {
        name: "Minix",
        offset: 1024 + 24,
        magic: &0x4d5au16.to_le_bytes(),
        sane: |p| {
            p.le32(1024) > 0
                && p.le16(1030) > 0
                && p.le16(1032) > 0
                && p.le16(1036) == 0
                && power_of_two(p.le16(1024 + 28), 1024, 4096)
        },
    },
    Row {
        name: "romfs",
        offset: 0,
        magic: b"-rom1fs-",
        sane: long,
    },
    Row {
        name: "cramfs",
        offset: 16,
        magic: b"Compressed ROMFS",
        sane: |p| p.le32(0) == 0x28cd_3d45 || p.be32(0) == 0x28cd_3d45,
    },
    Row {
        name: "cramfs",
        offset: 512 + 16,
        magic: b"Compressed ROMFS",
        sane: |p| p.le32(512) == 0x28cd_3d45 || p.be32(512) == 0x28cd_3d45,
    },
    Row {
        name: "APFS",
        offset: 32,
        magic: b"NXSB",
        sane: |p| power_of_two(p.le32(36), 4096, 65536),
    },
    Row {
        name: "HFS+",
        offset: 1024,
        magic: b"H+",
        sane: |p| p.be16(1026) == 4 && power_of_two(p.be32(1024 + 40), 512, 1 << 26),
    },
    Row {
        name: "HFSX",
        offset: 1024,
        magic: b"HX",
        sane: |p| p.be16(1026) == 5 && power_of_two(p.be32(1024 + 40), 512, 1 << 26),
    },
    Row {
        name: "Ceph BlueStore",
        offset: 0,
        magic: b"bluestore block device\n",
        sane: long,
    },
    Row {
        name: "Stratis",
        offset: 512 + 4,
        magic: b"!Stra0tis\x86\xff\x02^\x41rh",
        sane: long,
    },
    Row {
        name: "VDO",
        offset: 0,
        magic: b"dmvdo001",
        sane: long,
    },
    Row {
        name: "NVDIMM pfn info block",
        offset: 4096,
        magic: b"NVDIMM_PFN_INFO\0",
        sane: long,
    },
    Row {
        name: "NVDIMM dax info block",
        offset: 4096,
        magic: b"NVDIMM_DAX_INFO\0",
        sane: long,
    },
    Row {
        name: "NVDIMM BTT info block",
        offset: 4096,
        magic: b"BTT_ARENA_INFO\0\0",
        sane: long,
    },
    Row {
        name: "NVDIMM BTT info block",
        offset: 0,
        magic: b"BTT_ARENA_INFO\0\0",
        sane: long,
    },
    Row {
        name: "NVDIMM namespace labels",
        offset: 0,
        magic: b"NAMESPACE_INDEX\0",
        sane: long,
    },
    Row {
        name: "NOVA",
        offset: 4,
        magic: &0x4e4f_5641u32.to_le_bytes(),
        sane: |p| power_of_two(p.le32(12), 512, 1 << 30) && plausible_size(p.le64(16)),
    },
    Row {
        name: "PMFS",
        offset: 2,
        magic: &0xeffcu16.to_le_bytes(),
        sane: |p| power_of_two(p.le32(4), 4096, 1 << 30) && plausible_size(p.le64(8)),
    },
    Row {
        name: "PRAMFS",
        offset: 68,
        magic: &0xeffau16.to_be_bytes(),
        sane: |p| power_of_two(p.be32(16), 512, 4096) && plausible_size(p.be64(8)),
    },
    Row {
        // "dax" and a digit that grows with the format, little-endian.
        name: "daxfs",
        offset: 1,
        magic: b"xad",
        sane: |p| {
            let last = p.u8(0);
            (last == u64::from(b'x') || (u64::from(b'0')..=u64::from(b'9')).contains(&last))
                && (1..=255).contains(&p.le32(4))
                && power_of_two(p.le32(12), 4096, 65536)
        },
    },
    Row {
        // The first format of daxfs, 0x64646178, has its block size elsewhere.
        name: "daxfs",
        offset: 0,
        magic: &0x6464_6178u32.to_le_bytes(),
        sane: |p| (1..=255).contains(&p.le32(4)),
    },
    Row {
        name: "qcow2 disk image",
        offset: 0,
        magic: b"QFI\xfb",
        sane: |p| (1..=3).contains(&p.be32(4)),
    },
    Row {
        name: "VHDX disk image",
        offset: 0,
        magic: b"vhdxfile",
        sane: long,
    },
    Row {
        name: "VMDK disk image",
        offset: 0,
        magic: b"KDMV",
        sane: |p| (1..=3).contains(&p.le32(4)),
    },
];

/// `s_bytes` of NILFS2: the size of its superblock structure, 280 in all versions so far.
fn power_of_two_or(n: u64, usual: u64) -> bool {
    n == usual || power_of_two(n, 256, 1024)
}

/// A filesystem's size: whole 512-byte sectors, something but not more than 1 PiB.
fn plausible_size(bytes: u64) -> bool {
    bytes % 512 == 0 && (4096..=1 << 50).contains(&bytes)
}

fn found(name: impl Into<String>, offset: u64, len: u64) -> Option<Signature> {
    Some(Signature {
        name: name.into(),
        offset,
        len,
        ours: None,
    })
}

/// Looks for anything known. RP-RAMFS itself comes first, by either superblock.
///
/// Reads some hundred bytes at fixed places at the start and the end of the region.
#[must_use]
pub fn detect(region: &dyn Region) -> Option<Signature> {
    rpramfs(region).or_else(|| foreign(region))
}

/// Looks for an RP-RAMFS only, also a damaged one or one of a later version.
#[must_use]
pub fn rpramfs(region: &dyn Region) -> Option<Signature> {
    let name = |detail: String| format!("RP-RAMFS{detail}");
    match fs_core::probe(&region, &UserHost::new()) {
        Ok(info) => {
            let label = crate::resolve::label(&info);
            let quoted = if label.is_empty() {
                String::new()
            } else {
                format!(", label \"{label}\"")
            };
            let later = if info.incompat & !KNOWN_INCOMPAT != 0 {
                " of a later version"
            } else {
                ""
            };
            let id = uuid::format(&info.uuid);
            Some(Signature {
                name: name(format!("{later} (UUID {id}{quoted})")),
                offset: 0,
                len: 0,
                ours: Some(info),
            })
        }
        Err(fs_core::Error::UnknownFeatures { .. }) => {
            found(name(" of a later version".into()), 0, 0)
        }
        Err(fs_core::Error::Corrupt(c)) => {
            found(name(format!(" (damaged: {})", c.what)), c.offset, 0)
        }
        // Whole at the start, but the region is cut short.
        Err(fs_core::Error::TooSmall) if region.len() >= 1 << 20 => {
            found(name(" that was larger than this".into()), 0, 0)
        }
        Err(_) => None,
    }
}

/// Looks for anything known but RP-RAMFS.
#[must_use]
pub fn foreign(region: &dyn Region) -> Option<Signature> {
    let p = Place { region };
    let row = TABLE
        .iter()
        .find(|row| p.is(row.offset, row.magic) && (row.sane)(&p));
    if let Some(row) = row {
        return found(row.name, row.offset, row.magic.len() as u64);
    }
    ext(&p)
        .or_else(|| swap(&p))
        .or_else(|| lvm(&p))
        .or_else(|| ocfs2(&p))
        .or_else(|| zfs(&p))
        .or_else(|| raid_at_the_end(&p))
        .or_else(|| partitions(&p))
}

/// ext2, 3 and 4, and their external journals. Offsets: struct ext4_super_block.
fn ext(p: &Place<'_>) -> Option<Signature> {
    let at = 1024;
    let sane = p.le16(at + 0x38) == 0xef53
        && p.le32(at) > 0
        && p.le32(at + 4) > 0
        && p.le32(at + 0x18) <= 6
        && p.le32(at + 0x4c) <= 1;
    if !sane {
        return None;
    }
    let (compat, incompat) = (p.le32(at + 0x5c), p.le32(at + 0x60));
    let ro_compat = p.le32(at + 0x64);
    let name = if incompat & 0x8 != 0 {
        "ext journal"
    } else if incompat & !0x16 != 0 || ro_compat & !0x7 != 0 {
        // More than filetype, recover, meta_bg, sparse_super, large_file, btree_dir.
        "ext4"
    } else if compat & 0x4 != 0 {
        "ext3"
    } else {
        "ext2"
    };
    found(name, at + 0x38, 2)
}

/// Swap and hibernation images: the magic ends the first page, of whatever size.
fn swap(p: &Place<'_>) -> Option<Signature> {
    [4096, 8192, 16384, 32768, 65536]
        .into_iter()
        .find_map(|page| {
            let at = page - 10;
            let names: [(&[u8], &str); 4] = [
                (b"SWAPSPACE2", "swap"),
                (b"SWAP-SPACE", "swap"),
                (b"S1SUSPEND\0", "hibernation image"),
                (b"S2SUSPEND\0", "hibernation image"),
            ];
            let (magic, name) = names.into_iter().find(|(magic, _)| p.is(at, magic))?;
            found(name, at, magic.len() as u64)
        })
}

/// An LVM2 physical volume: a label in one of the first four sectors.
fn lvm(p: &Place<'_>) -> Option<Signature> {
    (0..4)
        .map(|n| n * 512)
        .find(|at| p.is(*at, b"LABELONE") && p.is(at + 24, b"LVM2 001"))
        .and_then(|at| found("LVM2 physical volume", at, 8))
}

/// OCFS2: its superblock is block 2, of 512 bytes to 4 KiB.
fn ocfs2(p: &Place<'_>) -> Option<Signature> {
    [1024, 2048, 4096, 8192]
        .into_iter()
        .find(|at| p.is(*at, b"OCFSV2"))
        .and_then(|at| found("OCFS2", at, 6))
}

/// ZFS: 128 KiB of uberblocks behind the first 128 KiB, 1 KiB each at least.
fn zfs(p: &Place<'_>) -> Option<Signature> {
    const MAGIC: u64 = 0x00ba_b10c;
    (128..256).map(|n| n * 1024).find_map(|at| {
        let little = p.le64(at) == MAGIC && (1..=5000).contains(&p.le64(at + 8));
        let big = p.be64(at) == MAGIC && (1..=5000).contains(&p.be64(at + 8));
        (little || big).then(|| found("ZFS", at, 8)).flatten()
    })
}

/// Linux RAID with its superblock near the end: metadata 0.90 and 1.0.
fn raid_at_the_end(p: &Place<'_>) -> Option<Signature> {
    let len = p.region.len();
    let old = (len / 65536).checked_sub(1).map(|n| n * 65536);
    let one = (len / 512).checked_sub(16).map(|n| n / 8 * 8 * 512);
    let is = |at: u64, major: u64| {
        (p.le32(at) == 0xa92b_4efc || p.be32(at) == 0xa92b_4efc)
            && (p.le32(at + 4) == major || p.be32(at + 4) == major)
    };
    old.filter(|at| is(*at, 0))
        .or(one.filter(|at| is(*at, 1)))
        .and_then(|at| found("Linux RAID", at, 4))
}

/// GPT, then MBR.
fn partitions(p: &Place<'_>) -> Option<Signature> {
    for sector in [512, 4096] {
        if p.is(sector, b"EFI PART") {
            return found("GPT partition table", sector, 8);
        }
    }
    if !boot_sector(p) {
        return None;
    }
    let mut used = 0;
    for n in 0..4 {
        let at = 446 + 16 * n;
        let (status, kind) = (p.u8(at), p.u8(at + 4));
        let (start, sectors) = (p.le32(at + 8), p.le32(at + 12));
        if kind == 0 {
            if start != 0 || sectors != 0 {
                return None;
            }
        } else if matches!(status, 0 | 0x80) && start > 0 && sectors > 0 {
            used += 1;
        } else {
            return None;
        }
    }
    if used == 0 {
        return None;
    }
    found("MBR partition table", 510, 2)
}

/// Overwrites the magic of everything foreign that is found, so that no tool takes the region
/// for what it was. Bounded: a few bytes per signature.
pub fn wipe_foreign(region: &dyn Region) -> fs_core::Result<()> {
    // One region holds at most a handful; the bound is for a table that finds its own zeros.
    for _ in 0..256 {
        match foreign(region) {
            Some(s) => region.zero(s.offset, s.len)?,
            None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserRegion;

    const LEN: u64 = 4 << 20;

    fn region() -> UserRegion {
        UserRegion::anonymous(LEN).expect("map")
    }

    fn with(parts: &[(u64, &[u8])]) -> UserRegion {
        let r = region();
        for (at, bytes) in parts {
            r.write(*at, bytes).expect("write");
        }
        r
    }

    #[test]
    fn zeros_are_nothing() {
        assert_eq!(foreign(&region()), None);
    }

    /// Smallest set of bytes that makes each format.
    fn samples() -> Vec<(&'static str, UserRegion)> {
        let le16 = |n: u16| n.to_le_bytes().to_vec();
        let le32 = |n: u32| n.to_le_bytes().to_vec();
        let be32 = |n: u32| n.to_be_bytes().to_vec();
        let le64 = |n: u64| n.to_le_bytes().to_vec();
        let be64 = |n: u64| n.to_be_bytes().to_vec();
        let s = |name, parts: Vec<(u64, Vec<u8>)>| {
            let parts: Vec<(u64, &[u8])> = parts.iter().map(|(a, b)| (*a, b.as_slice())).collect();
            (name, with(&parts))
        };
        let aa55 = || (510, vec![0x55, 0xaa]);
        vec![
            s(
                "ext2",
                vec![
                    (1024, le32(16)),
                    (1028, le32(16)),
                    (1024 + 0x38, le16(0xef53)),
                ],
            ),
            s("XFS", vec![(0, b"XFSB".into()), (4, be32(4096))]),
            s("btrfs", vec![(0x1_0040, b"_BHRfS_M".into())]),
            s("F2FS", vec![(1024, le32(0xf2f5_2010)), (1040, le32(12))]),
            s(
                "FAT",
                vec![
                    (11, le16(512)),
                    (13, vec![4]),
                    (16, vec![2]),
                    (82, b"FAT32   ".into()),
                    aa55(),
                ],
            ),
            s("exFAT", vec![(3, b"EXFAT   ".into()), aa55()]),
            s("NTFS", vec![(3, b"NTFS    ".into()), aa55()]),
            s(
                "SquashFS",
                vec![(0, b"hsqs".into()), (12, le32(131_072)), (22, le16(17))],
            ),
            s("EROFS", vec![(1024, le32(0xe0f5_e1e2)), (1036, vec![12])]),
            s("ISO 9660", vec![(0x8001, b"CD001\x01".into())]),
            s("swap", vec![(4086, b"SWAPSPACE2".into())]),
            s("swap", vec![(65526, b"SWAPSPACE2".into())]),
            s("LUKS", vec![(0, b"LUKS\xba\xbe\x00\x02".into())]),
            s(
                "LVM2 physical volume",
                vec![(512, b"LABELONE".into()), (536, b"LVM2 001".into())],
            ),
            s(
                "Linux RAID",
                vec![(4096, le32(0xa92b_4efc)), (4100, le32(1))],
            ),
            s("Linux RAID", vec![(LEN - 65536, le32(0xa92b_4efc))]),
            s(
                "Linux RAID",
                vec![(LEN - 8192, le32(0xa92b_4efc)), (LEN - 8188, le32(1))],
            ),
            s(
                "ZFS",
                vec![
                    (140 * 1024, le64(0x00ba_b10c)),
                    (140 * 1024 + 8, le64(5000)),
                ],
            ),
            s("GFS2", vec![(65536, be32(0x0116_1970)), (65540, be32(1))]),
            s("OCFS2", vec![(8192, b"OCFSV2".into())]),
            s(
                "NILFS2",
                vec![(1024, le32(2)), (1030, le16(0x3434)), (1032, le16(280))],
            ),
            s("JFS", vec![(32768, b"JFS1\x01".into())]),
            s(
                "ReiserFS",
                vec![(65536 + 44, le16(4096)), (65536 + 52, b"ReIsEr2Fs".into())],
            ),
            s(
                "Minix",
                vec![
                    (1024, le16(352)),
                    (1028, le16(1)),
                    (1030, le16(1)),
                    (1032, le16(15)),
                    (1040, le16(0x138f)),
                    (1042, le16(1)),
                ],
            ),
            s("romfs", vec![(0, b"-rom1fs-".into())]),
            s(
                "cramfs",
                vec![(0, le32(0x28cd_3d45)), (16, b"Compressed ROMFS".into())],
            ),
            s("GPT partition table", vec![(512, b"EFI PART".into())]),
            s(
                "MBR partition table",
                vec![
                    (446, vec![0x80, 0, 0, 0, 0x83]),
                    (454, le32(2048)),
                    (458, le32(4096)),
                    aa55(),
                ],
            ),
            s(
                "NVDIMM dax info block",
                vec![(4096, b"NVDIMM_DAX_INFO\0".into())],
            ),
            s(
                "NOVA",
                vec![(4, le32(0x4e4f_5641)), (12, le32(4096)), (16, le64(LEN))],
            ),
            s(
                "PMFS",
                vec![(2, le16(0xeffc)), (4, le32(4096)), (8, le64(LEN))],
            ),
            s(
                "PRAMFS",
                vec![(8, be64(LEN)), (16, be32(2048)), (68, vec![0xef, 0xfa])],
            ),
            s(
                "daxfs",
                vec![(0, le32(0x6461_7835)), (4, le32(5)), (12, le32(4096))],
            ),
            s("daxfs", vec![(0, le32(0x6464_6178)), (4, le32(1))]),
            s("qcow2 disk image", vec![(0, b"QFI\xfb\0\0\0\x03".into())]),
        ]
    }

    #[test]
    fn each_is_recognised_and_wiped() {
        for (name, r) in samples() {
            let found = foreign(&r).unwrap_or_else(|| panic!("{name} was not recognised"));
            assert_eq!(found.name, name);
            wipe_foreign(&r).expect("wipe");
            assert_eq!(foreign(&r), None, "{name} after wiping");
        }
    }

    #[test]
    fn half_a_match_is_none() {
        // The short magics alone, without the fields that belong to them.
        let r = with(&[
            (0, b"XFSB"),
            (2, &0xeffcu16.to_le_bytes()),
            (4, &0x4e4f_5641u32.to_le_bytes()),
            (68, &0xeffau16.to_be_bytes()),
            (510, &[0x55, 0xaa]),
            (1030, &0x3434u16.to_le_bytes()),
            (1040, &0x138fu16.to_le_bytes()),
            (1024 + 0x38, &0xef53u16.to_le_bytes()),
            (4096, &0xa92b_4efcu32.to_le_bytes()),
        ]);
        assert_eq!(foreign(&r), None);
    }

    #[test]
    fn text_and_repeated_words_are_no_filesystem() {
        let r = region();
        for pattern in [
            b"The quick brown fox jumps over the lazy dog. ".as_slice(),
            &[0xff],
            &[0x55, 0xaa],
            &[0xde, 0xad, 0xbe, 0xef],
            &[0x5a; 8],
            &0xef53_ef53u32.to_le_bytes(),
        ] {
            let bytes: Vec<u8> = pattern.iter().copied().cycle().take(300_000).collect();
            r.write(0, &bytes).expect("write");
            assert_eq!(foreign(&r), None, "{pattern:x?}");
        }
    }

    #[test]
    fn junk_is_no_filesystem() {
        // xorshift bytes from a fixed seed, over all the places the table looks at.
        let r = UserRegion::anonymous(272 << 10).expect("map");
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut bytes = vec![0; 272 << 10];
        for round in 0..500 {
            for chunk in bytes.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.copy_from_slice(&state.to_le_bytes());
            }
            r.write(0, &bytes).expect("write");
            assert_eq!(foreign(&r), None, "round {round}");
        }
    }

    #[test]
    fn a_tiny_region_is_looked_at_without_error() {
        let r = UserRegion::anonymous(4096).expect("map");
        assert_eq!(foreign(&r), None);
    }

    #[test]
    fn ours_is_found_by_either_superblock() {
        let r = region();
        let host = UserHost::new();
        let options = fs_core::FormatOptions {
            uuid: [7; 16],
            label: [0; 32],
            uid: 0,
            gid: 0,
            mode: 0o755,
            struct_pages: false,
        };
        fs_core::format(&r, &host, &options).expect("format");
        let found = detect(&r).expect("found");
        assert!(found.ours.is_some() && found.name.contains("07070707"));
        assert_eq!(foreign(&r), None, "and is nothing else");
        r.zero(0, 4096).expect("destroy the primary");
        let found = detect(&r).expect("found by the backup");
        assert!(found.name.starts_with("RP-RAMFS"), "{}", found.name);
    }
}
