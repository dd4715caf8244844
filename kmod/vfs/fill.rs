// SPDX-License-Identifier: GPL-2.0
//! Values of calls: what setattr is asked for, what statfs answers, labels of new inodes.

use super::{Dentry, Idmap, Inode};
use crate::bindings as c;
use crate::errno::{check, int, Result};
use crate::host::nanoseconds;
use crate::xattrs::{self, Name};
use core::ffi::CStr;
use fs_core::{SetAttr, XattrMode};
use kernel::ffi::{c_int, c_void};

/// What setattr is asked for.
pub(crate) struct Change<'a>(&'a mut c::iattr);

impl<'a> Change<'a> {
    /// # Safety
    /// `p` is that of a call that lasts for `'a`.
    pub(crate) unsafe fn from_raw(p: *mut c::iattr) -> Self {
        // SAFETY: ours alone, by the contract.
        Change(unsafe { &mut *p })
    }

    fn has(&self, flag: u32) -> bool {
        self.0.ia_valid & flag != 0
    }

    /// Checks who may, and clears what he may not.
    pub(crate) fn prepare(&mut self, idmap: Idmap, dentry: &Dentry) -> Result {
        // SAFETY: what the call was given; the inode is locked.
        check(unsafe { c::setattr_prepare(idmap.raw(), dentry.raw(), self.0) })
    }

    /// In the core's terms.
    pub(crate) fn wanted(&self, idmap: Idmap, inode: &Inode) -> SetAttr {
        let (mut uid, mut gid) = (0, 0);
        // SAFETY: both places are there to be written.
        unsafe { c::rpramfs_change_owner(idmap.raw(), inode.raw(), self.0, &mut uid, &mut gid) };
        let a = &self.0;
        SetAttr {
            mode: self.has(c::ATTR_MODE).then_some(a.ia_mode.into()),
            uid: self.has(c::ATTR_UID).then_some(uid),
            gid: self.has(c::ATTR_GID).then_some(gid),
            size: self.has(c::ATTR_SIZE).then_some(a.ia_size as u64),
            atime: self.has(c::ATTR_ATIME).then_some(nanoseconds(a.ia_atime)),
            mtime: self.has(c::ATTR_MTIME).then_some(nanoseconds(a.ia_mtime)),
            ctime: self.has(c::ATTR_CTIME).then_some(nanoseconds(a.ia_ctime)),
        }
    }
}

/// What statfs answers, in blocks of `block` bytes.
pub(crate) struct Statfs {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) available: u64,
    pub(crate) files: u64,
    pub(crate) files_free: u64,
    pub(crate) uuid: [u8; 16],
}

/// Security labels of new inodes.
pub(crate) struct Label;

impl Label {
    /// Asks the security modules, and stores what they say.
    pub(crate) fn apply(inode: &Inode, dir: &Inode, dentry: Option<&Dentry>) -> Result {
        let name = dentry.map_or(core::ptr::null(), |dentry| {
            // SAFETY: the dentry lives; only the address is taken.
            unsafe { (&raw const (*dentry.raw()).__bindgen_anon_1.d_name).cast::<c::qstr>() }
        });
        // SAFETY: both inodes live, and so does the name.
        check(unsafe {
            c::security_inode_init_security(
                inode.raw(),
                dir.raw(),
                name,
                Some(store_labels),
                core::ptr::null_mut(),
            )
        })
    }
}

/// # Safety
/// Called by `security_inode_init_security` with its inode and an array that ends with a null name.
unsafe extern "C" fn store_labels(
    inode: *mut c::inode,
    labels: *const c::xattr,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the inode is the one that `apply` gave.
    let inode = unsafe { Inode::from_raw(inode) };
    let mut at = labels;
    loop {
        // SAFETY: not behind the null name yet.
        let label = unsafe { &*at };
        if label.name.is_null() {
            return 0;
        }
        // SAFETY: a C string, and a value of that length.
        let (name, value) = unsafe {
            (
                CStr::from_ptr(label.name.cast()),
                core::slice::from_raw_parts(label.value.cast::<u8>(), label.value_len),
            )
        };
        let stored = Name::new(b"security.", name.to_bytes())
            .and_then(|name| xattrs::set(inode, &name, Some(value), XattrMode::Either));
        if stored.is_err() {
            return int(stored);
        }
        // SAFETY: the array goes on until its null name.
        at = unsafe { at.add(1) };
    }
}
