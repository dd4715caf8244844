// SPDX-License-Identifier: GPL-2.0
//! ioctl(2): seals and statistics, with the same numbers as on a FUSE mount, and the label. (The VFS itself
//! answers FS_IOC_GETFSUUID.)

use crate::bindings as c;
use crate::errno::{Errno, Result};
use crate::nodes;
use crate::vfs::File;
use kernel::ffi::c_ulong;

/// `_IOC()` of asm-generic/ioctl.h with type 'R'; 1 is _IOC_WRITE, 2 _IOC_READ.
const fn number(direction: u32, nr: u32, size: u32) -> u32 {
    direction << 30 | size << 16 | (b'R' as u32) << 8 | nr
}

/// Words of `struct rpramfs_stats`.
const STATS: usize = 16;

const SEAL: u32 = number(0, 0x70, 0);
const UNSEAL: u32 = number(0, 0x71, 0);
const VERIFY: u32 = number(0, 0x72, 0);
const VERIFY_STEP: u32 = number(3, 0x73, 8);
/// FS_IOC_GETFSLABEL: `char[256]`.
const GET_LABEL: u32 = 2 << 30 | 256 << 16 | 0x94 << 8 | 49;
const GET_STATS: u32 = number(2, 0x74, STATS as u32 * 8);

pub(super) fn run(file: &File, command: u32, argument: c_ulong) -> Result<i64> {
    let inode = file.inode();
    let fs = inode.mount().fs();
    match command {
        SEAL | UNSEAL => {
            may_seal(file)?;
            let _mount = file.want_write()?;
            let _inode = inode.lock();
            // Nobody writes through a mapping while checksums are taken.
            let faults = inode.invalidate_lock();
            if command == SEAL {
                inode.wait_for_users(&faults, 0, i64::MAX as u64)?;
                inode.drop_mappings(&faults, 0, i64::MAX as u64 & !4095);
            }
            let _meta = inode.meta(0);
            let result = match command {
                SEAL => fs.seal(inode.ino()),
                _ => fs.unseal(inode.ino()),
            };
            nodes::refresh(inode)?;
            result?;
        }
        VERIFY => {
            let mut at = 0;
            loop {
                let _meta = inode.meta_shared();
                match fs.verify(inode.ino(), at)? {
                    Some(next) => at = next,
                    None => break,
                }
                if pending_signal() {
                    return Err(Errno::INTERRUPTED);
                }
            }
        }
        VERIFY_STEP => {
            let mut at = [0];
            read_words(argument, &mut at)?;
            let next = {
                let _meta = inode.meta_shared();
                fs.verify(inode.ino(), at[0])?
            };
            write(argument, &[next.unwrap_or(u64::MAX)])?;
        }
        GET_LABEL => {
            // Zeros behind the label make it a C string, however long it is.
            let mut label = [0; 256];
            let stored = fs.info().label;
            label[..stored.len()].copy_from_slice(&stored);
            write(argument, &label)?;
        }
        GET_STATS => {
            let s = fs.stats();
            let mut words = [0; STATS];
            words[..9].copy_from_slice(&[
                s.transactions,
                s.sectors,
                s.retries,
                s.replayed,
                s.pending,
                s.allocated,
                s.freed,
                s.corruptions,
                u64::from(fs.is_read_only()),
            ]);
            write(argument, &words)?;
        }
        _ => return Err(Errno::NOT_A_TTY),
    }
    Ok(0)
}

/// The owner, or who may act as one.
fn may_seal(file: &File) -> Result {
    // SAFETY: an open file.
    if unsafe { c::rpramfs_is_owner(file.raw()) } {
        Ok(())
    } else {
        Err(Errno::PERMISSION)
    }
}

fn pending_signal() -> bool {
    // SAFETY: asks about this task.
    unsafe { c::rpramfs_signal_pending() }
}

fn read_words(from: c_ulong, to: &mut [u64]) -> Result {
    let bytes = size_of_val(to);
    // SAFETY: `to` has room; the address is checked there.
    match unsafe { c::rpramfs_copy_from_user(to.as_mut_ptr().cast(), from, bytes) } {
        0 => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

/// Writes integers of any width.
fn write<T: Copy>(to: c_ulong, from: &[T]) -> Result {
    let bytes = size_of_val(from);
    // SAFETY: `from` is readable; the address is checked there.
    match unsafe { c::rpramfs_copy_to_user(to, from.as_ptr().cast(), bytes) } {
        0 => Ok(()),
        _ => Err(Errno::FAULT),
    }
}
