// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs find-owner`: what lies at an offset.

use fs_core::check::{owners, system_name, Image, Place};
use fs_core::layout::{self, INODES_PER_PAGE, ITABLE_OWNER};
use fs_core::PAGE_SIZE;
use fs_core::{S_IFDIR, S_IFREG};
use host::{size, Error, Kind, Result, UserHost, UserRegion};
use rpramfs_fsck::region::explain;
use serde_json::{json, Value};

/// Says whose byte it is.
pub fn find(region: &UserRegion, host: &UserHost, text: &str) -> Result<Value> {
    let offset = size::parse(text)?;
    let image = Image::open(region, host).map_err(|e| explain(region, "superblock", e))?;
    let page = match image.place(offset) {
        Place::Fixed(what) => {
            return Ok(json!({ "offset": offset, "page": offset / PAGE_SIZE, "is": what }))
        }
        Place::Outside => {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{}: offset {offset:#x} lies behind the filesystem",
                    region.name()
                ),
            ))
        }
        Place::Data { page } => page,
    };
    let core = |e| Error::core(region.name(), e);
    let claims = owners(region, host).map_err(core)?;
    let Some(owner) = claims.owner(page) else {
        return Ok(json!({ "offset": offset, "page": page, "is": "free: nobody's" }));
    };
    let bytes = image.store().page(page).map_err(core)?;
    let magic = bytes
        .first_chunk::<4>()
        .map_or(0, |m| u32::from_le_bytes(*m));
    let inode = image.inode(owner).map_err(core)?;
    let (records, scan) = if inode.kind() == S_IFDIR {
        (Vec::new(), image.entries(&inode).map_err(core)?.1)
    } else {
        image.records(&inode).map_err(core)?
    };
    let extent = records
        .iter()
        .filter(|_| owner == ITABLE_OWNER || inode.kind() == S_IFREG)
        .find_map(|r| {
            let len = r.b & layout::EXTENT_LEN;
            let at = page.checked_sub(r.a).filter(|at| *at < len)?;
            Some((r.key + at, r.b & layout::EXTENT_UNWRITTEN != 0))
        });
    let (what, file_offset, ino) = match extent {
        Some((file_page, _)) if owner == ITABLE_OWNER => {
            let ino = file_page * INODES_PER_PAGE + offset % PAGE_SIZE / 256;
            (format!("inode {ino}"), None, Some(ino))
        }
        Some((file_page, unwritten)) => (
            format!(
                "data{} of inode {owner}",
                if unwritten { " (unwritten)" } else { "" }
            ),
            Some(file_page * PAGE_SIZE + offset % PAGE_SIZE),
            Some(owner),
        ),
        None => {
            let whose = match system_name(owner) {
                Some(name) => format!("the {name}"),
                None => format!("inode {owner}"),
            };
            let what = if scan.nodes.contains(&page) {
                "tree node"
            } else if page == inode.xattr && magic == layout::XATTR_MAGIC {
                "attribute block"
            } else {
                "attribute value or target of a symbolic link"
            };
            (format!("{what} of {whose}"), None, Some(owner))
        }
    };
    Ok(json!({
        "offset": offset,
        "page": page,
        "is": what,
        "ino": ino,
        "file_offset": file_offset,
        "path": ino.and_then(|i| path(&image, i)),
    }))
}

/// A path that names an inode: for a directory by its parents, for a file by a search.
fn path(image: &Image<'_>, ino: u64) -> Option<String> {
    // Directory by directory from the root; each is read once.
    let mut todo = vec![(fs_core::ROOT_INO, String::new())];
    let mut seen = std::collections::BTreeSet::new();
    while let Some((dir, at)) = todo.pop() {
        if dir == ino {
            return Some(if at.is_empty() { "/".into() } else { at });
        }
        if !seen.insert(dir) {
            continue;
        }
        let Ok(inode) = image.inode(dir) else {
            continue;
        };
        let Ok((list, _)) = image.entries(&inode) else {
            continue;
        };
        for e in &list.entries {
            let path = format!("{at}/{}", String::from_utf8_lossy(list.name(e)));
            if e.ino == ino {
                return Some(path);
            }
            if u32::from(e.kind) << 12 == S_IFDIR {
                todo.push((e.ino, path));
            }
        }
    }
    None
}
