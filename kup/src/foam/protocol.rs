// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What CRIU says to a page server (`criu/page-xfer.c`, CRIU 4.2): a header of 32 bytes, little-endian:
//! `cmd u32, padding u32, pages u64, address u64, owner u64`, followed by the pages where there are any.

use super::{Owner, PAGE};
use std::fmt;
use std::ops::Range;

/// Bytes of a header.
pub const HEADER: usize = 32;

/// No process has memory at or above this address (x86-64 with five levels of page tables).
const ADDRESS_MAX: u64 = 1 << 56;

const OP_BITS: u32 = 16;

/// What stands in a pagemap entry, and in the upper half of a command.
pub mod flag {
    /// The pages are those of the round before.
    pub const PARENT: u32 = 1;
    /// The pages may be restored after the process runs.
    pub const LAZY: u32 = 2;
    /// The pages follow.
    pub const PRESENT: u32 = 4;
}

/// One request of CRIU's.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Pages of this owner come; answer whether the round before had some (one byte).
    Open { owner: Owner, answer: bool },
    /// Had the round before pages of this owner? (i32)
    Parent { owner: Owner },
    /// Pages; their bytes follow if they are `present`.
    Add {
        owner: Owner,
        range: Range<u64>,
        flags: u32,
    },
    /// That was all; answer with 0 (i32).
    Close,
}

/// Why a header makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    Command(u32),
    Owner(u64),
    Range { address: u64, pages: u64 },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Command(c) => write!(f, "unknown command {c:#x}"),
            Malformed::Owner(o) => write!(f, "unknown kind of owner in {o:#x}"),
            Malformed::Range { address, pages } => {
                write!(f, "{pages} pages at {address:#x}: not in an address space")
            }
        }
    }
}

impl std::error::Error for Malformed {}

impl Request {
    /// # Errors
    /// The header is none of a dump.
    pub fn parse(header: &[u8; HEADER]) -> Result<Request, Malformed> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let command = word(0) as u32;
        let (pages, address) = (word(8), word(16));
        let owner = || Owner::parse(word(24));
        let add = |flags| {
            let bad = Malformed::Range { address, pages };
            let bytes = pages.checked_mul(PAGE);
            let end = bytes.and_then(|bytes| address.checked_add(bytes));
            match end {
                Some(end) if pages > 0 && end <= ADDRESS_MAX && address % PAGE == 0 => {
                    Ok(Request::Add {
                        owner: owner()?,
                        range: address..end,
                        flags,
                    })
                }
                _ => Err(bad),
            }
        };
        match command & ((1 << OP_BITS) - 1) {
            1 => add(flag::PRESENT),
            2 => add(flag::PARENT),
            op @ (3 | 4) => Ok(Request::Open {
                owner: owner()?,
                answer: op == 4,
            }),
            5 => Ok(Request::Parent { owner: owner()? }),
            6 => add(command >> OP_BITS),
            0x1023 | 0x1024 => Ok(Request::Close),
            _ => Err(Malformed::Command(command)),
        }
    }
}

impl Owner {
    /// The kind is in the lowest byte.
    fn parse(word: u64) -> Result<Owner, Malformed> {
        let id = word >> 8;
        match word & 0xff {
            1 => u32::try_from(id)
                .map(Owner::Process)
                .map_err(|_| Malformed::Owner(word)),
            2 => Ok(Owner::Segment(id)),
            _ => Err(Malformed::Owner(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u32, pages: u64, address: u64, owner: u64) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        h[..4].copy_from_slice(&command.to_le_bytes());
        for (at, word) in [(8, pages), (16, address), (24, owner)] {
            h[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        h
    }

    #[test]
    fn requests() {
        let owner = 77 << 8 | 1;
        let add = Request::parse(&header(4 << 16 | 6, 3, 0x7000_0000, owner));
        let want = Request::Add {
            owner: Owner::Process(77),
            range: 0x7000_0000..0x7000_3000,
            flags: flag::PRESENT,
        };
        assert_eq!(add, Ok(want));
        let open = Request::parse(&header(4, 0, 0, 5 << 8 | 2));
        let want = Request::Open {
            owner: Owner::Segment(5),
            answer: true,
        };
        assert_eq!(open, Ok(want));
        assert_eq!(Request::parse(&header(0x1023, 0, 0, 0)), Ok(Request::Close));
    }

    #[test]
    fn nonsense() {
        let owner = 77 << 8 | 1;
        for (command, pages, address, owner) in [
            (9, 1, 0, owner),
            (6, 0, 0, owner),
            (6, 1, 1, owner),
            (6, u64::MAX, 0x1000, owner),
            (6, 1, 1 << 56, owner),
            (6, u64::MAX / PAGE, u64::MAX - 0xfff, owner),
            (4, 0, 0, 77 << 8 | 3),
            (4, 0, 0, u64::MAX << 8 | 1),
        ] {
            let parsed = Request::parse(&header(command, pages, address, owner));
            assert!(parsed.is_err(), "{parsed:?}");
        }
    }
}
