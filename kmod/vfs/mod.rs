// SPDX-License-Identifier: GPL-2.0
//! The VFS with types: what its callbacks are given, and what may be done with it.
//!
//! A reference to [`Inode`], [`Dentry`] and the like is what a callback was given, or borrowed from a
//! counted one; the VFS keeps it alive for that long. The structures behind them are changed by others
//! at any time, so that no Rust reference to one exists: fields are read and written by raw pointers,
//! under the locks that the kernel's documentation (Documentation/filesystems/locking.rst) names.

pub(crate) mod acl;
pub(crate) mod dentry;
pub(crate) mod file;
pub(crate) mod fill;
pub(crate) mod inode;
pub(crate) mod iov;
pub(crate) mod page_fault;
pub(crate) mod register;
mod remembered;
pub(crate) mod super_block;
pub(crate) mod tables;
pub(crate) mod work;

pub(crate) use dentry::Dentry;
pub(crate) use file::{File, Idmap};
pub(crate) use inode::{Inode, InodeRef};
pub(crate) use iov::IovIter;
pub(crate) use super_block::Super;
