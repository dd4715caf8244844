// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The directory for what lost its name.

use super::checker::{Checker, Info, Res, CONNECTED};
use super::inode::{Inode, Slot};
use super::report::{Finding, Structure};
use crate::layout::{iflag, ITABLE_OWNER, PAGE};
use crate::types::{self, Ino, ROOT_INO};
use alloc::format;
use alloc::string::String;

impl Checker<'_, '_> {
    /// The inode of lost+found, made if it is not there; `None` where it cannot be.
    pub(super) fn lost_and_found(&mut self) -> Res<Option<Ino>> {
        if let Some(ino) = self.lost_found {
            return Ok(Some(ino));
        }
        let mut name = String::from("lost+found");
        for n in 2..100u32 {
            let there = self.find_name(ROOT_INO, name.as_bytes())?;
            match there {
                None => break,
                Some(ino)
                    if self
                        .info(ino)
                        .is_some_and(|i| i.mode & types::S_IFMT == types::S_IFDIR) =>
                {
                    self.lost_found = Some(ino);
                    return Ok(Some(ino));
                }
                Some(_) => name = format!("lost+found.{n}"),
            }
        }
        let Some(ino) = self.new_inode()? else {
            let f = Finding::new(
                Structure::InodeTable,
                0,
                "no inode is left for lost+found: delete something, then check again",
            );
            self.could_not(&f)?;
            return Ok(None);
        };
        let Some(offset) = self.inode_offset(ino) else {
            return Ok(None);
        };
        let generation = match Inode::load(&self.store, offset, ino)? {
            Slot::Inode(i) => i.generation.wrapping_add(1) & 0x7fff_ffff,
            _ => self.store.host().random() as u32 >> 1,
        };
        let now = self.store.host().now();
        let mut inode = Inode::free(offset, ino, generation);
        inode.mode = types::S_IFDIR | 0o700;
        inode.flags = iflag::IN_USE;
        inode.nlink = 2;
        inode.link = ROOT_INO;
        inode.atime = now;
        inode.mtime = now;
        inode.ctime = now;
        inode.btime = now;
        self.put_inode(&inode);
        let info = Info {
            ino,
            generation,
            mode: inode.mode,
            nlink: 2,
            flags: inode.flags,
            link: ROOT_INO,
            parent: ROOT_INO,
            named: 1,
            marks: CONNECTED,
            ..Info::default()
        };
        if let Err(i) = self.inodes.binary_search_by_key(&ino, |i| i.ino) {
            self.inodes.insert(i, info);
        }
        self.add_entry(ROOT_INO, name.as_bytes(), ino, (types::S_IFDIR >> 12) as u8)?;
        if let Some(root) = self.info_mut(ROOT_INO) {
            root.subdirs = root.subdirs.saturating_add(1);
        }
        self.lost_found = Some(ino);
        Ok(Some(ino))
    }

    /// Takes a free inode number; the lists of free inodes are made anew later.
    fn new_inode(&mut self) -> Res<Option<Ino>> {
        self.shards_bad = true;
        if let Some(ino) = self.free.pop() {
            return Ok(Some(ino));
        }
        let ino = self.last_formatted.max(ROOT_INO).saturating_add(1);
        if ino >= self.table.capacity() {
            let Some(page) = self.fresh(ITABLE_OWNER)? else {
                return Ok(None);
            };
            self.store.fill(page, &[0; PAGE as usize])?;
            let at = self.table.pages();
            self.table.push(at, page);
            self.write_table()?;
        }
        self.last_formatted = ino;
        Ok(Some(ino))
    }
}
