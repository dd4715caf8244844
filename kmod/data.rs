// SPDX-License-Identifier: GPL-2.0
//! The bytes of files: read, written, allocated, copied.
//!
//! Locks, in this order: the inode lock (of writers), the invalidate lock (of who takes pages away), the
//! core's lock of the inode (`meta`). Copies are made under the last, and so with page faults disabled:
//! the memory on the other side may be a mapping of this very file.

use crate::errno::{Errno, Result};
use crate::host::go_on;
use crate::nodes;
use crate::vfs::inode::{LockedPair, MetaShared};
use crate::vfs::iov::Kiocb;
use crate::vfs::{File, Inode, IovIter};
use core::cell::Cell;
use fs_core::{Error, Extent, Fallocate, Host, Seek, PAGE_SIZE};

/// Copies that got nowhere, though the caller's memory was there, before we give up: it may have gone again.
/// Few for reading, as it may be the region's memory that has gone bad.
const PATIENCE: u32 = 16;
const PATIENCE_READING: u32 = 4;

/// What copy_file_range copies without a look at signals, in bytes.
const PIECE: u64 = 64 << 20;

/// Reads from the position of `io` on.
pub(crate) fn read(io: &mut Kiocb<'_>, iter: &mut IovIter<'_>) -> Result<u64> {
    let file = io.file();
    let inode = file.inode();
    let fs = inode.mount().fs();
    let mut done = 0;
    let mut failures = 0;
    // Where in the region a copy came to its end too early.
    let mut stuck = None;
    let result = loop {
        let before = done;
        let result = {
            let meta = match io.is_nowait() {
                true => match inode.try_meta_shared() {
                    Some(meta) => meta,
                    None => break Err(Errno::AGAIN),
                },
                false => inode.meta_shared(),
            };
            let at = io.position() + done;
            let want = iter.count();
            let left = inode.size().saturating_sub(at).min(want);
            let mut take = |from, n| {
                let got = iter.copy_out(fs.region(), from, n)?;
                done += got;
                if got < n {
                    stuck = from.map(|from: u64| from + got);
                    Err(Error::Fault)
                } else {
                    Ok(())
                }
            };
            match in_place(inode, &meta, at, left) {
                Some(from) => take(Some(from), left).map(|()| left),
                None => fs.read_with(inode.ino(), at, want, &mut take),
            }
        };
        match result {
            Ok(_) => break Ok(()),
            Err(Error::Fault) if io.is_nowait() => break Err(Errno::AGAIN),
            Err(Error::Fault) => {
                failures = if done > before { 0 } else { failures + 1 };
                let left = iter.count();
                if iter.fault_in_writeable(left) == left {
                    break Err(Errno::FAULT);
                }
                if failures > PATIENCE_READING {
                    // The other side is there: it is the region's memory that has gone bad.
                    if let Some(at) = stuck {
                        fs.region().probe(at);
                    }
                    break Err(Errno::IO);
                }
            }
            Err(e) => break Err(e.into()),
        }
    };
    io.advance(done);
    file.accessed();
    match result {
        Err(e) if done == 0 => Err(e),
        _ => Ok(done),
    }
}

/// Where in the region these bytes of a file are, if they are all written and lie together.
fn in_place(inode: &Inode, meta: &MetaShared<'_>, at: u64, len: u64) -> Option<u64> {
    let page = at / PAGE_SIZE;
    let last = at.checked_add(len.checked_sub(1)?)? / PAGE_SIZE;
    let offset = |run: Extent| {
        let skip = page.checked_sub(run.file_page)?;
        let covers = last - run.file_page < run.len;
        covers.then(|| (run.page + skip) * PAGE_SIZE + at % PAGE_SIZE)
    };
    let known = inode.remembered(meta).and_then(offset);
    known.or_else(|| {
        let run = inode.mount().fs().extent_at(inode.ino(), page).ok()??;
        if run.unwritten {
            return None;
        }
        inode.remember(meta, &run);
        offset(run)
    })
}

/// Writes all of it where nothing changes but bytes: in place, in the clock tick of the write before.
/// If not, some may be written already. The inode is locked.
fn overwrite(inode: &Inode, at: u64, iter: &IovIter<'_>) -> bool {
    let fs = inode.mount().fs();
    let len = iter.count();
    // The inode's lock keeps the size.
    if at.checked_add(len).is_none_or(|end| end > inode.size()) {
        return false;
    }
    let meta = inode.meta_shared();
    let [_, modified, changed] = inode.times();
    let now = fs.host().now();
    let bytes_only = (modified, changed) == (now, now) && !inode.is_sealed() && !fs.is_read_only();
    let to = bytes_only
        .then(|| in_place(inode, &meta, at, len))
        .flatten();
    to.is_some_and(|to| iter.copy_in(fs.region(), to, 0, len) == Ok(len))
}

/// Writes to the position of `io`.
pub(crate) fn write(io: &mut Kiocb<'_>, iter: &mut IovIter<'_>) -> Result<u64> {
    if io.is_nowait() {
        return Err(Errno::AGAIN);
    }
    let file = io.file();
    let inode = file.inode();
    let fs = inode.mount().fs();
    let _inode = inode.lock();
    if io.write_checks(iter)? == 0 {
        return Ok(0);
    }
    file.remove_privileges()?;
    let whole = iter.count();
    if overwrite(inode, io.position(), iter) {
        iter.advance(whole);
        io.advance(whole);
        return Ok(whole);
    }
    let mut done = 0;
    let mut failures = 0;
    let reached = Cell::new(0);
    let result = loop {
        let at = io.position() + done;
        let mut want = iter.count();
        if want == 0 {
            break Ok(());
        }
        // What came before the place where the last copy ended: what is there stops the next one at its first
        // byte, which is tried outside of locks.
        match reached.take() {
            0 => {}
            n => want = want.min(n),
        }
        if failures > 1 {
            // So much that not all of it stays in memory at once.
            want = want.min(PAGE_SIZE - at % PAGE_SIZE);
        }
        let result = {
            let _meta = inode.meta(0);
            let result = fs.write_with(inode.ino(), at, want, &|to, pos, n| {
                let came = iter.copy_in(fs.region(), to, pos, n)?;
                if came < n {
                    reached.set(pos + came);
                    return Err(Error::Fault);
                }
                Ok(())
            });
            if let Ok(written) = &result {
                inode.refresh(&written.attr);
            }
            result
        };
        match result {
            Ok(written) => {
                if written.mapped && !inode.is_unmapped() {
                    inode.forget_mappings(at, at + written.bytes);
                }
                reached.set(reached.get().saturating_sub(written.bytes));
                iter.advance(written.bytes);
                done += written.bytes;
                failures = 0;
            }
            Err(Error::Fault) => {
                failures += 1;
                if iter.fault_in_readable(want) == want || failures > PATIENCE {
                    break Err(Errno::FAULT);
                }
            }
            Err(e) => {
                // Some pieces may be written. If that cannot be read, the first error is the one to tell.
                let meta = inode.meta(0);
                let _ = nodes::refresh(inode);
                drop(meta);
                if !inode.is_unmapped() {
                    inode.forget_mappings(at, at + want);
                }
                break Err(e.into());
            }
        }
    };
    io.advance(done);
    match result {
        Err(e) if done == 0 => Err(e),
        _ => Ok(done),
    }
}

/// fallocate(2).
pub(crate) fn allocate(file: &File, what: Fallocate, start: u64, len: u64) -> Result {
    let inode = file.inode();
    let fs = inode.mount().fs();
    let end = start.checked_add(len).ok_or(Errno::INVALID)?;
    let _inode = inode.lock();
    if let Fallocate::Allocate { keep_size: false } | Fallocate::ZeroRange { keep_size: false } =
        what
    {
        inode.may_grow_to(end)?;
    }
    file.remove_privileges()?;
    let _faults = match what {
        Fallocate::Allocate { .. } => None,
        Fallocate::PunchHole | Fallocate::ZeroRange { .. } => {
            let faults = inode.invalidate_lock();
            inode.wait_for_users(&faults, start, end)?;
            // Whole pages lose their place; the edges are zeroed where they are.
            let first = start.next_multiple_of(PAGE_SIZE);
            let last = match end >= inode.size() {
                true => end.next_multiple_of(PAGE_SIZE),
                false => end - end % PAGE_SIZE,
            };
            if first < last {
                inode.drop_mappings(&faults, first, last);
            }
            Some(faults)
        }
    };
    let _meta = inode.meta(0);
    let result = fs.fallocate(inode.ino(), what, start, len);
    nodes::refresh(inode)?;
    Ok(result?)
}

/// copy_file_range(2) inside one region.
pub(crate) fn copy(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> Result<u64> {
    let (source, target) = (from.inode(), to.inode());
    let fs = target.mount().fs();
    let _inodes = LockedPair::new(source, target);
    to.remove_privileges()?;
    let mut done = 0;
    let result = loop {
        let want = (len - done).min(PIECE);
        if want == 0 {
            break Ok(());
        }
        let copied = {
            let _all = Inode::meta_of([
                (!source.is_same(target)).then_some(source),
                Some(target),
                None,
                None,
            ]);
            let (from_at, to_at) = (from_at + done, to_at + done);
            let copied = fs.copy_range(source.ino(), from_at, target.ino(), to_at, want);
            nodes::refresh(target)?;
            copied
        };
        match copied {
            Ok(n) => done += n,
            Err(e) => {
                // Some of it may be there.
                if !target.is_unmapped() {
                    target.forget_mappings(to_at + done, to_at + done + want);
                }
                break Err(Errno::from(e));
            }
        }
        // The end of the source, or of space; or of the task's patience.
        if copied != Ok(want) || !go_on() {
            break Ok(());
        }
    };
    if done > 0 && !target.is_unmapped() {
        target.forget_mappings(to_at, to_at + done);
    }
    from.accessed();
    match result {
        Err(e) if done == 0 => Err(e),
        _ => Ok(done),
    }
}

/// SEEK_DATA and SEEK_HOLE.
pub(crate) fn seek(file: &File, offset: u64, what: Seek) -> Result<i64> {
    let inode = file.inode();
    let at = {
        let _meta = inode.meta_shared();
        inode.mount().fs().seek(inode.ino(), offset, what)?
    };
    Ok(file.set_position(at))
}
