// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Label and UUID of what the kernel has mounted, by asking it: the memory cannot be looked at.

#![allow(unsafe_code)]

use crate::in_use::KernelMount;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// `struct fsuuid2` of linux/fs.h.
#[repr(C)]
struct Uuid {
    len: u8,
    bytes: [u8; 16],
}

mod ioctl {
    nix::ioctl_read!(label, 0x94, 49, [u8; 256]);
    nix::ioctl_read!(uuid, 0x15, 0, super::Uuid);
}

/// `None` where something else is mounted over it.
pub(crate) fn of(mount: &KernelMount) -> Option<(String, [u8; 16])> {
    let root = File::open(&mount.on).ok()?;
    if root.metadata().ok()?.dev() != mount.device {
        return None;
    }
    let mut label = [0; 256];
    let mut uuid = Uuid {
        len: 0,
        bytes: [0; 16],
    };
    let fd = root.as_raw_fd();
    // SAFETY: both calls write into these, which are as large as the kernel says of them.
    let (labelled, identified) = unsafe {
        (
            ioctl::label(fd, &mut label).is_ok(),
            ioctl::uuid(fd, &mut uuid).is_ok(),
        )
    };
    let end = label.iter().position(|b| *b == 0).unwrap_or(label.len());
    let label = String::from_utf8_lossy(&label[..end]).into_owned();
    (labelled && identified && uuid.len == 16).then_some((label, uuid.bytes))
}
