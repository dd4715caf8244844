// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The mount marker: a region is mounted by one at a time (LAYOUT.md, section 6).

use crate::bytes::{get32, get64, put, put32, put64};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::marker;
use crate::region::Region;
use crate::types::{Owner, OwnerKind};

fn boot_hash<H: Host>(host: &H, boot_id: &[u8; 16]) -> u64 {
    u64::from(host.crc32(0, boot_id)) & 0xff_ffff
}

fn word<H: Host>(host: &H, owner: &Owner) -> u64 {
    boot_hash(host, &owner.boot_id) << 40 | (owner.kind as u64) << 32 | u64::from(owner.pid)
}

fn kind(word: u64) -> OwnerKind {
    match word >> 32 & 0xff {
        1 => OwnerKind::Fuse,
        2 => OwnerKind::Kernel,
        _ => OwnerKind::Tool,
    }
}

/// Who holds the marker. With details that do not fit the word (a crash between the two stores) the
/// boot id and the start time are zeros.
pub(crate) fn read<R: Region, H: Host>(region: &R, host: &H) -> Result<Option<Owner>> {
    let state = region.load(marker::OFFSET)?;
    if state == 0 {
        return Ok(None);
    }
    let mut b = [0u8; marker::SIZE];
    region.read(marker::OFFSET, &mut b)?;
    let mut owner = Owner {
        boot_id: [0; 16],
        kind: kind(state),
        pid: state as u32,
        start: 0,
    };
    if host.crc32(0, b.get(..marker::CRC).unwrap_or_default()) == get32(&b, marker::CRC) {
        let id = b
            .get(marker::BOOT_ID..marker::BOOT_ID + 16)
            .unwrap_or(&[0; 16]);
        owner.boot_id.copy_from_slice(id);
        owner.start = get64(&b, marker::START);
    }
    Ok(Some(owner))
}

/// Takes the marker, from nobody or from an owner that is gone.
///
/// # Errors
/// `Busy` if the owner lives, or somebody else was faster.
pub(crate) fn take<R: Region, H: Host>(
    region: &R,
    host: &H,
    me: &Owner,
    alive: &dyn Fn(&Owner) -> bool,
) -> Result<()> {
    let state = region.load(marker::OFFSET)?;
    if let Some(owner) = read(region, host)? {
        let known = owner.boot_id != [0; 16];
        let same_boot = if known {
            owner.boot_id == me.boot_id
        } else {
            state >> 40 == boot_hash(host, &me.boot_id)
        };
        if same_boot
            && alive(&Owner {
                boot_id: me.boot_id,
                ..owner
            })
        {
            return Err(Error::Busy);
        }
    }
    let mine = word(host, me);
    if region
        .compare_exchange(marker::OFFSET, state, mine)?
        .is_err()
    {
        return Err(Error::Busy);
    }
    let mut b = [0u8; marker::SIZE];
    put64(&mut b, marker::STATE, mine);
    put(&mut b, marker::BOOT_ID, &me.boot_id);
    put64(&mut b, marker::START, me.start);
    put64(&mut b, marker::SINCE, host.now() as u64);
    let crc = host.crc32(0, b.get(..marker::CRC).unwrap_or_default());
    put32(&mut b, marker::CRC, crc);
    region.write(marker::OFFSET + 8, b.get(8..).unwrap_or_default())?;
    region.persist()
}

/// Gives the marker back.
pub(crate) fn release<R: Region>(region: &R) -> Result<()> {
    region.store(marker::OFFSET, 0)?;
    region.persist()
}

/// Holds the marker for an offline tool that writes.
///
/// # Errors
/// `Busy` if the region is mounted.
pub fn take_for_tool<R: Region, H: Host>(
    region: &R,
    host: &H,
    me: &Owner,
    alive: &dyn Fn(&Owner) -> bool,
) -> Result<()> {
    take(region, host, me, alive)
}

/// Gives back what [`take_for_tool`] took.
///
/// # Errors
/// Those of the region.
pub fn release_for_tool<R: Region>(region: &R) -> Result<()> {
    release(region)
}
