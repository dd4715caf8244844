// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Check and repair of a whole region (LAYOUT.md, section 16).
//!
//! Reads the region by the layout alone and shares no code with the operations, so that it does
//! not share their mistakes. One pass does both: every repair is carried out in a layer over the
//! region ([`Store`]); a read-only check throws the layer away, a repairing one writes it home
//! through the journal, step by step. So both report the same, and what a later step finds
//! supposes that the earlier ones were repaired.
//!
//! Nothing read is believed: time and memory are bounded by the size of the region and by what is
//! in use in it, for any bytes.

mod accounts;
mod alloc_map;
mod attributes;
mod build;
mod checker;
mod claims;
mod counts;
mod directories;
mod files;
mod flip;
mod free_inodes;
mod fresh;
mod image;
mod inode;
mod inodes;
mod journal;
mod lost_found;
mod marker;
mod node;
mod pending;
mod rebuild;
mod report;
mod salvage;
mod seals;
mod store;
mod superblock;
mod system;
mod table;
mod tree;

pub use attributes::{Attribute, AttributeBlock};
pub use checker::check;
pub use claims::{Claim, Claims};
pub use image::{owners, Image, Place};
pub use inode::{is_type, system_name, Inode, Slot};
pub use journal::{account, read_slot, Account, SlotState};
pub use marker::{holder, release, take, Marker};
pub use node::{DirList, Entry, Node, Record};
pub use report::{CheckOptions, Decision, Event, Finding, Phase, Report, Structure};
pub use store::{Page, Sector, Store};
pub use superblock::{Superblock, Superblocks};
pub use tree::{entries, records, Fault, Scan};
