// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Finds a single flipped bit by its checksum.
//!
//! Bad memory flips bits, and a CRC tells which one it was: the difference between the checksum
//! that is stored and the one that is computed depends only on the place of the flipped bit. Up to
//! 11 KiB no other error of up to two bits looks the same (CRC-32 has Hamming distance 4 there, and
//! 3 up to [`MOST`] bytes). Of the errors that damage whole words one in two million is taken for a
//! flipped bit in a sector, one in 130,000 in a page, one in 8,000 in [`MOST`] bytes.

/// Most bytes that are searched: the longest value of an attribute, and more than a transaction.
pub(super) const MOST: usize = 64 << 10;

/// Takes one zero byte back out of the CRC register (IEEE 802.3, reflected 0xEDB88320).
fn retreat(register: u32) -> u32 {
    let mut r = register;
    for _ in 0..8 {
        r = if r >> 31 != 0 {
            (r ^ 0xedb8_8320) << 1 | 1
        } else {
            r << 1
        };
    }
    r
}

/// Which bit of a message of `len` bytes must be flipped to change its checksum by `difference`:
/// its byte, and its mask in it.
pub(super) fn locate(difference: u32, len: usize) -> Option<(usize, u8)> {
    if difference == 0 || len > MOST {
        return None;
    }
    // Back from the end: before the byte of the flipped bit, that bit is all that differs.
    let mut register = difference;
    for at in (0..len).rev() {
        register = retreat(register);
        if let (true, Ok(mask)) = (register.is_power_of_two(), u8::try_from(register)) {
            return Some((at, mask));
        }
    }
    None
}

/// Flips a bit of `bytes` so that their checksum becomes `stored` instead of `computed`; `false`
/// where no single bit does.
pub(super) fn mend(bytes: &mut [u8], computed: u32, stored: u32) -> bool {
    match locate(computed ^ stored, bytes.len()) {
        Some((at, mask)) => match bytes.get_mut(at) {
            Some(b) => {
                *b ^= mask;
                true
            }
            None => false,
        },
        None => false,
    }
}

/// The same for a structure with its checksum inside, at `at`: there the flipped bit may be one of
/// the checksum itself. `computed` was taken with the field zero.
pub(super) fn mend_with_field(bytes: &mut [u8], at: usize, computed: u32, stored: u32) -> bool {
    if (computed ^ stored).count_ones() == 1 {
        return match bytes.get_mut(at..at.saturating_add(4)) {
            Some(field) => {
                field.copy_from_slice(&computed.to_le_bytes());
                true
            }
            None => false,
        };
    }
    match locate(computed ^ stored, bytes.len()) {
        Some((byte, _)) if (at..at.saturating_add(4)).contains(&byte) => false,
        Some((byte, mask)) => match bytes.get_mut(byte) {
            Some(b) => {
                *b ^= mask;
                true
            }
            None => false,
        },
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn advance(register: u32) -> u32 {
        let mut r = register;
        for _ in 0..8 {
            r = if r & 1 != 0 {
                r >> 1 ^ 0xedb8_8320
            } else {
                r >> 1
            };
        }
        r
    }

    fn crc(bytes: &[u8]) -> u32 {
        let mut r = !0u32;
        for b in bytes {
            r = advance(r ^ u32::from(*b));
        }
        !r
    }

    #[test]
    fn every_bit_is_found() {
        // The check value of CRC-32/ISO-HDLC in the RevEng catalogue.
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        let mut bytes: [u8; 300] = core::array::from_fn(|i| (i * 7) as u8);
        let right = bytes;
        let sum = crc(&bytes);
        for bit in 0..2400 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let now = crc(&bytes);
            assert!(mend(&mut bytes, now, sum));
            assert_eq!(bytes, right);
        }
    }

    #[test]
    fn a_bit_is_found_in_the_longest_message() {
        let mut bytes: Vec<u8> = (0..MOST).map(|i| (i * 13) as u8).collect();
        let right = bytes.clone();
        let sum = crc(&bytes);
        for (at, mask) in [
            (0, 1),
            (0, 128),
            (MOST / 3, 16),
            (MOST - 1, 1),
            (MOST - 1, 128),
        ] {
            bytes[at] ^= mask;
            let now = crc(&bytes);
            assert!(mend(&mut bytes, now, sum));
            assert!(bytes == right);
        }
    }

    #[test]
    fn two_bits_are_not_taken_for_one() {
        let bytes: [u8; 256] = core::array::from_fn(|i| (i * 31) as u8);
        let sum = crc(&bytes);
        for a in (0..2048).step_by(37) {
            for b in (a + 1..2048).step_by(41) {
                let mut damaged = bytes;
                damaged[a / 8] ^= 1 << (a % 8);
                damaged[b / 8] ^= 1 << (b % 8);
                let now = crc(&damaged);
                assert!(!mend(&mut damaged, now, sum));
            }
        }
    }

    #[test]
    fn a_flip_in_the_checksum_itself() {
        let mut bytes = [0u8; 64];
        bytes[10] = 9;
        let sum = crc(&bytes);
        for bit in 0..32 {
            bytes[4..8].copy_from_slice(&(sum ^ 1 << bit).to_le_bytes());
            assert!(mend_with_field(&mut bytes, 4, sum, sum ^ 1 << bit));
            assert_eq!(bytes[4..8], sum.to_le_bytes());
        }
    }
}
