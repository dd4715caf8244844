// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Records of three words, sorted by the first: up to four in the inode, more in a tree.

use crate::bytes::{get64, put64};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Tx, TxResult, View};
use crate::layout::{body, inode::INLINE_RECORDS};
use crate::region::Region;
use crate::tree::{self, Cursor, Entry};

/// A record; the key comes first.
pub(crate) type Record = [u64; 3];

fn decode(e: &[u8]) -> Record {
    [get64(e, 0), get64(e, 8), get64(e, 16)]
}

fn encode(r: &Record) -> Entry {
    let mut e = Entry::default();
    for (i, w) in r.iter().enumerate() {
        put64(&mut e, 8 * i, *w);
    }
    e
}

fn inline_count(inode: &Inode) -> usize {
    usize::from(inode.body_count()).min(INLINE_RECORDS)
}

fn inline(inode: &Inode, i: usize) -> Record {
    decode(inode.body().get(24 * i..24 * i + 24).unwrap_or_default())
}

fn put_inline(inode: &mut Inode, i: usize, r: &Record) {
    if let Some(b) = inode.body_mut().get_mut(24 * i..24 * i + 24) {
        b.copy_from_slice(&encode(r));
    }
}

fn is_inline(inode: &Inode) -> Result<bool> {
    match inode.body_format() {
        body::INLINE => Ok(true),
        body::TREE => Ok(false),
        _ => Err(Error::corrupt(inode.off, "inode: body holds no records")),
    }
}

/// The last record whose key is not above `key`.
pub(crate) fn find_le<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    inode: &Inode,
    key: u64,
) -> Result<Option<Record>> {
    if is_inline(inode)? {
        let mut all = (0..inline_count(inode)).rev().map(|i| inline(inode, i));
        return Ok(all.find(|r| r[0] <= key));
    }
    let Some(mut c) = Cursor::seek(view, inode, key)? else {
        return Ok(None);
    };
    if !c.settle_back(view, inode)? {
        return Ok(None);
    }
    let r = decode(&c.entry(view)?);
    if r[0] > key {
        return Err(Error::corrupt(inode.off, "tree: keys out of order"));
    }
    Ok(Some(r))
}

/// The first record whose key is not below `key`.
pub(crate) fn find_ge<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    inode: &Inode,
    key: u64,
) -> Result<Option<Record>> {
    if is_inline(inode)? {
        let mut all = (0..inline_count(inode)).map(|i| inline(inode, i));
        return Ok(all.find(|r| r[0] >= key));
    }
    let Some(mut c) = Cursor::seek(view, inode, key)? else {
        return Ok(None);
    };
    if !c.settle_forward(view, inode)? {
        return Ok(None);
    }
    let r = decode(&c.entry(view)?);
    if r[0] < key {
        return Err(Error::corrupt(inode.off, "tree: keys out of order"));
    }
    Ok(Some(r))
}

/// Inserts a record whose key is not there. The inode is changed, but not written.
pub(crate) fn insert<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    r: &Record,
) -> TxResult<()> {
    if !is_inline(inode)? {
        return tree::insert(tx, inode, &encode(r), &[]);
    }
    let n = inline_count(inode);
    if n < INLINE_RECORDS {
        let mut i = n;
        while i > 0 && inline(inode, i - 1)[0] > r[0] {
            let moved = inline(inode, i - 1);
            put_inline(inode, i, &moved);
            i -= 1;
        }
        put_inline(inode, i, r);
        inode.set_body_count(n as u16 + 1);
        return Ok(());
    }
    // The inode is full: its records move to a leaf.
    let mut old = [Record::default(); INLINE_RECORDS];
    for (i, o) in old.iter_mut().enumerate() {
        *o = inline(inode, i);
    }
    inode.set_empty();
    let entries = old.map(|o| encode(&o));
    tree::make_leaf(tx, inode, &entries)?;
    tree::insert(tx, inode, &encode(r), &[])
}

/// Changes the second and third word of a record that is there.
pub(crate) fn update<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    r: &Record,
) -> TxResult<()> {
    if is_inline(inode)? {
        for i in 0..inline_count(inode) {
            if inline(inode, i)[0] == r[0] {
                put_inline(inode, i, r);
            }
        }
        return Ok(());
    }
    match Cursor::seek(tx, inode, r[0])? {
        Some(c) if c.found => tree::update(tx, &c, &encode(r)),
        _ => Err(Error::corrupt(inode.off, "record is gone").into()),
    }
}

/// Removes a record. False if it was not there.
pub(crate) fn remove<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    key: u64,
) -> TxResult<bool> {
    if is_inline(inode)? {
        let n = inline_count(inode);
        let Some(i) = (0..n).find(|i| inline(inode, *i)[0] == key) else {
            return Ok(false);
        };
        for k in i + 1..n {
            let moved = inline(inode, k);
            put_inline(inode, k - 1, &moved);
        }
        put_inline(inode, n - 1, &[0; 3]);
        inode.set_body_count(n as u16 - 1);
        return Ok(true);
    }
    match Cursor::seek(tx, inode, key)? {
        Some(c) if c.found => {
            tree::remove(tx, inode, c)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Removes a record that must be there: it was found a moment ago.
pub(crate) fn must_remove<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    key: u64,
) -> TxResult<()> {
    if remove(tx, inode, key)? {
        Ok(())
    } else {
        Err(Error::corrupt(inode.off, "tree: a record is not where its key says").into())
    }
}
