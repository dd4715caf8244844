// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a region is used for: RP-RAMFS, or the peer it is compared with.

use super::region::{Region, Size};
use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Filesystem {
    /// On a reserved range
    Rpramfs,
    /// ext4 with -o dax on the pmem device that the kernel makes of the same range
    Ext4Dax,
}

impl Filesystem {
    pub fn region(self, size: Size) -> Region {
        match self {
            Filesystem::Rpramfs => Region::reserved(size),
            Filesystem::Ext4Dax => Region::pmem(size),
        }
    }

    /// Whether the guest needs programs of ours for it.
    pub fn needs_tools(self) -> bool {
        self == Filesystem::Rpramfs
    }

    pub fn mkfs(self, region: &Region) -> String {
        match self {
            Filesystem::Rpramfs => format!("mkfs.rpramfs -q '{}'", region.spec()),
            Filesystem::Ext4Dax => "mkfs.ext4 -q -F -b 4096 /dev/pmem0".to_owned(),
        }
    }

    pub fn mount(self, region: &Region, dir: &str) -> String {
        match self {
            Filesystem::Rpramfs => format!("mount -t rpramfs '{}' {dir}", region.spec()),
            Filesystem::Ext4Dax => format!("mount -t ext4 -o dax /dev/pmem0 {dir}"),
        }
    }

    /// A check that changes nothing and fails unless all is clean.
    pub fn check(self, region: &Region) -> String {
        match self {
            Filesystem::Rpramfs => format!("fsck.rpramfs -n '{}'", region.spec()),
            Filesystem::Ext4Dax => "e2fsck -f -n /dev/pmem0".to_owned(),
        }
    }
}
