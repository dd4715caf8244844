// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! How files that are open now were opened.
//!
//! A file is either read and written through the kernel's page cache by all who have it open, or
//! past it by all: the kernel (6.18) drops cached pages before a direct write, not behind it, so a
//! cached reader beside a direct writer could keep a stale page for good.

use fs_core::Ino;
use parking_lot::Mutex;
use std::collections::HashMap;

const SHARDS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Open {
    count: u64,
    direct: bool,
}

/// Open files by inode.
#[derive(Debug)]
pub struct Opens {
    shards: Box<[Mutex<HashMap<Ino, Open>>]>,
}

impl Default for Opens {
    fn default() -> Self {
        Opens {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Opens {
    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Open>> {
        &self.shards[ino as usize % SHARDS]
    }

    /// Counts an open file; `wish` decides for the first one whether it goes past the page cache.
    /// Returns how it is to be opened.
    pub fn open(&self, ino: Ino, wish: bool) -> bool {
        let mut shard = self.shard(ino).lock();
        let open = shard.entry(ino).or_insert(Open {
            count: 0,
            direct: wish,
        });
        open.count += 1;
        open.direct
    }

    /// One open file less.
    pub fn close(&self, ino: Ino) {
        let mut shard = self.shard(ino).lock();
        if let Some(open) = shard.get_mut(&ino) {
            open.count -= 1;
            if open.count == 0 {
                shard.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides_until_the_last_is_gone() {
        let opens = Opens::default();
        assert!(!opens.open(1, false));
        assert!(!opens.open(1, true), "a writer beside a cached reader");
        opens.close(1);
        assert!(!opens.open(1, true));
        opens.close(1);
        opens.close(1);
        assert!(opens.open(1, true));
        assert!(opens.open(1, false), "a reader beside a direct writer");
        assert!(!opens.open(2, false));
        opens.close(3);
    }
}
