// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the core asks of whoever runs it: clock, randomness, checksum, locks.

use crate::error::Corruption;

/// How many locks a [`Host`] must have: ids `0..LOCKS`.
pub const LOCKS: usize = 192;

/// Services of the surrounding program or kernel.
pub trait Host: Sync {
    /// Wall clock in nanoseconds since 1970-01-01 UTC. A coarse clock (one tick of some
    /// milliseconds) is better than a fine one: a write that finds its time already
    /// recorded changes no metadata.
    fn now(&self) -> i64;

    /// 64 unpredictable bits.
    fn random(&self) -> u64;

    /// CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320), continued: `crc` is the result over
    /// the bytes before (0 at the start), with the usual inversions inside, as zlib's `crc32()`.
    /// The kernel's `crc32_le(!crc, data, len) ^ !0` is the same function.
    #[cfg_attr(feature = "sites", track_caller)]
    fn crc32(&self, crc: u32, data: &[u8]) -> u32;

    /// Takes lock `id` (`id < LOCKS`), waiting for it. Not recursive. A critical section is short
    /// and never sleeps for anything but another of these locks.
    fn lock(&self, id: usize);

    /// Takes lock `id` if it is free; says whether it did.
    fn try_lock(&self, id: usize) -> bool;

    /// Gives lock `id` back. Called by the thread that took it.
    fn unlock(&self, id: usize);

    /// A number that differs between threads or CPUs running at once; spreads them over journal
    /// slots and allocation groups. Only a hint.
    fn cpu(&self) -> usize;

    /// Called when a structure is found corrupt, before the error is returned: for the log.
    fn report(&self, _corruption: &Corruption) {}
}

impl<T: Host + ?Sized> Host for &T {
    fn now(&self) -> i64 {
        (**self).now()
    }
    fn random(&self) -> u64 {
        (**self).random()
    }
    fn crc32(&self, crc: u32, data: &[u8]) -> u32 {
        (**self).crc32(crc, data)
    }
    fn lock(&self, id: usize) {
        (**self).lock(id);
    }
    fn try_lock(&self, id: usize) -> bool {
        (**self).try_lock(id)
    }
    fn unlock(&self, id: usize) {
        (**self).unlock(id);
    }
    fn cpu(&self) -> usize {
        (**self).cpu()
    }
    fn report(&self, corruption: &Corruption) {
        (**self).report(corruption);
    }
}
