// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Journal slots (LAYOUT.md, section 9).

use super::checker::{Checker, Res};
use super::flip;
use super::report::{Finding, Phase, Structure};
use super::store::{Sector, Store};
use crate::bytes::{get32, get64, put, put32, put64};
use crate::layout::{kind, slot, Geometry, ACCOUNT_MAGIC, CRC_AT, PAGE, SECTOR, SLOT_MAGIC};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// What a slot holds.
#[derive(Debug)]
pub struct SlotState {
    /// What is wrong with the header.
    pub header: Option<&'static str>,
    /// The commit word.
    pub commit: u64,
    /// Home offsets and kinds of a committed transaction, or why it cannot be one.
    pub transaction: Result<Vec<(u64, u8)>, String>,
}

/// The account of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Share of the free pages.
    pub free_pages: i64,
    /// Share of the inodes in use.
    pub used_inodes: i64,
    /// Share of the entries of the pending sets.
    pub pending: i64,
}

fn header_sum(store: &Store<'_>, off: u64, sector: &Sector) -> u32 {
    let mut copy = *sector;
    put(&mut copy, slot::COMMIT as usize, &[0; 8]);
    store.sum_of(off, &copy)
}

/// May a transaction change this sector?
fn may_change(geo: &Geometry, off: u64) -> bool {
    let Some(end) = geo.total_pages.checked_mul(PAGE) else {
        return false;
    };
    if off < PAGE || off >= end || off % SECTOR != 0 {
        return false;
    }
    let first = geo.slot_offset(0);
    let behind = geo.slot_offset(geo.slots);
    if off < first || off >= behind {
        return true;
    }
    (off - first) % (slot::PAGES * PAGE) == slot::ACCOUNT
}

/// Reads and checks slot `index`.
pub fn read_slot(store: &Store<'_>, geo: &Geometry, index: u64) -> crate::Result<SlotState> {
    let off = geo.slot_offset(index);
    let head = store.sector(off)?;
    let header = if get32(&head, 0) != SLOT_MAGIC {
        Some("no magic")
    } else if get32(&head, CRC_AT) != header_sum(store, off, &head) {
        Some("wrong checksum")
    } else if get64(&head, slot::INDEX) != index {
        Some("wrong number")
    } else {
        None
    };
    let commit = get64(&head, slot::COMMIT as usize);
    let transaction = if commit == 0 {
        Ok(Vec::new())
    } else {
        read_transaction(store, geo, off, commit)?
    };
    Ok(SlotState {
        header,
        commit,
        transaction,
    })
}

fn read_transaction(
    store: &Store<'_>,
    geo: &Geometry,
    off: u64,
    commit: u64,
) -> crate::Result<Result<Vec<(u64, u8)>, String>> {
    let count = commit >> 16 & 0xffff;
    if count == 0 || count > slot::SECTORS {
        return Ok(Err(format!("a transaction of {count} sectors")));
    }
    let mut table = vec![0; count as usize * 8];
    store.read(off + slot::TABLE, &mut table)?;
    let mut contents = vec![0; (count * SECTOR) as usize];
    store.read(off + slot::DATA, &mut contents)?;
    let host = store.host();
    let mut crc = store.sum(off, &(commit & 0xffff_ffff).to_le_bytes());
    crc = host.crc32(host.crc32(crc, &table), &contents);
    if u64::from(crc) != commit >> 32 {
        return Ok(Err("wrong checksum of the transaction".into()));
    }
    let mut homes = Vec::with_capacity(count as usize);
    let mut seen = BTreeSet::new();
    for entry in table.chunks_exact(8) {
        let word = get64(entry, 0);
        let (home, what) = (word & !0xff, (word & 0xff) as u8);
        if what > kind::LAST || !may_change(geo, home) {
            return Ok(Err(format!("a transaction that changes {home:#x}")));
        }
        if !seen.insert(home) {
            return Ok(Err(format!("a transaction that changes {home:#x} twice")));
        }
        homes.push((home, what));
    }
    Ok(Ok(homes))
}

/// The word that makes a slot right whose transaction fails its check, and its offset, if one
/// flipped bit is all that is wrong.
fn mended_word(store: &Store<'_>, geo: &Geometry, index: u64) -> crate::Result<Option<(u64, u64)>> {
    let off = geo.slot_offset(index);
    let at = off + slot::COMMIT;
    let commit = get64(&store.sector(off)?, slot::COMMIT as usize);
    // No transaction has a commit word of one bit: it was none.
    if commit.is_power_of_two() {
        return Ok(Some((at, 0)));
    }
    for bit in 0..32 {
        let word = commit ^ 1 << bit;
        if read_transaction(store, geo, off, word)?.is_ok() {
            return Ok(Some((at, word)));
        }
    }
    let count = commit >> 16 & 0xffff;
    if count == 0 || count > slot::SECTORS {
        return Ok(None);
    }
    let mut bytes = vec![0; (count * (8 + SECTOR)) as usize];
    let (table, contents) = bytes.split_at_mut(count as usize * 8);
    store.read(off + slot::TABLE, table)?;
    store.read(off + slot::DATA, contents)?;
    let table = table.len() as u64;
    let crc = store.sum(off, &(commit & 0xffff_ffff).to_le_bytes());
    let crc = store.host().crc32(crc, &bytes);
    let differs = crc ^ (commit >> 32) as u32;
    if differs.is_power_of_two() {
        return Ok(Some((at, commit & 0xffff_ffff | u64::from(crc) << 32)));
    }
    let Some((byte, mask)) = flip::locate(differs, bytes.len()) else {
        return Ok(None);
    };
    let byte = byte as u64;
    let place = match byte.checked_sub(table) {
        Some(inside) => off + slot::DATA + inside,
        None => off + slot::TABLE + byte,
    };
    let word = store.base().load(place & !7)?;
    Ok(Some((
        place & !7,
        word ^ u64::from(mask) << (place % 8 * 8),
    )))
}

/// The account of slot `index`, or why it is none.
pub fn account(
    store: &Store<'_>,
    geo: &Geometry,
    index: u64,
) -> crate::Result<Result<Account, &'static str>> {
    let off = geo.slot_offset(index) + slot::ACCOUNT;
    let s = store.sector(off)?;
    Ok(if get32(&s, 0) != ACCOUNT_MAGIC {
        Err("no magic")
    } else if !store.intact(off, &s, ACCOUNT_MAGIC) {
        Err("wrong checksum")
    } else if get64(&s, slot::INDEX) != index {
        Err("wrong number")
    } else {
        Ok(Account {
            free_pages: get64(&s, slot::ACCOUNT_FREE) as i64,
            used_inodes: get64(&s, slot::ACCOUNT_INODES) as i64,
            pending: get64(&s, slot::ACCOUNT_PENDING) as i64,
        })
    })
}

/// The sector of an account.
pub(super) fn encode_account(store: &Store<'_>, geo: &Geometry, index: u64, a: &Account) -> Sector {
    let mut s = [0; 256];
    put32(&mut s, 0, ACCOUNT_MAGIC);
    put64(&mut s, slot::INDEX, index);
    put64(&mut s, slot::ACCOUNT_FREE, a.free_pages as u64);
    put64(&mut s, slot::ACCOUNT_INODES, a.used_inodes as u64);
    put64(&mut s, slot::ACCOUNT_PENDING, a.pending as u64);
    store.seal(geo.slot_offset(index) + slot::ACCOUNT, &mut s);
    s
}

impl Store<'_> {
    /// Changes a word of a journal slot.
    fn put_word(&mut self, at: u64, word: u64) -> crate::Result<()> {
        if self.is_live() {
            self.base().store(at, word)?;
            return self.base().persist();
        }
        let sector = at - at % SECTOR;
        let mut bytes = self.sector(sector)?;
        put64(&mut bytes, (at % SECTOR) as usize, word);
        self.stage(sector, &bytes);
        Ok(())
    }

    /// Takes over the sectors of a committed transaction.
    pub(super) fn replay(&mut self, slot_off: u64, homes: &[(u64, u8)]) -> crate::Result<()> {
        let mut at = slot_off + slot::DATA;
        for (home, _) in homes {
            let bytes = self.sector(at)?;
            if self.is_live() {
                self.base().write(*home, &bytes)?;
            } else {
                self.stage(*home, &bytes);
            }
            at += SECTOR;
        }
        if self.is_live() {
            self.base().persist()?;
            self.base().store(slot_off + slot::COMMIT, 0)?;
            return self.base().persist();
        }
        let mut head = self.sector(slot_off)?;
        put64(&mut head, slot::COMMIT as usize, 0);
        self.stage(slot_off, &head);
        Ok(())
    }
}

impl Checker<'_, '_> {
    pub(super) fn check_journal(&mut self) -> Res<()> {
        let mut clean = None;
        for index in 0..self.geo.slots {
            self.progress(Phase::Journal, index, self.geo.slots)?;
            let off = self.geo.slot_offset(index);
            let mut state = read_slot(&self.store, &self.geo, index)?;
            if state.transaction.is_err() {
                if let Some((at, word)) = mended_word(&self.store, &self.geo, index)? {
                    let f = Finding::new(Structure::Slot, at, "one bit flipped")
                        .fix("set right")
                        .harmless();
                    if self.find(&f)? {
                        self.store.put_word(at, word)?;
                        state = read_slot(&self.store, &self.geo, index)?;
                    }
                }
            }
            let mut header_bad = false;
            match &state.transaction {
                Ok(homes) if homes.is_empty() => {}
                Ok(homes) => {
                    self.report.replayed = self.report.replayed.saturating_add(1);
                    self.store.replay(off, homes)?;
                    self.note(&format!(
                        "journal slot {index}: a committed transaction of {} sectors {}",
                        homes.len(),
                        if self.store.is_live() {
                            "was carried out"
                        } else {
                            "is taken into account"
                        }
                    ))?;
                }
                Err(why) => {
                    let f = Finding::new(Structure::Slot, off, why.clone())
                        .fix("cleared; what it would have changed is checked below");
                    if self.find(&f)? {
                        header_bad = true;
                    } else {
                        continue;
                    }
                }
            }
            if let Some(why) = state.header {
                let f = Finding::new(Structure::Slot, off, format!("header: {why}"))
                    .fix("header written anew")
                    .harmless();
                if !self.find(&f)? {
                    continue;
                }
                header_bad = true;
            }
            if header_bad {
                let mut s = [0; 256];
                put32(&mut s, 0, SLOT_MAGIC);
                put64(&mut s, slot::INDEX, index);
                self.store.seal(off, &mut s);
                if self.store.is_live() {
                    // The commit word first: nothing is replayed from a slot half written.
                    self.store.base().store(off + slot::COMMIT, 0)?;
                    self.store.base().write(off, &s)?;
                } else {
                    self.store.stage(off, &s);
                }
            }
            clean = clean.or(Some(off));
        }
        if let Some(off) = clean {
            self.store.use_slot(off);
        }
        Ok(())
    }
}
