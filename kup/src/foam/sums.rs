// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checksums of pages: made while a checkpoint is written, compared when a page is first used, so that
//! neither costs downtime. They tell a page that somebody scribbled on; they do not keep out somebody who
//! changes the sums too.
//!
//! A file of sums holds a little-endian CRC-32 for each page, at offset `address / 1024`.

use super::PAGE;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of memory that are summed at a time.
const PIECE: u64 = 1 << 20;
/// Bytes of a sum.
const SUM: u64 = 4;

/// The sum of one page. 0 stands for "none was made", so it is never one.
#[must_use]
pub fn sum(page: &[u8]) -> u32 {
    match crc32fast::hash(page) {
        0 => u32::MAX,
        sum => sum,
    }
}

/// Where the sums of a range of pages are.
#[must_use]
pub fn place(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE * SUM..range.end.div_ceil(PAGE) * SUM
}

/// Sums the pages of `range` as they are in `memory`.
///
/// # Errors
/// Reading the one file or writing the other failed.
pub fn make(memory: &File, sums: &File, range: Range<u64>) -> io::Result<()> {
    let mut pages = vec![0; PIECE.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let bytes = PIECE.min(range.end - at);
        let pages = &mut pages[..bytes as usize];
        memory.read_exact_at(pages, at)?;
        let made: Vec<u8> = pages
            .chunks(PAGE as usize)
            .flat_map(|page| sum(page).to_le_bytes())
            .collect();
        sums.write_all_at(&made, place(&(at..at + bytes)).start)?;
        at += bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_pages() {
        let (memory, sums) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        memory.set_len(1 << 40).unwrap();
        memory.write_all_at(&[7; 8192], 1 << 39).unwrap();
        let range = (1 << 39)..(1 << 39) + 3 * PAGE;
        make(&memory, &sums, range.clone()).unwrap();
        let mut made = [0; 12];
        sums.read_exact_at(&mut made, place(&range).start).unwrap();
        let want = [sum(&[7; 4096]), sum(&[7; 4096]), sum(&[0; 4096])];
        assert_eq!(made[..], want.map(u32::to_le_bytes).concat());
        assert!(want.iter().all(|sum| *sum != 0));
    }
}
