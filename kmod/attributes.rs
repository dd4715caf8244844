// SPDX-License-Identifier: GPL-2.0
//! Attributes: changed, and told.

use crate::acl;
use crate::errno::{Errno, Result};
use crate::nodes;
use crate::vfs::fill::{Change, Statfs};
use crate::vfs::{Dentry, Idmap, Inode, Super};
use fs_core::{Error, SetAttr, PAGE_SIZE};

/// chmod, chown, truncate, utimes: what notify_change(9) has checked. The inode is locked.
pub(crate) fn set(idmap: Idmap, dentry: &Dentry, change: &mut Change<'_>) -> Result {
    let inode = dentry.inode().ok_or(Errno::NO_ENTRY)?;
    // A file that was open before can get here, and the VFS's own size changes before the core is asked.
    if inode.is_sealed() {
        return Err(Errno::PERMISSION);
    }
    if inode.mount().fs().is_read_only() {
        return Err(Errno::READ_ONLY);
    }
    change.prepare(idmap, dentry)?;
    let mut set = change.wanted(idmap, inode);
    match set.size {
        Some(size) if size != inode.size() => resize(inode, size, &set)?,
        _ => {
            set.size = None;
            let _meta = inode.meta(0);
            let attr = inode.mount().fs().setattr(inode.ino(), &set)?;
            inode.refresh(&attr);
        }
    }
    if set.mode.is_some() {
        acl::follow_mode(idmap, dentry, inode)?;
    }
    Ok(())
}

fn resize(inode: &Inode, size: u64, set: &SetAttr) -> Result {
    let fs = inode.mount().fs();
    let faults = inode.invalidate_lock();
    let shrinks = size < inode.size();
    if shrinks {
        inode.wait_for_users(&faults, size, i64::MAX as u64)?;
        // Mappings go before the pages do.
        inode.truncate_mappings(&faults, size);
    }
    let _meta = inode.meta(0);
    match fs.setattr(inode.ino(), set) {
        Ok(attr) => inode.refresh(&attr),
        Err(e) => {
            nodes::refresh(inode)?;
            return Err(e.into());
        }
    }
    if shrinks && size % PAGE_SIZE != 0 {
        // A mapping shows what the last page holds behind the end.
        match fs.zero_behind_size(inode.ino()) {
            // Of a page that has failed nothing is shown.
            Err(Error::Io) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Notes an access, or a change through a mapping.
pub(crate) fn touch(inode: &Inode, access: bool) -> Result {
    let fs = inode.mount().fs();
    let _meta = inode.meta(0);
    if !access && inode.is_sealed() {
        return Err(Errno::PERMISSION);
    }
    inode.set_time_now(access);
    let [atime, mtime, ctime] = inode.times();
    if access {
        fs.touch_atime(inode.ino(), atime)?;
    } else {
        let set = SetAttr {
            mtime: Some(mtime),
            ctime: Some(ctime),
            ..SetAttr::default()
        };
        fs.setattr(inode.ino(), &set)?;
    }
    Ok(())
}

/// When the inode was made.
pub(crate) fn birth(inode: &Inode) -> Result<i64> {
    let _meta = inode.meta_shared();
    Ok(inode.mount().fs().getattr(inode.ino())?.btime)
}

/// statfs(2).
pub(crate) fn statfs(sb: &Super) -> Statfs {
    let fs = sb.mount().fs();
    let st = fs.statfs();
    Statfs {
        block: PAGE_SIZE,
        blocks: st.pages,
        free: st.free,
        available: st.available,
        files: st.inodes.saturating_add(st.inodes_free),
        files_free: st.inodes_free,
        uuid: fs.info().uuid,
    }
}
