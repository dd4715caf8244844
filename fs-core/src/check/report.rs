// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a check is asked to do and what it tells.

use crate::types::{Ino, Owner};
use alloc::string::String;
use core::fmt;

/// How to check.
pub struct CheckOptions<'a> {
    /// Repair what the caller's [`Decision`]s allow. Needs `owner`: the region is held with the
    /// mount marker meanwhile. Without it the region is only read.
    pub repair: bool,
    /// Also read the data of sealed files and compare it with their seals.
    pub data: bool,
    /// Only superblocks, marker, journal and the structures of fixed number: constant time.
    pub quick: bool,
    /// Who repairs.
    pub owner: Option<Owner>,
    /// Does the holder of the mount marker still live?
    pub alive: &'a dyn Fn(&Owner) -> bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// Superblocks, geometry, mount marker.
    Superblock,
    /// Journal slots.
    Journal,
    /// System page, shards, inode table.
    System,
    /// Inodes, nodes of trees, attributes, symbolic links.
    Inodes,
    /// Search for nodes that lost their parent (only after damage).
    Salvage,
    /// Extents of files.
    Extents,
    /// Seals, and with `data` the sealed bytes.
    Seals,
    /// Names, parents, reachability.
    Directories,
    /// Link counts and other counters of inodes.
    Counts,
    /// Pending sets.
    Pending,
    /// Lists of free inodes.
    FreeInodes,
    /// Bitmaps and summaries.
    Allocation,
    /// Sums over the journal slots.
    Accounts,
}

impl Phase {
    /// Number of phases.
    pub const COUNT: u32 = 13;

    /// Which phase this is, from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32 + 1
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Superblock => "superblock",
            Phase::Journal => "journal",
            Phase::System => "inode table",
            Phase::Inodes => "inodes",
            Phase::Salvage => "lost nodes",
            Phase::Extents => "extents",
            Phase::Seals => "seals",
            Phase::Directories => "directories",
            Phase::Counts => "counts",
            Phase::Pending => "pending sets",
            Phase::FreeInodes => "free inodes",
            Phase::Allocation => "allocation",
            Phase::Accounts => "accounts",
        })
    }
}

/// The kind of structure a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure {
    /// Primary superblock.
    Superblock,
    /// Backup superblock.
    Backup,
    /// Mount marker.
    Marker,
    /// Header or contents of a journal slot.
    Slot,
    /// Account of a journal slot.
    Account,
    /// Frontier of initialised groups.
    Frontier,
    /// Inode frontier.
    InodeFrontier,
    /// Inode shard and its list of free inodes.
    Shard,
    /// Summary over groups.
    TopSummary,
    /// Summary over the chunks of a group.
    GroupSummary,
    /// Chunk descriptor.
    Chunk,
    /// The inode table's own inode or its map.
    InodeTable,
    /// An inode.
    Inode,
    /// A node of a tree.
    Node,
    /// An extent.
    Extent,
    /// Attribute block or attribute value.
    Attribute,
    /// A seal.
    Seal,
    /// Bytes of a sealed file.
    Data,
    /// A directory entry.
    Entry,
    /// A directory.
    Directory,
    /// A pending set.
    Pending,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Structure::Superblock => "superblock",
            Structure::Backup => "backup superblock",
            Structure::Marker => "mount marker",
            Structure::Slot => "journal slot",
            Structure::Account => "account",
            Structure::Frontier => "frontier",
            Structure::InodeFrontier => "inode frontier",
            Structure::Shard => "inode shard",
            Structure::TopSummary => "top summary",
            Structure::GroupSummary => "group summary",
            Structure::Chunk => "chunk descriptor",
            Structure::InodeTable => "inode table",
            Structure::Inode => "inode",
            Structure::Node => "tree node",
            Structure::Extent => "extent",
            Structure::Attribute => "attributes",
            Structure::Seal => "seal",
            Structure::Data => "sealed data",
            Structure::Entry => "directory entry",
            Structure::Directory => "directory",
            Structure::Pending => "pending set",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Region offset in bytes.
    pub offset: u64,
    /// What lies there.
    pub structure: Structure,
    /// Whose it is, where that is known.
    pub owner: Option<Ino>,
    /// What is wrong.
    pub what: String,
    /// What repair does about it; `None` where nothing can be done.
    pub repair: Option<String>,
    /// The repair takes nothing away: what it writes is known from elsewhere.
    pub harmless: bool,
}

impl Finding {
    pub(super) fn new(structure: Structure, offset: u64, what: impl Into<String>) -> Self {
        Finding {
            offset,
            structure,
            owner: None,
            what: what.into(),
            repair: None,
            harmless: matches!(
                structure,
                Structure::Superblock
                    | Structure::Backup
                    | Structure::Marker
                    | Structure::Account
                    | Structure::Frontier
                    | Structure::InodeFrontier
                    | Structure::Shard
                    | Structure::TopSummary
                    | Structure::GroupSummary
                    | Structure::Chunk
                    | Structure::Pending
            ),
        }
    }

    pub(super) fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }

    pub(super) fn of(mut self, ino: Ino) -> Self {
        self.owner = Some(ino);
        self
    }

    pub(super) fn fix(mut self, repair: impl Into<String>) -> Self {
        self.repair = Some(repair.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: {}", self.offset, self.structure)?;
        if let Some(ino) = self.owner {
            match super::inode::system_name(ino) {
                Some(name) if self.structure == Structure::Pending => write!(f, " ({name})")?,
                Some(name) => write!(f, " of the {name}")?,
                None if self.structure == Structure::Inode => write!(f, " {ino}")?,
                None => write!(f, " of inode {ino}")?,
            }
        }
        write!(f, ": {}", self.what)
    }
}

/// What a check tells while it runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Work goes on: `done` of `total` units of this phase (0 of n at its start).
    Progress {
        /// Where we are.
        phase: Phase,
        /// Units done.
        done: u64,
        /// Units in all; 0 where it is not known.
        total: u64,
    },
    /// Something is wrong. The decision says whether it shall be repaired.
    Finding(&'a Finding),
    /// Something worth telling that is no damage.
    Note(&'a str),
}

/// The answer to an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on; repair this if the check repairs at all.
    Repair,
    /// Go on, but leave this as it is.
    Leave,
    /// Stop here; what was repaired stays so.
    Stop,
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Things that are wrong.
    pub found: u64,
    /// Those that were repaired.
    pub repaired: u64,
    /// Stopped by a [`Decision::Stop`].
    pub stopped: bool,
    /// The primary superblock was bad.
    pub from_backup: bool,
    /// Only the quick part was done; the figures below are not known.
    pub quick: bool,
    /// Journal transactions that had to be replayed.
    pub replayed: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, FIFOs, sockets.
    pub others: u64,
    /// Sealed files.
    pub sealed: u64,
    /// Bytes of sealed data that were read and found right.
    pub verified: u64,
    /// Extents of regular files.
    pub extents: u64,
    /// Regular files with data in more than one place.
    pub fragmented: u64,
    /// Inodes that wait to be reclaimed.
    pub pending: u64,
    /// Inodes the table has room for.
    pub inode_capacity: u64,
    /// Pages that can hold files or their metadata.
    pub pages: u64,
    /// Pages in use.
    pub pages_used: u64,
    /// Those of them that are nodes, attributes, inode table.
    pub pages_metadata: u64,
    /// Inodes that went to lost+found.
    pub reconnected: u64,
}

impl Report {
    /// Things that are wrong and were not repaired.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.found.saturating_sub(self.repaired)
    }
}
