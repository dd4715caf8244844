// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Seals: a checksum for each 2 MiB window of a file's data, and the promise not to change it.

use crate::error::{of_file, Error, Result};
use crate::extent;
use crate::fs::Fs;
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Need, View};
use crate::layout::{iflag, PAGE, SEAL_WINDOW, SECTOR};
use crate::record;
use crate::region::Region;
use crate::space::offset;
use crate::types::Ino;

/// Windows recorded by one transaction.
const BATCH: usize = 16;

impl<R: Region, H: Host> Fs<R, H> {
    fn sealable(&self, ino: Ino, i: &mut Inode) -> Result<()> {
        self.inode(self, ino, i)?;
        if i.is_file() {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    /// The checksum of a window, holes as zeros; and the region offset of its first written byte.
    fn window_sum(&self, i: &Inode, window: u64) -> Result<(u32, u64)> {
        let end = ((window + 1) * SEAL_WINDOW).min(i.size());
        let mut at = window * SEAL_WINDOW;
        let mut crc = 0;
        let mut first = i.off;
        let mut buf = [0u8; SECTOR as usize];
        while at < end {
            let page = at / PAGE;
            let (stop, from) = match extent::find_next(self, i, page)? {
                Some(e) if e.file_page <= page => {
                    let from = offset(e.page + (page - e.file_page)) + at % PAGE;
                    ((e.file_page + e.len) * PAGE, (!e.unwritten).then_some(from))
                }
                Some(e) => (e.file_page * PAGE, None),
                None => (end, None),
            };
            let stop = stop.min(end);
            if let (Some(from), true) = (from, first == i.off) {
                first = from;
            }
            let mut done = 0;
            while at < stop {
                let n = (stop - at).min(SECTOR);
                let b = buf.get_mut(..n as usize).unwrap_or_default();
                match from {
                    Some(from) => of_file(self.region.read(from + done, b))?,
                    None => b.fill(0),
                }
                crc = self.host.crc32(crc, b);
                at += n;
                done += n;
            }
        }
        Ok((crc, first))
    }

    /// The first window at or behind `window` that holds written pages below the size.
    fn next_window(&self, i: &Inode, window: u64) -> Result<Option<u64>> {
        let pages = SEAL_WINDOW / PAGE;
        let mut page = window * pages;
        while page * PAGE < i.size() {
            match extent::find_next(self, i, page)? {
                Some(e) if e.unwritten => page = e.file_page + e.len,
                Some(e) => {
                    let first = e.file_page.max(page);
                    return Ok((first * PAGE < i.size()).then_some(first / pages));
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    pub(crate) fn do_seal(&self, ino: Ino) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let mut i = Inode::NONE;
        self.sealable(ino, &mut i)?;
        if i.has(iflag::SEALED) {
            return Ok(());
        }
        if i.has_intent() {
            self.finish_intent(ino)?;
        }
        self.sealable(ino, &mut i)?;
        let now = self.host.now();
        // Until the file names it, the seal is pending: a crash leaves it to be reclaimed.
        let seal = self.run(|tx| {
            let mut s = Inode::NONE;
            tx.new_inode(&mut s)?;
            s.set_flag(iflag::SEAL, true);
            tx.add_pending(&mut s)?;
            tx.put_new_inode(&s)?;
            Ok(s.ino())
        })?;
        let sealed = self.record_windows(&i, seal).and_then(|()| {
            self.run(|tx| {
                let mut s = Inode::NONE;
                self.inode(tx, seal, &mut s)?;
                tx.remove_pending(&mut s)?;
                tx.put_inode(&s)?;
                let mut i = Inode::NONE;
                self.inode(tx, ino, &mut i)?;
                i.set_flag(iflag::SEALED, true);
                i.set_seal(seal);
                i.set_ctime(now);
                Ok(tx.put_inode(&i)?)
            })
        });
        if sealed.is_err() {
            self.reclaim(seal)?;
        }
        sealed
    }

    fn record_windows(&self, i: &Inode, seal: Ino) -> Result<()> {
        let mut window = Some(0);
        while let Some(from) = window {
            let mut batch = [[0u64; 3]; BATCH];
            let mut n = 0;
            window = Some(from);
            while let (Some(w), true) = (window, n < BATCH) {
                window = self.next_window(i, w)?;
                if let (Some(w), Some(r)) = (window, batch.get_mut(n)) {
                    *r = [w, u64::from(self.window_sum(i, w)?.0), 0];
                    n += 1;
                    window = Some(w + 1);
                }
            }
            if n > 0 {
                self.run(|tx| {
                    let mut s = Inode::NONE;
                    self.inode(tx, seal, &mut s)?;
                    for r in batch.iter().take(n) {
                        record::insert(tx, &mut s, r)?;
                    }
                    Ok(tx.put_inode(&s)?)
                })?;
            }
        }
        Ok(())
    }

    pub(crate) fn do_unseal(&self, ino: Ino) -> Result<()> {
        let mut i = Inode::NONE;
        self.sealable(ino, &mut i)?;
        if !i.has(iflag::SEALED) {
            return Ok(());
        }
        let now = self.host.now();
        let seal = i.seal();
        self.run(|tx| {
            tx.need = Need::Must;
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            i.set_flag(iflag::SEALED, false);
            i.set_seal(0);
            i.set_ctime(now);
            tx.put_inode(&i)?;
            let mut s = Inode::NONE;
            self.seal_inode(tx, seal, &mut s)?;
            tx.add_pending(&mut s)?;
            Ok(tx.put_inode(&s)?)
        })?;
        self.reclaim(seal)
    }

    pub(crate) fn seal_inode<V: View<R, H>>(
        &self,
        view: &V,
        seal: Ino,
        s: &mut Inode,
    ) -> Result<()> {
        match self.inode(view, seal, s) {
            Err(Error::Stale) => return Err(Error::corrupt(seal, "seal: inode is not in use")),
            other => other?,
        }
        if s.has(iflag::SEAL) && s.seal() == 0 && s.nlink() == 0 {
            Ok(())
        } else {
            Err(Error::corrupt(s.off, "seal: not one"))
        }
    }

    pub(crate) fn do_verify(&self, ino: Ino, at: u64) -> Result<Option<u64>> {
        let mut i = Inode::NONE;
        self.sealable(ino, &mut i)?;
        if !i.has(iflag::SEALED) {
            return Err(Error::NoData);
        }
        let mut s = Inode::NONE;
        self.seal_inode(self, i.seal(), &mut s)?;
        let window = at / SEAL_WINDOW;
        let sealed = record::find_ge(self, &s, window)?;
        let present = self.next_window(&i, window)?;
        match (sealed, present) {
            (None, None) => Ok(None),
            (Some(r), Some(w)) if r[0] == w => {
                let (crc, first) = self.window_sum(&i, w)?;
                if u64::from(crc) != r[1] {
                    return Err(Error::corrupt(first, "sealed data changed"));
                }
                let next = (w + 1) * SEAL_WINDOW;
                Ok((next < i.size()).then_some(next))
            }
            _ => Err(Error::corrupt(
                i.off,
                "sealed file: extents do not match the seal",
            )),
        }
    }
}
