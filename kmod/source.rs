// SPDX-License-Identifier: GPL-2.0
//! The source of a mount: `0x100000000+1G`.

use core::fmt;

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start, self.len)
    }
}

impl Range {
    /// Reads `ADDRESS+LENGTH`. Each is decimal or hexadecimal, with K, M, G or T behind it.
    pub(crate) fn parse(text: &[u8]) -> Option<Range> {
        let plus = text.iter().position(|&b| b == b'+')?;
        let start = number(&text[..plus])?;
        let len = number(&text[plus + 1..])?;
        start.checked_add(len)?;
        Some(Range { start, len })
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let (text, shift) = match text.split_last()? {
        (b'K' | b'k', rest) => (rest, 10),
        (b'M' | b'm', rest) => (rest, 20),
        (b'G' | b'g', rest) => (rest, 30),
        (b'T' | b't', rest) => (rest, 40),
        _ => (text, 0),
    };
    let (text, base) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        _ => (text, 10),
    };
    if text.is_empty() {
        return None;
    }
    let mut n = 0u64;
    for &digit in text {
        let digit = (digit as char).to_digit(base)?;
        n = n.checked_mul(base as u64)?.checked_add(digit as u64)?;
    }
    n.checked_mul(1 << shift)
}
