// SPDX-License-Identifier: GPL-2.0
//! inode_operations of each kind of inode.

use super::{zeroed, Table};
use crate::bindings as c;
use crate::errno::{int, Errno, Result};
use crate::names::{self, Make};
use crate::vfs::acl::{Acl, Kind};
use crate::vfs::fill::Change;
use crate::vfs::{Dentry, Idmap, Inode};
use crate::{acl, attributes, extents, xattrs};
use core::ffi::CStr;
use fs_core::{RenameMode, PAGE_SIZE, S_IFDIR};
use kernel::ffi::{c_char, c_int, c_uint};
use kernel::prelude::*;

/// What all kinds can do.
const COMMON: c::inode_operations = c::inode_operations {
    setattr: Some(setattr),
    getattr: Some(getattr),
    listxattr: Some(listxattr),
    update_time: Some(update_time),
    ..zeroed()
};

/// What all but symbolic links can do.
const WITH_ACL: c::inode_operations = c::inode_operations {
    get_inode_acl: Some(get_acl),
    set_acl: Some(set_acl),
    ..COMMON
};

pub(super) static FILE: Table<c::inode_operations> = Table(c::inode_operations {
    fiemap: Some(fiemap),
    ..WITH_ACL
});

pub(super) static DIRECTORY: Table<c::inode_operations> = Table(c::inode_operations {
    lookup: Some(lookup),
    create: Some(create),
    link: Some(link),
    unlink: Some(unlink),
    symlink: Some(symlink),
    mkdir: Some(mkdir),
    rmdir: Some(rmdir),
    mknod: Some(mknod),
    rename: Some(rename),
    tmpfile: Some(tmpfile),
    ..WITH_ACL
});

pub(super) static LINK: Table<c::inode_operations> = Table(c::inode_operations {
    get_link: Some(get_link),
    ..COMMON
});

pub(super) static SPECIAL: Table<c::inode_operations> = Table(WITH_ACL);

fn error<T>(e: Errno) -> *mut T {
    // SAFETY: makes an address of a number.
    unsafe { c::rpramfs_err_ptr(e.negative() as _).cast() }
}

/// # Safety
/// Called by the VFS with a directory of ours, locked at least shared, and a new dentry in it.
unsafe extern "C" fn lookup(
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    _: c_uint,
) -> *mut c::dentry {
    // SAFETY: by the contract.
    let found = unsafe { names::lookup(Inode::from_raw(dir), Dentry::from_raw(dentry)) };
    match found {
        // SAFETY: the reference is handed over.
        Ok(inode) => unsafe {
            let inode = inode.map_or(core::ptr::null_mut(), |inode| inode.into_raw());
            c::d_splice_alias(inode, dentry)
        },
        Err(e) => error(e),
    }
}

/// Makes something, and lets the dentry name it.
///
/// # Safety
/// The arguments of a call that makes something in a directory of ours, which is locked.
unsafe fn make(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    what: Make<'_>,
) -> Result {
    // SAFETY: by the contract.
    let (idmap, dir, dentry) = unsafe {
        (
            Idmap::from_raw(idmap),
            Inode::from_raw(dir),
            Dentry::from_raw(dentry),
        )
    };
    names::make(idmap, dir, dentry, what)?.instantiate(dentry);
    Ok(())
}

/// # Safety
/// Called by the VFS to make a regular file.
#[cfg(kernel_7_3)]
unsafe extern "C" fn create(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    mode: c::umode_t,
) -> c_int {
    // SAFETY: by the contract.
    int(unsafe { make(idmap, dir, dentry, Make::Node(mode.into(), 0)) })
}

/// # Safety
/// Called by the VFS (before 7.3) to make a regular file.
#[cfg(not(kernel_7_3))]
unsafe extern "C" fn create(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    mode: c::umode_t,
    _exclusive: bool,
) -> c_int {
    // SAFETY: by the contract.
    int(unsafe { make(idmap, dir, dentry, Make::Node(mode.into(), 0)) })
}

/// # Safety
/// Called by the VFS to make a directory.
unsafe extern "C" fn mkdir(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    mode: c::umode_t,
) -> *mut c::dentry {
    let mode = u32::from(mode) | S_IFDIR;
    // SAFETY: by the contract.
    match unsafe { make(idmap, dir, dentry, Make::Node(mode, 0)) } {
        Ok(()) => core::ptr::null_mut(),
        Err(e) => error(e),
    }
}

/// # Safety
/// Called by the VFS to make a device, FIFO, socket or file.
unsafe extern "C" fn mknod(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    mode: c::umode_t,
    device: c::dev_t,
) -> c_int {
    // SAFETY: by the contract.
    int(unsafe {
        make(
            idmap,
            dir,
            dentry,
            Make::Node(mode.into(), c::rpramfs_stored_dev(device)),
        )
    })
}

/// # Safety
/// Called by the VFS to make a symbolic link to a C string.
unsafe extern "C" fn symlink(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    target: *const c_char,
) -> c_int {
    // SAFETY: by the contract.
    int(unsafe {
        let target = CStr::from_ptr(target.cast());
        make(idmap, dir, dentry, Make::Link(target.to_bytes()))
    })
}

/// # Safety
/// Called by the VFS to make a file without a name, in a directory of ours.
unsafe extern "C" fn tmpfile(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    file: *mut c::file,
    mode: c::umode_t,
) -> c_int {
    // SAFETY: by the contract; the file's dentry names nothing yet.
    unsafe {
        let made = names::make_nameless(Idmap::from_raw(idmap), Inode::from_raw(dir), mode.into());
        match made {
            Ok(born) => {
                c::d_mark_tmpfile(file, born.raw());
                born.instantiate(Dentry::from_raw(c::rpramfs_dentry(file)));
                c::rpramfs_finish_open(file)
            }
            Err(e) => e.negative(),
        }
    }
}

/// # Safety
/// Called by the VFS with an inode of ours that a dentry names, and a new dentry in a directory of ours;
/// both inodes are locked.
unsafe extern "C" fn link(
    old: *mut c::dentry,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
) -> c_int {
    // SAFETY: by the contract.
    unsafe {
        let inode = Inode::from_raw((*old).d_inode);
        let linked = names::link(inode, Inode::from_raw(dir), Dentry::from_raw(dentry));
        if linked.is_ok() {
            c::d_instantiate(dentry, inode.hold().into_raw());
        }
        int(linked)
    }
}

/// # Safety
/// Called by the VFS with a directory of ours and a name in it, both inodes locked.
unsafe extern "C" fn unlink(dir: *mut c::inode, dentry: *mut c::dentry) -> c_int {
    // SAFETY: by the contract.
    int(unsafe { names::unlink(Inode::from_raw(dir), Dentry::from_raw(dentry), false) })
}

/// # Safety
/// As for `unlink`.
unsafe extern "C" fn rmdir(dir: *mut c::inode, dentry: *mut c::dentry) -> c_int {
    // SAFETY: by the contract.
    int(unsafe { names::unlink(Inode::from_raw(dir), Dentry::from_raw(dentry), true) })
}

const WHITEOUT_NOREPLACE: u32 = c::RENAME_WHITEOUT | c::RENAME_NOREPLACE;

/// # Safety
/// Called by the VFS with two directories of ours and names in them, all inodes locked.
unsafe extern "C" fn rename(
    idmap: *mut c::mnt_idmap,
    dir: *mut c::inode,
    dentry: *mut c::dentry,
    new_dir: *mut c::inode,
    new_dentry: *mut c::dentry,
    flags: c_uint,
) -> c_int {
    let mode = match flags {
        0 => RenameMode::Replace,
        c::RENAME_NOREPLACE => RenameMode::NoReplace,
        c::RENAME_EXCHANGE => RenameMode::Exchange,
        // Of the second the VFS has seen that the new name is free.
        c::RENAME_WHITEOUT | WHITEOUT_NOREPLACE => {
            // SAFETY: both are of this call.
            let (uid, gid) = unsafe { Idmap::from_raw(idmap).new_owner(Inode::from_raw(dir)) };
            if uid == u32::MAX || gid == u32::MAX {
                return Errno::OVERFLOW.negative();
            }
            RenameMode::Whiteout { uid, gid }
        }
        _ => return Errno::INVALID.negative(),
    };
    // SAFETY: by the contract.
    int(unsafe {
        names::rename(
            Inode::from_raw(dir),
            Dentry::from_raw(dentry),
            Inode::from_raw(new_dir),
            Dentry::from_raw(new_dentry),
            mode,
        )
    })
}

/// # Safety
/// Called by the VFS with a symbolic link of ours; no dentry means that it must not wait.
unsafe extern "C" fn get_link(
    dentry: *mut c::dentry,
    inode: *mut c::inode,
    done: *mut c::delayed_call,
) -> *const c_char {
    if dentry.is_null() {
        return error(Errno::CHILD);
    }
    // SAFETY: by the contract.
    match names::target(unsafe { Inode::from_raw(inode) }) {
        Ok(target) => {
            let target = KBox::into_raw(target);
            // SAFETY: kmalloc'd memory, which the call frees.
            unsafe { c::rpramfs_link_on_free(done, target.cast()) };
            target.cast()
        }
        Err(e) => error(e),
    }
}

/// # Safety
/// Called by the VFS with a dentry of ours, its inode locked.
unsafe extern "C" fn setattr(
    idmap: *mut c::mnt_idmap,
    dentry: *mut c::dentry,
    change: *mut c::iattr,
) -> c_int {
    // SAFETY: by the contract.
    int(unsafe {
        attributes::set(
            Idmap::from_raw(idmap),
            Dentry::from_raw(dentry),
            &mut Change::from_raw(change),
        )
    })
}

/// # Safety
/// Called by the VFS with a path to an inode of ours, and a structure to fill.
unsafe extern "C" fn getattr(
    idmap: *mut c::mnt_idmap,
    path: *const c::path,
    stat: *mut c::kstat,
    mask: u32,
    _flags: c_uint,
) -> c_int {
    // SAFETY: by the contract.
    unsafe {
        let inode = Inode::from_raw((*(*path).dentry).d_inode);
        c::generic_fillattr(idmap, mask, inode.raw(), stat);
        if mask & c::STATX_BTIME != 0 {
            if let Ok(birth) = attributes::birth(inode) {
                (*stat).result_mask |= c::STATX_BTIME;
                (*stat).btime = c::timespec64 {
                    tv_sec: birth.div_euclid(1_000_000_000),
                    tv_nsec: birth.rem_euclid(1_000_000_000) as _,
                };
            }
        }
        (*stat).attributes_mask |= u64::from(c::STATX_ATTR_IMMUTABLE);
        if inode.is_sealed() {
            (*stat).attributes |= u64::from(c::STATX_ATTR_IMMUTABLE);
        }
    }
    0
}

/// # Safety
/// Called by the VFS with a dentry of ours, and room for `size` bytes.
unsafe extern "C" fn listxattr(dentry: *mut c::dentry, buffer: *mut c_char, size: usize) -> isize {
    // SAFETY: by the contract.
    let (inode, buffer) = unsafe {
        let buffer: &mut [u8] = if size == 0 {
            &mut []
        } else {
            core::slice::from_raw_parts_mut(buffer.cast(), size)
        };
        (Inode::from_raw((*dentry).d_inode), buffer)
    };
    // SAFETY: asks about this task.
    let all = unsafe { c::capable(c::CAP_SYS_ADMIN as c_int) };
    match xattrs::list(inode, buffer, all) {
        Ok(len) => len as isize,
        Err(e) => e.negative() as isize,
    }
}

/// # Safety
/// Called by the VFS with an inode of ours.
unsafe extern "C" fn get_acl(inode: *mut c::inode, kind: c_int, rcu: bool) -> *mut c::posix_acl {
    if rcu {
        return error(Errno::CHILD);
    }
    // SAFETY: by the contract.
    match acl::get(unsafe { Inode::from_raw(inode) }, Kind::from_raw(kind)) {
        Ok(acl) => Acl::into_raw(acl),
        Err(e) => error(e),
    }
}

/// # Safety
/// Called by the VFS with a dentry of ours, its inode locked, and a list or null.
unsafe extern "C" fn set_acl(
    idmap: *mut c::mnt_idmap,
    dentry: *mut c::dentry,
    list: *mut c::posix_acl,
    kind: c_int,
) -> c_int {
    // SAFETY: by the contract.
    int(unsafe {
        acl::set(
            Idmap::from_raw(idmap),
            Inode::from_raw((*dentry).d_inode),
            Acl::borrowed(list),
            Kind::from_raw(kind),
        )
    })
}

/// Times are stored at once, with `lazytime` too: there is no device that would have to wake up.
///
/// # Safety
/// Called by the VFS with an inode of ours.
unsafe extern "C" fn update_time(
    inode: *mut c::inode,
    what: c::fs_update_time,
    flags: c_uint,
) -> c_int {
    // SAFETY: by the contract.
    let this = unsafe { Inode::from_raw(inode) };
    if flags & c::IOCB_NOWAIT as c_uint != 0 {
        return Errno::AGAIN.negative();
    }
    int(attributes::touch(
        this,
        what == c::fs_update_time_FS_UPD_ATIME,
    ))
}

/// # Safety
/// Called by the VFS with a regular file of ours, and a list to fill.
unsafe extern "C" fn fiemap(
    inode: *mut c::inode,
    info: *mut c::fiemap_extent_info,
    start: u64,
    len: u64,
) -> c_int {
    let mut len = len;
    // SAFETY: by the contract.
    let (inode, error) = unsafe {
        let error = c::fiemap_prep(inode, info, start, &mut len, 0);
        (Inode::from_raw(inode), error)
    };
    if error != 0 {
        return error;
    }
    let end = start.saturating_add(len).div_ceil(PAGE_SIZE);
    let filled = extents::each(inode, start / PAGE_SIZE, end, &mut |e, last| {
        let mut flags = 0;
        if e.unwritten {
            flags |= c::FIEMAP_EXTENT_UNWRITTEN;
        }
        if last {
            flags |= c::FIEMAP_EXTENT_LAST;
        }
        // SAFETY: the list of this call. "Physical" is the place in the region, as on a device.
        unsafe {
            c::fiemap_fill_next_extent(
                info,
                e.file_page * PAGE_SIZE,
                e.page * PAGE_SIZE,
                e.len * PAGE_SIZE,
                flags,
            )
        }
    });
    match filled {
        Ok(n) => n.min(0),
        Err(e) => e.negative(),
    }
}
