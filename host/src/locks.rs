// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The locks the core asks for by number.

#![allow(unsafe_code)]

use fs_core::LOCKS;
use parking_lot::lock_api::RawMutex as _;
use parking_lot::RawMutex;

/// One lock on a cache line of its own (64 bytes on x86-64 and most arm64), so that neighbours do
/// not slow each other down.
#[repr(align(64))]
struct Padded(RawMutex);

/// `fs_core::LOCKS` mutexes that guard no Rust data, only bytes of a region.
pub(crate) struct Locks([Padded; LOCKS]);

impl Locks {
    pub(crate) const fn new() -> Self {
        Locks([const { Padded(RawMutex::INIT) }; LOCKS])
    }

    #[inline]
    pub(crate) fn lock(&self, id: usize) {
        self.0[id].0.lock();
    }

    #[inline]
    pub(crate) fn try_lock(&self, id: usize) -> bool {
        self.0[id].0.try_lock()
    }

    /// # Panics
    /// If the lock is not taken: that is a bug of the caller.
    #[inline]
    pub(crate) fn unlock(&self, id: usize) {
        let mutex = &self.0[id].0;
        assert!(mutex.is_locked(), "lock {id} given back but not taken");
        // SAFETY: the mutex is locked, as the line above shows. `RawMutex` is not bound to a
        // thread, and no Rust data stands behind it: giving it back early could break an
        // invariant of the region, which the core checks on reading, but no memory safety.
        unsafe { mutex.unlock() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_and_others_do_not() {
        let locks = Locks::new();
        locks.lock(3);
        assert!(!locks.try_lock(3));
        assert!(locks.try_lock(4));
        locks.unlock(3);
        assert!(locks.try_lock(3));
        locks.unlock(3);
        locks.unlock(4);
    }

    #[test]
    #[should_panic(expected = "not taken")]
    fn giving_back_what_was_not_taken_is_caught() {
        Locks::new().unlock(0);
    }

    #[test]
    fn threads_do_not_lose_increments() {
        let locks = Locks::new();
        let counter = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..10_000 {
                        locks.lock(7);
                        let n = counter.load(std::sync::atomic::Ordering::Relaxed);
                        counter.store(n + 1, std::sync::atomic::Ordering::Relaxed);
                        locks.unlock(7);
                    }
                });
            }
        });
        assert_eq!(counter.into_inner(), 40_000);
    }
}
