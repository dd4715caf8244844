// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The command line.

use clap::{Parser, Subcommand};
use host::{uuid, Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

const EXAMPLES: &str = "\
Where SPEC is one of
  0x100000000+1G     physical memory: address and size (also 4G+1G)
  /dev/dax0.0        a device-dax device
  /dev/pmem0         a persistent memory device
  FILE               a regular file
  LABEL=x, UUID=x    a region found by its label or UUID

Examples
  rpramfs stat LABEL=state                     what is it, and how full
  rpramfs dump LABEL=state journal             what was going on when the machine stopped
  rpramfs ls LABEL=state /                     names, without mounting
  rpramfs cat LABEL=state /log > log           a file, without mounting
  rpramfs find-owner LABEL=state 0x1234000     whose byte is this
  rpramfs seal /mnt/images/*                   on a mounted filesystem

Nothing but tune, seal and unseal writes. A region that is mounted may be looked at; what changes
meanwhile may look damaged. Numbers may be decimal or 0x hexadecimal.

Exit status: 0 done, 1 a file is not what was sealed, 2 wrong usage, 8 failed.";

/// Looks into an RP-RAMFS: any structure of a region, its files without a mount, seals.
#[derive(Debug, Parser)]
#[command(name = "rpramfs", bin_name = "rpramfs", version, after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A summary: superblock, holder, journal, how full
    Stat {
        /// The region
        spec: OsString,
    },
    /// Show a structure
    Dump {
        /// The region
        spec: OsString,
        #[command(subcommand)]
        what: What,
    },
    /// List a directory of a region that need not be mounted
    Ls {
        /// The region
        spec: OsString,
        /// Path from the root of the filesystem
        #[arg(default_value = "/")]
        path: OsString,
    },
    /// Copy a file of a region that need not be mounted to standard output
    Cat {
        /// The region
        spec: OsString,
        /// Path from the root of the filesystem
        path: OsString,
    },
    /// Say what lies at an offset of the region, and whose it is (goes through the whole filesystem)
    FindOwner {
        /// The region
        spec: OsString,
        /// Offset in bytes from the start of the region; suffixes K M G T
        offset: String,
    },
    /// Change label or UUID of a region that is not mounted
    Tune {
        /// The region
        spec: OsString,
        /// New label, up to 32 bytes; an empty one takes it away
        #[arg(short = 'L', long, value_name = "LABEL")]
        label: Option<Label>,
        /// New UUID, or the word random
        #[arg(short = 'U', long, value_name = "UUID")]
        uuid: Option<Uuid>,
    },
    /// Record checksums of files on a mounted RP-RAMFS and make them immutable
    Seal {
        /// Files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Make sealed files writable again, and forget their checksums
    Unseal {
        /// Files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Compare sealed files on a mounted RP-RAMFS with their checksums
    Verify {
        /// Files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

/// A structure.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Both superblocks
    Superblock,
    /// The mount marker
    Marker,
    /// Journal slots, as they lie there, and their accounts
    Journal,
    /// Frontiers, inode shards, inode table, pending sets
    System,
    /// The descriptor of a chunk of 2 MiB
    Chunk {
        /// Its number
        number: Number,
    },
    /// The summary of a group of 1 GiB
    Group {
        /// Its number
        number: Number,
    },
    /// An inode
    Inode {
        /// Its number
        ino: Number,
    },
    /// A node of a tree
    Node {
        /// Its page
        page: Number,
    },
    /// Entries of a directory
    Dir {
        /// Its inode number
        ino: Number,
    },
    /// Extents of a file
    Extents {
        /// Its inode number
        ino: Number,
    },
    /// Extended attributes
    Xattr {
        /// Inode number
        ino: Number,
    },
    /// A page, whatever is in it
    Page {
        /// Its number
        page: Number,
        /// Also as hexadecimal digits
        #[arg(long)]
        hex: bool,
    },
}

/// A number, decimal or hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub u64);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.map(Number).map_err(|e| e.to_string())
    }
}

/// A label: UTF-8 without control characters, zero-padded.
#[derive(Clone, Copy, Debug)]
pub struct Label(pub [u8; 32]);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text.chars().any(char::is_control) {
            return Err("control characters cannot be part of a label".into());
        }
        let mut bytes = [0; 32];
        bytes
            .get_mut(..text.len())
            .ok_or_else(|| format!("{} bytes are too long, 32 at most", text.len()))?
            .copy_from_slice(text.as_bytes());
        Ok(Label(bytes))
    }
}

/// A UUID, or the word `random`.
#[derive(Clone, Copy, Debug)]
pub struct Uuid(pub [u8; 16]);

impl FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "random" {
            return uuid::random().map(Uuid);
        }
        match uuid::parse(text)? {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => {
                Err(Error::usage("a UUID of zeros names nothing"))
            }
            id => Ok(Uuid(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn numbers() {
        assert_eq!("0x10".parse::<Number>().expect("hex").0, 16);
        assert_eq!("10".parse::<Number>().expect("decimal").0, 10);
        assert!("-1".parse::<Number>().is_err());
        assert!("ten".parse::<Number>().is_err());
    }
}
