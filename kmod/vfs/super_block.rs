// SPDX-License-Identifier: GPL-2.0
//! Superblocks of the VFS.

use super::inode::{self, Got};
use crate::bindings as c;
use crate::errno::Result;
use crate::mount::{Mount, Site};
use core::cell::UnsafeCell;
use fs_core::Ino;

/// A superblock of ours.
#[repr(transparent)]
pub(crate) struct Super(UnsafeCell<c::super_block>);

impl Super {
    /// # Safety
    /// `p` is a superblock of ours and lives for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(p: *mut c::super_block) -> &'a Super {
        // SAFETY: transparent over an `UnsafeCell`, so that others may write; alive by the contract.
        unsafe { &*p.cast::<Super>() }
    }

    #[inline]
    pub(crate) fn raw(&self) -> *mut c::super_block {
        self.0.get()
    }

    /// What we keep for it.
    #[inline]
    pub(crate) fn site(&self) -> &Site {
        // SAFETY: `sget_fc` set it before the superblock could be found, and `kill_sb` frees it last.
        unsafe { &*(*self.raw()).s_fs_info.cast::<Site>() }
    }

    #[inline]
    pub(crate) fn mount(&self) -> &Mount {
        self.site().mount()
    }

    /// Gives the region back. No inode is left, and nobody asks for one.
    pub(crate) fn close(&self) {
        if let Some(mount) = self.site().opened() {
            // SAFETY: null is always right.
            unsafe { mount.fs().host().set_super(core::ptr::null_mut()) };
            mount.close();
        }
    }

    /// Keeps the filesystem from being frozen, as a system call that changes something does.
    pub(crate) fn change(&self) -> Thawed<'_> {
        // SAFETY: the superblock lives as long as the guard.
        unsafe { c::rpramfs_sb_start_write(self.raw()) };
        Thawed(self, c::rpramfs_sb_end_write)
    }

    /// The same for what may happen inside of such a call.
    pub(crate) fn change_inside(&self) -> Thawed<'_> {
        // SAFETY: as for `change`.
        unsafe { c::rpramfs_sb_start_intwrite(self.raw()) };
        Thawed(self, c::rpramfs_sb_end_intwrite)
    }

    /// The VFS's inode of a number, known or to be read in.
    pub(crate) fn get(&self, ino: Ino) -> Result<Got> {
        inode::get(self, ino)
    }
}

/// The filesystem is not frozen, and will not be.
pub(crate) struct Thawed<'a>(&'a Super, unsafe extern "C" fn(*mut c::super_block));

impl Drop for Thawed<'_> {
    fn drop(&mut self) {
        // SAFETY: the counterpart of what was called when the guard was made, by this task.
        unsafe { (self.1)(self.0.raw()) };
    }
}

/// A superblock for work in the background.
pub(crate) struct Handle(*mut c::super_block);

// SAFETY: only an address; what it leads to may be used from any task.
unsafe impl Send for Handle {}
// SAFETY: as for `Send`.
unsafe impl Sync for Handle {}

impl Handle {
    /// # Safety
    /// The superblock outlives the value.
    pub(crate) unsafe fn new(sb: *mut c::super_block) -> Self {
        Handle(sb)
    }

    pub(crate) fn get(&self) -> &Super {
        // SAFETY: by the contract of `new`.
        unsafe { Super::from_raw(self.0) }
    }
}
