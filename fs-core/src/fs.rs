// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A mounted filesystem: its state in ordinary memory, and the operations it offers.

use crate::dir;
use crate::error::{of_file, Error, Result};
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{self, Need};
use crate::layout::{Geometry, KNOWN_INCOMPAT, KNOWN_RO_COMPAT, PENDING_SETS};
use crate::marker;
use crate::region::Region;
use crate::space;
use crate::superblock::{probe, SuperInfo};
use crate::types::{
    Attr, Dirent, Extent, Fallocate, Ino, NewInode, Owner, RenameMode, Seek, SetAttr, StatFs,
    Stats, Unlinked, Written, XattrMode, S_IFMT,
};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// How to mount.
pub struct MountOptions<'a> {
    /// No operation may change anything. The journal is replayed all the same.
    pub read_only: bool,
    /// Who mounts.
    pub owner: Owner,
    /// Does this holder of the marker, of the same boot, still live? One of another boot does not.
    /// A `start` of 0 means that the start time is not known.
    pub alive: &'a dyn Fn(&Owner) -> bool,
}

impl fmt::Debug for MountOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountOptions")
            .field("read_only", &self.read_only)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// Runs work with an inode locked exclusively, or declines with `Ok(false)`.
pub type LockInode<'l> = dyn FnMut(Ino, &mut dyn FnMut() -> Result<()>) -> Result<bool> + 'l;

/// Most journal slots.
pub(crate) const SLOT_HINTS: usize = 32;
/// Entries of the cache of the inode table's pages.
pub(crate) const TABLE_CACHE: usize = 128;

/// Counters since the mount.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub transactions: AtomicU64,
    pub sectors: AtomicU64,
    pub retries: AtomicU64,
    pub replayed: AtomicU64,
    pub allocated: AtomicU64,
    pub freed: AtomicU64,
    pub corruptions: AtomicU64,
}

/// A mounted filesystem.
///
/// All methods take `&self` and may run in parallel, but the *caller* holds the inode locks that each
/// method names, "shared" or "exclusive", as the kernel's VFS does and `host::Volume` does in user
/// space. Dropping the value without [`Fs::unmount`] is like a crash: harmless.
///
/// Any method may answer [`Error::Corrupt`]; from then on the mount is read-only.
#[derive(Debug)]
pub struct Fs<R: Region, H: Host> {
    pub(crate) region: R,
    pub(crate) host: H,
    pub(crate) info: SuperInfo,
    pub(crate) geo: Geometry,
    pub(crate) seed: u32,
    pub(crate) hash_key: [u64; 2],
    /// Tells this mount's pending work from what earlier ones left.
    pub(crate) epoch: u64,
    pub(crate) groups_ready: AtomicU64,
    /// Odd while the inode table's map is being changed.
    pub(crate) itable_version: AtomicU64,
    /// Pages of the inode table met before: the table never moves nor shrinks.
    pub(crate) table_pages: [AtomicU64; TABLE_CACHE],
    pub(crate) free: AtomicI64,
    pub(crate) inodes: AtomicI64,
    pub(crate) pending: AtomicI64,
    /// The chunk each slot allocated from last.
    pub(crate) hints: [AtomicU64; SLOT_HINTS],
    pub(crate) counters: Counters,
    read_only: AtomicBool,
    damaged: AtomicBool,
    /// Where the next `reclaim_step` looks: the last inode it did of each set.
    reclaimed: [AtomicU64; PENDING_SETS as usize],
}

impl<R: Region, H: Host> Fs<R, H> {
    /// A filesystem whose structures were not looked at yet.
    pub(crate) fn bare(region: R, host: H, info: &SuperInfo) -> Self {
        let epoch = host.random();
        Fs {
            epoch,
            region,
            host,
            info: *info,
            geo: info.geometry,
            seed: info.crc_seed,
            hash_key: info.hash_key,
            groups_ready: AtomicU64::new(info.geometry.first_group()),
            itable_version: AtomicU64::new(0),
            table_pages: [const { AtomicU64::new(0) }; TABLE_CACHE],
            free: AtomicI64::new(0),
            inodes: AtomicI64::new(0),
            pending: AtomicI64::new(0),
            hints: [const { AtomicU64::new(u64::MAX) }; SLOT_HINTS],
            counters: Counters::default(),
            read_only: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            reclaimed: [const { AtomicU64::new(0) }; PENDING_SETS as usize],
        }
    }

    /// Takes the mount marker and replays the journal. The time it takes depends neither on the
    /// region's size nor on what is in it.
    ///
    /// # Errors
    /// Those of [`probe`]; `Busy` if the region is mounted; `UnknownFeatures` if it needs what this
    /// version does not know. Structures that are corrupt beyond use give `Corrupt`.
    pub fn mount(region: R, host: H, options: &MountOptions<'_>) -> Result<Self> {
        let info = probe(&region, &host)?;
        let unknown = info.incompat & !KNOWN_INCOMPAT;
        if unknown != 0 {
            return Err(Error::UnknownFeatures { flags: unknown });
        }
        let unknown = info.ro_compat & !KNOWN_RO_COMPAT;
        if unknown != 0 && !options.read_only {
            return Err(Error::UnknownFeatures { flags: unknown });
        }
        marker::take(&region, &host, &options.owner, options.alive)?;
        let fs = Fs::bare(region, host, &info);
        match fs.start(options) {
            Ok(()) => Ok(fs),
            Err(e) => {
                // Nothing was changed that is not complete in itself.
                let _ = marker::release(&fs.region);
                Err(fs.note(e))
            }
        }
    }

    /// Replays the journal and reads the figures that live in ordinary memory. What is damaged here costs
    /// what it describes: the mount becomes read-only, and files can be read.
    fn start(&self, options: &MountOptions<'_>) -> Result<()> {
        self.read_only.store(options.read_only, Ordering::Relaxed);
        let (replayed, result) = self.recover();
        self.counters.replayed.store(replayed, Ordering::Relaxed);
        self.tolerate(result)?;
        if let Some(ready) = self.tolerate(space::read_frontier(self))? {
            self.groups_ready.store(ready, Ordering::Relaxed);
        }
        let (mut free, mut inodes, mut pending) = (0i64, 0i64, 0i64);
        for slot in 0..self.geo.slots {
            if let Some((f, i, p)) = self.tolerate(journal::read_account(self, slot))? {
                free = free.wrapping_add(f);
                inodes = inodes.wrapping_add(i);
                pending = pending.wrapping_add(p);
            }
        }
        self.free.store(free, Ordering::Relaxed);
        self.inodes.store(inodes, Ordering::Relaxed);
        self.pending.store(pending, Ordering::Relaxed);
        let mut table = Inode::NONE;
        self.tolerate(self.inode_table(self, &mut table))?;
        match self.do_getattr(crate::types::ROOT_INO) {
            Err(Error::Stale) => Err(Error::corrupt(
                self.geo.system_offset(crate::layout::system::ITABLE),
                "inode table: no root in it",
            )),
            other => other.map(|_| ()),
        }
    }

    /// Takes notice of corruption, and goes on without what is corrupt.
    fn tolerate<T>(&self, r: Result<T>) -> Result<Option<T>> {
        match r {
            Ok(value) => Ok(Some(value)),
            Err(Error::Corrupt(c)) => {
                self.note(Error::Corrupt(c));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Nothing is to be changed any more.
    pub(crate) fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    /// Was corruption met?
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Gives the mount marker back. There is nothing else to do.
    ///
    /// # Errors
    /// Those of the region.
    pub fn unmount(&self) -> Result<()> {
        self.read_only.store(true, Ordering::Relaxed);
        marker::release(&self.region)
    }

    /// The region.
    pub fn region(&self) -> &R {
        &self.region
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// What the superblock said when it was mounted.
    pub fn info(&self) -> SuperInfo {
        self.info
    }

    /// True where the mount was asked to be read-only, or corruption was met.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed) || self.damaged.load(Ordering::Relaxed)
    }

    /// Makes the mount read-only or writable again. Once corruption was met it stays read-only, and so does
    /// a filesystem that has features which a writer must know.
    pub fn set_read_only(&self, read_only: bool) {
        let unknown = self.info.ro_compat & !KNOWN_RO_COMPAT != 0;
        self.read_only
            .store(read_only || unknown, Ordering::Relaxed);
    }

    /// Takes notice of an error on its way out.
    fn note(&self, e: Error) -> Error {
        if let Error::Corrupt(c) = &e {
            self.counters.corruptions.fetch_add(1, Ordering::Relaxed);
            self.set_damaged();
            self.host.report(c);
        }
        e
    }

    #[inline]
    fn noted<T>(&self, r: Result<T>) -> Result<T> {
        r.map_err(|e| self.note(e))
    }

    /// Pages that only operations which give space back may take. The least is what the pending sets
    /// need to become trees.
    pub(crate) fn reserve(&self) -> u64 {
        ((self.geo.data_end - self.geo.data_start) / 1024).clamp(32, 1024)
    }

    /// Pages an ordinary write can get.
    pub(crate) fn available(&self) -> u64 {
        self.free_pages().saturating_sub(self.reserve())
    }

    fn free_pages(&self) -> u64 {
        let most = self.geo.data_end - self.geo.data_start;
        u64::try_from(self.free.load(Ordering::Relaxed))
            .unwrap_or(0)
            .min(most)
    }

    /// Figures for statfs(2).
    pub fn statfs(&self) -> StatFs {
        let inodes = u64::try_from(self.inodes.load(Ordering::Relaxed)).unwrap_or(0);
        let available = self.available();
        StatFs {
            pages: self.geo.data_end - self.geo.data_start,
            free: self.free_pages(),
            available,
            inodes,
            inodes_free: available.saturating_mul(crate::layout::INODES_PER_PAGE),
        }
    }

    /// Counters since the mount.
    pub fn stats(&self) -> Stats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.counters;
        Stats {
            transactions: get(&c.transactions),
            sectors: get(&c.sectors),
            retries: get(&c.retries),
            replayed: get(&c.replayed),
            pending: u64::try_from(self.pending.load(Ordering::Relaxed)).unwrap_or(0),
            allocated: get(&c.allocated),
            freed: get(&c.freed),
            corruptions: get(&c.corruptions),
        }
    }

    /// Does the pending work of one inode left by a crash (an orphan, an unfinished removal of
    /// extents). `Ok(false)` when all sets were gone through. For a background thread after mount.
    ///
    /// `lock(ino, work)` runs `work` with that inode locked exclusively, or declines with `Ok(false)`
    /// if the inode is open: then it is left to its `evict`.
    ///
    /// # Errors
    /// Those of `lock`, and any of the core's.
    pub fn reclaim_step(&self, lock: &mut LockInode<'_>) -> Result<bool> {
        if self.is_read_only() {
            return Ok(false);
        }
        for (set, done) in (0..PENDING_SETS).zip(&self.reclaimed) {
            let after = done.load(Ordering::Relaxed);
            if let Some(ino) = self.noted(self.next_pending(set, after))? {
                done.store(ino, Ordering::Relaxed);
                lock(ino, &mut || self.noted(self.do_pending(ino)))?;
                return Ok(true);
            }
        }
        for done in &self.reclaimed {
            done.store(0, Ordering::Relaxed);
        }
        Ok(false)
    }

    /// The inode that a name of a directory names. Locks: `dir` shared. "." and ".." are not names
    /// here; see [`Fs::parent`].
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NameTooLong`, `Stale`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let mut d = Inode::NONE;
        self.noted(
            self.directory(self, dir, &mut d)
                .and_then(|()| dir::lookup(self, &d, name)),
        )
    }

    /// The parent of a directory; the root is its own. Locks: `dir` shared.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        let mut d = Inode::NONE;
        self.noted(self.directory(self, dir, &mut d))?;
        Ok(d.link())
    }

    fn do_getattr(&self, ino: Ino) -> Result<Attr> {
        let mut i = Inode::NONE;
        self.inode(self, ino, &mut i)?;
        Ok(i.attr())
    }

    /// Attributes. Locks: `ino` shared.
    ///
    /// # Errors
    /// `Stale` if the number is not in use.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.noted(self.do_getattr(ino))
    }

    /// Is less than a quarter of the data zone free?
    pub(crate) fn is_tight(&self) -> bool {
        let all = self.geo.data_end - self.geo.data_start;
        u64::try_from(self.free.load(Ordering::Relaxed)).unwrap_or(0) < all / 4
    }

    /// Was this number ever an inode's? For numbers that come from outside, such as file handles: the
    /// other operations take one that never was for damage. Locks: none.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn was_given(&self, ino: Ino) -> Result<bool> {
        self.noted(self.do_was_given(ino))
    }

    /// Changes attributes; returns the new ones. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// With a size: `IsDirectory`, `Invalid` (not a regular file), `FileTooBig`, `NotPermitted`
    /// (sealed). Else `ReadOnly`, `Stale`.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let now = self.host.now();
        let mut change = |i: &mut crate::inode::Inode| {
            if let Some(mode) = set.mode {
                i.set_mode(i.mode() & S_IFMT | mode & 0o7777);
            }
            if let Some(uid) = set.uid {
                i.set_uid(uid);
            }
            if let Some(gid) = set.gid {
                i.set_gid(gid);
            }
            if let Some(t) = set.atime {
                i.set_atime(t);
            }
            if let Some(t) = set.mtime.or(set.size.map(|_| now)) {
                i.set_mtime(t);
            }
            i.set_ctime(set.ctime.unwrap_or(now));
        };
        let done = match set.size {
            Some(size) => self.resize(ino, size, &mut change),
            None => self.run(|tx| {
                tx.need = Need::Must;
                let mut i = Inode::NONE;
                self.inode(tx, ino, &mut i)?;
                change(&mut i);
                Ok(tx.put_inode(&i)?)
            }),
        };
        self.noted(done.and_then(|()| self.do_getattr(ino)))
    }

    /// Makes a regular file, directory, FIFO, socket or device. Locks: `dir` exclusive.
    ///
    /// # Errors
    /// `Exists`, `NotFound` (the directory was removed), `NoSpace`, `NameTooLong`, `TooManyLinks`,
    /// `Invalid` (no such type, a name with '/' or NUL).
    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        self.noted(self.do_create(dir, name, new))
    }

    /// Makes a regular file without a name (O_TMPFILE), gone at `evict` unless it gets one by
    /// [`Fs::link`]. `dir` hands down its group. Locks: `dir` shared.
    ///
    /// # Errors
    /// `NoSpace`, `NotFound`, `Invalid`.
    pub fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<Attr> {
        self.noted(self.do_tmpfile(dir, new))
    }

    /// Makes a symbolic link. Locks: `dir` exclusive.
    ///
    /// # Errors
    /// As [`Fs::create`]; `NameTooLong` for a target of more than 4095 bytes too.
    pub fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr> {
        self.noted(self.do_symlink(dir, name, target, new))
    }

    /// Copies the target of a symbolic link into `buf`, returns its length. Locks: `ino` shared.
    ///
    /// # Errors
    /// `Invalid` for anything else; `Range` if `buf` is too short (4095 bytes suffice).
    pub fn readlink(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        self.noted(self.do_readlink(ino, buf))
    }

    /// Gives an inode one more name. Locks: `dir` and `ino` exclusive.
    ///
    /// # Errors
    /// `Exists`, `NotPermitted` (a directory), `TooManyLinks`, `NoSpace`, `NameTooLong`, `NotFound`.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        self.noted(self.do_link(ino, dir, name))
    }

    /// Removes a name that is no directory's. Locks: `dir` and the named inode exclusive.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        self.noted(self.do_unlink(dir, name))
    }

    /// Removes an empty directory. Locks: `dir` and the named directory exclusive.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        self.noted(self.do_rmdir(dir, name))
    }

    /// Renames; returns what became of an inode that was replaced. The caller has made sure that no
    /// directory is moved below itself. Locks: both directories, the moved and the replaced or
    /// exchanged inode, exclusive.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotDirectory`, `IsDirectory`, `NotEmpty`, `NoSpace`, `NameTooLong`,
    /// `Invalid`, `TooManyLinks`.
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Unlinked>> {
        self.noted(self.do_rename(dir, name, new_dir, new_name, mode))
    }

    /// Calls `emit` for the entries behind `cookie` (0: all) until it answers false (that entry is
    /// then given again) or they end. "." and ".." are not given. Locks: `dir` shared.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&Dirent<'_>) -> bool,
    ) -> Result<()> {
        let mut d = Inode::NONE;
        self.noted(
            self.directory(self, dir, &mut d)
                .and_then(|()| dir::list(self, &d, cookie, emit)),
        )
    }

    /// Reads; fewer bytes than asked only at the end of the file. Leaves atime alone. Locks: `ino`
    /// shared.
    ///
    /// # Errors
    /// `IsDirectory`, `Invalid` (not a regular file), `Stale`.
    #[inline]
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.noted(self.do_read(ino, offset, buf))
    }

    /// Writes. Fewer bytes than asked only when space ran out after some. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `NoSpace`, `FileTooBig`, `NotPermitted` (sealed), `IsDirectory`, `Invalid`, `ReadOnly`.
    #[inline]
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        self.noted(self.do_write(ino, offset, data))
    }

    /// As [`Fs::write`] for a range that is allocated, written and inside the size, when the inode's
    /// times are of this clock tick already: nothing but bytes change, so that a *shared* lock on
    /// `ino` suffices. `Ok(false)`, with nothing done, where that is not so.
    ///
    /// # Errors
    /// `IsDirectory`, `Invalid`, `Stale`.
    #[inline]
    pub fn overwrite(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<bool> {
        self.overwrite_with(ino, offset, data.len() as u64, &|to, pos, n| {
            let bytes = data
                .get(pos as usize..(pos + n) as usize)
                .ok_or(Error::Invalid)?;
            of_file(self.region.write(to, bytes))
        })
    }

    /// As [`Fs::overwrite`]; `fill` as for [`Fs::write_with`], but a word of the old or of the new may
    /// be anywhere when it fails.
    ///
    /// # Errors
    /// As [`Fs::overwrite`], and those of `fill`.
    #[inline]
    pub fn overwrite_with(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        fill: &dyn Fn(u64, u64, u64) -> Result<()>,
    ) -> Result<bool> {
        self.noted(self.do_overwrite(ino, offset, len, fill))
    }

    /// As [`Fs::read`], for who copies himself: `take(from, n)` is called for one run after the other,
    /// `n` bytes at the region's offset `from`, or `n` zeros where there is none.
    ///
    /// # Errors
    /// As [`Fs::read`], and those of `take`.
    #[inline]
    pub fn read_with(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        take: &mut dyn FnMut(Option<u64>, u64) -> Result<()>,
    ) -> Result<u64> {
        self.noted(self.do_read_with(ino, offset, len, take))
    }

    /// As [`Fs::write`], for who copies himself: `fill(to, pos, n)` is called for one run after the
    /// other, to store `n` bytes, those at `pos` of what is written, at the region's offset `to`. It
    /// may be called again for the same bytes, and holds locks of the core: it must not wait for
    /// anything that could wait for us. Where it answers `Fault` the write ends before that run.
    /// Locks: `ino` exclusive.
    ///
    /// # Errors
    /// As [`Fs::write`], and those of `fill` if nothing was written before.
    #[inline]
    pub fn write_with(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        fill: &dyn Fn(u64, u64, u64) -> Result<()>,
    ) -> Result<Written> {
        self.noted(self.do_write_with(ino, offset, len, fill))
    }

    /// The run of written pages that covers `file_page`, for a mapping that will be written through:
    /// what is a hole or unwritten becomes pages of zeros first, as far as `pages` and the size reach.
    /// Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `PastEnd` (no byte of the page is in the file), else as [`Fs::write`].
    pub fn map_written(&self, ino: Ino, file_page: u64, pages: u64) -> Result<Extent> {
        self.noted(self.do_map_written(ino, file_page, pages))
    }

    /// Zeros what the last page of a file holds behind its size. Nothing but a mapping shows that; it is
    /// done besides whenever the size grows over it. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `ReadOnly`, `NotPermitted` (sealed), `IsDirectory`, `Invalid`, `Stale`.
    pub fn zero_behind_size(&self, ino: Ino) -> Result<()> {
        self.noted(self.do_zero_behind_size(ino))
    }

    /// Sets atime, if `time` is later. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `ReadOnly`, `Stale`.
    pub fn touch_atime(&self, ino: Ino, time: i64) -> Result<()> {
        self.noted(self.run(|tx| {
            tx.need = Need::Must;
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            if i.atime() < time {
                i.set_atime(time);
                tx.put_inode(&i)?;
            }
            Ok(())
        }))
    }

    /// Allocates, punches or zeros a range of bytes. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `NoSpace` (what was allocated before stays), `Invalid` (empty range), `FileTooBig`,
    /// `NotPermitted` (sealed), `IsDirectory`.
    pub fn fallocate(&self, ino: Ino, what: Fallocate, offset: u64, len: u64) -> Result<()> {
        self.noted(self.do_fallocate(ino, what, offset, len))
    }

    /// SEEK_DATA and SEEK_HOLE; unwritten pages are holes. Locks: `ino` shared.
    ///
    /// # Errors
    /// `PastEnd`, `IsDirectory`, `Invalid`.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        self.noted(self.do_seek(ino, offset, what))
    }

    /// The first run of pages of a file that ends behind `file_page`, beginning there if it covers
    /// it. Locks: `ino` shared.
    ///
    /// # Errors
    /// `IsDirectory`, `Invalid`, `Stale`.
    pub fn extent_at(&self, ino: Ino, file_page: u64) -> Result<Option<Extent>> {
        self.noted(self.do_extent_at(ino, file_page))
    }

    /// Copies inside the region; holes stay holes where the target has nothing. Returns the bytes
    /// copied, fewer at the end of the source or of space. Locks: `from` shared and `to` exclusive;
    /// the same file: exclusive, ranges that do not overlap.
    ///
    /// # Errors
    /// As [`Fs::read`] and [`Fs::write`].
    pub fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        self.noted(self.do_copy_range(from, from_offset, to, to_offset, len))
    }

    /// The value of an extended attribute, by its full name. Returns its length; copies it unless
    /// `buf` is empty. Locks: `ino` shared.
    ///
    /// # Errors
    /// `NoData`, `Range` (`buf` is too short), `NotSupported` (no such namespace).
    pub fn getxattr(&self, ino: Ino, name: &[u8], buf: &mut [u8]) -> Result<usize> {
        self.noted(self.do_getxattr(ino, name, buf))
    }

    /// All names, each with a NUL behind it. Returns their length; copies them unless `buf` is empty.
    /// Locks: `ino` shared.
    ///
    /// # Errors
    /// `Range` (`buf` is too short).
    pub fn listxattr(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        self.noted(self.do_listxattr(ino, buf))
    }

    /// Sets an extended attribute of the user, trusted, security or system namespace. Locks: `ino`
    /// exclusive.
    ///
    /// # Errors
    /// `Exists`, `NoData` (by `mode`), `NoSpace`, `TooBig`, `Range` (long name), `NotSupported`.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.noted(self.do_setxattr(ino, name, Some(value), mode))
    }

    /// Removes an extended attribute. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `NoData`, `NotSupported`.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.noted(self.do_setxattr(ino, name, None, XattrMode::Either))
    }

    /// Nobody holds the inode any more: if it has no links, all it has is given back. Locks: `ino`
    /// exclusive.
    ///
    /// # Errors
    /// `ReadOnly` (it stays pending), `Stale`.
    pub fn evict(&self, ino: Ino) -> Result<()> {
        let mut i = Inode::NONE;
        self.noted(self.inode(self, ino, &mut i))?;
        if i.nlink() > 0 {
            // A removal of extents that an earlier mount left, and nobody finished while it was open.
            if i.has_intent() && !self.is_read_only() {
                return self.noted(self.finish_intent(ino));
            }
            return Ok(());
        }
        self.noted(self.reclaim(ino))
    }

    /// Records a checksum of each 2 MiB window that holds data, and makes the file immutable. Locks:
    /// `ino` exclusive.
    ///
    /// # Errors
    /// `Invalid` (not a regular file), `NoSpace`, `ReadOnly`.
    pub fn seal(&self, ino: Ino) -> Result<()> {
        self.noted(self.do_seal(ino))
    }

    /// Takes a seal away; the file can be changed again. Locks: `ino` exclusive.
    ///
    /// # Errors
    /// `Invalid`, `ReadOnly`.
    pub fn unseal(&self, ino: Ino) -> Result<()> {
        self.noted(self.do_unseal(ino))
    }

    /// Checks the first sealed window that ends behind byte `offset`. Returns where to go on, `None`
    /// behind the last. Locks: `ino` shared.
    ///
    /// # Errors
    /// `Corrupt` with the region offset of a window whose bytes changed (the mount does not become
    /// read-only by it: the structures are sound); `NoData` if the file is not sealed.
    pub fn verify(&self, ino: Ino, offset: u64) -> Result<Option<u64>> {
        self.do_verify(ino, offset)
    }
}

/// The mount marker is not given back here: a value that goes without [`Fs::unmount`] is a crash.
impl<R: Region, H: Host> Fs<R, H> {
    /// Gives the region and the host back.
    pub fn into_parts(self) -> (R, H) {
        (self.region, self.host)
    }
}
