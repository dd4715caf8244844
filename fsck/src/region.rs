// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Opens regions, and says what is wrong with the ones that are refused.

use fs_core::check;
use fs_core::OwnerKind;
use host::{owner, signature, Access, Error, Kind, Result, Spec, UserHost, UserRegion};
use std::ffi::OsStr;

/// Opens what SPEC names.
pub fn open(spec: &OsStr, access: Access) -> Result<UserRegion> {
    host::open(&Spec::parse(spec)?, access)
}

/// Refuses a region that somebody has mounted and who lives.
pub fn refuse_mounted(region: &UserRegion) -> Result<()> {
    let us = owner::current(OwnerKind::Tool)?;
    let host = UserHost::new();
    let holder = check::holder(region, &host, &us, &owner::alive)
        .map_err(|e| Error::core(region.name(), e))?;
    match holder {
        None => Ok(()),
        Some(holder) => Err(Error::new(
            Kind::Busy,
            format!("{}: in use by {}", region.name(), owner::describe(&holder)),
        )
        .hint("unmount it first; a mount finishes by itself what a crash left")),
    }
}

/// An error of the core about a region, with what to do next.
pub fn explain(region: &UserRegion, what: &str, error: fs_core::Error) -> Error {
    let name = region.name();
    // Of a region that is cut short no superblock passes, and then it matters that there is one.
    let probed = fs_core::probe(region, &UserHost::new());
    let error = match (error, probed) {
        (fs_core::Error::NotOurs, Err(fs_core::Error::TooSmall)) => fs_core::Error::TooSmall,
        (error, _) => error,
    };
    match error {
        fs_core::Error::NotOurs => {
            let error = match signature::foreign(region) {
                Some(other) => Error::new(
                    Kind::Filesystem(error),
                    format!("{name}: holds {}, no RP-RAMFS", other.name),
                ),
                None => Error::new(
                    Kind::Filesystem(error),
                    format!(
                        "{name}: no RP-RAMFS: neither its first page nor any other holds a sound \
                         superblock"
                    ),
                ),
            };
            error.hint(
                "is the address right, and the size? /proc/iomem shows what is reserved; \
                 mkfs.rpramfs makes a new filesystem",
            )
        }
        fs_core::Error::TooSmall => Error::core(format!("{name}: {what}"), error)
            .hint("is the size right? the region must be at least as long as when it was made"),
        fs_core::Error::UnknownFeatures { .. } => Error::core(format!("{name}: {what}"), error)
            .hint("use the tools of the version that made it"),
        fs_core::Error::Busy => Error::core(format!("{name}: {what}"), error)
            .hint("unmount it first, or let the other tool finish"),
        e => Error::core(format!("{name}: {what}"), e),
    }
}
