// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checksums of pages: made while a checkpoint is written, compared when a page is first used, so that
//! neither costs downtime. They tell a page that somebody scribbled on; they do not keep out somebody who
//! changes the sums too.
//!
//! A file of sums holds a little-endian CRC-32 for each page, at offset `address / 1024`.

use super::{store, Ranges, PAGE};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of memory that are summed at a time.
const PIECE: u64 = 1 << 20;
/// The least hole.
const HOLE: u64 = 16 * PAGE;
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

/// Sums the pages of `range` as they are in `memory`, and gives back the room of those that hold nothing but zeros.
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
        // Room is all that is at stake.
        let _ = store::punch(memory, &zeros(pages, at));
        at += bytes;
    }
    Ok(())
}

/// Runs of pages of zeros, each long enough to be worth an extent of its own on both sides of it.
fn zeros(pages: &[u8], at: u64) -> Ranges {
    let mut runs = Ranges::default();
    let mut start = at;
    let mut end = at;
    for page in pages.chunks(PAGE as usize) {
        let next = end + page.len() as u64;
        // The first word tells most of them apart.
        if page[0] == 0 && page.iter().all(|&byte| byte == 0) {
            end = next;
            continue;
        }
        if end - start >= HOLE {
            runs.insert(start..end);
        }
        (start, end) = (next, next);
    }
    if end - start >= HOLE {
        runs.insert(start..end);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_for_zeros() {
        let page = PAGE as usize;
        let mut pages = vec![0; 100 * page];
        for full in [20, 30, 99] {
            pages[full * page + 4000] = 1;
        }
        let runs = zeros(&pages, 1 << 40);
        let run = |from: u64, to: u64| (1 << 40) + from * PAGE..(1 << 40) + to * PAGE;
        // Ten pages are too few.
        assert_eq!(runs.iter().collect::<Vec<_>>(), [run(0, 20), run(31, 99)]);
        let memory = tempfile::tempfile().unwrap();
        memory.write_all_at(&pages, 0).unwrap();
        let before = memory.metadata().unwrap().blocks();
        make(&memory, &tempfile::tempfile().unwrap(), 0..100 * PAGE).unwrap();
        assert!(memory.metadata().unwrap().blocks() < before / 4);
        let mut back = vec![1; pages.len()];
        memory.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, pages);
    }

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
