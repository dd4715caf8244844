// SPDX-License-Identifier: GPL-2.0
//! Open files, mount id maps, directory streams.

use super::inode::Inode;
use crate::bindings as c;
use crate::errno::{check, Result};
use core::cell::UnsafeCell;

/// An open file.
#[repr(transparent)]
pub(crate) struct File(UnsafeCell<c::file>);

impl File {
    /// # Safety
    /// `p` is an open file on a mount of ours and stays open for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(p: *mut c::file) -> &'a File {
        // SAFETY: transparent over an `UnsafeCell`; open by the contract.
        unsafe { &*p.cast::<File>() }
    }

    #[inline]
    pub(crate) fn raw(&self) -> *mut c::file {
        self.0.get()
    }

    #[inline]
    pub(crate) fn inode(&self) -> &Inode {
        // SAFETY: an open file keeps its inode.
        unsafe { Inode::from_raw((*self.raw()).f_inode) }
    }

    /// Notes the access, as the mount's atime options have it.
    #[inline]
    pub(crate) fn accessed(&self) {
        // SAFETY: an open file.
        unsafe { c::rpramfs_file_accessed(self.raw()) };
    }

    /// Takes set-user-ID and the like away before data change. The inode is locked.
    pub(crate) fn remove_privileges(&self) -> Result {
        // SAFETY: an open file.
        check(unsafe { c::file_remove_privs(self.raw()) })
    }

    /// Asks for permission to change something of the mount, until the guard goes.
    pub(crate) fn want_write(&self) -> Result<WantWrite<'_>> {
        // SAFETY: an open file.
        check(unsafe { c::rpramfs_want_write(self.raw()) })?;
        Ok(WantWrite(self))
    }

    /// Moves the file position, if `to` can be one.
    pub(crate) fn set_position(&self, to: u64) -> i64 {
        // SAFETY: an open file; the VFS has the position locked where it is shared.
        unsafe { c::vfs_setpos(self.raw(), to as i64, i64::MAX) }
    }
}

/// Permission to change something of the mount.
pub(crate) struct WantWrite<'a>(&'a File);

impl Drop for WantWrite<'_> {
    fn drop(&mut self) {
        // SAFETY: given by `want_write`.
        unsafe { c::rpramfs_drop_write(self.0.raw()) };
    }
}

/// How users' numbers are seen through this mount.
#[derive(Clone, Copy)]
pub(crate) struct Idmap(*mut c::mnt_idmap);

impl Idmap {
    /// # Safety
    /// `p` is the map of a mount that lives as long as the value.
    pub(crate) unsafe fn from_raw(p: *mut c::mnt_idmap) -> Self {
        Idmap(p)
    }

    pub(crate) fn raw(self) -> *mut c::mnt_idmap {
        self.0
    }

    /// Who owns what this task makes in a directory.
    pub(crate) fn new_owner(self, dir: &Inode) -> (u32, u32) {
        let (mut uid, mut gid) = (0, 0);
        // SAFETY: both places are there to be written.
        unsafe { c::rpramfs_new_owner(self.0, dir.raw(), &mut uid, &mut gid) };
        (uid, gid)
    }
}

/// A directory being read.
pub(crate) struct Stream<'a> {
    file: &'a File,
    context: &'a mut c::dir_context,
}

impl<'a> Stream<'a> {
    /// # Safety
    /// Both are those of a call to `iterate_shared` that lasts for `'a`.
    pub(crate) unsafe fn from_raw(file: *mut c::file, context: *mut c::dir_context) -> Self {
        // SAFETY: by the contract.
        unsafe {
            Stream {
                file: File::from_raw(file),
                context: &mut *context,
            }
        }
    }

    pub(crate) fn dir(&self) -> &'a Inode {
        self.file.inode()
    }

    pub(crate) fn position(&self) -> u64 {
        self.context.pos as u64
    }

    pub(crate) fn set_position(&mut self, to: u64) {
        self.context.pos = to as i64;
    }

    /// "." and "..".
    pub(crate) fn emit_dots(&mut self) -> bool {
        // SAFETY: what the call was given.
        unsafe { c::rpramfs_emit_dots(self.file.raw(), self.context) }
    }

    /// One entry; false if there is no room for it.
    pub(crate) fn emit(&mut self, name: &[u8], ino: u64, kind: u32) -> bool {
        // SAFETY: `name` is readable for its length; the actor copies it.
        unsafe {
            c::rpramfs_emit(
                self.context,
                name.as_ptr().cast(),
                name.len() as i32,
                ino,
                kind,
            )
        }
    }
}
