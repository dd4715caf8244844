// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs tune`: label and UUID.

use crate::args::{Label, Uuid};
use fs_core::check::{release, take, Superblocks};
use fs_core::OwnerKind;
use host::{owner, Error, Result, UserHost, UserRegion};
use rpramfs_fsck::region::{explain, refuse_mounted};
use serde_json::{json, Value};

/// Changes both superblocks.
pub fn tune(
    region: &UserRegion,
    host: &UserHost,
    label: Option<Label>,
    uuid: Option<Uuid>,
) -> Result<Value> {
    if label.is_none() && uuid.is_none() {
        return Err(Error::usage("nothing to change").hint("-L LABEL or -U UUID"));
    }
    refuse_mounted(region)?;
    let us = owner::current(OwnerKind::Tool)?;
    let core = |e| explain(region, "cannot be changed", e);
    take(region, host, &us, &owner::alive).map_err(core)?;
    let outcome = change(region, host, label, uuid);
    release(region).map_err(core)?;
    outcome?;
    region.sync()?;
    let info = fs_core::probe(region, host).map_err(core)?;
    Ok(json!({
        "region": region.name(),
        "label": host::resolve::label(&info),
        "uuid": host::uuid::format(&info.uuid),
        "generation": info.generation,
    }))
}

fn change(
    region: &UserRegion,
    host: &UserHost,
    label: Option<Label>,
    uuid: Option<Uuid>,
) -> Result<()> {
    let core = |e| explain(region, "cannot be changed", e);
    let supers = Superblocks::read(region, host, false).map_err(core)?;
    if supers.primary.is_err() || supers.backup.is_err() {
        return Err(Error::new(
            host::Kind::Refused,
            format!("{}: one of the superblocks is damaged", region.name()),
        )
        .hint("fsck.rpramfs -y first"));
    }
    let sb = supers.best().map_err(core)?;
    sb.renamed(
        host,
        label.map(|l| l.0).as_ref(),
        uuid.map(|u| u.0).as_ref(),
    )
    .write(region)
    .map_err(core)
}
