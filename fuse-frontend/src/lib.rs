// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! mount.rpramfs: an RP-RAMFS region as a directory, by way of the kernel module or of FUSE.

#![deny(unsafe_code, missing_docs)]
// Modes, device numbers and ioctl numbers read as their header files write them.
#![allow(clippy::precedence)]

pub mod acl;
pub mod attributes;
mod buffer;
mod caller;
pub mod daemon;
pub mod filesystem;
pub mod hints;
mod kmsg;
pub mod logging;
pub mod module;
pub mod mountpoint;
mod opens;
pub mod options;
pub mod session;
mod sigbus;

pub use fs_core::ioctl;
