// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Sizes and addresses as people write them.

use crate::{Error, Result};

/// Binary suffixes, as the kernel's `memparse()` has them.
const SUFFIXES: [(char, u32); 6] = [
    ('K', 10),
    ('M', 20),
    ('G', 30),
    ('T', 40),
    ('P', 50),
    ('E', 60),
];

/// Reads a number of bytes: decimal or `0x` hexadecimal, with an optional suffix `K M G T P E`
/// (either case, powers of 1024, `KiB`… as well).
///
/// What the kernel would read differently is refused: a leading zero (octal there) and `KB`
/// (powers of 1000 elsewhere).
pub fn parse(text: &str) -> Result<u64> {
    let bad = |why: &str| {
        Error::usage(format!("\"{text}\" is not a size or address: {why}"))
            .hint("write bytes as 4096, 0x1000, 4K, 64M, 1G, 2T (powers of 1024)")
    };
    let (radix, rest) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None => (10, text),
    };
    let end = rest
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    if digits.is_empty() {
        return Err(bad("no digits"));
    }
    if radix == 10 && digits.len() > 1 && digits.starts_with('0') {
        return Err(bad("the kernel reads a leading zero as octal"));
    }
    let number = u64::from_str_radix(digits, radix).map_err(|_| bad("larger than 64 bits"))?;
    let shift = match suffix {
        "" => 0,
        _ => {
            let mut chars = suffix.chars();
            let letter = chars.next().unwrap_or(' ').to_ascii_uppercase();
            let shift = SUFFIXES
                .iter()
                .find(|(c, _)| *c == letter)
                .map(|(_, shift)| *shift)
                .ok_or_else(|| bad("unknown suffix"))?;
            match chars.as_str() {
                "" | "iB" => shift,
                "B" | "b" => return Err(bad("KB and the like are ambiguous; leave out the B")),
                _ => return Err(bad("unknown suffix")),
            }
        }
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| bad("larger than 64 bits"))
}

/// The number in a form that [`parse`] and the kernel's command line read back to exactly the
/// same: `4G`, `1536M`, and hexadecimal where no suffix divides it.
#[must_use]
pub fn exact(bytes: u64) -> String {
    if bytes == 0 {
        return "0".into();
    }
    match SUFFIXES[..4]
        .iter()
        .rev()
        .find(|(_, shift)| bytes % (1 << shift) == 0)
    {
        Some((letter, shift)) => format!("{}{letter}", bytes >> shift),
        None => format!("{bytes:#x}"),
    }
}

/// The number for reading: at most three significant digits and a unit, `3.98 GiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    let Some((letter, shift)) = SUFFIXES.iter().rev().find(|(_, s)| bytes >> s != 0) else {
        return format!("{bytes} bytes");
    };
    let unit = 1u64 << shift;
    let whole = bytes / unit;
    if bytes % unit == 0 {
        return format!("{whole} {letter}iB");
    }
    // Cut, not rounded: a usable size must not look larger than it is.
    let hundredths = (u128::from(bytes % unit) * 100 / u128::from(unit)) as u64;
    match whole {
        0..=9 => format!("{whole}.{hundredths:02} {letter}iB"),
        10..=99 => format!("{whole}.{} {letter}iB", hundredths / 10),
        _ => format!("{whole} {letter}iB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("0X1000", 4096),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("1G", 1 << 30),
            ("0x10M", 16 << 20),
            ("16T", 16 << 40),
            ("0x100000000", 1 << 32),
            // E is a digit here, not a suffix.
            ("0x1E", 30),
            ("0xffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(parse(text).expect(text), bytes, "{text}");
        }
    }

    #[test]
    fn refuses_what_could_be_read_two_ways() {
        for text in [
            "",
            "K",
            "0x",
            "x",
            "1KB",
            "1kb",
            "010",
            "1 G",
            "-1",
            "+1",
            "1.5G",
            "16E",
            "1Gi",
            "18446744073709551616",
            "1GiBB",
            "１",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exact_is_read_back() {
        for bytes in [
            0,
            1,
            4095,
            4096,
            1 << 20,
            3 << 29,
            1 << 32,
            5 << 40,
            u64::MAX,
        ] {
            assert_eq!(parse(&exact(bytes)).expect("exact"), bytes);
        }
        assert_eq!(exact(1 << 32), "4G");
        assert_eq!(exact(3 << 29), "1536M");
        assert_eq!(exact(4097), "0x1001");
    }

    #[test]
    fn human_never_rounds_up() {
        assert_eq!(human(0), "0 bytes");
        assert_eq!(human(1023), "1023 bytes");
        assert_eq!(human(1 << 30), "1 GiB");
        assert_eq!(human((4 << 30) - 1), "3.99 GiB");
        assert_eq!(human((1 << 30) + (1 << 29)), "1.50 GiB");
        assert_eq!(human(u64::MAX), "15.9 EiB");
    }
}
