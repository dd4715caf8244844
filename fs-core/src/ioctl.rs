// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! ioctl(2) numbers of files on an RP-RAMFS mount, and the layout of their arguments.
//!
//! In C (`linux/ioctl.h`):
//! ```c
//! #define RPRAMFS_IOC_SEAL         _IO('R', 0x70)
//! #define RPRAMFS_IOC_UNSEAL       _IO('R', 0x71)
//! #define RPRAMFS_IOC_VERIFY       _IO('R', 0x72)
//! #define RPRAMFS_IOC_VERIFY_STEP  _IOWR('R', 0x73, __u64)
//! #define RPRAMFS_IOC_STATS        _IOR('R', 0x74, struct rpramfs_stats)
//! struct rpramfs_stats { __u64 transactions, sectors, retries, replayed, pending, allocated,
//!                        freed, corruptions, read_only, reserved[7]; };
//! ```

use crate::types::Stats;

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC()` of asm-generic/ioctl.h with type 'R'.
const fn number(direction: u32, nr: u32, size: u32) -> u32 {
    direction << 30 | size << 16 | (b'R' as u32) << 8 | nr
}

/// Bytes of `struct rpramfs_stats`.
pub const STATS_SIZE: usize = 16 * 8;

/// Records checksums of the file's data and makes it immutable.
pub const SEAL: u32 = number(NONE, 0x70, 0);
/// Makes a sealed file writable again.
pub const UNSEAL: u32 = number(NONE, 0x71, 0);
/// Checks all of a sealed file; EUCLEAN if it changed.
pub const VERIFY: u32 = number(NONE, 0x72, 0);
/// Checks the first 2 MiB window at or behind the offset given; gives the offset to go on at, or
/// 2^64-1 when all is done.
pub const VERIFY_STEP: u32 = number(READ | WRITE, 0x73, 8);
/// Counters of the mount; may be asked of any file or directory.
pub const STATS: u32 = number(READ, 0x74, STATS_SIZE as u32);

/// `struct rpramfs_stats`.
#[must_use]
pub fn stats_bytes(stats: &Stats, read_only: bool) -> [u8; STATS_SIZE] {
    let fields = [
        stats.transactions,
        stats.sectors,
        stats.retries,
        stats.replayed,
        stats.pending,
        stats.allocated,
        stats.freed,
        stats.corruptions,
        u64::from(read_only),
    ];
    let mut bytes = [0; STATS_SIZE];
    for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        // As a C compiler computes them on x86-64 and arm64.
        assert_eq!(SEAL, 0x5270);
        assert_eq!(VERIFY_STEP, 0xc008_5273);
        assert_eq!(STATS, 0x8080_5274);
    }
}
