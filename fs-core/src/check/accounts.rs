// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The sums over the journal slots.

use super::checker::{Checker, Res};
use super::inode::{Inode, Slot};
use super::journal::{account, encode_account, Account};
use super::report::{Finding, Phase, Structure};
use crate::layout::{slot, system, ITABLE_OWNER};
use alloc::format;
use alloc::string::String;

impl Checker<'_, '_> {
    pub(super) fn check_accounts(&mut self) -> Res<()> {
        self.progress(Phase::Accounts, 0, self.geo.slots)?;
        if self.skip_accounts {
            return Ok(());
        }
        let want = Account {
            free_pages: self.free_pages as i64,
            used_inodes: self.inodes.len() as i64,
            pending: self.report.pending as i64,
        };
        let mut sum = Account {
            free_pages: 0,
            used_inodes: 0,
            pending: 0,
        };
        let mut rewrite = false;
        let mut bad = false;
        for index in 0..self.geo.slots {
            match account(&self.store, &self.geo, index)? {
                Ok(a) => {
                    sum.free_pages = sum.free_pages.wrapping_add(a.free_pages);
                    sum.used_inodes = sum.used_inodes.wrapping_add(a.used_inodes);
                    sum.pending = sum.pending.wrapping_add(a.pending);
                }
                Err(why) => {
                    bad = true;
                    let off = self.geo.slot_offset(index) + slot::ACCOUNT;
                    let f =
                        Finding::new(Structure::Account, off, format!("of slot {index}: {why}"))
                            .fix("rewritten, sums recomputed");
                    rewrite |= self.find(&f)?;
                }
            }
        }
        if !bad && sum != want {
            let mut what = String::new();
            for (name, is, should) in [
                ("free pages", sum.free_pages, want.free_pages),
                ("inodes in use", sum.used_inodes, want.used_inodes),
                ("pending", sum.pending, want.pending),
            ] {
                if is != should {
                    if !what.is_empty() {
                        what += "; ";
                    }
                    what += &format!("{name}: {is} in sum, should be {should}");
                }
            }
            let f = Finding::new(
                Structure::Account,
                self.geo.slot_offset(0) + slot::ACCOUNT,
                what,
            )
            .fix("sums recomputed");
            rewrite = self.find(&f)?;
        }
        if rewrite {
            let zero = Account {
                free_pages: 0,
                used_inodes: 0,
                pending: 0,
            };
            for index in 0..self.geo.slots {
                let a = if index == 0 { &want } else { &zero };
                let s = encode_account(&self.store, &self.geo, index, a);
                let off = self.geo.slot_offset(index) + slot::ACCOUNT;
                self.store.stage(off, &s);
            }
            self.store.commit()?;
        }
        Ok(())
    }

    /// Only whether accounts are accounts.
    pub(super) fn check_accounts_quickly(&mut self) -> Res<()> {
        for index in 0..self.geo.slots {
            if let Err(why) = account(&self.store, &self.geo, index)? {
                let off = self.geo.slot_offset(index) + slot::ACCOUNT;
                let f = Finding::new(Structure::Account, off, format!("of slot {index}: {why}"));
                self.find(&f)?;
            }
        }
        Ok(())
    }

    /// Only whether the inode of the table and its copy are there.
    pub(super) fn check_table_quickly(&mut self) -> Res<()> {
        for off in [
            self.geo.system_offset(system::ITABLE),
            self.geo.itable_copy_offset(),
        ] {
            if !matches!(Inode::load(&self.store, off, ITABLE_OWNER)?, Slot::Inode(_)) {
                let f = Finding::new(Structure::InodeTable, off, "no sound inode");
                self.find(&f)?;
            }
        }
        Ok(())
    }
}
