// SPDX-License-Identifier: GPL-2.0
//! file_operations of directories.

use super::file::{fsync, ioctl};
use super::{zeroed, Table};
use crate::bindings as c;
use crate::directories;
use crate::errno::int;
use crate::vfs::file::Stream;
use kernel::ffi::c_int;

pub(super) static OPERATIONS: Table<c::file_operations> = Table(c::file_operations {
    llseek: Some(c::generic_file_llseek),
    read: Some(c::generic_read_dir),
    iterate_shared: Some(iterate),
    fsync: Some(fsync),
    unlocked_ioctl: Some(ioctl),
    #[cfg(CONFIG_COMPAT)]
    compat_ioctl: Some(c::compat_ptr_ioctl),
    setlease: Some(c::generic_setlease),
    ..zeroed()
});

/// # Safety
/// Called by the VFS with an open directory of ours, locked shared.
unsafe extern "C" fn iterate(file: *mut c::file, context: *mut c::dir_context) -> c_int {
    // SAFETY: by the contract.
    int(directories::read(&mut unsafe {
        Stream::from_raw(file, context)
    }))
}
