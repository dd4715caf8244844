// SPDX-License-Identifier: GPL-2.0
//! ioctl(2): seals and statistics, with the same numbers as on a FUSE mount, and the label. (The VFS itself
//! answers FS_IOC_GETFSUUID.)

use crate::bindings as c;
use crate::errno::{Errno, Result};
use crate::nodes;
use crate::vfs::File;
use fs_core::ioctl::{stats_bytes, SEAL, STATS, UNSEAL, VERIFY, VERIFY_STEP};
use kernel::ffi::c_ulong;

/// FS_IOC_GETFSLABEL: `char[256]`.
const GET_LABEL: u32 = 2 << 30 | 256 << 16 | 0x94 << 8 | 49;

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
        STATS => {
            write(argument, &stats_bytes(&fs.stats(), fs.is_read_only()))?;
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
