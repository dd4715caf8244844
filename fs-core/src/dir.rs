// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Directory entries: names hashed into the keys of a tree.

use crate::bytes::{get64, get8, put64, put8};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Tx, TxResult, View};
use crate::layout::name_key;
use crate::region::Region;
use crate::tree::{self, Cursor, Entry, NAME_LEN};
use crate::types::{Dirent, Ino, NAME_MAX};

/// Where an entry keeps the type of its inode.
const TYPE: usize = 19;
/// Names whose hashes are equal in all but the low byte.
const MAX_COLLISIONS: u64 = 256;
/// Bounds of keys: cookies that are positive, and leave room for "." and "..".
const FIRST_KEY: u64 = 0x100;
const LAST_KEY: u64 = i64::MAX as u64;

/// A name that may stand in a directory.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Error::Invalid);
    }
    if name.iter().any(|c| *c == b'/' || *c == 0) {
        return Err(Error::Invalid);
    }
    Ok(())
}

/// Where a name is, or where it would go.
#[allow(clippy::large_enum_variant)] // no heap to put it in, and it does not live long
pub(crate) enum Place {
    /// The entry: cursor, inode.
    Here(Cursor, Ino),
    /// Not there; a key that is free for it.
    Free(u64),
}

/// Looks for a name.
pub(crate) fn find<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    dir: &Inode,
    name: &[u8],
) -> Result<Place> {
    let first = name_key(view.fs().hash_key, name);
    let mut free = first;
    let Some(mut c) = Cursor::seek(view, dir, first)? else {
        return Ok(Place::Free(free));
    };
    let mut buf = [0u8; NAME_MAX];
    let mut last = 0;
    let mut more = c.settle_forward(view, dir)?;
    while more {
        let e = c.entry(view)?;
        let key = get64(&e, 0);
        if key <= last {
            return Err(Error::corrupt(dir.off, "directory entries out of order"));
        }
        last = key;
        if key < first || key - first >= MAX_COLLISIONS {
            break;
        }
        if c.leaf.name(view, &e, &mut buf)? == name {
            return Ok(Place::Here(c, get64(&e, 8)));
        }
        if key == free {
            free += 1;
        }
        more = c.next(view, dir)?;
    }
    Ok(Place::Free(free))
}

/// The inode behind a name.
pub(crate) fn lookup<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    dir: &Inode,
    name: &[u8],
) -> Result<Ino> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    match find(view, dir, name)? {
        Place::Here(_, ino) => Ok(ino),
        Place::Free(_) => Err(Error::NotFound),
    }
}

fn entry(key: u64, ino: Ino, mode: u32, name: &[u8]) -> Entry {
    let mut e = Entry::default();
    put64(&mut e, 0, key);
    put64(&mut e, 8, ino);
    put8(&mut e, NAME_LEN, name.len() as u8);
    put8(&mut e, TYPE, (mode >> 12) as u8);
    e
}

/// Adds a name that is not there.
pub(crate) fn add<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    dir: &mut Inode,
    name: &[u8],
    ino: Ino,
    mode: u32,
) -> TxResult<()> {
    let key = match find(tx, dir, name)? {
        Place::Here(..) => return Err(Error::Exists.into()),
        Place::Free(key) => key,
    };
    if key - name_key(tx.fs.hash_key, name) >= MAX_COLLISIONS {
        return Err(Error::NoSpace.into());
    }
    tree::insert(tx, dir, &entry(key, ino, mode, name), name)
}

/// Removes a name. Returns the inode it named.
pub(crate) fn remove<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    dir: &mut Inode,
    name: &[u8],
) -> TxResult<Ino> {
    match find(tx, dir, name)? {
        Place::Here(c, ino) => {
            tree::remove(tx, dir, c)?;
            Ok(ino)
        }
        Place::Free(_) => Err(Error::NotFound.into()),
    }
}

/// Points a name at another inode.
pub(crate) fn set<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    dir: &Inode,
    name: &[u8],
    ino: Ino,
    mode: u32,
) -> TxResult<()> {
    match find(tx, dir, name)? {
        Place::Here(c, _) => {
            let mut e = c.entry(tx)?;
            put64(&mut e, 8, ino);
            put8(&mut e, TYPE, (mode >> 12) as u8);
            tree::update(tx, &c, &e)
        }
        Place::Free(_) => Err(Error::NotFound.into()),
    }
}

/// Hands out entries behind a cookie, until `emit` has enough.
pub(crate) fn list<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    dir: &Inode,
    cookie: u64,
    emit: &mut dyn FnMut(&Dirent<'_>) -> bool,
) -> Result<()> {
    let Some(from) = cookie.checked_add(1) else {
        return Ok(());
    };
    let Some(mut c) = Cursor::seek(view, dir, from)? else {
        return Ok(());
    };
    let mut buf = [0u8; NAME_MAX];
    let mut last = cookie;
    let mut more = c.settle_forward(view, dir)?;
    while more {
        let e = c.entry(view)?;
        let key = get64(&e, 0);
        if key <= last || !(FIRST_KEY..=LAST_KEY).contains(&key) {
            return Err(Error::corrupt(dir.off, "directory entries out of order"));
        }
        last = key;
        let d = Dirent {
            ino: get64(&e, 8),
            kind: u32::from(get8(&e, TYPE)) << 12,
            cookie: key,
            name: c.leaf.name(view, &e, &mut buf)?,
        };
        if !emit(&d) {
            return Ok(());
        }
        more = c.next(view, dir)?;
    }
    Ok(())
}
