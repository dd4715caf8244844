// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The bytes of a FOAM file, checked before they are handed out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::foam::PAGE;

/// Files are mapped in parts of this size: the whole may be as long as the address space.
const WINDOW: u64 = 1 << 30;

/// Bytes that are read and summed in one go: small enough to be in the cache when they are copied.
const BUFFER: u64 = 256 << 10;

/// Bytes for UFFDIO_COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// Good as far as can be known before the kernel reads them.
    At { address: u64, len: u64 },
    /// The first page is not what it was.
    Bad,
}

/// One FOAM file.
///
/// Nothing here touches a mapping: a page behind the end of the file, or one whose memory failed,
/// would kill us by SIGBUS. The kernel reads mappings for us and says EFAULT; what is to be summed is
/// read(2) first, so that the bytes handed out are the very bytes that were summed.
#[derive(Debug)]
pub struct Source {
    file: File,
    sums: Option<File>,
    /// No area reaches further.
    end: u64,
    window: Option<(u64, MmapRaw)>,
    buffer: Option<MmapMut>,
}

impl Source {
    pub fn new(file: File, sums: Option<File>, end: u64) -> Source {
        Source {
            file,
            sums,
            end,
            window: None,
            buffer: None,
        }
    }

    /// The bytes at `offset`: `len` of them at most, at least a page.
    pub fn bytes(&mut self, offset: u64, len: u64) -> Bytes {
        if self.sums.is_some() {
            return self.summed(offset, len.min(BUFFER));
        }
        let start = offset - offset % WINDOW;
        if !matches!(self.window, Some((at, _)) if at == start) {
            let len = (self.end - start).min(WINDOW) as usize;
            self.window = match MmapOptions::new()
                .offset(start)
                .len(len)
                .map_raw_read_only(&self.file)
            {
                Ok(map) => Some((start, map)),
                Err(_) => return self.read(offset),
            };
        }
        match &self.window {
            Some((at, map)) => Bytes::At {
                address: map.as_ptr() as u64 + (offset - at),
                len: len.min(at + map.len() as u64 - offset),
            },
            None => Bytes::Bad,
        }
    }

    /// One page by read(2), after the kernel could not read it through the mapping.
    pub fn read(&mut self, offset: u64) -> Bytes {
        self.summed(offset, PAGE)
    }

    /// The good pages from `offset` on.
    fn summed(&mut self, offset: u64, len: u64) -> Bytes {
        let mut sums = vec![0; (len / PAGE * 4) as usize];
        if let Some(file) = &self.sums {
            // A sum that cannot be read says nothing against its page.
            if let Err(error) = read_to_end(file, &mut sums, offset / PAGE * 4) {
                eprintln!("kup: pages at {offset:#x} are restored unchecked, their sums cannot be read: {error}");
                sums.fill(0);
            }
        }
        if self.buffer.is_none() {
            self.buffer = MmapMut::map_anon(BUFFER as usize).ok();
        }
        let Some(buffer) = &mut self.buffer else {
            return Bytes::Bad;
        };
        let buffer = &mut buffer[..len as usize];
        let mut got = match read_to_end(&self.file, buffer, offset) {
            Ok(got) => got as u64,
            // One of the pages. They are asked for again one by one.
            Err(_) if len > PAGE => return self.summed(offset, PAGE),
            Err(_) => 0,
        };
        // What lies behind the end in the last page of a file reads as zeros.
        if got % PAGE != 0 {
            buffer[got as usize..].fill(0);
            got = got.next_multiple_of(PAGE);
        }
        let good = buffer[..got as usize]
            .chunks_exact(PAGE as usize)
            .zip(sums.chunks_exact(4))
            .take_while(|(page, sum)| **sum == [0; 4] || stored(crc32fast::hash(page)) == **sum)
            .count() as u64;
        match good {
            0 => Bytes::Bad,
            good => Bytes::At {
                address: buffer.as_ptr() as u64,
                len: good * PAGE,
            },
        }
    }
}

/// A sum as the file has it: 0 stands for no sum.
fn stored(sum: u32) -> [u8; 4] {
    (if sum == 0 { u32::MAX } else { sum }).to_le_bytes()
}

/// Reads until `buffer` is full or the file ends.
fn read_to_end(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
