// SPDX-License-Identifier: GPL-2.0
//! Access control lists of the kernel.

use super::{Dentry, Idmap, Inode};
use crate::bindings as c;
use crate::errno::{check, Errno, Result};
use core::ptr::NonNull;
use kernel::prelude::*;

/// Whose list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Access,
    Default,
}

impl Kind {
    pub(crate) fn from_raw(kind: i32) -> Kind {
        if kind == c::ACL_TYPE_DEFAULT as i32 {
            Kind::Default
        } else {
            Kind::Access
        }
    }

    fn raw(self) -> i32 {
        match self {
            Kind::Access => c::ACL_TYPE_ACCESS as i32,
            Kind::Default => c::ACL_TYPE_DEFAULT as i32,
        }
    }
}

/// A counted reference to a list.
pub(crate) struct Acl(NonNull<c::posix_acl>);

impl Acl {
    /// # Safety
    /// `p` is a list, with a reference that is handed over, or null.
    unsafe fn from_raw(p: *mut c::posix_acl) -> Option<Acl> {
        NonNull::new(p).map(Acl)
    }

    /// # Safety
    /// `p` is a list that somebody else holds, or null.
    pub(crate) unsafe fn borrowed(p: *mut c::posix_acl) -> Option<Acl> {
        NonNull::new(p).map(|p| {
            // SAFETY: a list that is held.
            unsafe { c::rpramfs_acl_get(p.as_ptr()) };
            Acl(p)
        })
    }

    /// Hands the reference over to C.
    pub(crate) fn into_raw(acl: Option<Acl>) -> *mut c::posix_acl {
        acl.map_or(core::ptr::null_mut(), |acl| {
            let p = acl.0.as_ptr();
            core::mem::forget(acl);
            p
        })
    }

    /// Reads the stored form.
    pub(crate) fn from_xattr(value: &[u8]) -> Result<Option<Acl>> {
        // SAFETY: `value` is readable for its length; what is in it is checked there.
        unsafe {
            let p = c::posix_acl_from_xattr(
                &raw mut c::init_user_ns,
                value.as_ptr().cast(),
                value.len(),
            );
            check(c::rpramfs_ptr_err(p.cast()) as i32)?;
            Ok(Acl::from_raw(p))
        }
    }

    /// Writes the stored form.
    pub(crate) fn to_xattr(&self) -> Result<KVec<u8>> {
        let mut len = 0;
        // SAFETY: a list; the answer is kmalloc'd memory of `len` bytes.
        unsafe {
            let p = c::rpramfs_acl_to_xattr(self.0.as_ptr(), &mut len);
            let p = NonNull::new(p.cast::<u8>()).ok_or(Errno::NO_MEMORY)?;
            Ok(KVec::from_raw_parts(p.as_ptr(), len, len))
        }
    }

    /// What a new inode of a directory gets: its mode, and two lists.
    pub(crate) fn inherit(dir: &Inode, mode: u32) -> Result<(u32, Option<Acl>, Option<Acl>)> {
        let mut mode = mode as c::umode_t;
        let (mut default, mut access) = (core::ptr::null_mut(), core::ptr::null_mut());
        // SAFETY: all places are there to be written; references come with the lists.
        unsafe {
            check(c::posix_acl_create(
                dir.raw(),
                &mut mode,
                &mut default,
                &mut access,
            ))?;
            Ok((mode.into(), Acl::from_raw(default), Acl::from_raw(access)))
        }
    }

    /// The mode that a list amounts to; no list where it says no more than that.
    pub(crate) fn into_mode(
        idmap: Idmap,
        inode: &Inode,
        mode: &mut u32,
        acl: &mut Option<Acl>,
    ) -> Result {
        let Some(list) = acl else { return Ok(()) };
        let mut bits = *mode as c::umode_t;
        let mut p = list.0.as_ptr();
        // SAFETY: a list, which the call may put null in place of, without giving it back.
        check(unsafe { c::posix_acl_update_mode(idmap.raw(), inode.raw(), &mut bits, &mut p) })?;
        *mode = bits.into();
        if p.is_null() {
            *acl = None;
        }
        Ok(())
    }

    /// After a chmod.
    pub(crate) fn follow_mode(idmap: Idmap, dentry: &Dentry, inode: &Inode) -> Result {
        // SAFETY: what the call to `setattr` was given.
        check(unsafe { c::posix_acl_chmod(idmap.raw(), dentry.raw(), inode.mode() as c::umode_t) })
    }

    /// Lets the VFS remember it.
    pub(crate) fn remember(inode: &Inode, kind: Kind, acl: Option<&Acl>) {
        let p = acl.map_or(core::ptr::null_mut(), |acl| acl.0.as_ptr());
        // SAFETY: the inode lives; a reference of its own is taken.
        unsafe { c::set_cached_acl(inode.raw(), kind.raw(), p) };
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: our reference.
        unsafe { c::rpramfs_acl_put(self.0.as_ptr()) };
    }
}
