// SPDX-License-Identifier: GPL-2.0
//! The core's inodes as inodes of the VFS.

use crate::errno::{Errno, Result};
use crate::vfs::inode::{Fresh, Got};
use crate::vfs::{tables, Inode, InodeRef, Super};
use fs_core::{Attr, Ino};

/// The inode of a number that something names.
pub(crate) fn named(sb: &Super, ino: Ino) -> Result<InodeRef> {
    match sb.get(ino)? {
        Got::Known(inode) => Ok(inode),
        Got::Fresh(fresh) => {
            let attr = {
                let _meta = fresh.meta_shared();
                sb.mount().fs().getattr(ino)?
            };
            if attr.nlink == 0 {
                // Left by a crash: nobody can come back to it.
                return Err(Errno::STALE);
            }
            tables::equip(&fresh, &attr);
            Ok(fresh.ready())
        }
    }
}

/// The inode of what was just made. Others who come upon it wait until it is ready.
pub(crate) fn born(sb: &Super, attr: &Attr) -> Result<Fresh> {
    match sb.get(attr.ino)? {
        Got::Fresh(fresh) => {
            tables::equip(&fresh, attr);
            Ok(fresh)
        }
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
        let _meta = inode.meta(0);
        // What cannot be given back now (a mount that became read-only) is, after the next mount; who
        // closed a file could do nothing about it, and what is corrupt was reported.
        let _ = inode.mount().fs().evict(inode.ino());
    }
}
