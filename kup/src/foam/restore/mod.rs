// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that is given to a process when it asks for it: `criu restore --lazy-pages` registers the
//! restored memory with userfaultfd(2), and a daemon fills it from FOAM files, faults first.
//!
//! [`Listener::bind`] makes the socket, and once `criu restore` was started, [`Listener::supervise`]
//! serves it. Until that returns, the restored processes depend on two processes: a daemon, which may
//! die at any moment without harm, and its supervisor, which the caller becomes. If both die, memory
//! that was not filled turns into zeros: the kernel knows no other answer. And as long as it has not
//! returned, a dump of one of the processes would lack what is still in the FOAM file.
//!
//! # Limits
//!
//! * A child's memory cleared by MADV_WIPEONFORK is filled again if it was not filled before the fork;
//!   so is memory under a guard of MADV_GUARD_INSTALL. The kernel reports neither. Give such memory to
//!   CRIU's own images and not to [`Memory::areas`].
//! * The kernel reports an munmap(2) after others can use the address. If another thread moves memory
//!   there by mremap(2) in between and is reported first, what was moved reads as zeros.
//! * Parents and children no longer share pages that were filled after the fork.

mod clone;
mod daemon;
mod family;
mod handover;
mod harden;
mod listener;
mod shared;
mod source;
mod spans;
mod state;
mod supervisor;
mod uffd;

use std::fs::File;

use serde::{Deserialize, Serialize};

pub use harden::hard_to_kill;
pub use listener::Listener;

/// Addresses, page-aligned, from `start` up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    pub start: u64,
    pub end: u64,
}

/// The memory of one process.
#[derive(Debug)]
pub struct Memory {
    /// The pid as CRIU's images have it.
    pub pid: i32,
    /// The FOAM file: offsets are addresses.
    pub file: File,
    /// The CRC-32 of each page as a little-endian word at `address / 4096 * 4`; 0 for a page that is
    /// not summed, and `0xffff_ffff` for a CRC-32 of 0.
    pub sums: Option<File>,
    /// What of the file is memory, in order and disjoint. All other memory that CRIU registers is zero.
    pub areas: Vec<Area>,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes to fill; those of children add to them.
    pub bytes_total: u64,
    /// Bytes of these that are filled, or no longer wanted.
    pub bytes_done: u64,
    pub faults: u64,
    pub processes: u64,
    /// Daemons that died.
    pub restarts: u64,
}

/// What a restore came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub bytes_copied: u64,
    /// Faults that were answered with zeros.
    pub zero_pages: u64,
    pub faults: u64,
    /// Pages that no process was given, by the pid of [`Memory`] (of a child, its ancestor's) and
    /// address: their sums are wrong, or the file cannot be read there. Who touches one gets SIGBUS.
    pub bad_pages: Vec<(i32, u64)>,
    pub processes: u64,
    /// Children that were born meanwhile.
    pub forks: u64,
    /// Daemons that died.
    pub restarts: u64,
    pub seconds: f64,
}
