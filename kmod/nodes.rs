// SPDX-License-Identifier: GPL-2.0
//! The core's inodes as inodes of the VFS.

use crate::errno::{Errno, Result};
use crate::vfs::inode::Got;
use crate::vfs::{tables, Inode, InodeRef, Super};
use fs_core::{Attr, Ino};

/// The inode of a number that something names.
pub(crate) fn named(sb: &Super, ino: Ino) -> Result<InodeRef> {
    found(sb, ino, None)
}

/// The inode of a number that somebody says was one of this generation.
pub(crate) fn remembered(sb: &Super, ino: Ino, generation: u32) -> Result<InodeRef> {
    found(sb, ino, Some(generation))
}

fn found(sb: &Super, ino: Ino, generation: Option<u32>) -> Result<InodeRef> {
    let is_wrong = |found: u32| generation.is_some_and(|generation| generation != found);
    match sb.get(ino)? {
        Got::Known(inode) if is_wrong(inode.generation()) => Err(Errno::STALE),
        Got::Known(inode) => Ok(inode),
        Got::Fresh(fresh) => {
            let attr = {
                let _meta = fresh.meta_shared();
                sb.mount().fs().getattr(ino)?
            };
            if attr.nlink == 0 || is_wrong(attr.generation) {
                // Left by a crash, so that nobody can come back to it; or another inode, perhaps one that
                // is being made, and will be looked for by who makes it.
                return Err(Errno::STALE);
            }
            tables::equip(&fresh, &attr);
            Ok(fresh.ready())
        }
    }
}

/// The inode of what was just made. Others who come upon it wait until it is ready.
pub(crate) fn born(sb: &Super, attr: &Attr) -> Result<Got> {
    match sb.get(attr.ino)? {
        Got::Fresh(fresh) => {
            tables::equip(&fresh, attr);
            Ok(Got::Fresh(fresh))
        }
        // Somebody was faster, with a file handle.
        Got::Known(inode) if inode.generation() == attr.generation => Ok(Got::Known(inode)),
        // The core gave a number out twice.
        Got::Known(_) => Err(Errno::IO),
    }
}

/// Takes over what an operation has changed. The caller has the inode's `meta`.
pub(crate) fn refresh(inode: &Inode) -> Result {
    let attr = inode.mount().fs().getattr(inode.ino())?;
    inode.refresh(&attr);
    Ok(())
}

/// Nobody has the inode any more.
pub(crate) fn evict(inode: &Inode) {
    if inode.links() == 0 {
        // Who closes a file has not asked whether it may be written.
        let _thawed = inode.super_block().change_inside();
        let _meta = inode.meta(0);
        // What cannot be given back now (a mount that became read-only) is, after the next mount; who
        // closed a file could do nothing about it, and what is corrupt was reported.
        let _ = inode.mount().fs().evict(inode.ino());
    }
}
