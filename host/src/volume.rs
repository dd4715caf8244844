// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A mounted filesystem with the inode locks that the core asks its caller for.
//!
//! Locking order, first to last: the rename mutex; inode shards by ascending index, each at most
//! once; the reference table. The core's own locks ([`fs_core::Host`]) come below all of these.

mod refs;
#[cfg(test)]
mod tests;

use crate::UserHost;
use fs_core::{
    Attr, Dirent, Error, Extent, Fallocate, Fs, Host, Ino, MountOptions, NewInode, Region,
    RenameMode, Result, Seek, SetAttr, StatFs, Stats, SuperInfo, Unlinked, XattrMode, S_IFDIR,
    S_IFMT,
};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use refs::Refs;
use std::time::Duration;

/// Inodes share locks by number, modulo this. Enough that two threads rarely meet by chance.
const SHARDS: usize = 1024;

/// Inodes that one operation can change at once (a rename: two directories, two inodes).
const MOST_LOCKS: usize = 4;

/// A lock on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(RwLock<()>);

/// A mounted filesystem that any number of threads may use: [`Fs`] with its locking rules kept.
///
/// Methods are named after those of [`Fs`]; see there for what they do. Besides, it counts who
/// holds which inode ([`Volume::acquire`], [`Volume::release`]) and evicts unlinked inodes when
/// the last holder lets go.
#[derive(Debug)]
pub struct Volume<R: Region, H: Host = UserHost> {
    fs: Fs<R, H>,
    shards: Box<[Shard]>,
    /// Held while a directory moves to another parent: the tree above any directory stands still.
    renames: Mutex<()>,
    /// Held shared from the birth of a nameless inode until its reference is counted.
    births: RwLock<()>,
    refs: Refs,
}

type Exclusive<'a> = [Option<RwLockWriteGuard<'a, ()>>; MOST_LOCKS];

impl<R: Region, H: Host> Volume<R, H> {
    /// Mounts the region.
    pub fn mount(region: R, host: H, options: &MountOptions<'_>) -> Result<Self> {
        Ok(Self::new(Fs::mount(region, host, options)?))
    }

    /// Wraps a mounted filesystem.
    pub fn new(fs: Fs<R, H>) -> Self {
        Volume {
            fs,
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            renames: Mutex::new(()),
            births: RwLock::new(()),
            refs: Refs::new(),
        }
    }

    /// The core, for what needs no inode lock. Taking care of the others is the caller's part.
    pub fn fs(&self) -> &Fs<R, H> {
        &self.fs
    }

    /// Unwraps the core.
    pub fn into_fs(self) -> Fs<R, H> {
        self.fs
    }

    // ---- locks ----------------------------------------------------------------------------

    fn index(ino: Ino) -> usize {
        ino as usize % SHARDS
    }

    /// Runs `work` with `ino` locked shared. `work` must not lock another inode.
    #[inline]
    pub fn shared<T>(&self, ino: Ino, work: impl FnOnce(&Fs<R, H>) -> T) -> T {
        let _guard = self.shards[Self::index(ino)].0.read();
        work(&self.fs)
    }

    /// Runs `work` with `ino` locked exclusively. `work` must not lock another inode.
    #[inline]
    pub fn exclusive<T>(&self, ino: Ino, work: impl FnOnce(&Fs<R, H>) -> T) -> T {
        let _guard = self.shards[Self::index(ino)].0.write();
        work(&self.fs)
    }

    /// Locks all of `inos` exclusively.
    fn lock_all(&self, inos: &[Ino]) -> Exclusive<'_> {
        let mut indexes = [usize::MAX; MOST_LOCKS];
        for (slot, ino) in indexes.iter_mut().zip(inos) {
            *slot = Self::index(*ino);
        }
        indexes.sort_unstable();
        let mut guards = [const { None }; MOST_LOCKS];
        let mut last = usize::MAX;
        for (guard, &index) in guards.iter_mut().zip(&indexes) {
            if index != last && index != usize::MAX {
                *guard = Some(self.shards[index].0.write());
                last = index;
            }
        }
        guards
    }

    // ---- references -----------------------------------------------------------------------

    /// Counts a reference to an inode that the caller knows to exist. [`Error::Stale`] if it is
    /// unlinked and being evicted.
    pub fn acquire(&self, ino: Ino) -> Result<()> {
        if self.refs.acquire(ino) {
            Ok(())
        } else {
            Err(Error::Stale)
        }
    }

    /// Gives `n` references back. The last one of an unlinked inode evicts it.
    pub fn release(&self, ino: Ino, n: u64) -> Result<()> {
        if self.refs.release(ino, n) {
            self.evict(ino)
        } else {
            Ok(())
        }
    }

    /// Looks a name up and counts a reference to what it names.
    pub fn lookup_acquire(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        // The reference is counted while the directory is locked: the name stands, so the inode
        // has a link, and from then on it cannot be evicted.
        let ino = self.shared(dir, |fs| {
            let ino = fs.lookup(dir, name)?;
            self.acquire(ino).map(|()| ino)
        })?;
        self.getattr(ino).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.release(ino, 1);
        })
    }

    /// Inodes held.
    pub fn held(&self) -> usize {
        self.refs.len()
    }

    /// Unlinked inodes that somebody holds or that wait to be evicted: space that may come back.
    pub fn orphans(&self) -> usize {
        self.refs.orphans()
    }

    /// Runs an operation that allocates. When the region is full but unlinked files are about to
    /// be evicted by other threads, waits a moment for them and tries again.
    pub fn with_space<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..5 {
            match work() {
                Err(Error::NoSpace) if self.refs.orphans() > 0 => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                done => return done,
            }
        }
        work()
    }

    /// Evicts an orphan whose entry says that nobody holds it. `refs.forget` comes first: the
    /// inode number can be used anew as soon as the core is done with it.
    fn evict(&self, ino: Ino) -> Result<()> {
        self.exclusive(ino, |fs| {
            self.refs.forget(ino);
            fs.evict(ino)
        })
    }

    /// After a link went: evicts if it was the last and nobody holds the inode. The inode is
    /// locked exclusively.
    fn after_unlink(&self, gone: &Unlinked) -> Result<()> {
        if gone.nlink == 0 && self.refs.orphaned(gone.ino) {
            self.fs.evict(gone.ino)?;
        }
        Ok(())
    }

    /// Evicts every orphan, held or not: the last act before unmounting, when no kernel will ever
    /// send another request. (Left alone they would be reclaimed after the next mount.)
    pub fn evict_all(&self) -> Result<()> {
        for ino in self.refs.held_orphans() {
            self.evict(ino)?;
        }
        Ok(())
    }

    // ---- the filesystem as a whole ----------------------------------------------------------

    /// See [`Fs::unmount`].
    pub fn unmount(&self) -> Result<()> {
        self.fs.unmount()
    }

    /// See [`Fs::info`].
    pub fn info(&self) -> SuperInfo {
        self.fs.info()
    }

    /// See [`Fs::is_read_only`].
    pub fn is_read_only(&self) -> bool {
        self.fs.is_read_only()
    }

    /// See [`Fs::statfs`].
    pub fn statfs(&self) -> StatFs {
        self.fs.statfs()
    }

    /// See [`Fs::stats`].
    pub fn stats(&self) -> Stats {
        self.fs.stats()
    }

    /// See [`Fs::reclaim_step`]; inodes that somebody holds are left alone.
    pub fn reclaim_step(&self) -> Result<bool> {
        self.fs.reclaim_step(&mut |ino, work| {
            let _no_births = self.births.write();
            self.exclusive(ino, |_| {
                if self.refs.holds(ino) {
                    return Ok(false);
                }
                work().map(|()| true)
            })
        })
    }

    // ---- names ------------------------------------------------------------------------------

    /// See [`Fs::lookup`].
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.shared(dir, |fs| fs.lookup(dir, name))
    }

    /// See [`Fs::parent`].
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        self.shared(dir, |fs| fs.parent(dir))
    }

    /// See [`Fs::create`].
    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        self.exclusive(dir, |fs| fs.create(dir, name, new))
    }

    /// [`Volume::create`] with a reference to the new inode.
    pub fn create_acquire(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        self.exclusive(dir, |fs| {
            let attr = fs.create(dir, name, new)?;
            self.acquire(attr.ino).map(|()| attr)
        })
    }

    /// See [`Fs::tmpfile`]. Comes with a reference: without one it would be nobody's.
    pub fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<Attr> {
        let _birth = self.births.read();
        let attr = self.shared(dir, |fs| fs.tmpfile(dir, new))?;
        self.refs.born_orphan(attr.ino);
        Ok(attr)
    }

    /// See [`Fs::symlink`].
    pub fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr> {
        self.exclusive(dir, |fs| fs.symlink(dir, name, target, new))
    }

    /// [`Volume::symlink`] with a reference to the new inode.
    pub fn symlink_acquire(
        &self,
        dir: Ino,
        name: &[u8],
        target: &[u8],
        new: &NewInode,
    ) -> Result<Attr> {
        self.exclusive(dir, |fs| {
            let attr = fs.symlink(dir, name, target, new)?;
            self.acquire(attr.ino).map(|()| attr)
        })
    }

    /// See [`Fs::readlink`].
    pub fn readlink(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        self.shared(ino, |fs| fs.readlink(ino, buf))
    }

    /// See [`Fs::link`].
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        let _guards = self.lock_all(&[ino, dir]);
        let attr = self.fs.link(ino, dir, name)?;
        self.refs.named(ino);
        Ok(attr)
    }

    /// Locks `dir` and what `name` in it names, exclusively, and runs `work`.
    fn with_child<T>(
        &self,
        dir: Ino,
        name: &[u8],
        work: impl FnOnce(&Fs<R, H>) -> Result<T>,
    ) -> Result<T> {
        loop {
            let child = self.lookup(dir, name)?;
            let _guards = self.lock_all(&[dir, child]);
            // Between the look and the locks the name may have come to mean something else.
            if self.fs.lookup(dir, name)? == child {
                return work(&self.fs);
            }
        }
    }

    /// See [`Fs::unlink`].
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        self.with_child(dir, name, |fs| {
            let gone = fs.unlink(dir, name)?;
            self.after_unlink(&gone)?;
            Ok(gone)
        })
    }

    /// See [`Fs::rmdir`].
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        self.with_child(dir, name, |fs| {
            let gone = fs.rmdir(dir, name)?;
            self.after_unlink(&gone)?;
            Ok(gone)
        })
    }

    /// See [`Fs::rename`]. Moving a directory below itself is [`Error::Invalid`].
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Unlinked>> {
        // Only a move to another directory can change what lies below what.
        let _tree = (dir != new_dir).then(|| self.renames.lock());
        let mut missed = 0;
        loop {
            let child = self.lookup(dir, name)?;
            let target = match self.lookup(new_dir, new_name) {
                Ok(ino) => Some(ino),
                Err(Error::NotFound) => None,
                Err(e) => return Err(e),
            };
            if dir != new_dir {
                let exchanged = target.filter(|_| mode == RenameMode::Exchange);
                let there = self.refuse_loop(child, new_dir)?
                    && exchanged.map_or(Ok(true), |target| self.refuse_loop(target, dir))?;
                if !there {
                    // No lock is held yet: others have unlinked it since. Not so often in a row, though:
                    // then it is a damaged directory that names what is not there.
                    missed += 1;
                    if missed > 100 {
                        return Err(Error::Stale);
                    }
                    continue;
                }
            }
            let inos = [dir, new_dir, child, target.unwrap_or(child)];
            let _guards = self.lock_all(&inos);
            let same_child = self.fs.lookup(dir, name)? == child;
            let same_target = match self.fs.lookup(new_dir, new_name) {
                Ok(ino) => Some(ino) == target,
                Err(Error::NotFound) => target.is_none(),
                Err(e) => return Err(e),
            };
            if same_child && same_target {
                let gone = self.fs.rename(dir, name, new_dir, new_name, mode)?;
                if let Some(gone) = &gone {
                    self.after_unlink(gone)?;
                }
                return Ok(gone);
            }
        }
    }

    /// [`Error::Invalid`] if `dir` is `moved` or below it. False if there is no `moved` any more. The
    /// caller holds the rename mutex.
    fn refuse_loop(&self, moved: Ino, dir: Ino) -> Result<bool> {
        match self.getattr(moved) {
            Ok(attr) if attr.mode & S_IFMT == S_IFDIR => {}
            Ok(_) => return Ok(true),
            Err(Error::Stale) => return Ok(false),
            Err(e) => return Err(e),
        }
        let mut at = dir;
        // The parents come from the region: a ring in them must not hang us.
        for _ in 0..1 << 20 {
            if at == moved {
                return Err(Error::Invalid);
            }
            let parent = self.parent(at)?;
            if parent == at {
                return Ok(true);
            }
            at = parent;
        }
        Err(Error::corrupt(0, "directories are their own ancestors"))
    }

    /// See [`Fs::readdir`]. `emit` runs with the directory locked: it must not lock an inode.
    pub fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&Dirent<'_>) -> bool,
    ) -> Result<()> {
        self.shared(dir, |fs| fs.readdir(dir, cookie, emit))
    }

    // ---- one inode ----------------------------------------------------------------------------

    /// See [`Fs::getattr`].
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.shared(ino, |fs| fs.getattr(ino))
    }

    /// See [`Fs::setattr`].
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.exclusive(ino, |fs| fs.setattr(ino, set))
    }

    /// See [`Fs::read`].
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.shared(ino, |fs| fs.read(ino, offset, buf))
    }

    /// See [`Fs::write`]. What lies in written pages already is overwritten under the shared
    /// lock, so that such writes to one file run in parallel.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        if self.shared(ino, |fs| fs.overwrite(ino, offset, data))? {
            return Ok(data.len());
        }
        self.exclusive(ino, |fs| fs.write(ino, offset, data))
    }

    /// See [`Fs::touch_atime`].
    pub fn touch_atime(&self, ino: Ino, time: i64) -> Result<()> {
        self.exclusive(ino, |fs| fs.touch_atime(ino, time))
    }

    /// See [`Fs::fallocate`].
    pub fn fallocate(&self, ino: Ino, what: Fallocate, offset: u64, len: u64) -> Result<()> {
        self.exclusive(ino, |fs| fs.fallocate(ino, what, offset, len))
    }

    /// See [`Fs::seek`].
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        self.shared(ino, |fs| fs.seek(ino, offset, what))
    }

    /// See [`Fs::extent_at`].
    pub fn extent_at(&self, ino: Ino, file_page: u64) -> Result<Option<Extent>> {
        self.shared(ino, |fs| fs.extent_at(ino, file_page))
    }

    /// See [`Fs::copy_range`].
    pub fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let work = || self.fs.copy_range(from, from_offset, to, to_offset, len);
        let (source, target) = (Self::index(from), Self::index(to));
        let (_shared, _exclusive);
        if source < target {
            _shared = Some(self.shards[source].0.read());
            _exclusive = self.shards[target].0.write();
            work()
        } else {
            _exclusive = self.shards[target].0.write();
            _shared = (source != target).then(|| self.shards[source].0.read());
            work()
        }
    }

    /// See [`Fs::getxattr`].
    pub fn getxattr(&self, ino: Ino, name: &[u8], buf: &mut [u8]) -> Result<usize> {
        self.shared(ino, |fs| fs.getxattr(ino, name, buf))
    }

    /// See [`Fs::listxattr`].
    pub fn listxattr(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        self.shared(ino, |fs| fs.listxattr(ino, buf))
    }

    /// See [`Fs::setxattr`].
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.exclusive(ino, |fs| fs.setxattr(ino, name, value, mode))
    }

    /// See [`Fs::removexattr`].
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.exclusive(ino, |fs| fs.removexattr(ino, name))
    }

    /// See [`Fs::seal`].
    pub fn seal(&self, ino: Ino) -> Result<()> {
        self.exclusive(ino, |fs| fs.seal(ino))
    }

    /// See [`Fs::unseal`].
    pub fn unseal(&self, ino: Ino) -> Result<()> {
        self.exclusive(ino, |fs| fs.unseal(ino))
    }

    /// See [`Fs::verify`].
    pub fn verify(&self, ino: Ino, offset: u64) -> Result<Option<u64>> {
        self.shared(ino, |fs| fs.verify(ino, offset))
    }
}
