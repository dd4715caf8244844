// SPDX-License-Identifier: GPL-2.0
//! Inodes of the VFS.

use super::super_block::Super;
use super::Dentry;
use crate::bindings as c;
use crate::errno::{check, Errno, Result};
use crate::mount::Mount;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use fs_core::{Attr, Ino, PAGE_SIZE, S_IFDIR, S_IFMT};

/// An inode of ours that somebody keeps alive.
#[repr(transparent)]
pub(crate) struct Inode(UnsafeCell<c::inode>);

impl Inode {
    /// # Safety
    /// `p` is an inode of a superblock of ours and lives for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(p: *mut c::inode) -> &'a Inode {
        // SAFETY: transparent over an `UnsafeCell`, so that others may write; alive by the contract.
        unsafe { &*p.cast::<Inode>() }
    }

    #[inline]
    pub(crate) fn raw(&self) -> *mut c::inode {
        self.0.get()
    }

    #[inline]
    pub(crate) fn ino(&self) -> Ino {
        // SAFETY: never changes while the inode lives.
        unsafe { (*self.raw()).i_ino as Ino }
    }

    #[inline]
    pub(crate) fn super_block(&self) -> &Super {
        // SAFETY: an inode has a superblock, which outlives it.
        unsafe { Super::from_raw((*self.raw()).i_sb) }
    }

    #[inline]
    pub(crate) fn mount(&self) -> &Mount {
        self.super_block().mount()
    }

    /// Type and permissions.
    #[inline]
    pub(crate) fn mode(&self) -> u32 {
        // SAFETY: a plain field, that changes under the inode lock; whoever reads without has an old one.
        u32::from(unsafe { (&raw const (*self.raw()).i_mode).read_volatile() })
    }

    #[inline]
    pub(crate) fn links(&self) -> u32 {
        // SAFETY: as for `mode`.
        unsafe { (&raw const (*self.raw()).__bindgen_anon_1.i_nlink).read_volatile() }
    }

    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        // SAFETY: set before the inode is found by anybody.
        unsafe { (*self.raw()).i_generation }
    }

    #[inline]
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: the inode lives.
        unsafe { c::rpramfs_size(self.raw()) as u64 }
    }

    /// Times of access, data change and attribute change, in nanoseconds.
    pub(crate) fn times(&self) -> [i64; 3] {
        let p = self.raw();
        // SAFETY: the inode lives.
        unsafe {
            [
                c::rpramfs_atime(p),
                c::rpramfs_mtime(p),
                c::rpramfs_ctime(p),
            ]
        }
    }

    /// Sealed: its bytes do not change.
    #[inline]
    pub(crate) fn is_sealed(&self) -> bool {
        // SAFETY: a plain field, that `refresh` changes with `meta`.
        let flags = unsafe { (&raw const (*self.raw()).i_flags).read_volatile() };
        flags & c::S_IMMUTABLE != 0
    }

    /// Sets the VFS's copy of an access or change time to the clock.
    pub(crate) fn set_time_now(&self, access: bool) {
        // SAFETY: the inode lives; times may be set without a lock, as in `generic_update_time`.
        unsafe { c::rpramfs_update_times(self.raw(), access) };
    }

    /// Takes over the attributes that an operation has changed. The caller holds `meta`, so that an older
    /// state never comes after a newer one.
    pub(crate) fn refresh(&self, a: &Attr) {
        let p = self.raw();
        // SAFETY: the inode lives. The VFS reads these fields without a lock and accepts either state;
        // whoever writes them holds `meta`, or the inode lock in `setattr_copy`, which has `meta` behind it.
        unsafe {
            (&raw mut (*p).i_mode).write_volatile(a.mode as c::umode_t);
            c::rpramfs_set_owner(p, a.uid, a.gid);
            if (*p).__bindgen_anon_1.i_nlink != a.nlink {
                c::set_nlink(p, a.nlink);
            }
            (&raw mut (*p).i_blocks).write_volatile(a.pages * 8);
            c::rpramfs_set_times(p, a.atime, a.mtime, a.ctime);
            if c::rpramfs_size(p) as u64 != a.size {
                c::rpramfs_set_size(p, a.size as i64);
            }
            let sealed = c::S_IMMUTABLE;
            if self.is_sealed() != a.sealed {
                c::inode_set_flags(p, if a.sealed { sealed } else { 0 }, sealed);
            }
        }
    }

    /// The lock that the core asks for, exclusively. With several inodes: directories first, in the order
    /// of `nesting` (0 to 3); the VFS's locks keep two tasks from doing so in different orders.
    #[inline]
    pub(crate) fn meta(&self, nesting: u32) -> Meta<'_> {
        // SAFETY: the lock is part of the inode, which lives as long as the guard.
        unsafe { c::rpramfs_meta_lock(self.raw(), nesting) };
        self.forget_run();
        Meta(self, PhantomData)
    }

    /// Those of several inodes: directories first, then by number, so that all tasks do it in one order.
    pub(crate) fn meta_of(mut inodes: [Option<&Inode>; 4]) -> [Option<Meta<'_>>; 4] {
        inodes.sort_unstable_by_key(|inode| {
            inode.map_or((false, 0), |i| (i.mode() & S_IFMT != S_IFDIR, i.ino()))
        });
        let mut nesting = 0;
        inodes.map(|inode| {
            nesting += 1;
            inode.map(|inode| inode.meta(nesting - 1))
        })
    }

    /// The same, shared.
    #[inline]
    pub(crate) fn meta_shared(&self) -> MetaShared<'_> {
        // SAFETY: as for `meta`.
        unsafe { c::down_read(c::rpramfs_meta(self.raw())) };
        MetaShared(self, PhantomData)
    }

    /// The same, if nobody has it exclusively or waits for it.
    #[inline]
    pub(crate) fn try_meta_shared(&self) -> Option<MetaShared<'_>> {
        // SAFETY: as for `meta`.
        let got = unsafe { c::down_read_trylock(c::rpramfs_meta(self.raw())) } != 0;
        got.then_some(MetaShared(self, PhantomData))
    }

    /// The VFS's inode lock, exclusively.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: the inode lives as long as the guard.
        unsafe { c::rpramfs_inode_lock(self.raw()) };
        Locked(self, PhantomData)
    }

    /// Keeps page faults away.
    pub(crate) fn invalidate_lock(&self) -> Invalidate<'_> {
        // SAFETY: as for `lock`.
        unsafe { c::rpramfs_invalidate_lock(self.raw()) };
        Invalidate(self, PhantomData)
    }

    /// Keeps truncation away, for page faults.
    pub(crate) fn invalidate_lock_shared(&self) -> InvalidateShared<'_> {
        // SAFETY: as for `lock`.
        unsafe { c::rpramfs_invalidate_lock_shared(self.raw()) };
        InvalidateShared(self, PhantomData)
    }

    /// Has nobody mapped a page, or is about to?
    #[inline]
    pub(crate) fn is_unmapped(&self) -> bool {
        // SAFETY: the inode lives.
        unsafe { c::rpramfs_mapping_empty(self.raw()) }
    }

    /// Takes mappings of a range of bytes away, so that they are looked up anew: those of zeros, where
    /// there is data now. Not with `meta`, which a page fault that is under way waits for.
    pub(crate) fn forget_mappings(&self, start: u64, end: u64) {
        if end <= start {
            return;
        }
        // Faults that began before are over, and later ones find the data.
        let _faults = self.invalidate_lock();
        let first = start - start % PAGE_SIZE;
        let len = end.next_multiple_of(PAGE_SIZE) - first;
        // SAFETY: the inode and its mapping live. Entries stay: DAX replaces one of zeros itself, and the
        // others may be in use.
        unsafe { c::unmap_mapping_range((*self.raw()).i_mapping, first as i64, len as i64, 0) };
    }

    /// Takes mappings of whole pages away for good: they are about to be freed.
    pub(crate) fn drop_mappings(&self, _faults: &Invalidate<'_>, start: u64, end: u64) {
        // SAFETY: the inode lives; page faults are kept away by the invalidate lock.
        unsafe {
            c::truncate_pagecache_range(self.raw(), start as i64, end.wrapping_sub(1) as i64)
        };
    }

    /// The size, and no mappings behind it.
    pub(crate) fn truncate_mappings(&self, _faults: &Invalidate<'_>, size: u64) {
        // SAFETY: as for `drop_mappings`.
        unsafe { c::truncate_setsize(self.raw(), size as i64) };
    }

    /// Waits until nobody (I/O straight from a mapping) uses pages of the range.
    pub(crate) fn wait_for_users(&self, _faults: &Invalidate<'_>, start: u64, end: u64) -> Result {
        // SAFETY: the invalidate lock is held, as is asked for.
        check(unsafe { c::rpramfs_break_layout(self.raw(), start as i64, end as i64) })
    }

    /// May it become so long? SIGXFSZ goes out where a limit says no.
    pub(crate) fn may_grow_to(&self, size: u64) -> Result {
        if size <= self.size() {
            return Ok(());
        }
        // SAFETY: the inode lives.
        check(unsafe { c::inode_newsize_ok(self.raw(), size as i64) })
    }

    /// Are the two one?
    pub(crate) fn is_same(&self, other: &Inode) -> bool {
        core::ptr::eq(self, other)
    }

    /// One more reference.
    pub(crate) fn hold(&self) -> InodeRef {
        // SAFETY: somebody holds it, so it can be held once more.
        unsafe { c::ihold(self.raw()) };
        InodeRef(NonNull::from(self))
    }

    /// Initialises a device, FIFO or socket.
    pub(crate) fn init_special(&self, mode: u32, rdev: u64) {
        // SAFETY: the inode is new: nobody else has it.
        unsafe {
            c::init_special_inode(self.raw(), mode as c::umode_t, c::rpramfs_used_dev(rdev));
        }
    }
}

/// A counted reference.
pub(crate) struct InodeRef(NonNull<Inode>);

impl InodeRef {
    /// Hands the reference over to C.
    pub(crate) fn into_raw(self) -> *mut c::inode {
        let p = self.raw();
        core::mem::forget(self);
        p
    }
}

impl Deref for InodeRef {
    type Target = Inode;
    fn deref(&self) -> &Inode {
        // SAFETY: the reference is counted.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: our reference.
        unsafe { c::iput(self.raw()) };
    }
}

/// An inode that is being read in: others who look for it wait.
pub(crate) struct Fresh(NonNull<Inode>);

/// What `Super::get` found.
pub(crate) enum Got {
    /// Others may have it already.
    Known(InodeRef),
    /// Nobody else has it.
    Fresh(Fresh),
}

impl Got {
    /// Lets a dentry name it.
    pub(crate) fn instantiate(self, dentry: &Dentry) {
        // SAFETY: the dentry names nothing yet; the reference is handed over.
        unsafe {
            match self {
                Got::Fresh(fresh) => c::d_instantiate_new(dentry.raw(), fresh.into_raw()),
                Got::Known(inode) => c::d_instantiate(dentry.raw(), inode.into_raw()),
            }
        }
    }
}

impl Deref for Got {
    type Target = Inode;
    fn deref(&self) -> &Inode {
        match self {
            Got::Fresh(fresh) => fresh,
            Got::Known(inode) => inode,
        }
    }
}

impl Fresh {
    /// Lets the others have it.
    pub(crate) fn ready(self) -> InodeRef {
        let p = self.0;
        core::mem::forget(self);
        // SAFETY: the inode is new, and ours to unlock.
        unsafe { c::unlock_new_inode(p.as_ref().raw()) };
        InodeRef(p)
    }

    /// Leaves it locked, for who unlocks it himself (`d_instantiate_new`).
    pub(crate) fn into_raw(self) -> *mut c::inode {
        let p = self.raw();
        core::mem::forget(self);
        p
    }
}

impl Deref for Fresh {
    type Target = Inode;
    fn deref(&self) -> &Inode {
        // SAFETY: the reference is counted.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // SAFETY: the inode is new, and could not be read in.
        unsafe { c::iget_failed(self.raw()) };
    }
}

/// Finds or makes the VFS's inode of a number.
pub(super) fn get(sb: &Super, ino: Ino) -> Result<Got> {
    // SAFETY: the superblock lives.
    let p = unsafe { c::iget_locked(sb.raw(), ino as _) };
    let inode = NonNull::new(p.cast::<Inode>()).ok_or(Errno::NO_MEMORY)?;
    // SAFETY: `p` is an inode.
    if unsafe { c::rpramfs_inode_is_new(p) } {
        Ok(Got::Fresh(Fresh(inode)))
    } else {
        Ok(Got::Known(InodeRef(inode)))
    }
}

type NotSend = PhantomData<*mut ()>;

/// Holds the core's lock of an inode exclusively.
pub(crate) struct Meta<'a>(&'a Inode, NotSend);

impl Drop for Meta<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: taken when the guard was made, by this task.
        unsafe { c::up_write(c::rpramfs_meta(self.0.raw())) };
    }
}

/// Holds it shared.
pub(crate) struct MetaShared<'a>(&'a Inode, NotSend);

impl Drop for MetaShared<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: taken when the guard was made, by this task.
        unsafe { c::up_read(c::rpramfs_meta(self.0.raw())) };
    }
}

/// Holds the VFS's inode lock.
pub(crate) struct Locked<'a>(&'a Inode, NotSend);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: taken when the guard was made, by this task.
        unsafe { c::rpramfs_inode_unlock(self.0.raw()) };
    }
}

/// Keeps page faults away.
pub(crate) struct Invalidate<'a>(&'a Inode, NotSend);

impl Drop for Invalidate<'_> {
    fn drop(&mut self) {
        // SAFETY: taken when the guard was made, by this task.
        unsafe { c::rpramfs_invalidate_unlock(self.0.raw()) };
    }
}

/// Keeps truncation away.
pub(crate) struct InvalidateShared<'a>(&'a Inode, NotSend);

impl Drop for InvalidateShared<'_> {
    fn drop(&mut self) {
        // SAFETY: taken when the guard was made, by this task.
        unsafe { c::rpramfs_invalidate_unlock_shared(self.0.raw()) };
    }
}

/// Two files locked by the VFS's inode locks, in its order.
pub(crate) struct LockedPair<'a>(&'a Inode, &'a Inode, NotSend);

impl<'a> LockedPair<'a> {
    pub(crate) fn new(a: &'a Inode, b: &'a Inode) -> Self {
        // SAFETY: both live as long as the guard; the same one twice is allowed.
        unsafe { c::lock_two_nondirectories(a.raw(), b.raw()) };
        LockedPair(a, b, PhantomData)
    }
}

impl Drop for LockedPair<'_> {
    fn drop(&mut self) {
        // SAFETY: taken when the guard was made, by this task.
        unsafe { c::unlock_two_nondirectories(self.0.raw(), self.1.raw()) };
    }
}
