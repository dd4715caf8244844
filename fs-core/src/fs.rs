// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The operations.
#![allow(unused_variables, missing_docs)]

use crate::*;

/// What mkfs may choose.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// Label, UTF-8, at most 32 bytes, zero-padded.
    pub label: [u8; 32],
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
    /// Permissions of the root directory.
    pub mode: u32,
    /// Keep room for the kernel's struct pages (64 bytes per page) at the end of the region.
    pub struct_pages: bool,
}

/// What the superblock says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperInfo {
    pub version: u32,
    pub uuid: [u8; 16],
    pub label: [u8; 32],
    /// Bytes of the region that the filesystem covers.
    pub size: u64,
    pub compat: u64,
    pub ro_compat: u64,
    pub incompat: u64,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// Bytes kept for struct pages, and their offset.
    pub struct_pages: (u64, u64),
    /// Bytes of fixed metadata (superblocks, journal, allocation tables).
    pub metadata: u64,
    pub slots: u32,
    /// Was the primary superblock bad, so that this is the backup?
    pub from_backup: bool,
    /// Who holds the mount marker, if anybody.
    pub owner: Option<Owner>,
}

/// How to mount.
pub struct MountOptions<'a> {
    pub read_only: bool,
    /// Who mounts.
    pub owner: Owner,
    /// Is the holder of the marker (same boot) still alive? Another boot's marker is always taken over.
    pub alive: &'a dyn Fn(&Owner) -> bool,
}

/// Writes an empty filesystem. Writes a bounded number of bytes, whatever the region's size.
pub fn format<R: Region, H: Host>(
    region: &R,
    host: &H,
    options: &FormatOptions,
) -> Result<SuperInfo> {
    unimplemented!()
}

/// Reads and checks the superblocks, writing nothing. `Err(NotOurs)` where there is no trace of one.
pub fn probe<R: Region, H: Host>(region: &R, host: &H) -> Result<SuperInfo> {
    unimplemented!()
}

/// A mounted filesystem. All methods take `&self` and may run in parallel, but the CALLER holds the
/// inode locks that each method names (as the kernel's VFS does): "shared"/"exclusive" on an inode.
#[derive(Debug)]
pub struct Fs<R: Region, H: Host> {
    region: R,
    host: H,
}

impl<R: Region, H: Host> Fs<R, H> {
    /// Takes the mount marker, replays the journal. Constant time.
    pub fn mount(region: R, host: H, options: &MountOptions<'_>) -> Result<Self> {
        unimplemented!()
    }
    /// Gives the marker back. Nothing else needs to be done: dropping the value is like a crash.
    pub fn unmount(&self) -> Result<()> {
        unimplemented!()
    }
    pub fn region(&self) -> &R {
        &self.region
    }
    pub fn host(&self) -> &H {
        &self.host
    }
    pub fn info(&self) -> SuperInfo {
        unimplemented!()
    }
    /// True once corruption was met (or the mount was asked to be read-only).
    pub fn is_read_only(&self) -> bool {
        unimplemented!()
    }
    pub fn set_read_only(&self, read_only: bool) {
        unimplemented!()
    }
    pub fn statfs(&self) -> StatFs {
        unimplemented!()
    }
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// Does a bounded piece of pending reclaim (orphans and truncations left by a crash); `Ok(false)`
    /// when nothing is left. For a background thread after mount. `lock(ino)` runs the closure with that
    /// inode exclusively locked; the front end refuses (returns Ok(false)) for an inode it holds open.
    pub fn reclaim_step(
        &self,
        lock: &mut dyn FnMut(Ino, &mut dyn FnMut() -> Result<()>) -> Result<bool>,
    ) -> Result<bool> {
        unimplemented!()
    }

    /// Locks: dir shared. "." and ".." are not handled here ("..": see `parent`).
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        unimplemented!()
    }
    /// Parent of a directory (the root is its own). Locks: dir shared.
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        unimplemented!()
    }
    /// Locks: ino shared.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        unimplemented!()
    }
    /// Locks: ino exclusive.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        unimplemented!()
    }
    /// Makes a regular file, directory, FIFO, socket or device. Locks: dir exclusive.
    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode) -> Result<Attr> {
        unimplemented!()
    }
    /// Makes a regular file without a name (O_TMPFILE): an orphan until `link`. `dir` only hands down its group.
    /// Locks: dir shared.
    pub fn tmpfile(&self, dir: Ino, new: &NewInode) -> Result<Attr> {
        unimplemented!()
    }
    /// Locks: dir exclusive.
    pub fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], new: &NewInode) -> Result<Attr> {
        unimplemented!()
    }
    /// Copies the target into `buf` (4095 bytes suffice), returns its length. Locks: ino shared.
    pub fn readlink(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }
    /// Locks: dir and ino exclusive. Directories: NotPermitted.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        unimplemented!()
    }
    /// Locks: dir and the named inode exclusive. Directories: IsDirectory.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        unimplemented!()
    }
    /// Locks: dir and the named directory exclusive.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<Unlinked> {
        unimplemented!()
    }
    /// Returns what the replaced inode became, if one was. The caller has made sure that a directory is not
    /// moved below itself. Locks: both directories, the moved inode and the replaced/exchanged one, exclusive.
    pub fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Unlinked>> {
        unimplemented!()
    }
    /// Calls `emit` for entries behind `cookie` (0: from the start; "." and ".." are not given) until it
    /// answers false (that entry is given again next time) or the end. Locks: dir shared.
    pub fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        emit: &mut dyn FnMut(&Dirent<'_>) -> bool,
    ) -> Result<()> {
        unimplemented!()
    }
    /// Number of bytes read; short only at the end of the file. Does not touch atime. Locks: ino shared.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }
    /// Writes all of `data` or fails; on NoSpace part of it may have been written if that is what `Ok(n)` says.
    /// Updates mtime/ctime. Locks: ino exclusive.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        unimplemented!()
    }
    /// As `write`, for a range that lies wholly inside the size and is allocated and written:
    /// `Ok(false)` (nothing done) if it is not. Locks: ino SHARED, so that overwrites run in parallel.
    pub fn overwrite(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<bool> {
        unimplemented!()
    }
    /// Sets atime if `time` is later. Locks: ino exclusive.
    pub fn touch_atime(&self, ino: Ino, time: i64) -> Result<()> {
        unimplemented!()
    }
    /// Locks: ino exclusive.
    pub fn fallocate(&self, ino: Ino, what: Fallocate, offset: u64, len: u64) -> Result<()> {
        unimplemented!()
    }
    /// Unwritten extents count as holes. Locks: ino shared.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        unimplemented!()
    }
    /// The first extent that ends behind `file_page`, if any. Locks: ino shared.
    pub fn extent_at(&self, ino: Ino, file_page: u64) -> Result<Option<Extent>> {
        unimplemented!()
    }
    /// Copies inside the region; returns bytes copied (short at the source's end). Ranges in one file must not
    /// overlap. Locks: from shared, to exclusive (same file: exclusive).
    pub fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        unimplemented!()
    }
    /// Full names ("user.x"). Returns the value's length; copies it if `buf` is long enough, `Range` if `buf` is
    /// too short but not empty. Locks: ino shared.
    pub fn getxattr(&self, ino: Ino, name: &[u8], buf: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }
    /// Names, each with its terminating NUL, as listxattr(2). Same rule for `buf`. Locks: ino shared.
    pub fn listxattr(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }
    /// Namespaces user. trusted. security. system.; others NotSupported. Locks: ino exclusive.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        unimplemented!()
    }
    /// Locks: ino exclusive.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        unimplemented!()
    }
    /// Nobody holds the inode any more: if it has no links its space is given back. Locks: ino exclusive.
    pub fn evict(&self, ino: Ino) -> Result<()> {
        unimplemented!()
    }
    /// Records a CRC-32 of each 2 MiB window that holds data and makes the file immutable. Locks: ino exclusive.
    pub fn seal(&self, ino: Ino) -> Result<()> {
        unimplemented!()
    }
    /// Locks: ino exclusive.
    pub fn unseal(&self, ino: Ino) -> Result<()> {
        unimplemented!()
    }
    /// Checks the first sealed window at or behind byte `offset`; returns the offset to go on at, `None` when done.
    /// `Corrupt` names the region offset of a window whose bytes changed. Locks: ino shared.
    pub fn verify(&self, ino: Ino, offset: u64) -> Result<Option<u64>> {
        unimplemented!()
    }
}
