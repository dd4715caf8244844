// SPDX-License-Identifier: GPL-2.0
//! export_operations: file handles.

use super::{zeroed, Table};
use crate::bindings as c;
use crate::errno::{Errno, Result};
use crate::handles::{self, WORDS, WORDS_WITH_PARENT};
use crate::names;
use crate::vfs::{Inode, InodeRef, Super};
use kernel::ffi::c_int;

pub(crate) static EXPORT_OPERATIONS: Table<c::export_operations> = Table(c::export_operations {
    encode_fh: Some(encode),
    fh_to_dentry: Some(inode_of),
    fh_to_parent: Some(parent_of),
    get_parent: Some(parent),
    ..zeroed()
});

/// FILEID_INO64_GEN and FILEID_INO64_GEN_PARENT of linux/exportfs.h.
const PLAIN: c_int = 0x81;
const WITH_PARENT: c_int = 0x82;

/// # Safety
/// Called by exportfs with an inode of ours, perhaps its directory, and room for `*len` words.
unsafe extern "C" fn encode(
    inode: *mut c::inode,
    words: *mut u32,
    len: *mut c_int,
    parent: *mut c::inode,
) -> c_int {
    // SAFETY: by the contract.
    unsafe {
        let wanted = if parent.is_null() {
            WORDS
        } else {
            WORDS_WITH_PARENT
        };
        let room = *len;
        *len = wanted as c_int;
        if room < wanted as c_int {
            return c::fid_type_FILEID_INVALID as c_int;
        }
        let own = handles::encode(Inode::from_raw(inode));
        words.copy_from_nonoverlapping(own.as_ptr(), WORDS);
        if parent.is_null() {
            return PLAIN;
        }
        let above = handles::encode(Inode::from_raw(parent));
        words
            .add(WORDS)
            .copy_from_nonoverlapping(above.as_ptr(), WORDS);
        WITH_PARENT
    }
}

/// # Safety
/// As for `inode_of`; `from` words are skipped.
unsafe fn decoded(
    sb: *mut c::super_block,
    fid: *mut c::fid,
    len: c_int,
    from: usize,
) -> Result<InodeRef> {
    if len < (from + WORDS) as c_int {
        return Err(Errno::STALE);
    }
    // SAFETY: the handle has `len` words.
    unsafe {
        let words = core::slice::from_raw_parts(fid.cast::<u32>().add(from), WORDS);
        handles::decode(Super::from_raw(sb), words)
    }
}

fn dentry(inode: Result<InodeRef>) -> *mut c::dentry {
    // SAFETY: the reference is handed over; an error is put in its place.
    unsafe {
        match inode {
            Ok(inode) => c::d_obtain_alias(inode.into_raw()),
            Err(e) => c::rpramfs_err_ptr(e.negative() as _).cast(),
        }
    }
}

/// # Safety
/// Called by exportfs with a superblock of ours and a handle of `len` words.
unsafe extern "C" fn inode_of(
    sb: *mut c::super_block,
    fid: *mut c::fid,
    len: c_int,
    kind: c_int,
) -> *mut c::dentry {
    dentry(match kind {
        // SAFETY: by the contract.
        PLAIN | WITH_PARENT => unsafe { decoded(sb, fid, len, 0) },
        _ => Err(Errno::STALE),
    })
}

/// # Safety
/// As for `inode_of`.
unsafe extern "C" fn parent_of(
    sb: *mut c::super_block,
    fid: *mut c::fid,
    len: c_int,
    kind: c_int,
) -> *mut c::dentry {
    dentry(match kind {
        // SAFETY: by the contract.
        WITH_PARENT => unsafe { decoded(sb, fid, len, WORDS) },
        _ => Err(Errno::STALE),
    })
}

/// # Safety
/// Called by exportfs with the dentry of a directory of ours.
unsafe extern "C" fn parent(child: *mut c::dentry) -> *mut c::dentry {
    // SAFETY: by the contract.
    dentry(names::parent(unsafe { Inode::from_raw((*child).d_inode) }))
}
