// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! mkfs: an empty filesystem in a bounded number of stores.

use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::host::Host;
use crate::inode;
use crate::inode::Inode;
use crate::journal;
use crate::layout::{iflag, Geometry, MAX_PAGES, MIN_PAGES, PAGE, SECTOR, VERSION};
use crate::region::Region;
use crate::space;
use crate::superblock::{write_super, SuperInfo};
use crate::types::{ROOT_INO, S_IFDIR};

/// What mkfs may choose.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// Label, UTF-8, at most 32 bytes, zero-padded.
    pub label: [u8; 32],
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
    /// Permissions of the root directory.
    pub mode: u32,
    /// Keep room for the kernel's struct pages (64 bytes for each page of the region).
    pub struct_pages: bool,
}

/// The geometry that [`format`] gives a region of so many bytes.
///
/// # Errors
/// `TooSmall` below 1 MiB, or where nothing is left for data; `TooBig` beyond the format's limit.
pub fn plan(len: u64, struct_pages: bool) -> Result<Geometry> {
    let pages = len / PAGE;
    if pages < MIN_PAGES {
        return Err(Error::TooSmall);
    }
    if pages > MAX_PAGES {
        return Err(Error::TooBig);
    }
    let room = if struct_pages {
        Geometry::room_for_struct_pages(pages)
    } else {
        0
    };
    Geometry::new(pages, Geometry::default_slots(pages), room).ok_or(Error::TooSmall)
}

/// Writes an empty filesystem over whatever the region holds. The number of bytes written does not
/// depend on the region's size.
///
/// # Errors
/// Those of [`plan`], and those of the region.
pub fn format<R: Region, H: Host>(
    region: &R,
    host: &H,
    options: &FormatOptions,
) -> Result<SuperInfo> {
    let geometry = plan(region.len(), options.struct_pages)?;
    let info = SuperInfo {
        version: VERSION,
        uuid: options.uuid,
        label: options.label,
        generation: 1,
        size: geometry.total_pages * PAGE,
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        created: host.now(),
        crc_seed: host.random() as u32,
        hash_key: [host.random(), host.random()],
        geometry,
        from_backup: false,
        owner: None,
    };
    // Both magics go before anything else: from here until the end there is no filesystem, neither the
    // old one nor the new.
    region.store(0, 0)?;
    region.store(geometry.backup_offset(), 0)?;
    region.persist()?;
    region.zero(0, 3 * PAGE)?;
    region.zero(geometry.backup_offset(), PAGE)?;

    let fs = Fs::bare(region, host, &info);
    let free = geometry.data_end - geometry.data_start;
    for slot in 0..geometry.slots {
        region.zero(geometry.slot_offset(slot), 2 * SECTOR)?;
        journal::format_slot(&fs, slot, if slot == 0 { free } else { 0 })?;
    }
    space::format_frontier(&fs)?;
    inode::format_inodes(&fs)?;
    fs.free
        .store(free as i64, core::sync::atomic::Ordering::Relaxed);
    let now = host.now();
    fs.run(|tx| {
        let mut root = Inode::NONE;
        tx.new_inode(&mut root)?;
        root.set_mode(S_IFDIR | options.mode & 0o7777);
        root.set_uid(options.uid);
        root.set_gid(options.gid);
        root.set_nlink(2);
        root.set_link(ROOT_INO);
        root.set_atime(now);
        root.set_mtime(now);
        root.set_ctime(now);
        root.set_btime(now);
        debug_assert!(root.ino() == ROOT_INO && root.has(iflag::IN_USE));
        Ok(tx.put_new_inode(&root)?)
    })?;
    write_super(region, host, &info)?;
    Ok(info)
}
