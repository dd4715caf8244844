// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! FOAM, files as oceans of address-space memory (KUP, USENIX ATC 2016): the memory of a checkpointed
//! process is one sparse file in which the offset is the virtual address.
//!
//! A page that is dumped again overwrites its place, so rounds need no chain of images; and a restore
//! reads nothing before the process runs.
//!
//! - [`server`] is a page server for an unmodified CRIU: it receives the pages of a dump into a [`store`].
//! - [`cure`] takes anew what CRIU itself changed while it was under way.
//! - [`collect`] writes the small images that CRIU wants beside them.
//! - [`restore`] serves page faults of the restored processes from the store.

pub mod collect;
pub mod cure;
mod protocol;
mod ranges;
pub mod restore;
pub mod server;
pub mod store;
pub mod sums;

pub use protocol::flag;
pub use ranges::Ranges;

use std::fmt;

/// Bytes of a page, the unit of everything here.
pub const PAGE: u64 = 4096;

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A process, by its PID; the offset in its file is the virtual address.
    Process(u32),
    /// A shared segment, by CRIU's number for it (its inode); the offset is that in the segment.
    Segment(u64),
}

/// The name of its file.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Process(pid) => write!(f, "process-{pid}"),
            Owner::Segment(id) => write!(f, "segment-{id}"),
        }
    }
}
