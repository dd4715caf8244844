// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! mount.rpramfs as users meet it: a real mount of a region in a file. Needs root and /dev/fuse.

mod data;
mod fixture;
mod life;
mod load;
mod metadata;
mod options;
