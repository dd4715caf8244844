// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Extents of regular files.

use super::checker::{Checker, Res, INTENT, LEFT};
use super::inode::Inode;
use super::node::Record;
use super::report::{Finding, Phase, Structure};
use super::tree;
use crate::layout::{body, iflag, inode as at, EXTENT_LEN, EXTENT_UNWRITTEN, MAX_PAGES, PAGE};
use crate::types::{self, Ino};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Checker<'_, '_> {
    pub(super) fn check_files(&mut self) -> Res<()> {
        self.report.pages_metadata = self
            .report
            .pages_metadata
            .saturating_add(self.table.pages())
            .saturating_add(self.table.nodes.len() as u64);
        for info in &self.inodes {
            self.report.pages_metadata = self.report.pages_metadata.saturating_add(info.nodes);
        }
        // What sound trees say counts more than what was put together from the rest.
        for damaged in [false, true] {
            let total = self.inodes.len() as u64;
            let files: Vec<Ino> = self
                .inodes
                .iter()
                .filter(|i| i.mode & types::S_IFMT == types::S_IFREG && i.flags & iflag::SEAL == 0)
                .map(|i| i.ino)
                .filter(|i| self.damaged.contains_key(i) == damaged)
                .collect();
            for (n, ino) in files.into_iter().enumerate() {
                if n % 256 == 0 {
                    self.progress(Phase::Extents, n as u64, total)?;
                }
                self.check_file(ino, damaged)?;
            }
        }
        Ok(())
    }

    fn check_file(&mut self, ino: Ino, damaged: bool) -> Res<()> {
        let Some(inode) = self.inode(ino)? else {
            return Ok(());
        };
        let left = self.info(ino).is_some_and(|i| i.marks & LEFT != 0);
        let mut records = if damaged {
            core::mem::take(&mut self.damaged_mut(ino)?.records)
        } else {
            tree::records(&self.store, &self.geo, &inode)?.0
        };
        if damaged {
            records.sort();
            records.dedup();
        }
        let mut out: Vec<Record> = Vec::with_capacity(records.len());
        let mut changed = damaged;
        let mut pages = 0u64;
        let mut file_end = 0u64;
        let mut next_page = None;
        let mut scattered = false;
        for (i, r) in records.iter().enumerate() {
            let len = r.b & EXTENT_LEN;
            let off = if inode.format == body::INLINE {
                inode.offset + at::BODY as u64 + 24 * i as u64
            } else {
                inode.offset
            };
            if let Some(why) = self.bad_extent(r, file_end) {
                let f = Finding::new(Structure::Extent, off, why)
                    .of(ino)
                    .fix("extent removed; the file has a hole there");
                if self.find(&f)? {
                    changed = true;
                } else {
                    out.push(*r);
                }
                continue;
            }
            let mut r = *r;
            if let Some(why) = self.behind_end(&inode, &r) {
                let f = Finding::new(Structure::Extent, off, why)
                    .of(ino)
                    .fix("marked as unwritten");
                if self.find(&f)? {
                    r.b |= EXTENT_UNWRITTEN;
                    changed = true;
                }
            }
            if let Err(other) = self.claims.claim(r.a, len, ino) {
                let f = Finding::new(
                    Structure::Extent,
                    off,
                    format!(
                        "pages [{}, {}) of the file lie at page {}, where inode {} has [{}, {}) already",
                        r.key,
                        r.key.saturating_add(len),
                        r.a,
                        other.owner,
                        other.start,
                        other.start.saturating_add(other.len)
                    ),
                )
                .of(ino)
                .fix("extent removed; the file has a hole there");
                if self.find(&f)? {
                    changed = true;
                    continue;
                }
            } else {
                pages = pages.saturating_add(len);
            }
            scattered |= next_page.is_some_and(|n| n != r.a);
            next_page = Some(r.a.saturating_add(len));
            file_end = r.key.saturating_add(len);
            self.report.extents = self.report.extents.saturating_add(1);
            out.push(r);
        }
        if scattered {
            self.report.fragmented = self.report.fragmented.saturating_add(1);
        }
        if let Some(info) = self.info_mut(ino) {
            info.pages = info.pages.saturating_add(pages);
        }
        if changed && !left {
            self.changed.insert(ino, out);
        }
        Ok(())
    }

    /// Why an extent cannot be.
    fn bad_extent(&self, r: &Record, file_end: u64) -> Option<String> {
        let len = r.b & EXTENT_LEN;
        if r.b & !(EXTENT_LEN | EXTENT_UNWRITTEN) != 0 {
            return Some(format!("impossible length word {:#x}", r.b));
        }
        if !self.geo.is_data(r.a, len) {
            return Some(format!(
                "pages [{}, {}) are outside the data",
                r.a,
                r.a.saturating_add(len)
            ));
        }
        match r.key.checked_add(len) {
            Some(end) if end <= MAX_PAGES => {}
            _ => return Some(format!("page {} of a file", r.key)),
        }
        (r.key < file_end).then(|| format!("page {} of the file is there twice", r.key))
    }

    /// A written extent behind the end of the file that nobody is about to remove.
    fn behind_end(&self, inode: &Inode, r: &Record) -> Option<String> {
        let written = r.b & EXTENT_UNWRITTEN == 0;
        let behind = r.key >= inode.size.div_ceil(PAGE);
        let intent = (inode.intent_start..inode.intent_end).contains(&r.key)
            && self.info(inode.ino).is_some_and(|i| i.marks & INTENT != 0);
        (written && behind && !intent)
            .then(|| format!("data at page {} of a file of {} bytes", r.key, inode.size))
    }
}
