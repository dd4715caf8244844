// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs stat`.

use crate::render::time;
use fs_core::check::{account, read_slot, Image, Marker};
use fs_core::layout::{self, CHUNK_PAGES, GROUP_CHUNKS};
use fs_core::{OwnerKind, PAGE_SIZE};
use host::{owner, resolve, size, uuid, Error, Result, UserHost, UserRegion};
use rpramfs_fsck::region::explain;
use serde_json::{json, Value};

/// A summary.
pub fn stat(region: &UserRegion, host: &UserHost) -> Result<Value> {
    let info = fs_core::probe(region, host).map_err(|e| explain(region, "superblock", e))?;
    let image = Image::raw(region, host).map_err(|e| explain(region, "superblock", e))?;
    let at = |e| Error::core(region.name(), e);
    let g = *image.geometry();
    let mut free = 0i64;
    let mut inodes = 0i64;
    let mut pending = 0i64;
    let mut committed = 0;
    let mut damaged = 0;
    for slot in 0..g.slots {
        match account(image.store(), &g, slot).map_err(at)? {
            Ok(a) => {
                free = free.wrapping_add(a.free_pages);
                inodes = inodes.wrapping_add(a.used_inodes);
                pending = pending.wrapping_add(a.pending);
            }
            Err(_) => damaged += 1,
        }
        let state = read_slot(image.store(), &g, slot).map_err(at)?;
        match state.transaction {
            Ok(t) if !t.is_empty() => committed += 1,
            Ok(_) if state.header.is_none() => {}
            _ => damaged += 1,
        }
    }
    let frontier = image.store().sector(g.system_offset(0)).map_err(at)?;
    let ready = u64::from_le_bytes(
        frontier[layout::FRONTIER_READY..layout::FRONTIER_READY + 8]
            .try_into()
            .unwrap_or_default(),
    );
    let pages = g.data_end - g.data_start;
    let used = (pages as i64).saturating_sub(free).max(0) as u64;
    let marker = Marker::read(region).map_err(at)?;
    let holder = marker.owner(host);
    Ok(json!({
        "region": region.name(),
        "label": resolve::label(&info),
        "uuid": uuid::format(&info.uuid),
        "version": info.version,
        "created": time(info.created),
        "size": size::human(info.size),
        "size_bytes": info.size,
        "region_bytes": fs_core::Region::len(region),
        "superblock": if info.from_backup { "backup (the primary is damaged)" } else { "primary" },
        "features": { "compat": info.compat, "ro_compat": info.ro_compat, "incompat": info.incompat },
        "holder": match (marker.state(), holder) {
            (0, _) => "nobody".to_string(),
            (_, Some(o)) => format!(
                "{}{} since {}",
                match o.kind {
                    OwnerKind::Fuse => format!("FUSE daemon, process {}", o.pid),
                    OwnerKind::Kernel => "kernel module".to_string(),
                    OwnerKind::Tool => format!("tool, process {}", o.pid),
                },
                if owner::alive(&o) { "" } else { " (no longer alive)" },
                time(marker.since())
            ),
            (word, None) => format!("unknown (word {word:#x})"),
        },
        "journal": {
            "slots": g.slots,
            "committed_not_carried_out": committed,
            "damaged": damaged,
        },
        "space": {
            "data_bytes": pages * PAGE_SIZE,
            "used_bytes": used * PAGE_SIZE,
            "free_bytes": free.max(0) as u64 * PAGE_SIZE,
            "used_percent": used * 100 / pages.max(1),
            "fixed_metadata_bytes": info.metadata(),
            "struct_pages_bytes": info.struct_pages().1,
        },
        "inodes_in_use": inodes,
        "pending": pending,
        "groups": { "of": g.groups(), "bytes_each": GROUP_CHUNKS * CHUNK_PAGES * PAGE_SIZE,
                    "initialised_up_to": ready },
    }))
}
