// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Who still holds which inode.

use fs_core::Ino;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 64;

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    /// The last link is gone: whoever gives the last reference back must evict.
    orphan: bool,
}

/// References to inodes: one for each time the kernel (or a test) was told of the inode.
///
/// Inner locks are taken last, below every inode lock, and for a moment only.
#[derive(Debug)]
pub(super) struct Refs {
    shards: Box<[Mutex<HashMap<Ino, Entry>>]>,
    orphans: AtomicUsize,
}

impl Refs {
    pub(super) fn new() -> Self {
        Refs {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            orphans: AtomicUsize::new(0),
        }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Entry>> {
        // Inode numbers are handed out densely, often in steps of a power of two: mix first.
        let mixed = ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        &self.shards[mixed as usize % SHARDS]
    }

    /// Adds a reference. `false` if the inode is an orphan that is about to be evicted.
    pub(super) fn acquire(&self, ino: Ino) -> bool {
        let mut shard = self.shard(ino).lock();
        let entry = shard.entry(ino).or_default();
        if entry.orphan && entry.count == 0 {
            return false;
        }
        entry.count += 1;
        true
    }

    /// Takes `n` references away. `true` if the caller must now evict: the entry stays until
    /// [`Refs::forget`], so that nobody else does it as well.
    #[must_use]
    pub(super) fn release(&self, ino: Ino, n: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(entry) = shard.get_mut(&ino) else {
            return false;
        };
        if entry.count == 0 {
            return false;
        }
        entry.count = entry.count.saturating_sub(n);
        if entry.count > 0 {
            return false;
        }
        if entry.orphan {
            return true;
        }
        shard.remove(&ino);
        false
    }

    /// The last link went. `true` if nobody holds the inode: evict it now. The caller holds the
    /// inode exclusively.
    #[must_use]
    pub(super) fn orphaned(&self, ino: Ino) -> bool {
        match self.shard(ino).lock().get_mut(&ino) {
            Some(entry) => {
                if !std::mem::replace(&mut entry.orphan, true) {
                    self.orphans.fetch_add(1, Ordering::Relaxed);
                }
                false
            }
            None => true,
        }
    }

    /// Adds the first reference to an inode that was born without a name.
    pub(super) fn born_orphan(&self, ino: Ino) {
        let mut shard = self.shard(ino).lock();
        let entry = shard.entry(ino).or_default();
        entry.count += 1;
        if !std::mem::replace(&mut entry.orphan, true) {
            self.orphans.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The orphan got a name. The caller holds the inode exclusively.
    pub(super) fn named(&self, ino: Ino) {
        if let Some(entry) = self.shard(ino).lock().get_mut(&ino) {
            if std::mem::replace(&mut entry.orphan, false) {
                self.orphans.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Drops the entry of an orphan that nobody holds. The caller holds the inode exclusively and
    /// evicts it before letting go.
    pub(super) fn forget(&self, ino: Ino) {
        if self
            .shard(ino)
            .lock()
            .remove(&ino)
            .is_some_and(|e| e.orphan)
        {
            self.orphans.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn holds(&self, ino: Ino) -> bool {
        self.shard(ino).lock().contains_key(&ino)
    }

    /// Inodes without a name that somebody holds, or that wait to be evicted.
    pub(super) fn orphans(&self) -> usize {
        self.orphans.load(Ordering::Relaxed)
    }

    /// Inodes held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }

    /// Orphans still held.
    pub(super) fn held_orphans(&self) -> Vec<Ino> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(
                shard
                    .lock()
                    .iter()
                    .filter(|(_, e)| e.orphan)
                    .map(|(i, _)| *i),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_holder_of_an_orphan_evicts_once() {
        let refs = Refs::new();
        assert!(refs.acquire(7));
        assert!(refs.acquire(7));
        assert!(!refs.orphaned(7));
        assert_eq!(refs.orphans(), 1);
        assert!(!refs.release(7, 1));
        assert!(refs.release(7, 1));
        assert!(!refs.release(7, 1), "a second eviction of the same inode");
        assert!(!refs.acquire(7), "an orphan came back to life");
        assert!(refs.holds(7));
        refs.forget(7);
        assert!(!refs.holds(7));
        assert_eq!(refs.orphans(), 0);
    }

    #[test]
    fn unheld_inodes_are_evicted_at_once_and_named_ones_never() {
        let refs = Refs::new();
        assert!(refs.orphaned(3));
        assert!(refs.acquire(4));
        assert!(!refs.release(4, 1));
        assert_eq!(refs.len(), 0);
        refs.born_orphan(5);
        refs.named(5);
        assert!(!refs.release(5, 1));
        assert_eq!((refs.len(), refs.orphans()), (0, 0));
    }
}
