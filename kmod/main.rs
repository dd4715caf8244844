// SPDX-License-Identifier: GPL-2.0
//! RP-RAMFS as a filesystem of the kernel.

mod bindings;

use kernel::prelude::*;

module! {
    type: Rpramfs,
    name: "rpramfs",
    authors: ["The RP-RAMFS authors"],
    description: "Filesystem in RAM that outlives the kernel",
    license: "GPL v2",
}

struct Rpramfs;

impl kernel::Module for Rpramfs {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("layout version {}\n", fs_core::layout::VERSION);
        Ok(Rpramfs)
    }
}
