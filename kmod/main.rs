// SPDX-License-Identifier: GPL-2.0
//! RP-RAMFS as a filesystem of the kernel.
//!
//! `vfs/` and `host.rs`, `claim.rs`, `memory.rs`, `failed.rs` hold all the unsafe code: what the kernel promises to each callback
//! is argued there, once. The other files are the filesystem: they translate between the VFS's terms and
//! the core's, in safe Rust.

/// Logs an error: a line, without its end.
macro_rules! complain {
    ($($message:tt)*) => {
        kernel::prelude::pr_err!("{}\n", core::format_args!($($message)*))
    };
}

#[deny(unsafe_code)]
mod acl;
#[deny(unsafe_code)]
mod attributes;
#[allow(unsafe_code)]
mod bindings;
mod claim;
#[deny(unsafe_code)]
mod data;
#[deny(unsafe_code)]
mod directories;
#[deny(unsafe_code)]
mod errno;
#[deny(unsafe_code)]
mod extents;
mod failed;
#[deny(unsafe_code)]
mod handles;
mod host;
mod memory;
#[deny(unsafe_code)]
mod mount;
#[deny(unsafe_code)]
mod names;
#[deny(unsafe_code)]
mod nodes;
#[deny(unsafe_code)]
mod reclaim;
#[deny(unsafe_code)]
mod source;
mod vfs;
#[deny(unsafe_code)]
mod xattrs;

use kernel::prelude::*;

module! {
    type: Rpramfs,
    name: "rpramfs",
    authors: ["The RP-RAMFS authors"],
    description: "Filesystem in RAM that outlives the kernel",
    license: "GPL v2",
    alias: ["fs-rpramfs"],
}

struct Rpramfs {
    _registered: vfs::register::Registered,
}

impl kernel::Module for Rpramfs {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let registered = vfs::register::Registered::new(module)?;
        pr_info!("layout version {}\n", fs_core::layout::VERSION);
        Ok(Rpramfs {
            _registered: registered,
        })
    }
}
