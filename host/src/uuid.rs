// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! UUIDs as text, and new random ones (RFC 9562).

use crate::{Error, Result};

/// The UUID in the usual form: `8-4-4-4-12` lower-case hexadecimal digits.
#[must_use]
pub fn format(uuid: &[u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads a UUID: 32 hexadecimal digits of either case, with the four hyphens or without any.
pub fn parse(text: &str) -> Result<[u8; 16]> {
    let bad = || {
        Error::usage(format!("\"{text}\" is not a UUID"))
            .hint("a UUID looks like 123e4567-e89b-42d3-a456-426614174000")
    };
    let hyphens: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    if !hyphens.is_empty() && hyphens != [8, 13, 18, 23] {
        return Err(bad());
    }
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16).map(|d| d as u8).ok_or_else(bad))
        .collect::<Result<_>>()?;
    if digits.len() != 32 {
        return Err(bad());
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(uuid)
}

/// A new random UUID (version 4, variant 1).
pub fn random() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|e| {
        Error::new(
            crate::Kind::System,
            format!("cannot get random bytes for the UUID: {e}"),
        )
    })?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        let text = "123e4567-e89b-42d3-a456-426614174000";
        let uuid = parse(text).expect("valid");
        assert_eq!(uuid[0], 0x12);
        assert_eq!(format(&uuid), text);
        assert_eq!(parse(&text.to_uppercase()).expect("upper case"), uuid);
        assert_eq!(parse(&text.replace('-', "")).expect("bare"), uuid);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "123",
            "123e4567-e89b-42d3-a456-42661417400",
            "123e4567-e89b-42d3-a456-4266141740000",
            "123e4567e-89b-42d3-a456-426614174000",
            "g23e4567-e89b-42d3-a456-426614174000",
            "123e4567-e89b42d3a456426614174000",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn random_ones_are_version_4() {
        let a = random().expect("random");
        assert_eq!(a[6] >> 4, 4);
        assert_eq!(a[8] >> 6, 2);
        assert_ne!(a, random().expect("random"));
    }
}
