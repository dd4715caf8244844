// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Seals, and the bytes they speak for.

use super::checker::{Checker, Res, LEFT, SEAL_NAMED};
use super::inode::Inode;
use super::node::Record;
use super::report::{Finding, Phase, Structure};
use super::tree;
use crate::layout::{iflag, CHUNK_PAGES, EXTENT_LEN, EXTENT_UNWRITTEN, PAGE, SEAL_WINDOW};
use crate::types::Ino;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

impl Checker<'_, '_> {
    pub(super) fn check_seals(&mut self) -> Res<()> {
        let sealed: Vec<Ino> = self
            .inodes
            .iter()
            .filter(|i| i.flags & iflag::SEAL == 0 && (i.seal != 0 || i.flags & iflag::SEALED != 0))
            .map(|i| i.ino)
            .collect();
        let total = sealed.len() as u64;
        for (n, ino) in sealed.into_iter().enumerate() {
            self.progress(Phase::Seals, n as u64, total)?;
            self.check_seal(ino)?;
        }
        self.sweep();
        // Seals that no file names and whose records were damaged: they will be reclaimed.
        let loose: Vec<Ino> = self
            .inodes
            .iter()
            .filter(|i| i.flags & iflag::SEAL != 0 && self.damaged.contains_key(&i.ino))
            .map(|i| i.ino)
            .collect();
        for ino in loose {
            let mut records = core::mem::take(&mut self.damaged_mut(ino)?.records);
            records.sort();
            records.dedup_by_key(|r| r.key);
            self.changed.insert(ino, records);
        }
        Ok(())
    }

    fn check_seal(&mut self, ino: Ino) -> Res<()> {
        let Some(inode) = self.inode(ino)? else {
            return Ok(());
        };
        let seal = inode.seal;
        let (offset, records) = match self.seal_records(&inode)? {
            Ok(found) => found,
            Err(why) => {
                let off = self.inode_offset(seal).unwrap_or(inode.offset);
                let f = Finding::new(Structure::Seal, off, why)
                    .of(ino)
                    .fix("removed and the file unsealed: its data is unproven");
                if self.find(&f)? {
                    self.unseal(inode)?;
                }
                return Ok(());
            }
        };
        if let Some(info) = self.info_mut(seal) {
            info.marks |= SEAL_NAMED;
        }
        self.report.sealed = self.report.sealed.saturating_add(1);
        // A file without a name is on its way out: its extents may be gone already.
        if self.options.data && inode.nlink > 0 {
            self.verify(&inode, offset, &records)?;
        }
        Ok(())
    }

    /// The records of a file's seal, or why it cannot be used.
    fn seal_records(&self, inode: &Inode) -> Res<Result<(u64, Vec<Record>), String>> {
        if inode.seal == 0 {
            return Ok(Err("sealed without a seal".into()));
        }
        if inode.flags & iflag::SEALED == 0 {
            return Ok(Err("has a seal and is not sealed".into()));
        }
        let Some(info) = self.info(inode.seal).filter(|i| i.flags & iflag::SEAL != 0) else {
            return Ok(Err(format!("inode {} is no seal", inode.seal)));
        };
        if info.marks & SEAL_NAMED != 0 {
            return Ok(Err(format!("seal {} belongs to another file", inode.seal)));
        }
        if info.marks & LEFT != 0 || self.damaged.contains_key(&inode.seal) {
            return Ok(Err(format!("seal {} has lost records", inode.seal)));
        }
        let Some(seal) = self.inode(inode.seal)? else {
            return Ok(Err(format!("inode {} is no seal", inode.seal)));
        };
        let (records, _) = tree::records(&self.store, &self.geo, &seal)?;
        let mut last = None;
        for r in &records {
            let inside = r
                .key
                .checked_mul(SEAL_WINDOW)
                .is_some_and(|o| o < inode.size);
            if !inside || r.a > u64::from(u32::MAX) || r.b != 0 || last.is_some_and(|l| r.key <= l)
            {
                return Ok(Err(format!(
                    "impossible record of window {} in seal {}",
                    r.key, inode.seal
                )));
            }
            last = Some(r.key);
        }
        Ok(Ok((seal.offset, records)))
    }

    /// Unseals a file whose seal cannot be used, and gives the seal back if nobody else names it.
    fn unseal(&mut self, mut inode: Inode) -> Res<()> {
        let seal = inode.seal;
        inode.seal = 0;
        inode.flags &= !iflag::SEALED;
        self.put_inode(&inode);
        if let Some(info) = self.info_mut(inode.ino) {
            info.seal = 0;
            info.flags = inode.flags;
        }
        let ours = self
            .info(seal)
            .is_some_and(|i| i.flags & iflag::SEAL != 0 && i.marks & SEAL_NAMED == 0);
        if ours {
            let nodes = match self.damaged.remove(&seal) {
                Some(d) => d.nodes.into_iter().collect(),
                None => match self.inode(seal)? {
                    Some(s) => tree::records(&self.store, &self.geo, &s)?.1.nodes,
                    None => Vec::new(),
                },
            };
            for page in nodes {
                self.claims.release(page, 1, seal);
            }
            let generation = self.info(seal).map_or(0, |i| i.generation);
            self.free_inode(seal, generation);
        }
        self.store.commit()?;
        Ok(())
    }

    /// Reads the sealed windows of a file and compares.
    fn verify(&mut self, inode: &Inode, seal_off: u64, seal: &[Record]) -> Res<()> {
        let extents = match self.changed.get(&inode.ino) {
            Some(r) => r.clone(),
            None => tree::records(&self.store, &self.geo, inode)?.0,
        };
        let mut sums = seal.iter().peekable();
        let mut hole = None;
        for r in seal {
            let start = r.key.saturating_mul(SEAL_WINDOW);
            let end = start.saturating_add(SEAL_WINDOW).min(inode.size);
            let i = extents.partition_point(|e| {
                e.key.saturating_add(e.b & EXTENT_LEN).saturating_mul(PAGE) <= start
            });
            let empty = extents
                .get(i)
                .is_none_or(|e| e.key.saturating_mul(PAGE) >= end);
            let (crc, first) = match hole {
                // A file can have any number of windows that are holes.
                Some(crc) if empty && end - start == SEAL_WINDOW => (crc, None),
                _ => self.window_sum(&extents, start, end)?,
            };
            if empty && end - start == SEAL_WINDOW {
                hole = Some(crc);
            }
            if u64::from(crc) != r.a {
                let f = Finding::new(
                    Structure::Data,
                    first.unwrap_or(seal_off),
                    format!(
                        "bytes [{start}, {end}) of the file are not those that were sealed                          (CRC-32 {crc:08x}, sealed {:08x}): restore the file from elsewhere, or                          unseal it to take it as it is",
                        r.a
                    ),
                )
                .of(inode.ino);
                self.find(&f)?;
            } else {
                self.report.verified = self.report.verified.saturating_add(end - start);
            }
            self.progress(Phase::Seals, end, inode.size)?;
        }
        // Data in a window that was a hole when the file was sealed.
        for e in extents.iter().filter(|e| e.b & EXTENT_UNWRITTEN == 0) {
            let mut window = e.key / CHUNK_PAGES;
            let last = e
                .key
                .saturating_add(e.b & EXTENT_LEN)
                .saturating_sub(1)
                .min(inode.size.div_ceil(PAGE).saturating_sub(1))
                / CHUNK_PAGES;
            while window <= last {
                while sums.next_if(|s| s.key < window).is_some() {}
                if sums.peek().is_none_or(|s| s.key != window) {
                    let f = Finding::new(
                        Structure::Data,
                        e.a.saturating_mul(PAGE),
                        format!("data in window {window} of the file, which was sealed as a hole"),
                    )
                    .of(inode.ino);
                    self.find(&f)?;
                    break;
                }
                window += 1;
            }
        }
        Ok(())
    }

    /// CRC-32 of bytes of a file, and the region offset of the first of them that is no hole.
    fn window_sum(&self, extents: &[Record], start: u64, end: u64) -> Res<(u32, Option<u64>)> {
        let host = self.store.host();
        let mut buf = vec![0u8; PAGE as usize * 16];
        let zeros = vec![0u8; buf.len()];
        let mut crc = 0;
        let mut first = None;
        let mut at = start;
        while at < end {
            let page = at / PAGE;
            let i = extents.partition_point(|e| e.key.saturating_add(e.b & EXTENT_LEN) <= page);
            let (source, run_end) = match extents.get(i) {
                Some(e) if e.key <= page => {
                    let inside = page - e.key;
                    let source = (e.b & EXTENT_UNWRITTEN == 0)
                        .then(|| e.a.saturating_add(inside).saturating_mul(PAGE) + at % PAGE);
                    (source, e.key.saturating_add(e.b & EXTENT_LEN))
                }
                Some(e) => (None, e.key),
                None => (None, u64::MAX),
            };
            let run_end = run_end.saturating_mul(PAGE).min(end);
            let n = (run_end - at).min(buf.len() as u64);
            let bytes = match source {
                Some(off) => {
                    first = first.or(Some(off));
                    let part = buf.get_mut(..n as usize).unwrap_or(&mut []);
                    self.store.read(off, part)?;
                    &*part
                }
                None => zeros.get(..n as usize).unwrap_or(&[]),
            };
            crc = host.crc32(crc, bytes);
            at = at.saturating_add(n.max(1));
        }
        Ok((crc, first))
    }
}
