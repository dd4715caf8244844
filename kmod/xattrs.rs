// SPDX-License-Identifier: GPL-2.0
//! Extended attributes. The VFS has checked who may.

use crate::errno::{Errno, Result};
use crate::nodes;
use crate::vfs::Inode;
use fs_core::{XattrMode, XATTR_NAME_MAX};
use kernel::prelude::*;

/// A whole name: what a handler stands for, and the rest.
pub(crate) struct Name {
    bytes: [u8; XATTR_NAME_MAX],
    len: usize,
}

impl Name {
    pub(crate) fn new(prefix: &[u8], rest: &[u8]) -> Result<Name> {
        let mut name = Name {
            bytes: [0; XATTR_NAME_MAX],
            len: prefix.len() + rest.len(),
        };
        let (head, tail) = name
            .bytes
            .get_mut(..name.len)
            .ok_or(Errno::from(fs_core::Error::Range))?
            .split_at_mut(prefix.len());
        head.copy_from_slice(prefix);
        tail.copy_from_slice(rest);
        Ok(name)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The length of a value, which is copied unless `buf` is empty.
pub(crate) fn get(inode: &Inode, name: &Name, buf: &mut [u8]) -> Result<usize> {
    let _meta = inode.meta_shared();
    let fs = inode.mount().fs();
    Ok(fs.getxattr(inode.ino(), name.as_bytes(), buf)?)
}

/// Sets a value, or removes it.
pub(crate) fn set(inode: &Inode, name: &Name, value: Option<&[u8]>, mode: XattrMode) -> Result {
    let _meta = inode.meta(0);
    let fs = inode.mount().fs();
    match value {
        Some(value) => fs.setxattr(inode.ino(), name.as_bytes(), value, mode)?,
        None => fs.removexattr(inode.ino(), name.as_bytes())?,
    }
    nodes::refresh(inode)
}

/// The length of all names, each with a NUL behind it; they are copied unless `buf` is empty. Names of the
/// trusted namespace are for `all` only.
pub(crate) fn list(inode: &Inode, buf: &mut [u8], all: bool) -> Result<usize> {
    let fs = inode.mount().fs();
    let names = |buf: &mut [u8]| {
        let _meta = inode.meta_shared();
        fs.listxattr(inode.ino(), buf)
    };
    if all {
        return Ok(names(buf)?);
    }
    let names = loop {
        let mut room = KVec::from_elem(0u8, names(&mut [])?, GFP_KERNEL)?;
        if room.is_empty() {
            break room;
        }
        match names(&mut room) {
            Ok(len) => {
                room.truncate(len);
                break room;
            }
            // There are more meanwhile.
            Err(fs_core::Error::Range) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let mut at = 0;
    for name in names.split_inclusive(|&b| b == 0) {
        if name.starts_with(b"trusted.") {
            continue;
        }
        if !buf.is_empty() {
            buf.get_mut(at..at + name.len())
                .ok_or(Errno::from(fs_core::Error::Range))?
                .copy_from_slice(name);
        }
        at += name.len();
    }
    Ok(at)
}
