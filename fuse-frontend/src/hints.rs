// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Small caches of facts about inodes that spare the hot paths a look at the region.
//!
//! A slot holds at most one inode; a fact that is not there is found out anew. Facts are recorded
//! under the inode's lock and withdrawn under it (an access time, which is advisory, less strictly).

use fs_core::Ino;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 8192;

/// Inode numbers stay below this: a region would have to be larger than an address space.
const INO_BITS: u32 = 44;

/// What is known.
#[derive(Debug)]
pub struct Hints {
    /// Inodes with neither SUID nor SGID bit nor file capabilities.
    plain: Box<[AtomicU64]>,
    /// Inodes whose access time needs no update, tagged with the hour in which that was found.
    accessed: Box<[AtomicU64]>,
}

impl Default for Hints {
    fn default() -> Self {
        let slots = || (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Hints {
            plain: slots(),
            accessed: slots(),
        }
    }
}

fn slot(table: &[AtomicU64], ino: Ino) -> &AtomicU64 {
    &table[ino as usize % SLOTS]
}

/// The inode and the hour in one word.
fn tagged(ino: Ino, now: i64) -> u64 {
    let hour = (now / 3_600_000_000_000) as u64;
    ino & ((1 << INO_BITS) - 1) | hour << INO_BITS
}

impl Hints {
    /// Is the inode known to have nothing that a write must strip?
    #[inline]
    #[must_use]
    pub fn is_plain(&self, ino: Ino) -> bool {
        slot(&self.plain, ino).load(Ordering::Acquire) == ino
    }

    /// Records that it has nothing. The inode is locked exclusively.
    pub fn set_plain(&self, ino: Ino) {
        slot(&self.plain, ino).store(ino, Ordering::Release);
    }

    /// It may have something from now on. The inode is locked exclusively, or new.
    pub fn clear_plain(&self, ino: Ino) {
        let _ =
            slot(&self.plain, ino).compare_exchange(ino, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Is the access time known to need no update?
    #[inline]
    #[must_use]
    pub fn is_accessed(&self, ino: Ino, now: i64) -> bool {
        slot(&self.accessed, ino).load(Ordering::Relaxed) == tagged(ino, now)
    }

    /// Records that the access time needs no update for the next hour.
    pub fn set_accessed(&self, ino: Ino, now: i64) {
        slot(&self.accessed, ino).store(tagged(ino, now), Ordering::Relaxed);
    }

    /// Data or attributes changed: the next read shall look.
    #[inline]
    pub fn clear_accessed(&self, ino: Ino) {
        let slot = slot(&self.accessed, ino);
        if slot.load(Ordering::Relaxed) != 0 {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_about_one_inode() {
        let hints = Hints::default();
        assert!(!hints.is_plain(5));
        hints.set_plain(5);
        assert!(hints.is_plain(5));
        let twin = 5 + SLOTS as u64;
        assert!(!hints.is_plain(twin));
        hints.clear_plain(twin);
        assert!(hints.is_plain(5));
        hints.set_plain(twin);
        assert!(!hints.is_plain(5));
    }

    #[test]
    fn access_times_are_looked_at_again() {
        let hints = Hints::default();
        let hour = 3_600_000_000_000;
        hints.set_accessed(9, 10 * hour);
        assert!(hints.is_accessed(9, 10 * hour + 5));
        assert!(!hints.is_accessed(9, 11 * hour));
        hints.clear_accessed(9);
        assert!(!hints.is_accessed(9, 10 * hour));
    }
}
