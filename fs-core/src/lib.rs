// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! RP-RAMFS: the on-RAM layout and every operation on it.
//!
//! `docs/LAYOUT.md` is the contract this crate implements; `docs/DESIGN.md` says why it is so.

#![no_std]
#![deny(unsafe_code, missing_docs)]

#[cfg(feature = "check")]
extern crate alloc;

mod bytes;
#[cfg(feature = "check")]
pub mod check;
mod dir;
mod error;
mod extent;
mod file;
mod format;
mod fs;
mod host;
mod inode;
pub mod ioctl;
mod journal;
pub mod layout;
mod marker;
mod namei;
mod pending;
mod record;
mod region;
mod seal;
mod space;
mod superblock;
mod tree;
mod types;
mod xattr;

pub use error::{Corruption, Error, Result};
pub use format::{format, plan, FormatOptions};
pub use fs::{Fs, LockInode, MountOptions};
pub use host::{Host, LOCKS};
pub use marker::{release_for_tool, take_for_tool};
pub use region::{MappedRegion, Region};
pub use superblock::{probe, write_super, SuperInfo};
pub use types::*;
