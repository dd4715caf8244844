// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Extents: runs of a file's pages that lie together in the region.

use crate::error::{Error, Result};
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Tx, TxResult, View};
use crate::layout::{EXTENT_LEN, EXTENT_UNWRITTEN, MAX_PAGES};
use crate::record::{self, Record};
use crate::region::Region;
use crate::space::MAX_FREE;
use crate::types::Extent;

fn decode<R: Region, H: Host, V: View<R, H>>(view: &V, inode: &Inode, r: Record) -> Result<Extent> {
    let e = Extent {
        file_page: r[0],
        page: r[1],
        len: r[2] & EXTENT_LEN,
        unwritten: r[2] & EXTENT_UNWRITTEN != 0,
    };
    let end = e.file_page.checked_add(e.len);
    if r[2] & !(EXTENT_LEN | EXTENT_UNWRITTEN) != 0
        || !view.fs().geo.is_data(e.page, e.len)
        || end.is_none_or(|end| end > MAX_PAGES)
    {
        return Err(Error::corrupt(inode.off, "extent out of bounds"));
    }
    Ok(e)
}

fn encode(e: &Extent) -> Record {
    [
        e.file_page,
        e.page,
        e.len | if e.unwritten { EXTENT_UNWRITTEN } else { 0 },
    ]
}

/// The extent that holds this page of the file.
pub(crate) fn find<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    inode: &Inode,
    file_page: u64,
) -> Result<Option<Extent>> {
    match record::find_le(view, inode, file_page)? {
        Some(r) => {
            let e = decode(view, inode, r)?;
            Ok((e.file_page + e.len > file_page).then_some(e))
        }
        None => Ok(None),
    }
}

/// The first extent that ends behind this page of the file.
pub(crate) fn find_next<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    inode: &Inode,
    file_page: u64,
) -> Result<Option<Extent>> {
    if let Some(e) = find(view, inode, file_page)? {
        return Ok(Some(e));
    }
    match record::find_ge(view, inode, file_page)? {
        Some(r) => decode(view, inode, r).map(Some),
        None => Ok(None),
    }
}

/// The last extent that begins before this page of the file.
pub(crate) fn find_before<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    inode: &Inode,
    file_page: u64,
) -> Result<Option<Extent>> {
    let Some(last) = file_page.checked_sub(1) else {
        return Ok(None);
    };
    match record::find_le(view, inode, last)? {
        Some(r) => decode(view, inode, r).map(Some),
        None => Ok(None),
    }
}

/// Adds an extent where the file has a hole; joins it with its neighbours.
pub(crate) fn insert<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    file_page: u64,
    page: u64,
    len: u64,
    unwritten: bool,
) -> TxResult<()> {
    let mut e = Extent {
        file_page,
        page,
        len,
        unwritten,
    };
    let end = file_page + len;
    if let Some(right) = find(tx, inode, end)? {
        if right.file_page == end && right.page == page + len && right.unwritten == unwritten {
            record::must_remove(tx, inode, end)?;
            e.len += right.len;
        }
    }
    if let Some(left) = find_before(tx, inode, file_page)? {
        if left.file_page + left.len > file_page {
            return Err(Error::corrupt(inode.off, "extents overlap").into());
        }
        if left.file_page + left.len == file_page
            && left.page + left.len == page
            && left.unwritten == unwritten
        {
            let joined = Extent {
                len: left.len + e.len,
                ..left
            };
            return record::update(tx, inode, &encode(&joined));
        }
    }
    record::insert(tx, inode, &encode(&e))
}

/// Makes `lo..hi`, a part of one extent, written or unwritten.
pub(crate) fn convert<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    lo: u64,
    hi: u64,
    unwritten: bool,
) -> TxResult<()> {
    let e = match find(tx, inode, lo)? {
        Some(e) if e.file_page + e.len >= hi && lo < hi => e,
        _ => return Err(Error::corrupt(inode.off, "extent is gone").into()),
    };
    if e.unwritten == unwritten {
        return Ok(());
    }
    cut(tx, inode, &e, lo, hi)?;
    insert(
        tx,
        inode,
        lo,
        e.page + (lo - e.file_page),
        hi - lo,
        unwritten,
    )
}

/// Takes `lo..hi` out of the extent `e`; what is left of it stays.
fn cut<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    e: &Extent,
    lo: u64,
    hi: u64,
) -> TxResult<()> {
    let end = e.file_page + e.len;
    if lo > e.file_page {
        let left = Extent {
            len: lo - e.file_page,
            ..*e
        };
        record::update(tx, inode, &encode(&left))?;
    } else {
        record::must_remove(tx, inode, e.file_page)?;
    }
    if hi < end {
        let right = Extent {
            file_page: hi,
            page: e.page + (hi - e.file_page),
            len: end - hi,
            ..*e
        };
        record::insert(tx, inode, &encode(&right))?;
    }
    Ok(())
}

/// Removes the last piece of `lo..hi` (at most 128 MiB) and frees its pages. False if the range is
/// empty already.
pub(crate) fn remove_last<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    lo: u64,
    hi: u64,
) -> TxResult<bool> {
    let Some(e) = find_before(tx, inode, hi)? else {
        return Ok(false);
    };
    let end = (e.file_page + e.len).min(hi);
    if end <= lo {
        return Ok(false);
    }
    let start = e.file_page.max(lo).max(end.saturating_sub(MAX_FREE));
    cut(tx, inode, &e, start, end)?;
    tx.free(e.page + (start - e.file_page), end - start)?;
    inode.add_pages(-((end - start) as i64));
    Ok(true)
}
