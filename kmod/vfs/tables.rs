// SPDX-License-Identifier: GPL-2.0
//! The tables of operations, and the callbacks in them: each turns what it was given into the types of
//! this folder, once, and hands it to the filesystem.

mod directory;
mod export;
mod file;
mod inode;
mod ioctl;
mod super_block;
mod xattr;

use super::inode::Inode;
use crate::bindings as c;
use core::mem::MaybeUninit;
use fs_core::{Attr, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};

pub(super) use export::EXPORT_OPERATIONS;
pub(super) use super_block::SUPER_OPERATIONS;
pub(super) use xattr::HANDLERS as XATTR_HANDLERS;

/// A table, or anything else of C's that has nothing in it yet.
pub(super) const fn zeroed<T: Empty>() -> T {
    // SAFETY: all zeros is a valid value, as `Empty` says.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A table in a static.
#[repr(transparent)]
pub(super) struct Table<T>(pub(super) T);

// SAFETY: tables hold functions and the addresses of statics, and are never written.
unsafe impl<T> Sync for Table<T> {}

/// # Safety
/// All zeros is a valid value of the type.
pub(super) unsafe trait Empty: Copy {}

/// Tables consist of optional functions, raw pointers and numbers.
macro_rules! empty {
    ($($t:ident)*) => { $(
        // SAFETY: optional functions, raw pointers and numbers only, for which zero is a value.
        unsafe impl Empty for c::$t {}
    )* };
}

empty!(
    address_space_operations
    export_operations
    file_operations
    file_system_type
    fs_context_operations
    inode_operations
    iomap_ops
    super_operations
    vm_operations_struct
    xattr_handler
);

/// Pages are memory of the region: they are never dirty and never written back.
static MAPPING_OPERATIONS: Table<c::address_space_operations> =
    Table(c::address_space_operations {
        dirty_folio: Some(c::noop_dirty_folio),
        ..zeroed()
    });

/// Gives a new inode its attributes, and the operations of its kind. Nobody else has it yet.
pub(crate) fn equip(inode: &Inode, attr: &Attr) {
    let p = inode.raw();
    // SAFETY: the inode is new, so that all fields are ours to set; the tables are static.
    unsafe {
        (*p).i_generation = attr.generation;
        (*p).i_blkbits = 12;
        match attr.mode & S_IFMT {
            S_IFREG => {
                (*p).i_op = &inode::FILE.0;
                (*p).__bindgen_anon_3.i_fop = &file::OPERATIONS.0;
                c::rpramfs_set_mapping(p, &MAPPING_OPERATIONS.0);
            }
            S_IFDIR => {
                (*p).i_op = &inode::DIRECTORY.0;
                (*p).__bindgen_anon_3.i_fop = &directory::OPERATIONS.0;
                c::rpramfs_meta_of_dir(p);
            }
            S_IFLNK => (*p).i_op = &inode::LINK.0,
            _ => {
                (*p).i_op = &inode::SPECIAL.0;
                inode.init_special(attr.mode, attr.rdev);
            }
        }
    }
    inode.refresh(attr);
}
