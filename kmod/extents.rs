// SPDX-License-Identifier: GPL-2.0
//! Where a file's pages are: for page faults and for FIEMAP.

use crate::errno::Result;
use crate::nodes;
use crate::vfs::Inode;
use fs_core::{Extent, PAGE_SIZE};

/// What lies at a page of a file.
pub(crate) enum Piece {
    /// A run of pages that covers it.
    Mapped(Extent),
    /// Nothing, up to this page of the file.
    Hole(u64),
}

/// What a page fault that reads finds at a page.
pub(crate) fn at(inode: &Inode, page: u64) -> Result<Piece> {
    let _meta = inode.meta_shared();
    Ok(match inode.mount().fs().extent_at(inode.ino(), page)? {
        Some(e) if e.file_page <= page => Piece::Mapped(e),
        Some(e) => Piece::Hole(e.file_page),
        None => Piece::Hole(u64::MAX / PAGE_SIZE),
    })
}

/// What a page fault that writes finds: pages are allocated and zeroed where there are none.
pub(crate) fn for_writing(inode: &Inode, page: u64, pages: u64) -> Result<Extent> {
    let fs = inode.mount().fs();
    let _meta = inode.meta(0);
    let extent = fs.map_written(inode.ino(), page, pages)?;
    nodes::refresh(inode)?;
    Ok(extent)
}

/// Hands out the extents of the pages `from..to`, each with whether it is the file's last, until `give`
/// answers something else than 0, which is the answer then.
pub(crate) fn each(
    inode: &Inode,
    from: u64,
    to: u64,
    give: &mut dyn FnMut(&Extent, bool) -> i32,
) -> Result<i32> {
    let mut page = from;
    let mut next = first(inode, page)?;
    while let Some(e) = next.filter(|e| e.file_page < to) {
        page = e.file_page + e.len;
        next = first(inode, page)?;
        let answer = give(&e, next.is_none());
        if answer != 0 {
            return Ok(answer);
        }
    }
    Ok(0)
}

fn first(inode: &Inode, page: u64) -> Result<Option<Extent>> {
    let _meta = inode.meta_shared();
    Ok(inode.mount().fs().extent_at(inode.ino(), page)?)
}
