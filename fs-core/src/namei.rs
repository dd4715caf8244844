// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Operations on names: create, link, unlink, rename, symlink. Each is one transaction.

use crate::bytes::{put, put64};
use crate::dir;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Need, Tx, TxResult};
use crate::layout::{body, inode};
use crate::region::Region;
use crate::space::{offset, Want};
use crate::types::{
    Attr, Ino, NewInode, RenameMode, Unlinked, LINK_MAX, SYMLINK_MAX, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_ISGID,
};

/// Permission, set-id and sticky bits.
const PERMISSIONS: u32 = 0o7777;

/// A directory's entries changed.
fn dirty_dir(d: &mut Inode, now: i64) {
    d.set_mtime(now);
    d.set_ctime(now);
}

impl<R: Region, H: Host> Tx<'_, R, H> {
    /// A directory that still has a place in the tree.
    fn live_directory(&self, ino: Ino, d: &mut Inode) -> Result<()> {
        self.fs.directory(self, ino, d)?;
        if d.nlink() == 0 {
            return Err(Error::NotFound);
        }
        Ok(())
    }

    /// A new inode, filled in; not written yet.
    fn make_inode(
        &mut self,
        parent: &Inode,
        new: &NewInode,
        now: i64,
        i: &mut Inode,
    ) -> TxResult<()> {
        self.new_inode(i)?;
        let dir = new.mode & S_IFMT == S_IFDIR;
        let inherit = parent.mode() & S_ISGID != 0;
        i.set_mode(new.mode | if inherit && dir { S_ISGID } else { 0 });
        i.set_uid(new.uid);
        i.set_gid(if inherit { parent.gid() } else { new.gid });
        i.set_nlink(if dir { 2 } else { 1 });
        if dir {
            i.set_link(parent.ino());
        }
        for set in [
            Inode::set_atime,
            Inode::set_mtime,
            Inode::set_ctime,
            Inode::set_btime,
        ] {
            set(i, now);
        }
        if matches!(new.mode & S_IFMT, S_IFBLK | S_IFCHR) {
            i.set_rdev(new.rdev);
        }
        Ok(())
    }

    /// An inode loses a link; at none it becomes an orphan. Not written.
    fn drop_link(&mut self, i: &mut Inode, now: i64) -> TxResult<Unlinked> {
        let left = if i.is_dir() {
            0
        } else {
            i.nlink().saturating_sub(1)
        };
        i.set_nlink(left);
        i.set_ctime(now);
        if left == 0 {
            self.add_pending(i)?;
        }
        Ok(Unlinked {
            ino: i.ino(),
            nlink: left,
        })
    }
}

fn add_dir_link(d: &mut Inode) -> Result<()> {
    if d.nlink() >= LINK_MAX {
        return Err(Error::TooManyLinks);
    }
    d.set_nlink(d.nlink() + 1);
    Ok(())
}

fn drop_dir_link(d: &mut Inode) {
    d.set_nlink(d.nlink().saturating_sub(1).max(1));
}

impl<R: Region, H: Host> Fs<R, H> {
    pub(crate) fn do_create(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        dir::check_name(name)?;
        if !matches!(
            new.mode & S_IFMT,
            S_IFREG | S_IFDIR | S_IFIFO | S_IFSOCK | S_IFBLK | S_IFCHR
        ) || new.mode & !(S_IFMT | PERMISSIONS) != 0
        {
            return Err(Error::Invalid);
        }
        self.make(dir, name, new, |_, _| Ok(()))
    }

    /// Makes an inode with a name; `fill` completes it.
    fn make(
        &self,
        dir: Ino,
        name: &[u8],
        new: &NewInode,
        fill: impl Fn(&mut Tx<'_, R, H>, &mut Inode) -> TxResult<()>,
    ) -> Result<Attr> {
        let now = self.host.now();
        self.run(|tx| {
            let mut d = Inode::NONE;
            tx.live_directory(dir, &mut d)?;
            let mut i = Inode::NONE;
            tx.make_inode(&d, new, now, &mut i)?;
            dir::add(tx, &mut d, name, i.ino(), i.mode())?;
            if i.is_dir() {
                add_dir_link(&mut d)?;
            }
            fill(tx, &mut i)?;
            tx.put_new_inode(&i)?;
            dirty_dir(&mut d, now);
            tx.put_inode(&d)?;
            Ok(i.attr())
        })
    }

    pub(crate) fn do_tmpfile(&self, dir: Ino, new: &NewInode) -> Result<Attr> {
        if new.mode & S_IFMT != S_IFREG || new.mode & !(S_IFMT | PERMISSIONS) != 0 {
            return Err(Error::Invalid);
        }
        let now = self.host.now();
        self.run(|tx| {
            let mut d = Inode::NONE;
            tx.live_directory(dir, &mut d)?;
            let mut i = Inode::NONE;
            tx.make_inode(&d, new, now, &mut i)?;
            i.set_nlink(0);
            tx.add_pending(&mut i)?;
            tx.put_new_inode(&i)?;
            Ok(i.attr())
        })
    }

    pub(crate) fn do_symlink(
        &self,
        dir: Ino,
        name: &[u8],
        target: &[u8],
        new: &NewInode,
    ) -> Result<Attr> {
        dir::check_name(name)?;
        if target.len() > SYMLINK_MAX {
            return Err(Error::NameTooLong);
        }
        if target.is_empty() || target.contains(&0) {
            return Err(Error::Invalid);
        }
        let new = NewInode {
            mode: S_IFLNK | 0o777,
            ..*new
        };
        self.make(dir, name, &new, |tx, i| {
            i.set_size(target.len() as u64);
            if target.len() <= inode::BODY_SIZE {
                i.set_body_format(body::TARGET);
                put(i.body_mut(), 0, target);
            } else {
                let (page, _) = tx.alloc(Want::PAGE)?;
                self.region.write(offset(page), target)?;
                i.set_body_format(body::TARGET_PAGE);
                i.set_body_crc(self.sum(offset(page), target));
                put64(i.body_mut(), 0, page);
                i.add_pages(1);
            }
            Ok(())
        })
    }

    pub(crate) fn do_readlink(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        let mut i = Inode::NONE;
        self.inode(self, ino, &mut i)?;
        if !i.is_symlink() {
            return Err(Error::Invalid);
        }
        let len = i.size() as usize;
        if len > SYMLINK_MAX {
            return Err(Error::corrupt(i.off, "symbolic link: target too long"));
        }
        let Some(out) = buf.get_mut(..len) else {
            return Err(Error::Range);
        };
        match i.body_format() {
            body::TARGET => match i.body().get(..len) {
                Some(b) => out.copy_from_slice(b),
                None => return Err(Error::corrupt(i.off, "symbolic link: bad length")),
            },
            body::TARGET_PAGE => {
                if !self.geo.is_data(i.root(), 1) {
                    return Err(Error::corrupt(i.off, "symbolic link: bad page"));
                }
                let off = offset(i.root());
                self.region.read(off, out)?;
                if self.sum(off, out) != i.body_crc() {
                    return Err(Error::corrupt(off, "symbolic link: bad checksum"));
                }
            }
            _ => return Err(Error::corrupt(i.off, "symbolic link: bad body")),
        }
        Ok(len)
    }

    pub(crate) fn do_link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        dir::check_name(name)?;
        let now = self.host.now();
        self.run(|tx| {
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            if i.is_dir() {
                return Err(Error::NotPermitted.into());
            }
            if i.nlink() >= LINK_MAX {
                return Err(Error::TooManyLinks.into());
            }
            let mut d = Inode::NONE;
            tx.live_directory(dir, &mut d)?;
            dir::add(tx, &mut d, name, ino, i.mode())?;
            i.set_nlink(i.nlink() + 1);
            if !i.has_intent() {
                tx.remove_pending(&mut i)?;
            }
            i.set_ctime(now);
            dirty_dir(&mut d, now);
            tx.put_inode(&d)?;
            tx.put_inode(&i)?;
            Ok(i.attr())
        })
    }

    pub(crate) fn do_unlink(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        let now = self.host.now();
        self.run(|tx| {
            tx.need = Need::Must;
            let mut d = Inode::NONE;
            self.directory(tx, dir, &mut d)?;
            let ino = dir::lookup(tx, &d, name)?;
            let mut i = Inode::NONE;
            self.named(tx, ino, &mut i)?;
            if i.is_dir() {
                return Err(Error::IsDirectory.into());
            }
            dir::remove(tx, &mut d, name)?;
            let gone = tx.drop_link(&mut i, now)?;
            dirty_dir(&mut d, now);
            tx.put_inode(&d)?;
            tx.put_inode(&i)?;
            Ok(gone)
        })
    }

    pub(crate) fn do_rmdir(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        let now = self.host.now();
        self.run(|tx| {
            tx.need = Need::Must;
            let mut d = Inode::NONE;
            self.directory(tx, dir, &mut d)?;
            let ino = dir::lookup(tx, &d, name)?;
            let mut i = Inode::NONE;
            self.named(tx, ino, &mut i)?;
            if !i.is_dir() {
                return Err(Error::NotDirectory.into());
            }
            if i.records() > 0 {
                return Err(Error::NotEmpty.into());
            }
            dir::remove(tx, &mut d, name)?;
            let gone = tx.drop_link(&mut i, now)?;
            drop_dir_link(&mut d);
            dirty_dir(&mut d, now);
            tx.put_inode(&d)?;
            tx.put_inode(&i)?;
            Ok(gone)
        })
    }

    /// An inode that an entry names: not there is corruption, not staleness.
    pub(crate) fn named(&self, tx: &Tx<'_, R, H>, ino: Ino, i: &mut Inode) -> Result<()> {
        match self.inode(tx, ino, i) {
            Err(Error::Stale) => Err(Error::corrupt(
                ino,
                "directory entry names an inode that is not in use",
            )),
            other => other,
        }
    }

    pub(crate) fn do_rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Unlinked>> {
        dir::check_name(name)?;
        dir::check_name(new_name)?;
        let now = self.host.now();
        self.run(|tx| {
            let mut r = Rename {
                from: Inode::NONE,
                to: Inode::NONE,
                across: dir != new_dir,
                now,
            };
            self.directory(tx, dir, &mut r.from)?;
            if r.across {
                tx.live_directory(new_dir, &mut r.to)?;
            } else if r.from.nlink() == 0 {
                return Err(Error::NotFound.into());
            }
            r.run(tx, name, new_name, mode)
        })
    }
}

/// A rename in progress: the two directories, `to` only where it is another one (`across`).
struct Rename {
    from: Inode,
    to: Inode,
    across: bool,
    now: i64,
}

impl Rename {
    fn to(&mut self) -> &mut Inode {
        if self.across {
            &mut self.to
        } else {
            &mut self.from
        }
    }

    fn run<R: Region, H: Host>(
        &mut self,
        tx: &mut Tx<'_, R, H>,
        name: &[u8],
        new_name: &[u8],
        mode: RenameMode,
    ) -> TxResult<Option<Unlinked>> {
        let fs = tx.fs;
        let source = dir::lookup(tx, &self.from, name)?;
        let target = match dir::lookup(tx, self.to(), new_name) {
            Ok(ino) => Some(ino),
            Err(Error::NotFound) => None,
            Err(e) => return Err(e.into()),
        };
        if target.is_some() && mode == RenameMode::NoReplace {
            return Err(Error::Exists.into());
        }
        if target == Some(source) {
            // Two names of one inode, or twice the same name: nothing to do, says rename(2).
            return Ok(None);
        }
        // The caller keeps directories from being moved below themselves; this much costs nothing.
        if self.across && self.to.ino() == source {
            return Err(Error::Invalid.into());
        }
        if target == Some(self.from.ino()) {
            let exchange = mode == RenameMode::Exchange;
            return Err(if exchange {
                Error::Invalid
            } else {
                Error::NotEmpty
            }
            .into());
        }
        let mut moved = Inode::NONE;
        fs.named(tx, source, &mut moved)?;
        let mut other = Inode::NONE;
        if let Some(ino) = target {
            fs.named(tx, ino, &mut other)?;
        }
        let across = self.across;
        let mut gone = None;
        match (mode, target) {
            (RenameMode::Exchange, None) => return Err(Error::NotFound.into()),
            (RenameMode::Exchange, Some(_)) => {
                dir::set(tx, &self.from, name, other.ino(), other.mode())?;
                dir::set(tx, self.to(), new_name, source, moved.mode())?;
                if across {
                    if moved.is_dir() && !other.is_dir() {
                        drop_dir_link(&mut self.from);
                        add_dir_link(self.to())?;
                    } else if other.is_dir() && !moved.is_dir() {
                        drop_dir_link(self.to());
                        add_dir_link(&mut self.from)?;
                    }
                    if other.is_dir() {
                        other.set_link(self.from.ino());
                    }
                }
                other.set_ctime(self.now);
                tx.put_inode(&other)?;
            }
            (_, Some(_)) => {
                match (moved.is_dir(), other.is_dir()) {
                    (true, false) => return Err(Error::NotDirectory.into()),
                    (false, true) => return Err(Error::IsDirectory.into()),
                    (true, true) if other.records() > 0 => return Err(Error::NotEmpty.into()),
                    (true, true) => drop_dir_link(self.to()),
                    (false, false) => {}
                }
                if mode == RenameMode::Replace {
                    // No entry is added; what is replaced may be space to give back.
                    tx.need = Need::Promised;
                }
                dir::set(tx, self.to(), new_name, source, moved.mode())?;
                self.leave(tx, name, mode, &moved)?;
                gone = Some(tx.drop_link(&mut other, self.now)?);
                tx.put_inode(&other)?;
            }
            (_, None) => {
                dir::add(tx, self.to(), new_name, source, moved.mode())?;
                self.leave(tx, name, mode, &moved)?;
            }
        }
        if across && moved.is_dir() {
            moved.set_link(self.to().ino());
        }
        moved.set_ctime(self.now);
        tx.put_inode(&moved)?;
        let now = self.now;
        dirty_dir(&mut self.from, now);
        tx.put_inode(&self.from)?;
        if across {
            dirty_dir(&mut self.to, now);
            tx.put_inode(&self.to)?;
        }
        Ok(gone)
    }

    /// Takes the moved inode's name out of its directory, or leaves a whiteout there.
    fn leave<R: Region, H: Host>(
        &mut self,
        tx: &mut Tx<'_, R, H>,
        name: &[u8],
        mode: RenameMode,
        moved: &Inode,
    ) -> TxResult<()> {
        if let RenameMode::Whiteout { uid, gid } = mode {
            let new = NewInode {
                mode: S_IFCHR,
                uid,
                gid,
                ..NewInode::default()
            };
            let mut whiteout = Inode::NONE;
            tx.make_inode(&self.from, &new, self.now, &mut whiteout)?;
            dir::set(tx, &self.from, name, whiteout.ino(), whiteout.mode())?;
            tx.put_new_inode(&whiteout)?;
        } else {
            dir::remove(tx, &mut self.from, name)?;
        }
        if moved.is_dir() && self.across {
            drop_dir_link(&mut self.from);
            add_dir_link(self.to())?;
        }
        Ok(())
    }
}
