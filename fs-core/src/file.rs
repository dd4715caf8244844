// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The bytes of regular files: read, write, truncate, fallocate, seek, copy.
//!
//! Ordering rule of every write here: bytes are in place before the extent that makes them visible
//! is committed, and the size is raised by the same transaction that makes a piece written.

use crate::error::{of_file, Error, Result};
use crate::extent;
use crate::fs::Fs;
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Need, Tx, TxResult, View};
use crate::layout::{iflag, CHUNK_PAGES, MAX_PAGES, PAGE};
use crate::region::Region;
use crate::space::{offset, Want};
use crate::types::{Extent, Fallocate, Ino, Seek, Written, FILE_SIZE_MAX};
use core::ops::Range;

/// A write of at most so many pages into a hole is one transaction, bytes included.
const SMALL: u64 = 8;

/// What lies at a page of a file.
enum Piece {
    /// Pages of the region, from the asked one on.
    Mapped(Extent),
    /// Nothing, up to (not including) this page.
    Hole(u64),
}

/// Where a file's new pages should be.
fn placement<R: Region, H: Host, V: View<R, H>>(
    view: &V,
    inode: &Inode,
    lo: u64,
    pages: u64,
) -> Result<Want> {
    let window = lo / CHUNK_PAGES;
    let colour = (lo >= CHUNK_PAGES || pages >= CHUNK_PAGES / 2).then_some(lo % CHUNK_PAGES);
    let mut want = Want {
        pages,
        least: 1,
        goal: None,
        colour,
    };
    if let Some(e) = extent::find_before(view, inode, lo)? {
        let end = e.file_page + e.len;
        if end == lo || (end - 1) / CHUNK_PAGES == window {
            want.goal = e.page.checked_add(lo - e.file_page);
        }
    }
    if want.goal.is_none() {
        if let Some(e) = extent::find_next(view, inode, lo)? {
            if e.file_page / CHUNK_PAGES == window && e.file_page > lo {
                want.goal = e.page.checked_sub(e.file_page - lo);
            }
        }
    }
    if let Some(goal) = want.goal {
        if goal % CHUNK_PAGES != lo % CHUNK_PAGES {
            // The run is out of step with 2 MiB: it may end its window, but not begin another.
            if lo % CHUNK_PAGES == 0 {
                want.goal = None;
            } else {
                want.pages = pages.min(CHUNK_PAGES - lo % CHUNK_PAGES);
            }
        }
    }
    // What begins a window with little is the end of a file, as often as not. Where whole chunks are
    // scarce it does not get one of its own: they are for those who fill them.
    if lo % CHUNK_PAGES == 0 && pages < CHUNK_PAGES / 2 && view.fs().is_tight() {
        want.goal = None;
        want.colour = None;
    }
    Ok(want)
}

/// Allocates pages for the hole at `lo` and adds them to the file. Returns (region page, number).
fn fill_hole<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    lo: u64,
    pages: u64,
    least: u64,
    unwritten: bool,
) -> TxResult<(u64, u64)> {
    let want = placement(tx, inode, lo, pages)?;
    let (page, len) = tx.alloc(Want { least, ..want })?;
    extent::insert(tx, inode, lo, page, len, unwritten)?;
    inode.add_pages(len as i64);
    Ok((page, len))
}

/// Copies `len` bytes that begin at position `pos` of a source to an offset of the region.
pub(crate) type Fill<'f> = dyn Fn(u64, u64, u64) -> Result<()> + 'f;
/// Takes `len` bytes from an offset of the region, or so many zeros.
pub(crate) type Take<'t> = dyn FnMut(Option<u64>, u64) -> Result<()> + 't;

impl<R: Region, H: Host> Fs<R, H> {
    /// A regular file.
    fn file<V: View<R, H>>(&self, view: &V, ino: Ino, i: &mut Inode) -> Result<()> {
        self.inode(view, ino, i)?;
        if i.is_file() {
            Ok(())
        } else if i.is_dir() {
            Err(Error::IsDirectory)
        } else {
            Err(Error::Invalid)
        }
    }

    /// A regular file that may be written, with no removal of extents left to do.
    fn writable(&self, ino: Ino, i: &mut Inode) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        self.file(self, ino, i)?;
        if i.has(iflag::SEALED) {
            return Err(Error::NotPermitted);
        }
        if i.has_intent() {
            self.finish_intent(ino)?;
            self.file(self, ino, i)?;
        }
        Ok(())
    }

    fn piece(&self, i: &Inode, page: u64) -> Result<Piece> {
        let (lo, hi) = (i.intent_start(), i.intent_end());
        if (lo..hi).contains(&page) {
            return Ok(Piece::Hole(hi));
        }
        match extent::find_next(self, i, page)? {
            Some(e) if e.file_page <= page => {
                let mut end = e.file_page + e.len;
                if lo < hi && lo > page {
                    end = end.min(lo);
                }
                let skip = page - e.file_page;
                let page = e.page + skip;
                let file_page = e.file_page + skip;
                Ok(Piece::Mapped(Extent {
                    file_page,
                    page,
                    len: end - file_page,
                    ..e
                }))
            }
            Some(e) => Ok(Piece::Hole(e.file_page)),
            None => Ok(Piece::Hole(MAX_PAGES)),
        }
    }

    pub(crate) fn do_extent_at(&self, ino: Ino, file_page: u64) -> Result<Option<Extent>> {
        let mut i = Inode::NONE;
        self.file(self, ino, &mut i)?;
        let mut page = file_page;
        loop {
            match self.piece(&i, page)? {
                Piece::Mapped(e) => return Ok(Some(e)),
                Piece::Hole(end) if end >= MAX_PAGES => return Ok(None),
                Piece::Hole(end) => page = end,
            }
        }
    }

    pub(crate) fn do_read(&self, ino: Ino, at: u64, buf: &mut [u8]) -> Result<usize> {
        let len = buf.len() as u64;
        let mut rest = buf;
        let read = self.do_read_with(ino, at, len, &mut |from, n| {
            let (head, tail) = core::mem::take(&mut rest)
                .split_at_mut_checked(n as usize)
                .ok_or(Error::Invalid)?;
            rest = tail;
            match from {
                Some(from) => of_file(self.region.read(from, head)),
                None => {
                    head.fill(0);
                    Ok(())
                }
            }
        });
        read.map(|n| n as usize)
    }

    pub(crate) fn do_read_with(
        &self,
        ino: Ino,
        at: u64,
        len: u64,
        take: &mut Take<'_>,
    ) -> Result<u64> {
        let mut i = Inode::NONE;
        self.file(self, ino, &mut i)?;
        let len = i.size().saturating_sub(at).min(len);
        let mut done = 0;
        while done < len {
            let at = at + done;
            let page = at / PAGE;
            let (end, from) = match self.piece(&i, page)? {
                Piece::Mapped(e) => (
                    (page + e.len) * PAGE,
                    (!e.unwritten).then(|| offset(e.page) + at % PAGE),
                ),
                Piece::Hole(end) => (end.saturating_mul(PAGE), None),
            };
            let n = (end - at).min(len - done);
            take(from, n)?;
            done += n;
        }
        Ok(len)
    }

    /// Zeros the bytes `from..to` of the file, where they are written.
    fn zero_bytes(&self, i: &Inode, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        while at < to {
            let page = at / PAGE;
            let end = match self.piece(i, page)? {
                Piece::Mapped(e) => {
                    let end = ((page + e.len) * PAGE).min(to);
                    if !e.unwritten {
                        of_file(self.region.zero(offset(e.page) + at % PAGE, end - at))?;
                    }
                    end
                }
                Piece::Hole(end) => end.saturating_mul(PAGE),
            };
            at = end;
        }
        Ok(())
    }

    /// Zeros what the last page holds behind the size: it is about to become visible.
    fn zero_tail(&self, i: &Inode) -> Result<()> {
        self.zero_bytes(i, i.size(), i.size().next_multiple_of(PAGE))
    }

    pub(crate) fn do_zero_behind_size(&self, ino: Ino) -> Result<()> {
        let mut i = Inode::NONE;
        self.writable(ino, &mut i)?;
        self.zero_tail(&i)
    }

    /// Records that data changed, and that the file reaches to `end` at least. `i` is the inode as it
    /// is now.
    fn touch(&self, i: &mut Inode, end: u64) -> Result<()> {
        let now = self.host.now();
        if i.size() >= end && i.mtime() == now && i.ctime() == now {
            return Ok(());
        }
        let ino = i.ino();
        self.run(|tx| {
            tx.need = Need::Must;
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            dirty(&mut i, now, end);
            Ok(tx.put_inode(&i)?)
        })?;
        dirty(i, now, end);
        Ok(())
    }

    pub(crate) fn do_write(&self, ino: Ino, at: u64, data: &[u8]) -> Result<usize> {
        let fill: &Fill<'_> = &|to, pos, n| {
            let bytes = data
                .get(pos as usize..(pos + n) as usize)
                .ok_or(Error::Invalid)?;
            of_file(self.region.write(to, bytes))
        };
        let mut i = Inode::NONE;
        let (n, _) = self.write_from(&mut i, ino, at, data.len() as u64, fill)?;
        Ok(n as usize)
    }

    pub(crate) fn do_write_with(
        &self,
        ino: Ino,
        at: u64,
        len: u64,
        fill: &Fill<'_>,
    ) -> Result<Written> {
        let mut i = Inode::NONE;
        let (bytes, mapped) = self.write_from(&mut i, ino, at, len, fill)?;
        Ok(Written {
            bytes,
            mapped,
            attr: i.attr(),
        })
    }

    /// Writes `len` bytes from `at` on, and leaves the inode in `i`. Short when space or the source
    /// ends in the middle. Says too whether pages became data.
    fn write_from(
        &self,
        i: &mut Inode,
        ino: Ino,
        at: u64,
        len: u64,
        fill: &Fill<'_>,
    ) -> Result<(u64, bool)> {
        self.writable(ino, i)?;
        if len == 0 {
            return Ok((0, false));
        }
        let end = match at.checked_add(len) {
            Some(end) if end <= FILE_SIZE_MAX => end,
            _ => return Err(Error::FileTooBig),
        };
        if at > i.size() {
            self.zero_tail(i)?;
        }
        let mut done = 0;
        let mut mapped = false;
        let mut reserved = 0..0;
        while done < len {
            match self.write_piece(i, at + done, end, done, fill, &mut reserved) {
                Ok((n, changed)) => {
                    done += n;
                    if changed {
                        mapped = true;
                        self.file(self, ino, i)?;
                    }
                }
                Err(e) => {
                    // Pages taken for what cannot be written after all are not kept.
                    self.unreserve(ino, reserved)?;
                    if matches!(e, Error::NoSpace | Error::Fault | Error::Io) && done > 0 {
                        self.file(self, ino, i)?;
                        break;
                    }
                    return Err(e);
                }
            }
        }
        self.touch(i, at + done)?;
        Ok((done, mapped))
    }

    /// The extent at a page of the file, made data where it is not: zeros. See [`Fs::map_written`].
    pub(crate) fn do_map_written(&self, ino: Ino, page: u64, pages: u64) -> Result<Extent> {
        let mut i = Inode::NONE;
        self.writable(ino, &mut i)?;
        let mut reserved = 0..0;
        loop {
            let e = match self.piece(&i, page)? {
                Piece::Mapped(e) if !e.unwritten => return Ok(e),
                _ => {
                    let at = page.checked_mul(PAGE).ok_or(Error::FileTooBig)?;
                    let end = at.saturating_add(pages.saturating_mul(PAGE)).min(i.size());
                    if at >= end {
                        return Err(Error::PastEnd);
                    }
                    self.write_piece(
                        &i,
                        at,
                        end,
                        0,
                        &|to, _, n| of_file(self.region.zero(to, n)),
                        &mut reserved,
                    )
                }
            };
            if let Err(e) = e {
                self.unreserve(ino, reserved)?;
                return Err(e);
            }
            self.file(self, ino, &mut i)?;
        }
    }

    /// Gives back unwritten pages that a write allocated and did not fill.
    fn unreserve(&self, ino: Ino, pages: Range<u64>) -> Result<()> {
        if pages.is_empty() || self.is_read_only() {
            return Ok(());
        }
        self.run(|tx| {
            tx.need = Need::Must;
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            self.remove_range(tx, &mut i, pages.start, pages.end)?;
            Ok(tx.put_inode(&i)?)
        })?;
        self.finish_intent(ino)
    }

    /// Writes one piece of `at..end`. Returns how many bytes, and whether the inode changed. `reserved`
    /// is what this write has allocated and not written yet.
    fn write_piece(
        &self,
        i: &Inode,
        at: u64,
        end: u64,
        pos: u64,
        fill: &Fill<'_>,
        reserved: &mut Range<u64>,
    ) -> Result<(u64, bool)> {
        let page = at / PAGE;
        let last = end.div_ceil(PAGE);
        let ino = i.ino();
        let now = self.host.now();
        match self.piece(i, page)? {
            Piece::Mapped(e) if !e.unwritten => {
                let to = offset(e.page) + at % PAGE;
                let n = self
                    .region
                    .before_bad(to, ((page + e.len) * PAGE).min(end) - at);
                fill(to, pos, n)?;
                Ok((n, false))
            }
            Piece::Mapped(e) => {
                let whole = (last.min(page + e.len) - page) * PAGE;
                let stop = page + self.region.before_bad(offset(e.page), whole) / PAGE;
                let n = (stop * PAGE).min(end) - at;
                self.fill_pages(e.page, stop - page, at, n, pos, fill)?;
                self.run(|tx| {
                    // These pages were promised; a split may need a tree node.
                    tx.need = Need::Promised;
                    let mut i = Inode::NONE;
                    self.inode(tx, ino, &mut i)?;
                    extent::convert(tx, &mut i, page, stop, false)?;
                    dirty(&mut i, now, at + n);
                    Ok(tx.put_inode(&i)?)
                })?;
                reserved.start = reserved.start.max(stop);
                Ok((n, true))
            }
            Piece::Hole(hole_end) => {
                let stop = last.min(hole_end);
                let pages = stop - page;
                if pages > SMALL {
                    let got = self.run(|tx| {
                        let mut i = Inode::NONE;
                        self.inode(tx, ino, &mut i)?;
                        let (_, got) = fill_hole(tx, &mut i, page, pages, 1, true)?;
                        tx.put_inode(&i)?;
                        Ok(got)
                    })?;
                    *reserved = page..page + got;
                    return Ok((0, true));
                }
                let n = self.run(|tx| {
                    let mut i = Inode::NONE;
                    self.inode(tx, ino, &mut i)?;
                    let (to, got) = fill_hole(tx, &mut i, page, pages, 1, false)?;
                    let n = ((page + got) * PAGE).min(end) - at;
                    self.fill_pages(to, got, at, n, pos, fill)?;
                    dirty(&mut i, now, at + n);
                    tx.put_inode(&i)?;
                    Ok(n)
                })?;
                Ok((n, true))
            }
        }
    }

    /// Fills pages that nobody can read yet: `n` bytes from the place of `at` on, zeros around them.
    fn fill_pages(
        &self,
        page: u64,
        pages: u64,
        at: u64,
        n: u64,
        pos: u64,
        fill: &Fill<'_>,
    ) -> Result<()> {
        let base = offset(page);
        let skip = at % PAGE;
        of_file(self.region.zero(base, skip))?;
        fill(base + skip, pos, n)?;
        of_file(self.region.zero(base + skip + n, pages * PAGE - skip - n))
    }

    pub(crate) fn do_overwrite(
        &self,
        ino: Ino,
        at: u64,
        len: u64,
        fill: &Fill<'_>,
    ) -> Result<bool> {
        let mut i = Inode::NONE;
        self.file(self, ino, &mut i)?;
        let now = self.host.now();
        let end = match at.checked_add(len) {
            Some(end) if end <= i.size() => end,
            _ => return Ok(false),
        };
        if self.is_read_only()
            || i.has(iflag::SEALED)
            || i.has_intent()
            || i.mtime() != now
            || i.ctime() != now
        {
            return Ok(false);
        }
        // All of it must be there before any of it is written.
        let mut page = at / PAGE;
        while page < end.div_ceil(PAGE) {
            match self.piece(&i, page)? {
                Piece::Mapped(e) if !e.unwritten => page += e.len,
                _ => return Ok(false),
            }
        }
        let mut done = 0;
        while done < len {
            let at = at + done;
            let page = at / PAGE;
            let Piece::Mapped(e) = self.piece(&i, page)? else {
                return Err(Error::Stale);
            };
            let n = ((page + e.len) * PAGE - at).min(len - done);
            fill(offset(e.page) + at % PAGE, done, n)?;
            done += n;
        }
        Ok(true)
    }

    /// Changes the size of a file, with the other attributes that `set` changes.
    pub(crate) fn resize(
        &self,
        ino: Ino,
        size: u64,
        set: &mut dyn FnMut(&mut Inode),
    ) -> Result<()> {
        let mut i = Inode::NONE;
        self.writable(ino, &mut i)?;
        if size > FILE_SIZE_MAX {
            return Err(Error::FileTooBig);
        }
        if size > i.size() {
            self.zero_tail(&i)?;
        }
        let shrink = size < i.size();
        self.run(|tx| {
            tx.need = Need::Must;
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            i.set_size(size);
            set(&mut i);
            if shrink {
                self.remove_range(tx, &mut i, size.div_ceil(PAGE), MAX_PAGES)?;
            }
            Ok(tx.put_inode(&i)?)
        })?;
        self.finish_intent(ino)
    }

    /// Removes extents, or as many as one transaction can and leaves an intent for the others.
    fn remove_range(&self, tx: &mut Tx<'_, R, H>, i: &mut Inode, lo: u64, hi: u64) -> TxResult<()> {
        if lo < hi && !tx.remove_extents(i, lo, hi)? {
            i.set_intent_start(lo);
            i.set_intent_end(hi);
            tx.add_pending(i)?;
        }
        Ok(())
    }

    pub(crate) fn do_fallocate(&self, ino: Ino, what: Fallocate, at: u64, len: u64) -> Result<()> {
        let mut i = Inode::NONE;
        self.writable(ino, &mut i)?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        let end = match at.checked_add(len) {
            Some(end) if end <= FILE_SIZE_MAX => end,
            _ => return Err(Error::FileTooBig),
        };
        match what {
            Fallocate::Allocate { keep_size } => {
                self.allocate(ino, at / PAGE, end.div_ceil(PAGE))?;
                self.finish_range(ino, if keep_size { 0 } else { end })
            }
            Fallocate::PunchHole => self.punch(&i, at, end),
            Fallocate::ZeroRange { keep_size } => {
                // What can fail comes before what changes bytes.
                self.allocate(ino, at / PAGE, end.div_ceil(PAGE))?;
                self.file(self, ino, &mut i)?;
                let (lo, hi) = self.zero_edges(&i, at, end)?;
                self.make_unwritten(ino, lo, hi)?;
                self.finish_range(ino, if keep_size { 0 } else { end })
            }
        }
    }

    /// Ends an operation that may have raised the size to `end`.
    fn finish_range(&self, ino: Ino, end: u64) -> Result<()> {
        let mut i = Inode::NONE;
        self.file(self, ino, &mut i)?;
        if end > i.size() {
            self.zero_tail(&i)?;
        }
        self.touch(&mut i, end)
    }

    /// Zeros the parts of pages at both ends of a range; returns the whole pages between them.
    fn zero_edges(&self, i: &Inode, at: u64, end: u64) -> Result<(u64, u64)> {
        let lo = at.div_ceil(PAGE);
        // Nothing of the last page is visible behind the size.
        let hi = if end >= i.size() {
            end.div_ceil(PAGE)
        } else {
            end / PAGE
        };
        if hi < lo {
            self.zero_bytes(i, at, end)?;
            return Ok((lo, lo));
        }
        self.zero_bytes(i, at, lo * PAGE)?;
        self.zero_bytes(i, hi * PAGE, end)?;
        Ok((lo, hi))
    }

    fn punch(&self, i: &Inode, at: u64, end: u64) -> Result<()> {
        let (lo, hi) = self.zero_edges(i, at, end)?;
        let now = self.host.now();
        let ino = i.ino();
        self.run(|tx| {
            tx.need = Need::Must;
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            dirty(&mut i, now, 0);
            self.remove_range(tx, &mut i, lo, hi)?;
            Ok(tx.put_inode(&i)?)
        })?;
        self.finish_intent(ino)
    }

    /// Allocates the holes of a range as unwritten pages.
    fn allocate(&self, ino: Ino, lo: u64, hi: u64) -> Result<()> {
        let mut i = Inode::NONE;
        let mut page = lo;
        while page < hi {
            self.file(self, ino, &mut i)?;
            match self.piece(&i, page)? {
                Piece::Mapped(e) => page += e.len,
                Piece::Hole(end) => {
                    let pages = end.min(hi) - page;
                    let free = self.available();
                    if pages > free {
                        return Err(Error::NoSpace);
                    }
                    page += self.run(|tx| {
                        let mut i = Inode::NONE;
                        self.inode(tx, ino, &mut i)?;
                        let (_, got) = fill_hole(tx, &mut i, page, pages, 1, true)?;
                        tx.put_inode(&i)?;
                        Ok(got)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Makes the written pages of a range unwritten.
    fn make_unwritten(&self, ino: Ino, lo: u64, hi: u64) -> Result<()> {
        let mut i = Inode::NONE;
        let mut page = lo;
        while page < hi {
            self.file(self, ino, &mut i)?;
            match self.piece(&i, page)? {
                Piece::Mapped(e) => {
                    let stop = hi.min(page + e.len);
                    if !e.unwritten {
                        self.run(|tx| {
                            tx.need = Need::Promised;
                            let mut i = Inode::NONE;
                            self.inode(tx, ino, &mut i)?;
                            extent::convert(tx, &mut i, page, stop, true)?;
                            Ok(tx.put_inode(&i)?)
                        })?;
                    }
                    page = stop;
                }
                Piece::Hole(end) => page = end,
            }
        }
        Ok(())
    }

    pub(crate) fn do_seek(&self, ino: Ino, at: u64, what: Seek) -> Result<u64> {
        let mut i = Inode::NONE;
        self.file(self, ino, &mut i)?;
        if at >= i.size() {
            return Err(Error::PastEnd);
        }
        let mut page = at / PAGE;
        while page * PAGE < i.size() {
            let (data, next) = match self.piece(&i, page)? {
                Piece::Mapped(e) => (!e.unwritten, page + e.len),
                Piece::Hole(end) => (false, end.min(MAX_PAGES)),
            };
            if data == (what == Seek::Data) {
                return Ok(at.max(page * PAGE));
            }
            page = next;
        }
        match what {
            Seek::Data => Err(Error::PastEnd),
            Seek::Hole => Ok(i.size()),
        }
    }

    pub(crate) fn do_copy_range(
        &self,
        from: Ino,
        from_at: u64,
        to: Ino,
        to_at: u64,
        len: u64,
    ) -> Result<u64> {
        let mut source = Inode::NONE;
        self.file(self, from, &mut source)?;
        let len = source.size().saturating_sub(from_at).min(len);
        let mut i = Inode::NONE;
        self.writable(to, &mut i)?;
        if to_at.checked_add(len).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(Error::FileTooBig);
        }
        if from == to && from_at.abs_diff(to_at) < len {
            return Err(Error::Invalid);
        }
        let mut done = 0;
        while done < len {
            // The source changes too when it is the same file.
            self.file(self, from, &mut source)?;
            let at = from_at + done;
            let page = at / PAGE;
            let n = match self.piece(&source, page)? {
                Piece::Mapped(e) => {
                    let n = ((page + e.len) * PAGE - at).min(len - done);
                    if e.unwritten {
                        self.write_zeros(to, to_at + done, n).map(|()| n)
                    } else {
                        let base = offset(e.page) + at % PAGE;
                        let n = self.region.before_bad(base, n);
                        let copy: &Fill<'_> =
                            &|dst, pos, n| of_file(self.region.copy(base + pos, dst, n));
                        self.write_from(&mut i, to, to_at + done, n, copy)
                            .map(|(n, _)| n)
                    }
                }
                Piece::Hole(end) => {
                    let n = (end.saturating_mul(PAGE) - at).min(len - done);
                    self.write_zeros(to, to_at + done, n).map(|()| n)
                }
            };
            match n {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Error::NoSpace | Error::Io) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Makes a range read as zeros without allocating anything.
    fn write_zeros(&self, ino: Ino, at: u64, len: u64) -> Result<()> {
        let mut i = Inode::NONE;
        self.writable(ino, &mut i)?;
        if at + len > i.size() {
            self.zero_tail(&i)?;
        }
        self.zero_bytes(&i, at, at + len)?;
        self.touch(&mut i, at + len)
    }
}

/// Data of the file changed, and reaches to `end` at least.
fn dirty(i: &mut Inode, now: i64, end: u64) {
    i.set_mtime(now);
    i.set_ctime(now);
    if end > i.size() {
        i.set_size(end);
    }
}
