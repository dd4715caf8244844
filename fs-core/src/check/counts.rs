// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Counters that inodes keep of themselves: links, pages, size of directories, parent.

use super::checker::{Checker, Res, INTENT, LEFT, SEAL_NAMED};
use super::report::{Finding, Phase, Structure};
use crate::layout::{iflag, PAGE};
use crate::types::{self, Ino, ROOT_INO};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Checker<'_, '_> {
    pub(super) fn check_counts(&mut self) -> Res<()> {
        let all: Vec<Ino> = self.inodes.iter().map(|i| i.ino).collect();
        let total = all.len() as u64;
        for (n, ino) in all.into_iter().enumerate() {
            if n % 256 == 0 {
                self.progress(Phase::Counts, n as u64, total)?;
                self.store.commit()?;
            }
            self.check_count(ino)?;
        }
        self.store.commit()?;
        Ok(())
    }

    fn check_count(&mut self, ino: Ino) -> Res<()> {
        let Some(mut inode) = self.inode(ino)? else {
            return Ok(());
        };
        let Some(info) = self.info(ino).cloned() else {
            return Ok(());
        };
        let kind = inode.kind();
        let is_dir = kind == types::S_IFDIR;
        match kind {
            types::S_IFREG => self.report.files = self.report.files.saturating_add(1),
            types::S_IFDIR => self.report.directories = self.report.directories.saturating_add(1),
            types::S_IFLNK => self.report.symlinks = self.report.symlinks.saturating_add(1),
            _ if inode.is_seal() => {}
            _ => self.report.others = self.report.others.saturating_add(1),
        }
        let named = info.named > 0 || ino == ROOT_INO;
        let mut nlink = match (is_dir, named) {
            (true, true) => info.subdirs.saturating_add(2),
            (true, false) => 0,
            (false, _) => info.named,
        };
        // Names may be missing only because something was left damaged. Then links are not taken
        // away: what has none is reclaimed.
        if nlink < inode.nlink && (self.declined || !named) {
            nlink = inode.nlink;
        }
        let pending = info.marks & INTENT != 0
            || if inode.is_seal() {
                info.marks & SEAL_NAMED == 0
            } else {
                nlink == 0
            };
        let parent = if ino == ROOT_INO {
            ROOT_INO
        } else {
            info.parent
        };
        let mut wrong: Vec<String> = Vec::new();
        let before = inode.clone();
        if inode.nlink != nlink {
            wrong.push(format!("{} links, should be {nlink}", inode.nlink));
            inode.nlink = nlink;
        }
        if info.marks & LEFT == 0 {
            if inode.pages != info.pages {
                wrong.push(format!("{} pages, should be {}", inode.pages, info.pages));
                inode.pages = info.pages;
            }
            let size = info.nodes.saturating_mul(PAGE);
            if is_dir && inode.size != size {
                wrong.push(format!("size {}, should be {size}", inode.size));
                inode.size = size;
            }
        }
        if is_dir && named && inode.link != parent {
            wrong.push(format!("parent {}, should be {parent}", inode.link));
            inode.link = parent;
        }
        let flagged = inode.flags & iflag::PENDING != 0;
        if flagged != pending {
            wrong.push(
                if pending {
                    "not marked as pending"
                } else {
                    "marked as pending without reason"
                }
                .into(),
            );
            inode.flags ^= iflag::PENDING;
        }
        if inode != before {
            let f = Finding::new(Structure::Inode, inode.offset, wrong.join("; "))
                .of(ino)
                .fix("corrected")
                .harmless();
            if self.find(&f)? {
                self.put_inode(&inode);
            }
        }
        if let Some(i) = self.info_mut(ino) {
            i.nlink = nlink;
            i.flags = if pending {
                i.flags | iflag::PENDING
            } else {
                i.flags & !iflag::PENDING
            };
        }
        Ok(())
    }
}
