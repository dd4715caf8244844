// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Transactions: sectors staged in a journal slot, committed by one store, then copied home.
//!
//! An operation reads and writes through its [`Tx`] as if it changed the structures in place. The
//! order of stores that makes it atomic (LAYOUT.md, section 9) is in [`Tx::finish`] and nowhere else.

use crate::bytes::{get32, get64, put32, put64};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::host::Host;
use crate::layout::{self, kind, node, slot, CRC_AT, PAGE, SECTOR};
use crate::region::Region;
use core::cell::Cell;
use core::sync::atomic::Ordering;

/// Why a transaction's closure ends early.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The operation failed.
    Err(Error),
    /// A lock was out of order: run again with all locks taken in order.
    Retry,
    /// No initialised group has room: open the next one, then run again.
    Grow,
}

impl From<Error> for Fail {
    fn from(e: Error) -> Self {
        Fail::Err(e)
    }
}

/// Result inside a transaction.
pub(crate) type TxResult<T> = core::result::Result<T, Fail>;

/// Core lock numbers, in the order in which they are taken.
pub(crate) mod lock {
    /// Groups, hashed.
    pub const GROUPS: usize = 0;
    /// How many locks the groups share.
    pub const GROUP_LOCKS: u64 = 64;
    /// Top summaries, hashed.
    pub const TOPS: usize = 64;
    /// How many locks the top summaries share.
    pub const TOP_LOCKS: u64 = 8;
    /// Inode shards.
    pub const SHARDS: usize = 72;
    /// Inode frontier and table.
    pub const ITABLE: usize = 88;
    /// Frontier of groups.
    pub const FRONTIER: usize = 89;
    /// Pending sets.
    pub const PENDING: usize = 90;
    /// Held while the inode table's map is copied home. Nothing is taken under it.
    pub const MAP: usize = 98;
    /// Journal slots: taken before all others.
    pub const SLOTS: usize = 128;
}

/// Something metadata can be read through: the region itself, or a transaction, which sees its own
/// staged sectors.
pub(crate) trait View<R: Region, H: Host> {
    /// The filesystem.
    fn fs(&self) -> &Fs<R, H>;
    /// Reads bytes.
    fn peek(&self, off: u64, buf: &mut [u8]) -> Result<()>;
    /// Is this sector staged (and so was checked when it was)?
    fn staged(&self, sector: u64) -> Result<bool>;
    /// Can a transaction be copying home what is read here? Then no core lock is held.
    fn is_unlocked(&self) -> bool;
}

impl<R: Region, H: Host> View<R, H> for Fs<R, H> {
    fn fs(&self) -> &Fs<R, H> {
        self
    }
    #[inline]
    fn peek(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.region.read(off, buf)
    }
    #[inline]
    fn staged(&self, _sector: u64) -> Result<bool> {
        Ok(false)
    }
    fn is_unlocked(&self) -> bool {
        true
    }
}

/// Most extents a transaction can free.
const MAX_FREES: usize = 32;

/// How urgently a transaction needs pages: a reserve is kept so that a full region can be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All of the reserve is left alone.
    Ordinary,
    /// The pages were promised (a write into preallocated ones): half of the reserve.
    Promised,
    /// It gives space back, and must not fail: all that is left.
    Must,
}

/// A running transaction.
pub(crate) struct Tx<'a, R: Region, H: Host> {
    /// The filesystem.
    pub fs: &'a Fs<R, H>,
    /// The slot it owns.
    pub slot: u64,
    /// How far it may go into the last free pages.
    pub need: Need,
    /// Does it change the inode table's map? Readers of the map are told to look again.
    pub itable: bool,
    /// Pages taken, so far.
    pub taken: u64,
    /// Pages taken off the filesystem's count of free pages; given back if nothing comes of it.
    pub claimed: u64,
    /// Change of the count of used inodes.
    pub inodes: i64,
    /// Change of the count of pending work.
    pub pending: i64,
    base: u64,
    n: u64,
    last: Cell<u64>,
    held: u128,
    conflict: u128,
    frees: [(u64, u64); MAX_FREES],
    nfrees: usize,
}

impl<'a, R: Region, H: Host> View<R, H> for Tx<'a, R, H> {
    fn fs(&self) -> &Fs<R, H> {
        self.fs
    }

    fn peek(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        if self.n == 0 {
            return self.fs.region.read(off, buf);
        }
        let mut off = off;
        let mut rest = buf;
        while !rest.is_empty() {
            let sector = off & !(SECTOR - 1);
            let len = rest.len().min((sector + SECTOR - off) as usize);
            let (head, tail) = rest.split_at_mut(len);
            match self.find(sector)? {
                Some(i) => self.fs.region.read(self.data(i) + (off - sector), head)?,
                None => self.fs.region.read(off, head)?,
            }
            rest = tail;
            off += len as u64;
        }
        Ok(())
    }

    fn staged(&self, sector: u64) -> Result<bool> {
        Ok(self.find(sector)?.is_some())
    }

    fn is_unlocked(&self) -> bool {
        false
    }
}

impl<'a, R: Region, H: Host> Tx<'a, R, H> {
    /// Built where it stays: it is large, and kernel stacks are not.
    #[inline(always)]
    fn new(fs: &'a Fs<R, H>, slot: u64) -> Self {
        Tx {
            fs,
            slot,
            need: Need::Ordinary,
            itable: false,
            taken: 0,
            claimed: 0,
            inodes: 0,
            pending: 0,
            base: fs.geo.slot_offset(slot),
            n: 0,
            last: Cell::new(0),
            held: 0,
            conflict: 0,
            frees: [(0, 0); MAX_FREES],
            nfrees: 0,
        }
    }

    /// Takes the core locks that an earlier try found it needs, in order.
    fn lock_all(&mut self, want: u128) {
        let mut rest = want;
        while rest != 0 {
            let id = rest.trailing_zeros();
            self.fs.host.lock(id as usize);
            self.held |= 1 << id;
            rest &= rest - 1;
        }
    }

    /// Takes a core lock until the end of the transaction.
    pub fn lock(&mut self, id: usize) -> TxResult<()> {
        let bit = 1u128 << id;
        if self.held & bit != 0 {
            return Ok(());
        }
        if self.held >> id == 0 {
            self.fs.host.lock(id);
        } else if !self.fs.host.try_lock(id) {
            self.conflict |= bit;
            return Err(Fail::Retry);
        }
        self.held |= bit;
        Ok(())
    }

    /// Takes a core lock if it is free.
    pub fn try_lock(&mut self, id: usize) -> bool {
        let free = self.fs.host.try_lock(id);
        if free {
            self.held |= 1u128 << id;
        }
        free
    }

    /// Is this core lock held?
    pub fn holds(&self, id: usize) -> bool {
        self.held & (1u128 << id) != 0
    }

    #[inline]
    fn entry(&self, i: u64) -> u64 {
        self.base + slot::TABLE + 8 * i
    }

    #[inline]
    fn data(&self, i: u64) -> u64 {
        self.base + slot::DATA + SECTOR * i
    }

    /// Index of a staged sector.
    #[inline]
    fn find(&self, sector: u64) -> Result<Option<u64>> {
        let last = self.last.get();
        if last < self.n && self.fs.region.load(self.entry(last))? & !0xff == sector {
            return Ok(Some(last));
        }
        for i in 0..self.n {
            if self.fs.region.load(self.entry(i))? & !0xff == sector {
                self.last.set(i);
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// Makes sure that the sector is staged. Its present contents are checked, unless they are
    /// `fresh`: then they count as zeros.
    fn stage(&mut self, sector: u64, kind: u8, fresh: bool) -> Result<u64> {
        if let Some(i) = self.find(sector)? {
            return Ok(i);
        }
        let mut buf = [0u8; SECTOR as usize];
        if !fresh {
            self.fs.region.read(sector, &mut buf)?;
            match kind {
                kind::CHUNKS => {}
                kind::NODE_PAYLOAD => {
                    let header = sector & !(PAGE - 1);
                    let h = self.stage(header, kind::NODE_HEADER, false)?;
                    let at = self.data(h) + payload_sum(sector) as u64;
                    let mut sum = [0u8; 4];
                    self.fs.region.read(at, &mut sum)?;
                    if get32(&sum, 0) != self.fs.sum(sector, &buf) {
                        return Err(Error::corrupt(
                            sector,
                            "tree node: bad checksum of a sector",
                        ));
                    }
                }
                _ => self.fs.check_sum(sector, &mut buf)?,
            }
        }
        if self.n >= slot::SECTORS {
            // No operation gets here. If one does it fails, and nothing has happened.
            return Err(Error::NoSpace);
        }
        let i = self.n;
        self.fs.region.write(self.data(i), &buf)?;
        self.fs
            .region
            .store(self.entry(i), sector | u64::from(kind))?;
        self.n += 1;
        self.last.set(i);
        Ok(i)
    }

    /// Writes bytes of metadata; what else is in the sectors stays.
    pub fn poke(&mut self, off: u64, bytes: &[u8], kind: u8) -> Result<()> {
        let mut off = off;
        let mut rest = bytes;
        while !rest.is_empty() {
            let sector = off & !(SECTOR - 1);
            let len = rest.len().min((sector + SECTOR - off) as usize);
            let (head, tail) = rest.split_at(len);
            let i = self.stage(sector, kind, false)?;
            self.fs.region.write(self.data(i) + (off - sector), head)?;
            rest = tail;
            off += len as u64;
        }
        Ok(())
    }

    /// Writes a whole sector that held nothing worth checking.
    pub fn poke_fresh(&mut self, sector: u64, bytes: &[u8; SECTOR as usize]) -> Result<()> {
        let i = self.stage(sector, kind::PLAIN, true)?;
        self.fs.region.write(self.data(i), bytes)
    }

    /// Frees pages at the end of the transaction.
    pub fn free(&mut self, page: u64, len: u64) -> Result<()> {
        if !self.fs.geo.is_data(page, len) {
            return Err(Error::corrupt(
                page.saturating_mul(PAGE),
                "extent outside the data zone",
            ));
        }
        match self.frees.get_mut(self.nfrees) {
            Some(f) => *f = (page, len),
            // As for sectors: no operation gets here.
            None => return Err(Error::NoSpace),
        }
        self.nfrees += 1;
        Ok(())
    }

    /// Can `n` more extents be freed, and is there room for the sectors that go with it?
    pub fn frees_left(&self, n: usize) -> bool {
        self.nfrees + n <= MAX_FREES && self.n <= slot::SECTORS / 2
    }

    /// Writes the change of the counters to the slot's account.
    fn account(&mut self, freed: u64) -> Result<()> {
        let free = freed as i64 - self.taken as i64;
        if free == 0 && self.inodes == 0 && self.pending == 0 {
            return Ok(());
        }
        let off = self.base + slot::ACCOUNT;
        for (at, delta) in [
            (slot::ACCOUNT_FREE, free),
            (slot::ACCOUNT_INODES, self.inodes),
            (slot::ACCOUNT_PENDING, self.pending),
        ] {
            if delta != 0 {
                // Staged by the first poke, and checked by it.
                let i = self.stage(off, kind::PLAIN, false)?;
                let old = self.fs.region.load(self.data(i) + at as u64)?;
                let new = old.wrapping_add_signed(delta);
                self.fs.region.store(self.data(i) + at as u64, new)?;
            }
        }
        Ok(())
    }

    /// Puts checksums into the staged sectors.
    fn seal(&mut self) -> Result<()> {
        let region = &self.fs.region;
        let mut buf = [0u8; SECTOR as usize];
        // Payload first: its checksums are part of the headers.
        for i in 0..self.n {
            let e = region.load(self.entry(i))?;
            if e as u8 == kind::NODE_PAYLOAD {
                let sector = e & !0xff;
                region.read(self.data(i), &mut buf)?;
                let sum = self.fs.sum(sector, &buf);
                let header = self.find(sector & !(PAGE - 1))?;
                let h = header.ok_or(Error::corrupt(sector, "payload staged without header"))?;
                region.write(
                    self.data(h) + payload_sum(sector) as u64,
                    &sum.to_le_bytes(),
                )?;
            }
        }
        for i in 0..self.n {
            let e = region.load(self.entry(i))?;
            let sector = e & !0xff;
            region.read(self.data(i), &mut buf)?;
            match e as u8 {
                kind::NODE_PAYLOAD => continue,
                kind::CHUNKS => {
                    let mut old = [0u8; SECTOR as usize];
                    region.read(sector, &mut old)?;
                    let half = layout::chunk::SIZE;
                    for (k, (new, old)) in buf
                        .chunks_exact_mut(half)
                        .zip(old.chunks_exact(half))
                        .enumerate()
                    {
                        // One that did not change keeps its checksum, good or bad.
                        if new != old {
                            let off = sector + (k * half) as u64;
                            put32(new, CRC_AT, 0);
                            let crc = layout::checksum(&self.fs.host, self.fs.seed, off, new);
                            put32(new, CRC_AT, crc);
                        }
                    }
                }
                _ => self.fs.put_sum(sector, &mut buf),
            }
            region.write(self.data(i), &buf)?;
        }
        Ok(())
    }

    /// Ends the transaction: frees, accounts, checksums, commit, copy home, clear.
    fn finish(&mut self) -> TxResult<()> {
        let mut freed = 0;
        for k in 0..self.nfrees {
            let (page, len) = self.frees.get(k).copied().unwrap_or_default();
            freed += self.release(page, len)?;
        }
        self.account(freed)?;
        if self.n == 0 {
            return Ok(());
        }
        self.seal()?;

        let region = &self.fs.region;
        let sequence = self
            .fs
            .counters
            .transactions
            .fetch_add(1, Ordering::Relaxed);
        let low = self.n << 16 | (sequence & 0xffff);
        let crc = commit_sum(self.fs, self.base, low)?;
        region.persist()?;
        if self.fs.is_damaged() {
            // What is staged may rest on a transaction that was not carried out.
            return Err(Error::ReadOnly.into());
        }
        // Before the locks go: no other transaction may rest on one that was not carried out. The next
        // mount replays it.
        self.carry_out(u64::from(crc) << 32 | low)
            .inspect_err(|_| self.fs.set_damaged())?;

        let c = &self.fs.counters;
        c.sectors.fetch_add(self.n, Ordering::Relaxed);
        c.allocated.fetch_add(self.taken, Ordering::Relaxed);
        c.freed.fetch_add(freed, Ordering::Relaxed);
        // What was taken was counted when it was claimed.
        self.claimed = self.claimed.saturating_sub(self.taken);
        self.fs.free.fetch_add(freed as i64, Ordering::Relaxed);
        self.fs.inodes.fetch_add(self.inodes, Ordering::Relaxed);
        self.fs.pending.fetch_add(self.pending, Ordering::Relaxed);
        Ok(())
    }
}

impl<R: Region, H: Host> Tx<'_, R, H> {
    /// Commit, copy home, clear.
    fn carry_out(&self, commit: u64) -> Result<()> {
        let region = &self.fs.region;
        // The Release store: all that was staged, and all pages filled before, is seen with it.
        region.store(self.base + slot::COMMIT, commit)?;
        region.persist()?;
        if self.itable {
            // A reader that has spun in vain waits for this lock.
            self.fs.host.lock(lock::MAP);
            self.fs.itable_version.fetch_add(1, Ordering::AcqRel);
        }
        let done = apply(self.fs, self.base, self.n);
        if self.itable {
            self.fs.itable_version.fetch_add(1, Ordering::AcqRel);
            self.fs.host.unlock(lock::MAP);
        }
        done?;
        region.persist()?;
        region.store(self.base + slot::COMMIT, 0)?;
        // Before the slot is used again, and before another transaction changes the same sectors.
        region.persist()
    }
}

impl<R: Region, H: Host> Drop for Tx<'_, R, H> {
    fn drop(&mut self) {
        self.fs
            .free
            .fetch_add(self.claimed as i64, Ordering::Relaxed);
        while self.held != 0 {
            let id = 127 - self.held.leading_zeros();
            self.fs.host.unlock(id as usize);
            self.held &= !(1 << id);
        }
    }
}

/// Where a node's header keeps the checksum of payload sector `sector`.
fn payload_sum(sector: u64) -> usize {
    let k = ((sector % PAGE) / SECTOR) as usize;
    node::SUMS + 4 * k.saturating_sub(1)
}

/// The checksum of a commit word whose lower half is `low`.
fn commit_sum<R: Region, H: Host>(fs: &Fs<R, H>, base: u64, low: u64) -> Result<u32> {
    let n = low >> 16;
    let mut crc = layout::checksum(&fs.host, fs.seed, base, &low.to_le_bytes());
    let mut buf = [0u8; SECTOR as usize];
    let mut at = base + slot::TABLE;
    let mut left = 8 * n as usize;
    while left > 0 {
        let part = left.min(buf.len());
        if let Some(b) = buf.get_mut(..part) {
            fs.region.read(at, b)?;
            crc = fs.host.crc32(crc, b);
        }
        at += part as u64;
        left -= part;
    }
    for i in 0..n {
        fs.region.read(base + slot::DATA + SECTOR * i, &mut buf)?;
        crc = fs.host.crc32(crc, &buf);
    }
    Ok(crc)
}

/// Copies the contents of a committed slot home: words that differ, one store each.
fn apply<R: Region, H: Host>(fs: &Fs<R, H>, base: u64, n: u64) -> Result<()> {
    let mut new = [0u8; SECTOR as usize];
    let mut old = [0u8; SECTOR as usize];
    for i in 0..n {
        let home = fs.region.load(base + slot::TABLE + 8 * i)? & !0xff;
        fs.region.read(base + slot::DATA + SECTOR * i, &mut new)?;
        fs.region.read(home, &mut old)?;
        for at in (0..SECTOR as usize).step_by(8) {
            let word = get64(&new, at);
            if word != get64(&old, at) {
                fs.region.store(home + at as u64, word)?;
            }
        }
    }
    Ok(())
}

/// Is the table of a slot one that may be replayed?
fn check_table<R: Region, H: Host>(fs: &Fs<R, H>, base: u64, n: u64) -> Result<()> {
    let bad = |what| Err(Error::corrupt(base, what));
    let journal = fs.geo.journal_start * PAGE;
    let journal_end = fs.geo.slot_offset(fs.geo.slots);
    for i in 0..n {
        let entry = fs.region.load(base + slot::TABLE + 8 * i)?;
        let home = entry & !0xff;
        if entry as u8 > kind::LAST {
            return bad("journal entry of an unknown kind");
        }
        if home < PAGE || home >= fs.geo.total_pages * PAGE {
            return bad("journal entry outside the region");
        }
        if (journal..journal_end).contains(&home)
            && (home - journal) % (slot::PAGES * PAGE) != slot::ACCOUNT
        {
            return bad("journal entry names the journal");
        }
        for k in 0..i {
            if fs.region.load(base + slot::TABLE + 8 * k)? & !0xff == home {
                return bad("journal entry named twice");
            }
        }
    }
    Ok(())
}

impl<R: Region, H: Host> Fs<R, H> {
    /// Replays what was committed and not cleared. Returns how many slots that were.
    /// A slot that cannot be trusted is left alone, and is the error; the others are independent of it.
    pub(crate) fn recover(&self) -> (u64, Result<()>) {
        let mut replayed = 0;
        let mut result = Ok(());
        for s in 0..self.geo.slots {
            match self.recover_slot(s) {
                Ok(n) => replayed += n,
                Err(e) => result = result.and(Err(e)),
            }
        }
        (replayed, result)
    }

    fn recover_slot(&self, s: u64) -> Result<u64> {
        let base = self.geo.slot_offset(s);
        let word = self.region.load(base + slot::COMMIT)?;
        if word == 0 {
            return Ok(0);
        }
        let low = word & 0xffff_ffff;
        let n = low >> 16;
        if n == 0 || n > slot::SECTORS {
            return Err(Error::corrupt(base, "journal slot: bad count"));
        }
        if commit_sum(self, base, low)? != (word >> 32) as u32 {
            return Err(Error::corrupt(base, "journal slot: bad checksum"));
        }
        check_table(self, base, n)?;
        apply(self, base, n)?;
        self.region.persist()?;
        self.region.store(base + slot::COMMIT, 0)?;
        self.region.persist()?;
        Ok(1)
    }

    /// Checksum of a structure at `off`.
    #[inline]
    #[cfg_attr(feature = "sites", track_caller)]
    pub(crate) fn sum(&self, off: u64, bytes: &[u8]) -> u32 {
        layout::checksum(&self.host, self.seed, off, bytes)
    }

    /// Checks a structure that has its checksum in the usual place. The bytes are as they were
    /// afterwards: no copy is made, for the sake of kernel stacks.
    #[inline]
    pub(crate) fn check_sum(&self, off: u64, bytes: &mut [u8]) -> Result<()> {
        let crc = get32(bytes, CRC_AT);
        put32(bytes, CRC_AT, 0);
        let right = self.sum(off, bytes);
        put32(bytes, CRC_AT, crc);
        if right == crc {
            Ok(())
        } else {
            Err(Error::corrupt(off, "bad checksum"))
        }
    }

    /// Puts the checksum in the usual place.
    #[cfg_attr(feature = "sites", track_caller)]
    pub(crate) fn put_sum(&self, off: u64, bytes: &mut [u8]) {
        put32(bytes, CRC_AT, 0);
        let crc = self.sum(off, bytes);
        put32(bytes, CRC_AT, crc);
    }

    /// Reads a sector that begins with `magic, crc`, and checks both.
    pub(crate) fn sector<V: View<R, H>>(
        &self,
        view: &V,
        off: u64,
        magic: u32,
        what: &'static str,
        buf: &mut [u8; SECTOR as usize],
    ) -> Result<()> {
        view.peek(off, buf)?;
        if get32(buf, 0) != magic {
            return Err(Error::corrupt(off, what));
        }
        if view.staged(off)? {
            Ok(())
        } else {
            self.check_sum(off, buf)
        }
    }

    /// Takes a free journal slot, near to the one this CPU used last.
    fn take_slot(&self) -> u64 {
        // As in `own_shard`: no way into a panic.
        let n = self.geo.slots.max(1);
        let first = self.host.cpu() as u64 % n;
        for k in 0..n {
            let s = (first + k) % n;
            if self.host.try_lock(lock::SLOTS + s as usize) {
                return s;
            }
        }
        self.host.lock(lock::SLOTS + first as usize);
        first
    }

    /// Runs `f` as one transaction. `f` may run several times: what it did through the transaction
    /// is forgotten each time, and it must do nothing else but fill pages that nobody names yet.
    pub(crate) fn run<T>(&self, f: impl FnMut(&mut Tx<'_, R, H>) -> TxResult<T>) -> Result<T> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let slot = self.take_slot();
        let result = self.run_in(slot, f);
        self.host.unlock(lock::SLOTS + slot as usize);
        result
    }

    /// As [`Fs::run`], in a slot that is held. A frame of its own: an operation that runs several
    /// transactions has but one of them on the stack.
    #[inline(never)]
    fn run_in<T>(
        &self,
        slot: u64,
        mut f: impl FnMut(&mut Tx<'_, R, H>) -> TxResult<T>,
    ) -> Result<T> {
        let mut want = 0;
        loop {
            if self.is_damaged() {
                // The slot may hold a transaction that was not carried out.
                return Err(Error::ReadOnly);
            }
            let seen = self.groups_ready.load(Ordering::Acquire);
            // Dropped by its scope, not by `drop`, which would have a copy of it.
            let result = {
                let mut tx = Tx::new(self, slot);
                tx.lock_all(want);
                let result = f(&mut tx).and_then(|value| tx.finish().map(|()| value));
                want = tx.held | tx.conflict;
                result
            };
            match result {
                Ok(value) => return Ok(value),
                Err(Fail::Err(e)) => return Err(e),
                Err(Fail::Retry) => {
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                }
                Err(Fail::Grow) => {
                    want = 0;
                    self.open_group(slot, seen)?;
                }
            }
        }
    }

    /// Initialises the descriptors of the first group behind the frontier, then moves the frontier.
    /// `seen` is the frontier the caller knew: where it has moved since, nothing is done.
    #[inline(never)]
    pub(crate) fn open_group(&self, slot: u64, seen: u64) -> Result<()> {
        let mut want = 0;
        loop {
            let result = {
                let mut tx = Tx::new(self, slot);
                tx.lock_all(want);
                let result = tx
                    .open_group(seen)
                    .and_then(|moved| tx.finish().map(|()| moved));
                want = tx.held | tx.conflict;
                if let Ok(true) = result {
                    self.groups_ready.store(seen + 1, Ordering::Release);
                }
                result
            };
            match result {
                Ok(_) => return Ok(()),
                Err(Fail::Err(e)) => return Err(e),
                Err(Fail::Retry) => {}
                Err(Fail::Grow) => return Err(Error::NoSpace),
            }
        }
    }
}

/// An account, for whoever sums them up.
pub(crate) fn read_account<R: Region, H: Host>(
    fs: &Fs<R, H>,
    slot: u64,
) -> Result<(i64, i64, i64)> {
    let off = fs.geo.slot_offset(slot) + slot::ACCOUNT;
    let mut b = [0; SECTOR as usize];
    fs.sector(fs, off, layout::ACCOUNT_MAGIC, "account: bad magic", &mut b)?;
    Ok((
        get64(&b, slot::ACCOUNT_FREE) as i64,
        get64(&b, slot::ACCOUNT_INODES) as i64,
        get64(&b, slot::ACCOUNT_PENDING) as i64,
    ))
}

/// Writes the header and the account of an empty slot.
pub(crate) fn format_slot<R: Region, H: Host>(
    fs: &Fs<R, H>,
    slot: u64,
    free_pages: u64,
) -> Result<()> {
    let base = fs.geo.slot_offset(slot);
    let mut header = [0u8; SECTOR as usize];
    put32(&mut header, 0, layout::SLOT_MAGIC);
    put64(&mut header, slot::INDEX, slot);
    fs.put_sum(base, &mut header);
    fs.region.write(base, &header)?;
    let mut account = [0u8; SECTOR as usize];
    put32(&mut account, 0, layout::ACCOUNT_MAGIC);
    put64(&mut account, slot::INDEX, slot);
    put64(&mut account, slot::ACCOUNT_FREE, free_pages);
    fs.put_sum(base + slot::ACCOUNT, &mut account);
    fs.region.write(base + slot::ACCOUNT, &account)
}
