// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Values that operations take and give: attributes, directory entries, extents, statistics.

/// Inode number. [`ROOT_INO`] is the root directory; 0 is never an inode.
pub type Ino = u64;

/// The root directory.
pub const ROOT_INO: Ino = 1;
/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (PATH_MAX less the terminator).
pub const SYMLINK_MAX: usize = 4095;
/// Most links an inode can have.
pub const LINK_MAX: u32 = 0x7fff_ffff;
/// Longest name of an extended attribute, prefix included, in bytes (XATTR_NAME_MAX).
pub const XATTR_NAME_MAX: usize = 255;
/// Largest value of an extended attribute, in bytes (XATTR_SIZE_MAX).
pub const XATTR_SIZE_MAX: usize = 65536;
/// Largest file size in bytes.
pub const FILE_SIZE_MAX: u64 = (1 << 63) - 1;
/// Bytes in a page, the unit of allocation.
pub const PAGE_SIZE: u64 = 4096;

/// Type bits of a mode, as in `st_mode`.
pub const S_IFMT: u32 = 0o170_000;
/// Socket.
pub const S_IFSOCK: u32 = 0o140_000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
/// FIFO.
pub const S_IFIFO: u32 = 0o010_000;
/// Set-user-ID bit.
pub const S_ISUID: u32 = 0o4000;
/// Set-group-ID bit.
pub const S_ISGID: u32 = 0o2000;

/// Attributes of an inode. Times are nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Changes each time the inode number is used anew (for file handles).
    pub generation: u32,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as Linux's 64-bit `dev_t` (`st_rdev`).
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Pages of 4096 bytes that the inode owns, metadata included. `st_blocks` is 8 times this.
    pub pages: u64,
    /// Last access.
    pub atime: i64,
    /// Last change of the data.
    pub mtime: i64,
    /// Last change of the attributes.
    pub ctime: i64,
    /// Creation.
    pub btime: i64,
    /// The file is sealed: it cannot be written until it is unsealed.
    pub sealed: bool,
}

/// Which attributes to set; `None` leaves one alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (the type bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size: truncates or extends a regular file.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<i64>,
    /// Modification time. When `size` is given and this is not, the host's clock is taken.
    pub mtime: Option<i64>,
    /// Change time; the host's clock where it is not given.
    pub ctime: Option<i64>,
}

/// What a new inode shall be. A set-group-ID parent directory hands down its group, and to
/// directories the bit itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewInode {
    /// Type and permissions (umask already applied).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for device nodes.
    pub rdev: u64,
}

/// What became of an inode that lost a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// The inode.
    pub ino: Ino,
    /// Links left. At 0 the inode lives on as an orphan until `evict` is called (nobody holds it
    /// any more) or, after a crash, until the next mount reclaims it.
    pub nlink: u32,
}

/// One entry handed out by `readdir`.
#[derive(Clone, Copy, Debug)]
pub struct Dirent<'a> {
    /// Inode number.
    pub ino: Ino,
    /// Type bits of its mode (`S_IFREG`, ...).
    pub kind: u32,
    /// Pass this to `readdir` to go on behind this entry. Positive as an `i64`; stable as long as
    /// the entry exists.
    pub cookie: u64,
    /// The name.
    pub name: &'a [u8],
}

/// Kinds of rename.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what the new name names.
    #[default]
    Replace,
    /// Fail if the new name exists (RENAME_NOREPLACE).
    NoReplace,
    /// Exchange the two (RENAME_EXCHANGE).
    Exchange,
    /// Replace, and leave a whiteout (character device 0:0) at the old name (RENAME_WHITEOUT).
    Whiteout {
        /// Owner of the whiteout.
        uid: u32,
        /// Its group, where the directory does not say otherwise.
        gid: u32,
    },
}

/// How `setxattr` treats an existing attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    #[default]
    Either,
    /// Fail with `Exists` if it exists (XATTR_CREATE).
    Create,
    /// Fail with `NoData` if it does not (XATTR_REPLACE).
    Replace,
}

/// Kinds of `fallocate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Allocate unwritten pages; `keep_size` leaves the size alone.
    Allocate {
        /// FALLOC_FL_KEEP_SIZE.
        keep_size: bool,
    },
    /// Give pages back, leaving a hole that reads as zeros; never changes the size.
    PunchHole,
    /// Make the range read as zeros, allocated as unwritten.
    ZeroRange {
        /// FALLOC_FL_KEEP_SIZE.
        keep_size: bool,
    },
}

/// What `seek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE (the end of the file is a hole).
    Hole,
}

/// A run of a file's pages that lies together in the region. All figures in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First page of the file.
    pub file_page: u64,
    /// First page of the region.
    pub page: u64,
    /// Number of pages.
    pub len: u64,
    /// Allocated but never written: reads as zeros.
    pub unwritten: bool,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes written, fewer than asked where space or the caller's memory ended.
    pub bytes: u64,
    /// Holes or unwritten pages became data: whoever remembers that they read as zeros must forget it.
    pub mapped: bool,
    /// The file's attributes now.
    pub attr: Attr,
}

/// Figures for `statfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Pages of the region that can hold files or their metadata.
    pub pages: u64,
    /// Free pages.
    pub free: u64,
    /// Free pages an ordinary write can get (a small reserve lets a full region be emptied).
    pub available: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Inodes that could still be made.
    pub inodes_free: u64,
}

/// Counters since the mount, and facts about the region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions committed.
    pub transactions: u64,
    /// 256-byte sectors that went through the journal.
    pub sectors: u64,
    /// Transactions started again because a lock was out of order.
    pub retries: u64,
    /// Transactions replayed when this mount began.
    pub replayed: u64,
    /// Orphans and unfinished truncations that wait to be reclaimed.
    pub pending: u64,
    /// Pages allocated.
    pub allocated: u64,
    /// Pages freed.
    pub freed: u64,
    /// Corruptions met.
    pub corruptions: u64,
}

/// Who holds the exclusive mount marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Boot id (`/proc/sys/kernel/random/boot_id`) of the running kernel.
    pub boot_id: [u8; 16],
    /// What kind of program.
    pub kind: OwnerKind,
    /// Process id, 0 for the kernel.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start: u64,
}

/// Kinds of mount owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OwnerKind {
    /// The FUSE front end.
    Fuse = 1,
    /// The kernel module.
    Kernel = 2,
    /// fsck or another offline tool that writes.
    Tool = 3,
}
