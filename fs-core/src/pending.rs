// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Work that outlives a transaction: orphans and removals of many extents (LAYOUT.md, section 13).

use crate::error::{Error, Result};
use crate::extent;
use crate::fs::Fs;
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{lock, Need, Tx, TxResult};
use crate::layout::{self, body, iflag, system, PENDING_SETS};
use crate::record;
use crate::region::Region;
use crate::types::Ino;
use crate::xattr;

/// Extents or records removed by one transaction.
pub(crate) const PIECES: usize = 8;
/// Frees that the removal of one extent may need: its pages, and a node on each level.
const REMOVAL: usize = 9;
/// Frees that leaving a pending set may need, and those of an inode's attributes.
const LEAVE: usize = 8;
const LAST: usize = 2 * LEAVE + 9;

impl<R: Region, H: Host> Tx<'_, R, H> {
    /// The pending set of an inode, locked.
    fn pending_set(&mut self, ino: Ino, set: &mut Inode) -> TxResult<()> {
        let n = ino % PENDING_SETS;
        self.lock(lock::PENDING + n as usize)?;
        let owner = layout::PENDING_OWNER + n;
        Ok(self
            .fs
            .system_inode(self, system::PENDING + n, owner, set)?)
    }

    /// Puts an inode into its pending set. The inode is changed, not written.
    pub(crate) fn add_pending(&mut self, i: &mut Inode) -> TxResult<()> {
        if i.has(iflag::PENDING) {
            return Ok(());
        }
        let mut set = Inode::NONE;
        self.pending_set(i.ino(), &mut set)?;
        let generation = u64::from(i.generation());
        match record::insert(self, &mut set, &[i.ino(), generation, self.fs.epoch]) {
            Err(crate::journal::Fail::Err(Error::Exists)) => {
                return Err(Error::corrupt(set.off, "pending set: inode is there already").into())
            }
            other => other?,
        }
        self.put_inode(&set)?;
        i.set_flag(iflag::PENDING, true);
        self.pending += 1;
        Ok(())
    }

    /// Takes an inode out of its pending set. The inode is changed, not written.
    pub(crate) fn remove_pending(&mut self, i: &mut Inode) -> TxResult<()> {
        if !i.has(iflag::PENDING) {
            return Ok(());
        }
        let mut set = Inode::NONE;
        self.pending_set(i.ino(), &mut set)?;
        if !record::remove(self, &mut set, i.ino())? {
            return Err(Error::corrupt(set.off, "pending set: inode is missing").into());
        }
        self.put_inode(&set)?;
        i.set_flag(iflag::PENDING, false);
        self.pending -= 1;
        Ok(())
    }

    /// Removes up to [`PIECES`] extents of `lo..hi`, from the back. True when none is left.
    pub(crate) fn remove_extents(&mut self, i: &mut Inode, lo: u64, hi: u64) -> TxResult<bool> {
        let mut pages = 0;
        for _ in 0..PIECES {
            if !self.frees_left(REMOVAL + LEAVE) {
                break;
            }
            let before = i.pages();
            if !extent::remove_last(self, i, lo, hi)? {
                return Ok(true);
            }
            pages += before.saturating_sub(i.pages());
            if pages >= crate::space::MAX_FREE / 2 {
                break;
            }
        }
        Ok(extent::find_before(self, i, hi)?.is_none_or(|e| e.file_page + e.len <= lo))
    }
}

impl<R: Region, H: Host> Fs<R, H> {
    /// Finishes the removal of extents that this inode was left with.
    pub(crate) fn finish_intent(&self, ino: Ino) -> Result<()> {
        loop {
            let mut i = Inode::NONE;
            self.inode(self, ino, &mut i)?;
            if !i.has_intent() {
                return Ok(());
            }
            self.run(|tx| {
                tx.need = Need::Must;
                let mut i = Inode::NONE;
                self.inode(tx, ino, &mut i)?;
                let (lo, hi) = (i.intent_start(), i.intent_end());
                if tx.remove_extents(&mut i, lo, hi)? && tx.frees_left(LEAVE) {
                    i.set_intent_start(0);
                    i.set_intent_end(0);
                    if i.nlink() > 0 {
                        tx.remove_pending(&mut i)?;
                    }
                }
                Ok(tx.put_inode(&i)?)
            })?;
        }
    }

    /// Gives back all that an inode without links holds, then the inode.
    pub(crate) fn reclaim(&self, ino: Ino) -> Result<()> {
        let mut ino = ino;
        loop {
            let seal = self.run(|tx| {
                tx.need = Need::Must;
                let mut i = Inode::NONE;
                self.inode(tx, ino, &mut i)?;
                let is_seal = i.has(iflag::SEAL);
                if i.nlink() > 0 || !i.has(iflag::PENDING) {
                    return Ok(Some(0));
                }
                let mut done = true;
                let mut pieces = 0;
                if is_seal {
                    while tx.frees_left(REMOVAL) {
                        match record::find_le(tx, &i, u64::MAX)? {
                            Some(r) => record::must_remove(tx, &mut i, r[0])?,
                            None => break,
                        }
                        pieces += 1;
                        if pieces == PIECES {
                            break;
                        }
                    }
                    done = record::find_le(tx, &i, u64::MAX)?.is_none();
                } else if i.is_file() {
                    i.set_intent_start(0);
                    i.set_intent_end(u64::MAX);
                    done = tx.remove_extents(&mut i, 0, layout::MAX_PAGES)?;
                } else if i.is_symlink() && i.body_format() == body::TARGET_PAGE {
                    tx.free(i.root(), 1)?;
                    i.set_empty();
                    i.add_pages(-1);
                } else if i.is_dir() && i.records() > 0 {
                    return Err(Error::corrupt(i.off, "removed directory is not empty").into());
                }
                if !done || !tx.frees_left(LAST) {
                    tx.put_inode(&i)?;
                    return Ok(None);
                }
                xattr::free_all(tx, &mut i)?;
                tx.remove_pending(&mut i)?;
                let seal = i.seal();
                if seal != 0 {
                    if !i.is_file() || !i.has(iflag::SEALED) {
                        return Err(Error::corrupt(i.off, "seal of what is not sealed").into());
                    }
                    // Its links are none already; now nothing names it either.
                    let mut s = Inode::NONE;
                    self.seal_inode(tx, seal, &mut s)?;
                    tx.add_pending(&mut s)?;
                    tx.put_inode(&s)?;
                }
                tx.free_inode(&i)?;
                Ok(Some(seal))
            })?;
            match seal {
                None => {}
                Some(0) => return Ok(()),
                // A seal has none of its own.
                Some(seal) => ino = seal,
            }
        }
    }

    /// The first inode behind `after` whose pending work an earlier mount left. Work of this mount is
    /// in the hands of whoever holds the inode.
    pub(crate) fn next_pending(&self, set: u64, after: Ino) -> Result<Option<Ino>> {
        let mut after = after;
        loop {
            let Some(from) = after.checked_add(1) else {
                return Ok(None);
            };
            let id = lock::PENDING + set as usize;
            self.host.lock(id);
            let mut s = Inode::NONE;
            let owner = layout::PENDING_OWNER + set;
            let found = self
                .system_inode(self, system::PENDING + set, owner, &mut s)
                .and_then(|()| record::find_ge(self, &s, from));
            self.host.unlock(id);
            match found? {
                Some(r) if r[2] == self.epoch => after = r[0],
                other => return Ok(other.map(|r| r[0])),
            }
        }
    }

    /// Is there work for this inode that an earlier mount left? Its number may have been used anew since
    /// it was looked for.
    fn is_left_behind(&self, ino: Ino) -> Result<bool> {
        let set = ino % PENDING_SETS;
        Ok(self.next_pending(set, ino - 1)? == Some(ino))
    }

    /// Does what is pending for one inode. The caller has it locked, and nobody else holds it open.
    pub(crate) fn do_pending(&self, ino: Ino) -> Result<()> {
        if ino == 0 || !self.is_left_behind(ino)? {
            return Ok(());
        }
        let mut i = Inode::NONE;
        match self.inode(self, ino, &mut i) {
            Err(Error::Stale) => return Ok(()),
            other => other?,
        }
        if i.nlink() == 0 {
            self.reclaim(ino)
        } else {
            self.finish_intent(ino)
        }
    }
}
