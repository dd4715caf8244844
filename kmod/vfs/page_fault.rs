// SPDX-License-Identifier: GPL-2.0
//! Mappings: page faults by way of DAX and iomap.

use super::file::File;
use super::inode::Inode;
use super::tables::{zeroed, Table};
use crate::bindings as c;
use crate::errno::{int, Result};
use crate::extents::{self, Piece};
use fs_core::{Extent, PAGE_SIZE};
use kernel::ffi::{c_int, c_uint};

static VM_OPERATIONS: Table<c::vm_operations_struct> = Table(c::vm_operations_struct {
    fault: Some(fault),
    huge_fault: Some(huge_fault),
    page_mkwrite: Some(fault),
    pfn_mkwrite: Some(fault),
    ..zeroed()
});

static IOMAP_OPERATIONS: Table<c::iomap_ops> = Table(c::iomap_ops {
    iomap_begin: Some(begin),
    ..zeroed()
});

/// mmap(2) of a file.
///
/// # Safety
/// Called by the VFS with the description of a mapping of a file of ours.
pub(super) unsafe extern "C" fn prepare(desc: *mut c::vm_area_desc) -> c_int {
    // SAFETY: the description is ours to change; the file is open.
    unsafe {
        File::from_raw((*desc).file).accessed();
        (*desc).vm_ops = &VM_OPERATIONS.0;
        c::rpramfs_want_huge(desc);
    }
    0
}

/// # Safety
/// Called for a fault in a mapping that `prepare` made.
unsafe extern "C" fn fault(vmf: *mut c::vm_fault) -> c::vm_fault_t {
    // SAFETY: by the contract, which is the same.
    unsafe { huge_fault(vmf, 0) }
}

/// # Safety
/// Called for a fault in a mapping that `prepare` made.
unsafe extern "C" fn huge_fault(vmf: *mut c::vm_fault, order: c_uint) -> c::vm_fault_t {
    // SAFETY: the fault is that of a mapping, which keeps its file open. Storing to a private mapping
    // changes a copy, not the file: it counts as reading here.
    let (file, writes) = unsafe {
        (
            File::from_raw(c::rpramfs_fault_file(vmf)),
            c::rpramfs_fault_writes(vmf),
        )
    };
    let inode = file.inode();
    let sb = inode.super_block().raw();
    if writes {
        // SAFETY: the superblock lives; given back below. A time that cannot be noted stops nobody.
        unsafe {
            c::rpramfs_sb_start_pagefault(sb);
            c::file_update_time(file.raw());
        }
    }
    let mut pfn = 0;
    let mut error = 0;
    let result = {
        let _pages = inode.invalidate_lock_shared();
        // SAFETY: the fault is handed on as it came; truncation is kept away.
        unsafe { c::dax_iomap_fault(vmf, order, &mut pfn, &mut error, &IOMAP_OPERATIONS.0) }
    };
    if writes {
        // SAFETY: as above.
        unsafe { c::rpramfs_sb_end_pagefault(sb) };
    }
    result
}

/// # Safety
/// Called by DAX during a fault, with an inode of ours and an iomap to fill.
unsafe extern "C" fn begin(
    inode: *mut c::inode,
    at: c::loff_t,
    len: c::loff_t,
    flags: c_uint,
    iomap: *mut c::iomap,
    _source: *mut c::iomap,
) -> c_int {
    // SAFETY: the mapping that is faulted in keeps its file open, and that the inode; `iomap` is ours to fill.
    let (inode, iomap) = unsafe { (Inode::from_raw(inode), &mut *iomap) };
    int(map(
        inode,
        at as u64,
        len as u64,
        flags & c::IOMAP_WRITE != 0,
        iomap,
    ))
}

fn map(inode: &Inode, at: u64, len: u64, write: bool, iomap: &mut c::iomap) -> Result {
    let page = at / PAGE_SIZE;
    iomap.dax_dev = inode.mount().claim().dax();
    let piece = if write {
        let pages = (at % PAGE_SIZE + len).div_ceil(PAGE_SIZE);
        Piece::Mapped(extents::for_writing(inode, page, pages)?)
    } else {
        extents::at(inode, page)?
    };
    match piece {
        Piece::Mapped(Extent {
            file_page,
            page,
            len,
            unwritten,
        }) => {
            iomap.type_ = if unwritten {
                c::IOMAP_UNWRITTEN as u16
            } else {
                c::IOMAP_MAPPED as u16
            };
            iomap.addr = page * PAGE_SIZE;
            iomap.offset = (file_page * PAGE_SIZE) as i64;
            iomap.length = len * PAGE_SIZE;
        }
        Piece::Hole(end) => {
            iomap.type_ = c::IOMAP_HOLE as u16;
            iomap.addr = u64::MAX;
            iomap.offset = (page * PAGE_SIZE) as i64;
            iomap.length = (end - page).min(i64::MAX as u64 / PAGE_SIZE - page) * PAGE_SIZE;
        }
    }
    Ok(())
}
