// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Little-endian fields of byte buffers. A field outside its buffer reads as 0 and is not written:
//! offsets are constants of the layout, so neither happens.

/// Reads the `u64` at `at`.
#[inline]
pub fn get64(b: &[u8], at: usize) -> u64 {
    match b.get(at..at + 8).and_then(|s| <[u8; 8]>::try_from(s).ok()) {
        Some(a) => u64::from_le_bytes(a),
        None => 0,
    }
}

/// Reads the `u32` at `at`.
#[inline]
pub fn get32(b: &[u8], at: usize) -> u32 {
    match b.get(at..at + 4).and_then(|s| <[u8; 4]>::try_from(s).ok()) {
        Some(a) => u32::from_le_bytes(a),
        None => 0,
    }
}

/// Reads the `u16` at `at`.
#[inline]
pub fn get16(b: &[u8], at: usize) -> u16 {
    match b.get(at..at + 2).and_then(|s| <[u8; 2]>::try_from(s).ok()) {
        Some(a) => u16::from_le_bytes(a),
        None => 0,
    }
}

/// Reads the byte at `at`.
#[inline]
pub fn get8(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

/// Writes bytes at `at`.
#[inline]
pub fn put(b: &mut [u8], at: usize, v: &[u8]) {
    if let Some(s) = b.get_mut(at..at + v.len()) {
        s.copy_from_slice(v);
    }
}

/// Writes the `u64` at `at`.
#[inline]
pub fn put64(b: &mut [u8], at: usize, v: u64) {
    put(b, at, &v.to_le_bytes());
}

/// Writes the `u32` at `at`.
#[inline]
pub fn put32(b: &mut [u8], at: usize, v: u32) {
    put(b, at, &v.to_le_bytes());
}

/// Writes the `u16` at `at`.
#[inline]
pub fn put16(b: &mut [u8], at: usize, v: u16) {
    put(b, at, &v.to_le_bytes());
}

/// Writes the byte at `at`.
#[inline]
pub fn put8(b: &mut [u8], at: usize, v: u8) {
    put(b, at, &[v]);
}
