// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The run of physical memory that a guest keeps for itself.

use anyhow::{bail, Context, Result};
use std::fmt;
use std::str::FromStr;

/// Where high memory begins in a guest of the lab; every region begins here.
pub const BASE: u64 = 4 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub size: Size,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `memmap=…$…`: reserved, taken by no driver.
    Reserved,
    /// `memmap=…!…`: the pmem driver makes a block device of it.
    Pmem,
}

impl Region {
    pub fn reserved(size: Size) -> Region {
        Region {
            size,
            kind: Kind::Reserved,
        }
    }

    pub fn pmem(size: Size) -> Region {
        Region {
            size,
            kind: Kind::Pmem,
        }
    }

    /// What every kernel that is to keep the region needs on its command line.
    pub fn argument(&self) -> String {
        let sign = match self.kind {
            Kind::Reserved => '$',
            Kind::Pmem => '!',
        };
        format!("memmap={}{sign}{BASE:#x}", self.size)
    }

    /// The address behind it.
    pub fn end(&self) -> u64 {
        BASE + self.size.0
    }

    /// How the tools of RP-RAMFS are told of it.
    pub fn spec(&self) -> String {
        format!("{BASE:#x}+{}", self.size)
    }
}

/// A number of bytes, written as `512M` or `1G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn gib(n: u64) -> Size {
        Size(n << 30)
    }

    pub const fn mib(n: u64) -> Size {
        Size(n << 20)
    }
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Size> {
        let (number, shift) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            _ => (text, 0),
        };
        let number: u64 = number
            .parse()
            .with_context(|| format!("{text}: not a size"))?;
        match number.checked_mul(1 << shift) {
            Some(bytes) => Ok(Size(bytes)),
            None => bail!("{text}: too large"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0 % (1 << shift) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_arguments_are_written_as_the_kernel_reads_them() {
        assert_eq!("1536M".parse::<Size>().unwrap(), Size::mib(1536));
        assert_eq!(Size::mib(1536).to_string(), "1536M");
        assert!("1T5".parse::<Size>().is_err());
        assert!("99999999999999999999G".parse::<Size>().is_err());
        assert_eq!(
            Region::reserved(Size::gib(1)).argument(),
            "memmap=1G$0x100000000"
        );
        assert_eq!(
            Region::pmem(Size::mib(512)).argument(),
            "memmap=512M!0x100000000"
        );
        assert_eq!(Region::reserved(Size::gib(1)).spec(), "0x100000000+1G");
    }
}
