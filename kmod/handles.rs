// SPDX-License-Identifier: GPL-2.0
//! File handles, for NFS and open_by_handle_at(2): inode number and generation. They outlive the kernel
//! that gave them, as both are in the region.

use crate::errno::{Errno, Result};
use crate::nodes;
use crate::vfs::{Inode, InodeRef, Super};

/// Words of a handle, and of one that names the directory too.
pub(crate) const WORDS: usize = 3;
pub(crate) const WORDS_WITH_PARENT: usize = 2 * WORDS;

/// A handle of an inode.
pub(crate) fn encode(inode: &Inode) -> [u32; WORDS] {
    let ino = inode.ino();
    [ino as u32, (ino >> 32) as u32, inode.generation()]
}

/// The inode of a handle.
pub(crate) fn decode(sb: &Super, words: &[u32]) -> Result<InodeRef> {
    let [lo, hi, generation] = words[..] else {
        return Err(Errno::STALE);
    };
    let ino = u64::from(hi) << 32 | u64::from(lo);
    // The core takes numbers that never were an inode's for damage: anybody can make a handle up.
    if !sb.mount().fs().was_given(ino)? {
        return Err(Errno::STALE);
    }
    nodes::remembered(sb, ino, generation)
}
