// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Clock, randomness, checksum and locks of a user-space process.

use crate::locks::Locks;
use fs_core::{Corruption, Host};
use nix::time::{clock_gettime, ClockId};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The services the core needs, from Linux user space.
///
/// One value serves one mounted filesystem: its locks are the filesystem's locks.
pub struct UserHost {
    locks: Locks,
}

impl UserHost {
    /// A host whose locks are all free.
    #[must_use]
    pub const fn new() -> Self {
        UserHost {
            locks: Locks::new(),
        }
    }
}

impl Default for UserHost {
    fn default() -> Self {
        UserHost::new()
    }
}

impl fmt::Debug for UserHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserHost").finish_non_exhaustive()
    }
}

/// Numbers the threads as they first ask: two that run at once never share a number.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // A thread that is being torn down has no number any more; any will do, it is only a hint.
    NUMBER.try_with(|n| *n).unwrap_or(0)
}

impl Host for UserHost {
    /// CLOCK_REALTIME_COARSE: one timer tick (1 to 10 ms) fine, no system call.
    fn now(&self) -> i64 {
        match clock_gettime(ClockId::CLOCK_REALTIME_COARSE) {
            Ok(t) => t
                .tv_sec()
                .saturating_mul(1_000_000_000)
                .saturating_add(t.tv_nsec()),
            // The clock exists since Linux 2.6.32; a sandbox that forbids it leaves the epoch.
            Err(_) => 0,
        }
    }

    fn random(&self) -> u64 {
        getrandom::u64().unwrap_or_else(|_| {
            // No getrandom(2) and no /dev/urandom: std's hasher keys are the next best source.
            use std::hash::{BuildHasher, Hasher};
            std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish()
        })
    }

    #[inline]
    fn crc32(&self, crc: u32, data: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(crc);
        hasher.update(data);
        hasher.finalize()
    }

    #[inline]
    fn lock(&self, id: usize) {
        self.locks.lock(id);
    }

    #[inline]
    fn try_lock(&self, id: usize) -> bool {
        self.locks.try_lock(id)
    }

    #[inline]
    fn unlock(&self, id: usize) {
        self.locks.unlock(id);
    }

    #[inline]
    fn cpu(&self) -> usize {
        thread_number()
    }

    fn report(&self, c: &Corruption) {
        log::error!(
            "corrupt at offset {:#x} of the region: {}",
            c.offset,
            c.what
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_ieee_one_and_continues() {
        let host = UserHost::new();
        // The check value of CRC-32/ISO-HDLC in the RevEng catalogue.
        assert_eq!(host.crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(host.crc32(host.crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn clock_is_today() {
        // 2024-01-01 in nanoseconds.
        assert!(UserHost::new().now() > 1_704_067_200_000_000_000);
    }

    #[test]
    fn random_differs() {
        let host = UserHost::new();
        assert_ne!(host.random(), host.random());
    }

    #[test]
    fn threads_have_their_own_number() {
        let host = UserHost::new();
        let here = host.cpu();
        assert_eq!(here, host.cpu());
        let there = std::thread::scope(|s| s.spawn(|| host.cpu()).join().expect("thread"));
        assert_ne!(here, there);
    }
}
