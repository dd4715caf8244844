// SPDX-License-Identifier: GPL-2.0
//! file_operations of regular files.

use super::{zeroed, Table};
use crate::bindings as c;
use crate::data;
use crate::errno::{int, long, Errno};
use crate::vfs::iov::Kiocb;
use crate::vfs::{page_fault, File, IovIter};
use fs_core::{Fallocate, Seek};
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};

pub(super) static OPERATIONS: Table<c::file_operations> = Table(c::file_operations {
    llseek: Some(llseek),
    read_iter: Some(read_iter),
    write_iter: Some(write_iter),
    mmap_prepare: Some(page_fault::prepare),
    open: Some(open),
    fsync: Some(fsync),
    get_unmapped_area: Some(c::thp_get_unmapped_area),
    splice_read: Some(c::copy_splice_read),
    splice_write: Some(c::iter_file_splice_write),
    fallocate: Some(fallocate),
    copy_file_range: Some(copy_file_range),
    // MAP_SYNC: what was stored is in the region, and so is what says where.
    fop_flags: c::FOP_MMAP_SYNC,
    unlocked_ioctl: Some(ioctl),
    #[cfg(CONFIG_COMPAT)]
    compat_ioctl: Some(c::compat_ptr_ioctl),
    setlease: Some(c::generic_setlease),
    ..zeroed()
});

/// # Safety
/// Called by the VFS with an inode of ours and a file that is being opened.
unsafe extern "C" fn open(inode: *mut c::inode, file: *mut c::file) -> c_int {
    // SAFETY: by the contract. O_DIRECT is what every access here is.
    unsafe {
        c::rpramfs_may_odirect(file);
        c::generic_file_open(inode, file)
    }
}

/// # Safety
/// Called by the VFS with an open file of ours.
unsafe extern "C" fn llseek(file: *mut c::file, offset: c::loff_t, whence: c_int) -> c::loff_t {
    let what = match whence as u32 {
        c::SEEK_DATA => Seek::Data,
        c::SEEK_HOLE => Seek::Hole,
        // SAFETY: by the contract.
        _ => return unsafe { c::generic_file_llseek(file, offset, whence) },
    };
    let Ok(offset) = u64::try_from(offset) else {
        return long(Err(fs_core::Error::PastEnd.into()));
    };
    // SAFETY: by the contract.
    long(data::seek(unsafe { File::from_raw(file) }, offset, what))
}

/// # Safety
/// Called by the VFS with a read of an open file of ours.
unsafe extern "C" fn read_iter(io: *mut c::kiocb, iter: *mut c::iov_iter) -> isize {
    // SAFETY: by the contract.
    let (mut io, mut iter) = unsafe { (Kiocb::from_raw(io), IovIter::from_raw(iter)) };
    long(data::read(&mut io, &mut iter).map(|n| n as i64)) as isize
}

/// # Safety
/// Called by the VFS with a write to an open file of ours.
unsafe extern "C" fn write_iter(io: *mut c::kiocb, iter: *mut c::iov_iter) -> isize {
    // SAFETY: by the contract.
    let (mut io, mut iter) = unsafe { (Kiocb::from_raw(io), IovIter::from_raw(iter)) };
    long(data::write(&mut io, &mut iter).map(|n| n as i64)) as isize
}

/// Everything is where it belongs when an operation returns; but the next store through a mapping is to
/// note its time.
///
/// # Safety
/// Called by the VFS with an open file or directory of ours.
pub(super) unsafe extern "C" fn fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    _: c_int,
) -> c_int {
    // SAFETY: by the contract.
    let inode = unsafe { File::from_raw(file) }.inode();
    // SAFETY: the inode lives as long as the file, and the device as long as the mount.
    unsafe { c::rpramfs_clean(inode.raw(), inode.mount().claim().dax(), start, end) }
}

/// # Safety
/// Called by the VFS with a file of ours that is open for writing.
unsafe extern "C" fn fallocate(
    file: *mut c::file,
    mode: c_int,
    start: c::loff_t,
    len: c::loff_t,
) -> c_long {
    let keep_size = mode as u32 & c::FALLOC_FL_KEEP_SIZE != 0;
    let what = match mode as u32 & !c::FALLOC_FL_KEEP_SIZE {
        0 => Fallocate::Allocate { keep_size },
        c::FALLOC_FL_PUNCH_HOLE if keep_size => Fallocate::PunchHole,
        c::FALLOC_FL_ZERO_RANGE => Fallocate::ZeroRange { keep_size },
        _ => return Errno::NOT_SUPPORTED.negative() as c_long,
    };
    let (Ok(start), Ok(len)) = (u64::try_from(start), u64::try_from(len)) else {
        return Errno::INVALID.negative() as c_long;
    };
    // SAFETY: by the contract.
    let file = unsafe { File::from_raw(file) };
    int(data::allocate(file, what, start, len)) as c_long
}

/// # Safety
/// Called by the VFS with two open files of this type of filesystem, and a range it has checked.
unsafe extern "C" fn copy_file_range(
    from: *mut c::file,
    from_at: c::loff_t,
    to: *mut c::file,
    to_at: c::loff_t,
    len: usize,
    _flags: c_uint,
) -> isize {
    // SAFETY: by the contract.
    let (source, target) = unsafe { (File::from_raw(from), File::from_raw(to)) };
    if !core::ptr::eq(source.inode().super_block(), target.inode().super_block()) {
        // SAFETY: by the contract: another region.
        return unsafe { c::rpramfs_splice_copy(from, from_at, to, to_at, len) };
    }
    let copied = data::copy(source, from_at as u64, target, to_at as u64, len as u64);
    long(copied.map(|n| n as i64)) as isize
}

/// # Safety
/// Called by the VFS with an open file or directory of ours.
pub(super) unsafe extern "C" fn ioctl(
    file: *mut c::file,
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: by the contract.
    let file = unsafe { File::from_raw(file) };
    long(super::ioctl::run(file, command, argument)) as c_long
}
