// SPDX-License-Identifier: GPL-2.0
//! super_operations.

use super::{zeroed, Table};
use crate::bindings as c;
use crate::vfs::{Inode, Super};
use crate::{attributes, nodes};
use kernel::ffi::c_int;

pub(crate) static SUPER_OPERATIONS: Table<c::super_operations> = Table(c::super_operations {
    alloc_inode: Some(c::rpramfs_alloc_inode),
    free_inode: Some(c::rpramfs_free_inode),
    // Dentries do the caching. An inode that was ever mapped counts as dirty, and would stay for ever.
    drop_inode: Some(c::inode_just_drop),
    evict_inode: Some(evict_inode),
    statfs: Some(statfs),
    sync_fs: Some(sync_fs),
    freeze_fs: Some(freeze_fs),
    put_super: Some(put_super),
    show_options: Some(show_options),
    ..zeroed()
});

/// # Safety
/// Called by the VFS with an inode of ours that nobody has any more.
unsafe extern "C" fn evict_inode(inode: *mut c::inode) {
    // SAFETY: by the contract; mappings go before the pages do, and nobody uses pages after
    // `dax_break_layout_final`.
    unsafe {
        if (*inode).i_flags & c::S_DAX != 0 {
            c::dax_break_layout_final(inode);
        }
        c::truncate_inode_pages_final(&raw mut (*inode).i_data);
        c::clear_inode(inode);
        nodes::evict(Inode::from_raw(inode));
    }
}

/// # Safety
/// Called by the VFS with a dentry of ours and a structure to fill.
unsafe extern "C" fn statfs(dentry: *mut c::dentry, to: *mut c::kstatfs) -> c_int {
    // SAFETY: by the contract.
    let (sb, to) = unsafe { (Super::from_raw((*dentry).d_sb), &mut *to) };
    let st = attributes::statfs(sb);
    // SAFETY: the superblock lives; the UUID has 16 bytes.
    unsafe {
        to.f_type = (*sb.raw()).s_magic as _;
        to.f_fsid = c::rpramfs_fsid(st.uuid.as_ptr());
    }
    to.f_bsize = st.block as _;
    to.f_frsize = st.block as _;
    to.f_blocks = st.blocks;
    to.f_bfree = st.free;
    to.f_bavail = st.available;
    to.f_files = st.files;
    to.f_ffree = st.files_free;
    to.f_namelen = fs_core::NAME_MAX as _;
    0
}

/// Everything is where it belongs when an operation returns. But who stores through a mapping shall fault, and
/// wait, where the filesystem is about to be frozen.
///
/// # Safety
/// Called by the VFS with a superblock of ours.
unsafe extern "C" fn sync_fs(sb: *mut c::super_block, wait: c_int) -> c_int {
    if wait == 0 {
        return 0;
    }
    // SAFETY: by the contract.
    unsafe { c::rpramfs_clean_before_freeze(sb, Super::from_raw(sb).mount().claim().dax()) }
}

/// `sync_fs` has done it; without this there is no freezing.
///
/// # Safety
/// Called by the VFS.
unsafe extern "C" fn freeze_fs(_: *mut c::super_block) -> c_int {
    0
}

/// The region is given back while a new mount of it still waits for this one's end.
///
/// # Safety
/// Called by the VFS with a superblock of ours that has no inode left.
unsafe extern "C" fn put_super(sb: *mut c::super_block) {
    // SAFETY: by the contract.
    unsafe { Super::from_raw(sb) }.close();
}

/// What is not among the VFS's own: a mount that has met something corrupt changes nothing any more.
///
/// # Safety
/// Called by the VFS with a dentry of ours and a file to print to.
unsafe extern "C" fn show_options(to: *mut c::seq_file, dentry: *mut c::dentry) -> c_int {
    const WORDS: &[u8] = b",emergency_ro";
    // SAFETY: by the contract.
    unsafe {
        let sb = Super::from_raw((*dentry).d_sb);
        if sb.mount().fs().is_read_only() && (*sb.raw()).s_flags & c::SB_RDONLY == 0 {
            c::seq_write(to, WORDS.as_ptr().cast(), WORDS.len());
        }
    }
    0
}
