// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! FUSE requests, answered by a [`Volume`].
//!
//! The kernel checks permissions (`default_permissions`), strips SUID and SGID bits on chown,
//! truncate and cached writes by a setattr of its own, and keeps locks. Left to us: umask and
//! default ACLs, ACLs that follow a chmod, stripping on direct writes, access times, lifetimes.
//!
//! Entries and attributes are cached by the kernel for as long as it likes: the mount is
//! exclusive, nothing changes but by its own requests. The one exception is told to it
//! ([`RpRamFs::strip`]).

use crate::acl::{self, Acl};
use crate::attributes::{file_type, from_request_time, negative, to_fuse};
use crate::hints::Hints;
use crate::opens::Opens;
use crate::options::{Atime, IoMode};
use crate::{buffer, caller, ioctl};
use fs_core::Host as _;
use fs_core::{
    Attr, Dirent, Error, Fallocate, Ino, NewInode, Region, RenameMode, Result, Seek, SetAttr,
    XattrMode, NAME_MAX, PAGE_SIZE, SYMLINK_MAX, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISGID,
    S_ISUID, XATTR_SIZE_MAX,
};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenAccMode,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use host::Volume;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// How long the kernel may trust what it was told.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Largest request. The kernel allows 1 MiB until fs.fuse.max_pages_limit (Linux 6.13) is raised; and
/// each thread keeps a buffer of this size once it was needed.
pub const MAX_REQUEST: u32 = 4 << 20;

/// What the kernel reads ahead for files in its page cache.
pub const READAHEAD: u32 = 1 << 20;

/// A file opened for reading only is read through the page cache up to this size. Larger ones
/// (images, databases) are read once as a rule and would only take memory twice.
const CACHED_SIZE: u64 = 1 << 20;

/// Bytes that one copy_file_range request copies, so that the target is not locked for long.
const COPY_PIECE: u64 = 16 << 20;

/// Cookies of "." and ".."; the core's own begin at 256.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOTDOT: u64 = 2;

/// Entries that readdirplus collects at a time: about what fits a page.
const BATCH: usize = 24;

const CAPABILITY: &[u8] = b"security.capability";
const DAY: i64 = 24 * 3600 * 1_000_000_000;
const S_IXGRP: u32 = 0o010;

/// What can be chosen about a mounted filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Data path.
    pub io: IoMode,
    /// Access times.
    pub atime: Atime,
    /// Leave access times of directories alone.
    pub nodiratime: bool,
}

/// Writes what lies in a page cache below the region back; absent where the region is memory.
pub type Sync = Box<dyn Fn() -> io::Result<()> + Send + std::marker::Sync>;

/// The FUSE server.
pub struct RpRamFs<R: Region> {
    volume: Arc<Volume<R>>,
    settings: Settings,
    sync: Option<Sync>,
    hints: Hints,
    opens: Opens,
    notifier: Arc<OnceLock<Notifier>>,
    /// May files be opened past the page cache?
    direct: bool,
}

fn errno(e: Error) -> Errno {
    Errno::from_i32(e.errno())
}

/// Replies with `$value` of an Ok, or with the error.
macro_rules! attempt {
    ($reply:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(e) => return $reply.error(errno(e)),
        }
    };
}

impl<R: Region + Send + 'static> RpRamFs<R> {
    /// A server for a mounted volume.
    pub fn new(volume: Arc<Volume<R>>, settings: Settings, sync: Option<Sync>) -> Self {
        RpRamFs {
            volume,
            settings,
            sync,
            hints: Hints::default(),
            opens: Opens::default(),
            notifier: Arc::default(),
            direct: false,
        }
    }

    /// Where to put the session's notifier as soon as there is one.
    pub fn notifier_slot(&self) -> Arc<OnceLock<Notifier>> {
        self.notifier.clone()
    }

    fn now(&self) -> i64 {
        self.volume.fs().host().now()
    }

    fn generation(attr: &Attr) -> Generation {
        Generation(attr.generation.into())
    }

    /// Answers a lookup or a creation. The reference is counted already.
    fn reply_entry(reply: ReplyEntry, attr: &Attr) {
        reply.entry(&FOREVER, &to_fuse(attr), Self::generation(attr));
    }

    /// Does a file that is opened so go past the page cache?
    fn wants_direct(&self, flags: OpenFlags, size: u64) -> bool {
        self.direct
            && match self.settings.io {
                IoMode::Direct => true,
                IoMode::Cached => false,
                IoMode::Auto => flags.acc_mode() != OpenAccMode::O_RDONLY || size > CACHED_SIZE,
            }
    }

    fn open_flags(&self, ino: Ino, flags: OpenFlags, size: u64) -> FopenFlags {
        if self.opens.open(ino, self.wants_direct(flags, size)) {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        }
    }

    /// Counts a reference to an inode that may or may not exist.
    fn acquire(&self, ino: Ino) -> Result<Attr> {
        self.volume.acquire(ino)?;
        self.volume
            .getattr(ino)
            .inspect_err(|_| self.references_gone(ino, 1))
    }

    // ---- creation -------------------------------------------------------------------------

    /// Makes an inode with the permissions that umask or the directory's default ACL leave.
    fn make(
        &self,
        request: &Request,
        dir: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u64,
    ) -> Result<Attr> {
        let name = name.as_bytes();
        let mut new = NewInode {
            mode,
            uid: request.uid(),
            gid: request.gid(),
            rdev,
        };
        let default = self.xattr(dir, acl::DEFAULT)?;
        let Some(mut list) = default.as_deref().and_then(Acl::parse) else {
            new.mode = mode & !(umask & 0o777);
            let attr = self
                .volume
                .with_space(|| self.volume.create_acquire(dir, name, &new))?;
            self.born(dir, &attr);
            return Ok(attr);
        };

        let mode = list.inherit(mode);
        // The name is there before its list is: until then the owning group gets what the list
        // will leave it, not the mask, and a crash in between gives nobody too much.
        new.mode = mode & !0o070 | list.owning_group() << 3;
        let attr = self
            .volume
            .with_space(|| self.volume.create_acquire(dir, name, &new))?;
        self.born(dir, &attr);
        let ino = attr.ino;
        let finish = || {
            self.volume.with_space(|| {
                self.volume.exclusive(ino, |fs| {
                    if !list.is_just_a_mode() {
                        fs.setxattr(ino, acl::ACCESS, &list.to_bytes(), XattrMode::Either)?;
                    }
                    if mode & S_IFMT == S_IFDIR {
                        let default = default.as_deref().unwrap_or_default();
                        fs.setxattr(ino, acl::DEFAULT, default, XattrMode::Either)?;
                    }
                    let set = SetAttr {
                        mode: Some(attr.mode & !0o777 | mode & 0o777),
                        ..SetAttr::default()
                    };
                    fs.setattr(ino, &set)
                })
            })
        };
        finish().inspect_err(|_| {
            // A creation fails wholly. The first error is the one to tell.
            let _ = match mode & S_IFMT {
                S_IFDIR => self.volume.rmdir(dir, name),
                _ => self.volume.unlink(dir, name),
            };
            let _ = self.volume.release(ino, 1);
        })
    }

    /// A new inode may have a number about which something was known; and its directory changed.
    fn born(&self, dir: Ino, attr: &Attr) {
        self.hints.clear_plain(attr.ino);
        self.hints.clear_accessed(attr.ino);
        self.hints.clear_accessed(dir);
    }

    // ---- attributes -----------------------------------------------------------------------

    /// An attribute's value, `None` if there is none.
    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        // Nearly always there is none: one look, no buffer.
        self.volume.shared(ino, |fs| {
            let len = match fs.getxattr(ino, name, &mut []) {
                Ok(len) => len,
                Err(Error::NoData) => return Ok(None),
                Err(e) => return Err(e),
            };
            let mut value = vec![0; len];
            let len = fs.getxattr(ino, name, &mut value)?;
            value.truncate(len);
            Ok(Some(value))
        })
    }

    /// setattr, with the access ACL following a new mode.
    fn set_attributes(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let list = match set.mode {
            Some(_) => self.xattr(ino, acl::ACCESS)?,
            None => None,
        };
        self.volume.with_space(|| {
            self.volume.exclusive(ino, |fs| {
                if let (Some(mode), Some(mut list)) =
                    (set.mode, list.as_deref().and_then(Acl::parse))
                {
                    list.chmod(mode);
                    fs.setxattr(ino, acl::ACCESS, &list.to_bytes(), XattrMode::Replace)?;
                }
                self.hints.clear_plain(ino);
                self.hints.clear_accessed(ino);
                fs.setattr(ino, set)
            })
        })
    }

    /// Sets an access ACL: the mode follows, and a list that says no more than a mode becomes one.
    fn set_access_acl(
        &self,
        request: &Request,
        ino: Ino,
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let list = Acl::parse(value).ok_or(Error::Invalid)?;
        let before = self.volume.getattr(ino)?;
        let mut bits = before.mode & 0o7000 | list.mode();
        if bits & S_ISGID != 0 && !caller::in_group_or_capable(request, before.gid) {
            bits &= !S_ISGID;
        }
        let set = SetAttr {
            mode: Some(bits),
            ..SetAttr::default()
        };
        self.volume.with_space(|| {
            self.volume.exclusive(ino, |fs| {
                if list.is_just_a_mode() {
                    match fs.removexattr(ino, acl::ACCESS) {
                        Ok(()) | Err(Error::NoData) => {}
                        Err(e) => return Err(e),
                    }
                } else {
                    fs.setxattr(ino, acl::ACCESS, value, mode)?;
                }
                self.hints.clear_plain(ino);
                fs.setattr(ino, &set).map(|_| ())
            })
        })
    }

    /// Before a write past the page cache: takes file capabilities away and, if the writer is not
    /// privileged (`kill`), SUID and SGID. (For cached writes the kernel has done it.)
    #[cold]
    fn strip(&self, ino: Ino, kill: bool) -> Result<()> {
        let changed = self.volume.exclusive(ino, |fs| {
            let mut changed = false;
            match fs.getxattr(ino, CAPABILITY, &mut []) {
                Ok(_) => {
                    fs.removexattr(ino, CAPABILITY)?;
                    changed = true;
                }
                Err(Error::NoData) => {}
                Err(e) => return Err(e),
            }
            let mode = fs.getattr(ino)?.mode;
            let mut bits = mode & S_ISUID;
            // Without group execution SGID means mandatory locking and stays.
            if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
                bits |= S_ISGID;
            }
            if bits == 0 {
                self.hints.set_plain(ino);
            } else if kill {
                let set = SetAttr {
                    mode: Some(mode & 0o7777 & !bits),
                    ..SetAttr::default()
                };
                fs.setattr(ino, &set)?;
                changed = true;
            }
            Ok(changed)
        })?;
        if changed {
            // The kernel does not know, and it decides from its own copy of the mode.
            if let Some(notifier) = self.notifier.get() {
                if let Err(e) = notifier.inval_inode(INodeNo(ino), -1, 0) {
                    log::warn!("the kernel was not told of a changed mode (inode {ino}): {e}");
                }
            }
        }
        Ok(())
    }

    /// Moves the access time on after a read, as the mount's rule says.
    fn accessed(&self, ino: Ino) {
        if self.settings.atime == Atime::Never {
            return;
        }
        let now = self.now();
        if self.settings.atime == Atime::Relative && self.hints.is_accessed(ino, now) {
            return;
        }
        self.touch(ino, now);
    }

    #[cold]
    fn touch(&self, ino: Ino, now: i64) {
        if self.volume.is_read_only() {
            return;
        }
        let Ok(attr) = self.volume.getattr(ino) else {
            return;
        };
        if self.settings.nodiratime && attr.mode & S_IFMT == S_IFDIR {
            return;
        }
        let due = match self.settings.atime {
            Atime::Never => false,
            Atime::Strict => true,
            Atime::Relative => {
                attr.atime <= attr.mtime
                    || attr.atime <= attr.ctime
                    || now.saturating_sub(attr.atime) >= DAY
            }
        };
        // An access time that cannot be stored is no reason to fail a read.
        if !due || self.volume.touch_atime(ino, now).is_ok() {
            self.hints.set_accessed(ino, now);
        }
    }

    // ---- directories ------------------------------------------------------------------------

    /// Gives the entries behind `cookie` to `emit`, "." and ".." first, until it says no.
    fn entries(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&Dirent<'_>) -> bool,
    ) -> Result<()> {
        let mut dot = |ino, cookie, name| {
            emit(&Dirent {
                ino,
                kind: S_IFDIR,
                cookie,
                name,
            })
        };
        if cookie < COOKIE_DOT && !dot(dir, COOKIE_DOT, b".") {
            return Ok(());
        }
        if cookie < COOKIE_DOTDOT && !dot(self.volume.parent(dir)?, COOKIE_DOTDOT, b"..") {
            return Ok(());
        }
        let from = if cookie <= COOKIE_DOTDOT { 0 } else { cookie };
        self.volume.readdir(dir, from, emit)
    }

    /// The next few entries, each with a reference (but "." and ".."). Attributes cannot be had
    /// while the directory is locked, so entries are collected first; few, because what does not
    /// fit the reply any more was collected in vain.
    fn batch(&self, dir: Ino, cookie: u64) -> Result<Vec<Entry>> {
        let mut batch: Vec<Entry> = Vec::with_capacity(BATCH);
        self.entries(dir, cookie, &mut |entry| {
            if batch.len() == BATCH {
                return false;
            }
            let dots = matches!(entry.name, b"." | b"..");
            batch.push(Entry {
                ino: entry.ino,
                kind: entry.kind,
                cookie: entry.cookie,
                name: entry.name.to_vec(),
                // The table of references comes after all inode locks: it may be asked here.
                held: !dots && self.volume.acquire(entry.ino).is_ok(),
            });
            true
        })?;
        Ok(batch)
    }

    /// Adds an entry with its attributes. `true` if it did not fit.
    fn add_plus(&self, reply: &mut ReplyDirectoryPlus, e: &Entry) -> bool {
        let name = OsStr::from_bytes(&e.name);
        match self.volume.getattr(e.ino) {
            Ok(attr) => {
                let generation = Self::generation(&attr);
                let attr = to_fuse(&attr);
                reply.add(attr.ino, e.cookie, name, &FOREVER, &attr, generation)
            }
            Err(_) => {
                // An inode that cannot be read hides neither its name nor its neighbours: what is
                // said of it expires at once, and whoever asks again gets the error.
                let mut attr = negative();
                attr.ino = INodeNo(e.ino);
                attr.kind = file_type(e.kind);
                let generation = Generation(0);
                reply.add(attr.ino, e.cookie, name, &Duration::ZERO, &attr, generation)
            }
        }
    }

    fn references_gone(&self, ino: Ino, n: u64) {
        if let Err(e) = self.volume.release(ino, n) {
            log::error!("inode {ino}: its space was not given back: {e}");
        }
    }
}

/// A directory entry on its way to the kernel.
struct Entry {
    ino: Ino,
    kind: u32,
    cookie: u64,
    name: Vec<u8>,
    /// A reference was counted.
    held: bool,
}

fn names_fit(name: &OsStr) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    Ok(())
}

fn time(time: TimeOrNow, now: i64) -> i64 {
    match time {
        TimeOrNow::Now => now,
        TimeOrNow::SpecificTime(t) => from_request_time(t),
    }
}

impl<R: Region + Send + 'static> Filesystem for RpRamFs<R> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_HAS_IOCTL_DIR
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        // Not wanted: FUSE_WRITEBACK_CACHE, which would leave written data in the page cache and
        // lose it with the kernel; FUSE_HANDLE_KILLPRIV_V2, whose flags fuser 0.18 does not hand on
        // (without it the kernel strips SUID itself); FUSE_POSIX_LOCKS and FUSE_FLOCK_LOCKS, there
        // being nobody else to lock against; FUSE_ATOMIC_O_TRUNC.
        if let Err(missing) = config.add_capabilities(wanted & offered) {
            log::warn!("the kernel took back {missing:?}");
        }
        // A kernel that cannot map such files shared (before 6.6) also keeps stale pages beside
        // direct writes.
        self.direct = offered.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
            || self.settings.io == IoMode::Direct;
        // The nearest possible value comes back as the error; the kernel's own limits apply anyhow.
        let _ = config.set_max_write(MAX_REQUEST);
        if let Err(most) = config.set_max_readahead(READAHEAD) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(64);
        Ok(())
    }

    // ---- names ------------------------------------------------------------------------------

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        attempt!(reply, names_fit(name));
        let found = match name.as_bytes() {
            // For file handles (FUSE_EXPORT_SUPPORT).
            b"." => match self.volume.fs().was_given(parent.0) {
                Ok(true) => self.acquire(parent.0),
                Ok(false) => Err(Error::Stale),
                Err(e) => Err(e),
            },
            b".." => self
                .volume
                .parent(parent.0)
                .and_then(|ino| self.acquire(ino)),
            name => self.volume.lookup_acquire(parent.0, name),
        };
        match found {
            Ok(attr) => Self::reply_entry(reply, &attr),
            // Cached as well: a name that is not there stays away until somebody makes it.
            Err(Error::NotFound) => reply.entry(&FOREVER, &negative(), Generation(0)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.references_gone(ino.0, nlookup);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        attempt!(reply, names_fit(name));
        let made = self.make(request, parent.0, name, mode, umask, rdev.into());
        let attr = attempt!(reply, made);
        Self::reply_entry(reply, &attr);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        attempt!(reply, names_fit(name));
        let mode = mode & !S_IFMT | S_IFDIR;
        let made = self.make(request, parent.0, name, mode, umask, 0);
        let attr = attempt!(reply, made);
        Self::reply_entry(reply, &attr);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        attempt!(reply, names_fit(name));
        let mode = mode & !S_IFMT | S_IFREG;
        let attr = attempt!(reply, self.make(request, parent.0, name, mode, umask, 0));
        let open = self.open_flags(attr.ino, OpenFlags(flags), attr.size);
        let generation = Self::generation(&attr);
        reply.created(&FOREVER, &to_fuse(&attr), generation, FileHandle(0), open);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        attempt!(reply, names_fit(link_name));
        let new = NewInode {
            mode: S_IFLNK | 0o777,
            uid: request.uid(),
            gid: request.gid(),
            rdev: 0,
        };
        let target = target.as_os_str().as_bytes();
        let made = self.volume.with_space(|| {
            self.volume
                .symlink_acquire(parent.0, link_name.as_bytes(), target, &new)
        });
        let attr = attempt!(reply, made);
        self.born(parent.0, &attr);
        Self::reply_entry(reply, &attr);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let mut target = [0; SYMLINK_MAX];
        let len = attempt!(reply, self.volume.readlink(ino.0, &mut target));
        self.accessed(ino.0);
        reply.data(&target[..len]);
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        attempt!(reply, names_fit(newname));
        let linked = self.volume.with_space(|| {
            self.volume.acquire(ino.0)?;
            self.volume
                .link(ino.0, newparent.0, newname.as_bytes())
                .inspect_err(|_| self.references_gone(ino.0, 1))
        });
        self.hints.clear_accessed(ino.0);
        self.hints.clear_accessed(newparent.0);
        let attr = attempt!(reply, linked);
        Self::reply_entry(reply, &attr);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = attempt!(reply, self.volume.unlink(parent.0, name.as_bytes()));
        self.hints.clear_accessed(gone.ino);
        self.hints.clear_accessed(parent.0);
        reply.ok();
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        attempt!(reply, self.volume.rmdir(parent.0, name.as_bytes()));
        self.hints.clear_accessed(parent.0);
        reply.ok();
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        attempt!(reply, names_fit(newname));
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else if flags == RenameFlags::RENAME_WHITEOUT {
            RenameMode::Whiteout {
                uid: request.uid(),
                gid: request.gid(),
            }
        } else {
            return reply.error(Errno::EINVAL);
        };
        let done = self.volume.with_space(|| {
            self.volume.rename(
                parent.0,
                name.as_bytes(),
                newparent.0,
                newname.as_bytes(),
                mode,
            )
        });
        attempt!(reply, done);
        self.hints.clear_accessed(parent.0);
        self.hints.clear_accessed(newparent.0);
        reply.ok();
    }

    // ---- attributes -------------------------------------------------------------------------

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let attr = attempt!(reply, self.volume.getattr(ino.0));
        reply.attr(&FOREVER, &to_fuse(&attr));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let now = self.now();
        let set = SetAttr {
            mode: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(|t| time(t, now)),
            mtime: mtime.map(|t| time(t, now)),
            ctime: ctime.map(from_request_time),
        };
        let attr = attempt!(reply, self.set_attributes(ino.0, &set));
        reply.attr(&FOREVER, &to_fuse(&attr));
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks (default_permissions) and need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let s = self.volume.statfs();
        let files = s.inodes.saturating_add(s.inodes_free);
        let page = PAGE_SIZE as u32;
        reply.statfs(
            s.pages,
            s.free,
            s.available,
            files,
            s.inodes_free,
            page,
            NAME_MAX as u32,
            page,
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Either,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let name = name.as_bytes();
        let done = if name == acl::ACCESS {
            self.set_access_acl(request, ino.0, value, mode)
        } else if name == acl::DEFAULT && Acl::parse(value).is_none() {
            Err(Error::Invalid)
        } else {
            self.volume.with_space(|| {
                self.volume.exclusive(ino.0, |fs| {
                    self.hints.clear_plain(ino.0);
                    fs.setxattr(ino.0, name, value, mode)
                })
            })
        };
        self.hints.clear_accessed(ino.0);
        attempt!(reply, done);
        reply.ok();
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let mut value = vec![0; (size as usize).min(XATTR_SIZE_MAX)];
        let got = self.volume.getxattr(ino.0, name.as_bytes(), &mut value);
        let len = attempt!(reply, got);
        match value.get(..len) {
            _ if size == 0 => reply.size(len as u32),
            Some(value) => reply.data(value),
            None => reply.error(Errno::ERANGE),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let listed = self.volume.shared(ino.0, |fs| {
            let len = fs.listxattr(ino.0, &mut [])?;
            let mut names = vec![0; len];
            let len = fs.listxattr(ino.0, &mut names)?;
            names.truncate(len);
            Ok(names)
        });
        let mut names = attempt!(reply, listed);
        if request.uid() != 0 {
            // As other filesystems: what only the privileged may read is not even named to others.
            names = names
                .split_inclusive(|b| *b == 0)
                .filter(|name| !name.starts_with(b"trusted."))
                .flatten()
                .copied()
                .collect();
        }
        if size == 0 {
            reply.size(names.len() as u32);
        } else if names.len() > size as usize {
            reply.error(Errno::ERANGE);
        } else {
            reply.data(&names);
        }
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.volume.removexattr(ino.0, name.as_bytes());
        self.hints.clear_accessed(ino.0);
        attempt!(reply, done);
        reply.ok();
    }

    // ---- data -------------------------------------------------------------------------------

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let attr = attempt!(reply, self.volume.getattr(ino.0));
        reply.opened(FileHandle(0), self.open_flags(ino.0, flags, attr.size));
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.opens.close(ino.0);
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        buffer::with(size as usize, |data| {
            let len = attempt!(reply, self.volume.read(ino.0, offset, data));
            self.accessed(ino.0);
            reply.data(&data[..len]);
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if !self.hints.is_plain(ino.0) {
            let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            attempt!(reply, self.strip(ino.0, kill));
        }
        let written = self
            .volume
            .with_space(|| self.volume.write(ino.0, offset, data));
        self.hints.clear_accessed(ino.0);
        let written = attempt!(reply, written);
        reply.written(written as u32);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing waits to be written. The kernel will not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        match &self.sync {
            // What has been answered is in the region; ENOSYS makes the kernel return success from
            // now on without asking.
            None => reply.error(Errno::ENOSYS),
            Some(sync) => match sync() {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(Errno::from_i32(e.raw_os_error().unwrap_or(libc::EIO))),
            },
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Fallocate::Allocate { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Fallocate::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => Fallocate::ZeroRange { keep_size },
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let done = self
            .volume
            .with_space(|| self.volume.fallocate(ino.0, what, offset, length));
        self.hints.clear_accessed(ino.0);
        attempt!(reply, done);
        reply.ok();
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let found = attempt!(reply, self.volume.seek(ino.0, offset, what));
        match i64::try_from(found) {
            Ok(found) => reply.offset(found),
            Err(_) => reply.error(Errno::EOVERFLOW),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        // Copying less than asked for is allowed; callers go on from there.
        let len = len.min(COPY_PIECE);
        let copied = self.volume.with_space(|| {
            self.volume
                .copy_range(ino_in.0, offset_in, ino_out.0, offset_out, len)
        });
        self.hints.clear_accessed(ino_out.0);
        let copied = attempt!(reply, copied);
        self.accessed(ino_in.0);
        reply.written(copied as u32);
    }

    // ---- directories ------------------------------------------------------------------------

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Reading a directory needs no state here. The kernel stops asking, and caches listings
        // until the directory changes.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let done = self.entries(ino.0, offset, &mut |e| {
            let name = OsStr::from_bytes(e.name);
            !reply.add(INodeNo(e.ino), e.cookie, file_type(e.kind), name)
        });
        attempt!(reply, done);
        self.accessed(ino.0);
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut cookie = offset;
        let mut more = true;
        while more {
            let batch = attempt!(reply, self.batch(ino.0, cookie));
            more = batch.len() == BATCH;
            let mut full = false;
            for e in batch {
                if !full {
                    full = self.add_plus(&mut reply, &e);
                    cookie = e.cookie;
                }
                if full && e.held {
                    self.references_gone(e.ino, 1);
                }
            }
            more &= !full;
        }
        self.accessed(ino.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, ino, fh, datasync, reply);
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let ino = ino.0;
        match cmd {
            ioctl::SEAL | ioctl::UNSEAL => {
                let attr = attempt!(reply, self.volume.getattr(ino));
                if request.uid() != 0 && request.uid() != attr.uid {
                    return reply.error(Errno::EPERM);
                }
                let done = match cmd {
                    ioctl::SEAL => self.volume.with_space(|| self.volume.seal(ino)),
                    _ => self.volume.unseal(ino),
                };
                attempt!(reply, done);
                reply.ioctl(0, &[]);
            }
            ioctl::VERIFY => {
                let mut at = Some(0);
                while let Some(offset) = at {
                    at = attempt!(reply, self.volume.verify(ino, offset));
                }
                reply.ioctl(0, &[]);
            }
            ioctl::VERIFY_STEP => {
                let Some(offset) = in_data.first_chunk() else {
                    return reply.error(Errno::EINVAL);
                };
                let offset = u64::from_ne_bytes(*offset);
                let next = attempt!(reply, self.volume.verify(ino, offset));
                reply.ioctl(0, &next.unwrap_or(u64::MAX).to_ne_bytes());
            }
            ioctl::STATS => {
                let stats = self.volume.stats();
                let read_only = self.volume.is_read_only();
                reply.ioctl(0, &ioctl::stats_bytes(&stats, read_only));
            }
            _ => reply.error(Errno::ENOTTY),
        }
    }
}
