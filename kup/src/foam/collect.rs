// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The images that CRIU wants beside FOAM: a pagemap for each owner, and an image with the bytes of those
//! pages that must be there before the process runs. A dump to a page server leaves them out.

use super::server::Round;
use super::store::Store;
use super::{flag, Owner, Ranges, PAGE};
use crate::images::{magic, pb, vma, Images};
use anyhow::{Context, Result};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const MAP_PRIVATE: u32 = libc::MAP_PRIVATE as u32;
const MAP_ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;
const MAP_LOCKED: u32 = libc::MAP_LOCKED as u32;
const MAP_HUGETLB: u32 = libc::MAP_HUGETLB as u32;

/// What the images of a checkpoint came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes that the processes get on demand.
    pub lazy: u64,
    /// Bytes that they get before they run.
    pub eager: u64,
}

/// Writes the images for what the last round left in the store.
///
/// # Errors
/// An image cannot be read or written.
pub fn collect(images: &Images, store: &Store, round: &Round) -> Result<Collected> {
    let mut done = Collected::default();
    for (id, (owner, held)) in (1u32..).zip(round) {
        let (name, lazy) = match owner {
            Owner::Process(pid) => (format!("pagemap-{pid}.img"), lazy(images, *pid)?),
            Owner::Segment(shmid) => (format!("pagemap-shmem-{shmid}.img"), Vec::new()),
        };
        let memory = store.open(*owner)?;
        let mut pages = File::create(images.path(&format!("pages-{id}.img")))?;
        let mut entries = Vec::new();
        let mut behind = 0;
        for (part, lazily) in split(&held.pages, &lazy) {
            let bytes = part.end - part.start;
            if lazily {
                done.lazy += bytes;
                entries.push(entry(&part, flag::LAZY));
            } else {
                copy(&memory, &mut pages, &part, behind)?;
                behind += bytes;
                done.eager += bytes;
                entries.push(entry(&part, flag::PRESENT));
            }
        }
        images.write_pagemap(&name, id, &entries)?;
    }
    Ok(done)
}

/// The ranges that are filled on demand: CRIU registers them with userfaultfd(2), by the same rule
/// (`vma_entry_can_be_lazy`). One range never spans two mappings, and no mapping is filled in part before it is
/// registered: with transparent huge pages, one page that is written brings zeros to the 511 around it, which then
/// count as filled. (CRIU sends the pages of stack pointers at once; they can wait as well as others.)
///
/// Memory that a fork clears is not among them: of that the kernel tells nobody.
fn lazy(images: &Images, pid: u32) -> Result<Vec<Range<u64>>> {
    let mm: pb::MmEntry = images.read_one(&format!("mm-{pid}.img"), magic::MM)?;
    let areas = mm.vmas.iter().filter(|area| can_be_lazy(area));
    let mut ranges: Vec<_> = areas.map(|area| area.start..area.end).collect();
    ranges.sort_by_key(|range| range.start);
    Ok(ranges)
}

fn can_be_lazy(area: &pb::VmaEntry) -> bool {
    let wanted = MAP_PRIVATE | MAP_ANONYMOUS;
    area.flags & (wanted | MAP_LOCKED | MAP_HUGETLB) == wanted
        && area.madv.unwrap_or(0) & (1 << libc::MADV_WIPEONFORK) == 0
        && area.status & (vma::VDSO | vma::VVAR | vma::VSYSCALL | vma::GUARD) == 0
}

/// The pages in the order of their addresses: those within one of the sorted `lazy` ranges, and others.
fn split(pages: &Ranges, lazy: &[Range<u64>]) -> Vec<(Range<u64>, bool)> {
    let mut parts: Vec<(Range<u64>, bool)> = Vec::new();
    let mut others = pages.clone();
    for range in lazy {
        parts.extend(pages.within(range.clone()).map(|part| (part, true)));
        others.remove(range.clone());
    }
    parts.extend(others.iter().map(|part| (part, false)));
    parts.sort_by_key(|(part, _)| part.start);
    parts
}

fn entry(range: &Range<u64>, flags: u32) -> pb::PagemapEntry {
    let pages = (range.end - range.start) / PAGE;
    pb::PagemapEntry {
        vaddr: range.start,
        // The 32 bits of old; CRIU since 4.0 reads the other.
        compat_nr_pages: u32::try_from(pages).unwrap_or(u32::MAX),
        in_parent: None,
        flags: Some(flags),
        nr_pages: Some(pages),
    }
}

fn copy(from: &File, to: &mut File, range: &Range<u64>, at: u64) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = vec![0; PIECE.min(range.end - range.start) as usize];
    let mut done = range.start;
    while done < range.end {
        let piece = &mut buffer[..PIECE.min(range.end - done) as usize];
        from.read_exact_at(piece, done)?;
        to.write_all_at(piece, at + (done - range.start))?;
        done += piece.len() as u64;
    }
    Ok(())
}

/// The ranges of a process's pagemap that are filled on demand.
///
/// # Errors
/// The image cannot be read.
pub fn on_demand(images: &Images, pid: u32) -> Result<Vec<Range<u64>>> {
    let (_, entries) = images.pagemap(&format!("pagemap-{pid}.img"))?;
    let lazy = |entry: &&pb::PagemapEntry| {
        let flags = entry.flags.unwrap_or(0);
        flags & (flag::LAZY | flag::PRESENT) == flag::LAZY
    };
    let range = |entry: &pb::PagemapEntry| {
        let pages = entry.nr_pages.unwrap_or(entry.compat_nr_pages.into());
        let end = pages.checked_mul(PAGE)?.checked_add(entry.vaddr)?;
        Some(entry.vaddr..end)
    };
    let ranges: Option<Vec<_>> = entries.iter().filter(lazy).map(range).collect();
    ranges.with_context(|| format!("pagemap-{pid}.img: not in an address space"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(flags: i32, status: u32) -> pb::VmaEntry {
        pb::VmaEntry {
            flags: flags as u32,
            status,
            ..pb::VmaEntry::default()
        }
    }

    #[test]
    fn what_can_be_lazy() {
        let plain = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        assert!(can_be_lazy(&area(plain, 1)));
        assert!(can_be_lazy(&area(plain | libc::MAP_GROWSDOWN, 3)));
        for (flags, status) in [
            (libc::MAP_PRIVATE, 1),
            (libc::MAP_SHARED | libc::MAP_ANONYMOUS, 1),
            (plain | libc::MAP_LOCKED, 1),
            (plain | libc::MAP_HUGETLB, 1),
            (plain, vma::VDSO),
            (plain, vma::GUARD),
        ] {
            assert!(!can_be_lazy(&area(flags, status)), "{flags:#x} {status:#x}");
        }
        let wiped = pb::VmaEntry {
            madv: Some(1 << libc::MADV_WIPEONFORK),
            ..area(plain, 1)
        };
        assert!(!can_be_lazy(&wiped));
    }

    #[test]
    fn split_at_mappings() {
        let pages: Ranges = [0x1000..0x9000, 0xa000..0xb000].into_iter().collect();
        let parts = split(&pages, &[0x2000..0x4000, 0x4000..0x5000, 0x8000..0xf000]);
        let want = [
            (0x1000..0x2000, false),
            (0x2000..0x4000, true),
            (0x4000..0x5000, true),
            (0x5000..0x8000, false),
            (0x8000..0x9000, true),
            (0xa000..0xb000, true),
        ];
        assert_eq!(parts, want);
    }
}
