// SPDX-License-Identifier: GPL-2.0
//! Names, as the VFS hands them to us.

use super::inode::Inode;
use crate::bindings as c;
use core::cell::UnsafeCell;

/// A dentry that the VFS keeps alive.
#[repr(transparent)]
pub(crate) struct Dentry(UnsafeCell<c::dentry>);

impl Dentry {
    /// # Safety
    /// `p` is a dentry of ours and lives for `'a`; its name does not change meanwhile, as the directory is
    /// locked.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(p: *mut c::dentry) -> &'a Dentry {
        // SAFETY: transparent over an `UnsafeCell`, so that others may write; alive by the contract.
        unsafe { &*p.cast::<Dentry>() }
    }

    #[inline]
    pub(crate) fn raw(&self) -> *mut c::dentry {
        self.0.get()
    }

    /// The last part of the path.
    pub(crate) fn name(&self) -> &[u8] {
        let p = self.raw();
        // SAFETY: the name is `len` bytes long and stands still (see `from_raw`).
        unsafe {
            let name = &(*p).__bindgen_anon_1.d_name;
            let len = name.__bindgen_anon_1.__bindgen_anon_1.len;
            core::slice::from_raw_parts(name.name.cast(), len as usize)
        }
    }

    /// What it names, if it names something.
    pub(crate) fn inode(&self) -> Option<&Inode> {
        // SAFETY: a dentry that is in use keeps its inode.
        unsafe {
            let inode = (*self.raw()).d_inode;
            (!inode.is_null()).then(|| Inode::from_raw(inode))
        }
    }
}
