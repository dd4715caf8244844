// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The mount marker (LAYOUT.md, section 6).

use crate::bytes::{get32, get64, put32, put64};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::marker as at;
use crate::region::Region;
use crate::types::{Owner, OwnerKind};

/// The marker as it is read.
#[derive(Clone, Copy, Debug)]
pub struct Marker {
    bytes: [u8; at::SIZE],
}

impl Marker {
    /// Reads it.
    pub fn read(region: &dyn Region) -> Result<Self> {
        let mut bytes = [0; at::SIZE];
        region.read(at::OFFSET, &mut bytes)?;
        Ok(Marker { bytes })
    }

    /// Word of the holder; 0: free.
    #[must_use]
    pub fn state(&self) -> u64 {
        get64(&self.bytes, at::STATE)
    }

    /// Does the checksum of the details hold?
    #[must_use]
    pub fn details_hold(&self, host: &dyn Host) -> bool {
        let body = self.bytes.get(..at::CRC).unwrap_or(&[]);
        host.crc32(0, body) == get32(&self.bytes, at::CRC)
    }

    /// Since when, in nanoseconds since 1970.
    #[must_use]
    pub fn since(&self) -> i64 {
        get64(&self.bytes, at::SINCE) as i64
    }

    /// Kind of the holder.
    #[must_use]
    pub fn kind(&self) -> Option<OwnerKind> {
        match self.state() >> 32 & 0xff {
            1 => Some(OwnerKind::Fuse),
            2 => Some(OwnerKind::Kernel),
            3 => Some(OwnerKind::Tool),
            _ => None,
        }
    }

    /// Who holds the region, where the marker says so in full.
    #[must_use]
    pub fn owner(&self, host: &dyn Host) -> Option<Owner> {
        if self.state() == 0 || !self.details_hold(host) {
            return None;
        }
        let boot_id: [u8; 16] = self
            .bytes
            .get(at::BOOT_ID..at::BOOT_ID + 16)
            .and_then(|b| b.try_into().ok())?;
        Some(Owner {
            boot_id,
            kind: self.kind()?,
            pid: self.state() as u32,
            start: get64(&self.bytes, at::START),
        })
    }

    /// Why no program can have left it so.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        (self.state() != 0 && self.kind().is_none()).then_some("held by an unknown kind of holder")
    }
}

/// The word that a holder writes.
fn word(host: &dyn Host, owner: &Owner) -> u64 {
    let boot = u64::from(host.crc32(0, &owner.boot_id) & 0xff_ffff);
    boot << 40 | u64::from(owner.kind as u8) << 32 | u64::from(owner.pid)
}

/// Who holds the region and lives. `us` tells which boot this is: a marker whose details were not
/// written in full is judged by its word alone.
pub fn holder(
    region: &dyn Region,
    host: &dyn Host,
    us: &Owner,
    alive: &dyn Fn(&Owner) -> bool,
) -> Result<Option<Owner>> {
    let marker = Marker::read(region)?;
    if marker.state() == 0 {
        return Ok(None);
    }
    if let Some(owner) = marker.owner(host) {
        return Ok(alive(&owner).then_some(owner));
    }
    let Some(kind) = marker.kind() else {
        return Ok(None);
    };
    let partial = Owner {
        boot_id: us.boot_id,
        kind,
        pid: marker.state() as u32,
        start: 0,
    };
    Ok((marker.state() == word(host, &partial) && alive(&partial)).then_some(partial))
}

/// Takes the marker for `owner`, unless somebody who lives holds it.
pub fn take(
    region: &dyn Region,
    host: &dyn Host,
    owner: &Owner,
    alive: &dyn Fn(&Owner) -> bool,
) -> Result<()> {
    let seen = region.load(at::OFFSET)?;
    if holder(region, host, owner, alive)?.is_some() {
        return Err(Error::Busy);
    }
    let mine = word(host, owner);
    if region.compare_exchange(at::OFFSET, seen, mine)?.is_err() {
        return Err(Error::Busy);
    }
    let mut bytes = [0; at::SIZE];
    put64(&mut bytes, at::STATE, mine);
    if let Some(b) = bytes.get_mut(at::BOOT_ID..at::BOOT_ID + 16) {
        b.copy_from_slice(&owner.boot_id);
    }
    put64(&mut bytes, at::START, owner.start);
    put64(&mut bytes, at::SINCE, host.now() as u64);
    let crc = host.crc32(0, bytes.get(..at::CRC).unwrap_or(&[]));
    put32(&mut bytes, at::CRC, crc);
    for field in (8..at::SIZE).step_by(8) {
        region.store(at::OFFSET + field as u64, get64(&bytes, field))?;
    }
    Ok(())
}

/// Gives the marker back.
pub fn release(region: &dyn Region) -> Result<()> {
    region.store(at::OFFSET, 0)
}
