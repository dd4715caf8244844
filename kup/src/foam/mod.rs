// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! FOAM, files as oceans of address-space memory (KUP, USENIX ATC 2016): the memory of a checkpointed
//! process is one sparse file in which the offset is the virtual address.
//!
//! A page that is dumped again overwrites its place, so rounds need no chain of images; and a restore
//! reads nothing before the process runs: [`restore`] serves page faults from the file.

pub mod restore;

/// Bytes of a page, the unit of everything here.
pub const PAGE: u64 = 4096;
