// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Finds a single flipped bit by its checksum.
//!
//! Bad memory flips bits, and a CRC tells which one it was: the difference between the checksum
//! that is stored and the one that is computed depends only on the place of the flipped bit. For
//! the lengths used here (up to [`MOST`] bytes) no other error of up to two bits looks the same
//! (CRC-32 has Hamming distance 4 up to 11 KiB), and of the errors that damage whole words one in
//! 130,000 does at worst, one in two million for a sector.

/// Most bytes that are searched.
pub(super) const MOST: usize = 4096;

/// One step of the CRC register: a zero byte goes through (IEEE 802.3, reflected 0xEDB88320).
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

/// Which bit of a message of `len` bytes must be flipped to change its checksum by `difference`:
/// its byte, and its mask in it.
pub(super) fn locate(difference: u32, len: usize) -> Option<(usize, u8)> {
    if difference == 0 || len > MOST {
        return None;
    }
    // Register after the last byte, for a flip of each of its bits; then of the byte before, ...
    let mut registers: [u32; 8] = core::array::from_fn(|bit| advance(1 << bit));
    for back in 0..len {
        if let Some(bit) = registers.iter().position(|r| *r == difference) {
            return Some((len - 1 - back, 1 << bit));
        }
        for r in &mut registers {
            *r = advance(*r);
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
