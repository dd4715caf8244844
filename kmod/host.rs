// SPDX-License-Identifier: GPL-2.0
//! What the core asks of the kernel: clock, randomness, checksum, locks.

use crate::bindings as c;
use crate::errno::{check, Errno, Result};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};
use fs_core::{Corruption, Host, LOCKS};

/// The kernel as a host of one mount.
pub(crate) struct KernelHost {
    /// `LOCKS` mutexes.
    locks: NonNull<c::mutex>,
    /// Whose clock is asked; null before and after the mount.
    sb: AtomicPtr<c::super_block>,
}

// SAFETY: mutexes may be used from any task, and `sb` only says where to set a flag.
unsafe impl Send for KernelHost {}
// SAFETY: as for `Send`: all methods take `&self` and use mutexes and atomics.
unsafe impl Sync for KernelHost {}

impl KernelHost {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: any number may be asked for.
        let locks = unsafe { c::rpramfs_locks_new(LOCKS as u32) };
        Ok(KernelHost {
            locks: NonNull::new(locks).ok_or(Errno::NO_MEMORY)?,
            sb: AtomicPtr::new(core::ptr::null_mut()),
        })
    }

    /// The superblock that files' times are for.
    ///
    /// # Safety
    /// It lives until it is replaced, by null at last.
    pub(crate) unsafe fn set_super(&self, sb: *mut c::super_block) {
        self.sb.store(sb, Ordering::Release);
    }

    #[inline]
    fn mutex(&self, id: usize) -> *mut c::mutex {
        assert!(id < LOCKS);
        // SAFETY: there are `LOCKS` of them.
        unsafe { self.locks.as_ptr().add(id) }
    }
}

/// A time as the core has it.
pub(crate) fn nanoseconds(t: c::timespec64) -> i64 {
    t.tv_sec
        .wrapping_mul(1_000_000_000)
        .wrapping_add(t.tv_nsec as i64)
}

/// Lets other tasks run. False if this one is to end.
pub(crate) fn go_on() -> bool {
    // SAFETY: called in process context, with nothing but sleeping locks held.
    unsafe { c::rpramfs_go_on() }
}

/// Nanoseconds of a clock that never goes back.
pub(crate) fn clock() -> i64 {
    // SAFETY: may be called anywhere.
    unsafe { c::ktime_get() }
}

/// Is there such a process, begun at that clock tick? 0 is any.
pub(crate) fn task_lives(pid: u32, start: u64) -> bool {
    // SAFETY: any number may be asked about.
    unsafe { c::rpramfs_task_lives(pid, start) }
}

/// Tells this boot of the machine from others.
pub(crate) fn boot_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    // SAFETY: there is room for 16 bytes.
    check(unsafe { c::rpramfs_boot_id(id.as_mut_ptr()) })?;
    Ok(id)
}

impl Drop for KernelHost {
    fn drop(&mut self) {
        // SAFETY: `rpramfs_locks_new` allocated them; nobody can have one, as nobody has `self`.
        unsafe { c::kvfree(self.locks.as_ptr().cast()) };
    }
}

impl Host for KernelHost {
    fn now(&self) -> i64 {
        // SAFETY: null, or a superblock that lives, by the contract of `set_super`.
        unsafe { c::rpramfs_now(self.sb.load(Ordering::Acquire)) }
    }

    fn random(&self) -> u64 {
        // SAFETY: may be called anywhere.
        unsafe { c::get_random_u64() }
    }

    #[inline]
    fn crc32(&self, crc: u32, data: &[u8]) -> u32 {
        // SAFETY: `data` is readable memory of that length.
        !unsafe { c::crc32_le(!crc, data.as_ptr().cast(), data.len()) }
    }

    #[inline]
    fn lock(&self, id: usize) {
        // SAFETY: a mutex of ours; the core runs in process context only.
        unsafe { c::rpramfs_lock(self.mutex(id)) };
    }

    #[inline]
    fn try_lock(&self, id: usize) -> bool {
        // SAFETY: as for `lock`.
        unsafe { c::rpramfs_trylock(self.mutex(id)) }
    }

    #[inline]
    fn unlock(&self, id: usize) {
        // SAFETY: the core gives back what this task took, as `Host` says.
        unsafe { c::mutex_unlock(self.mutex(id)) };
    }

    #[inline]
    fn cpu(&self) -> usize {
        // SAFETY: may be called anywhere.
        unsafe { c::rpramfs_cpu() as usize }
    }

    fn report(&self, corruption: &Corruption) {
        complain!("corrupt at offset {:#x}: {}; the mount is read-only from now on. Unmount it and run fsck.rpramfs",
            corruption.offset,
            corruption.what
        );
    }
}
