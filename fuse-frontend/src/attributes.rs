// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Attributes between the core and the FUSE protocol.

use fs_core::{
    Attr, PAGE_SIZE, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
};
use fuser::{FileAttr, FileType, INodeNo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 as a `SystemTime`.
#[must_use]
pub fn to_system_time(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 {
        UNIX_EPOCH + distance
    } else {
        UNIX_EPOCH - distance
    }
}

/// The time a request carries, in nanoseconds since 1970; beyond the years 1677 to 2262 the
/// nearest that can be stored.
///
/// The protocol counts back whole seconds and forward nanoseconds; fuser 0.18 makes of (-1 s,
/// 5 ns) the moment 1 s *and* 5 ns before 1970, which is undone here.
#[must_use]
pub fn from_request_time(time: SystemTime) -> i64 {
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i128::from(after.as_secs()), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (-i128::from(before.as_secs()), before.subsec_nanos())
        }
    };
    let nanos = seconds * 1_000_000_000 + i128::from(nanos);
    nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// The type bits of a mode as fuser has them.
#[must_use]
pub fn file_type(mode: u32) -> FileType {
    match mode & S_IFMT {
        S_IFDIR => FileType::Directory,
        S_IFLNK => FileType::Symlink,
        S_IFIFO => FileType::NamedPipe,
        S_IFSOCK => FileType::Socket,
        S_IFCHR => FileType::CharDevice,
        S_IFBLK => FileType::BlockDevice,
        S_IFREG => FileType::RegularFile,
        // The core refuses to hand out an inode of no known type.
        _ => FileType::RegularFile,
    }
}

/// The core's attributes as fuser has them.
#[must_use]
pub fn to_fuse(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.pages * (PAGE_SIZE / 512),
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: to_system_time(attr.btime),
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // Linux's 64-bit dev_t and the kernel's 32-bit one agree for majors below 2^12 and minors
        // below 2^20, and the kernel has no others.
        rdev: attr.rdev as u32,
        // The kernel takes this for the page cache's block size as well.
        blksize: PAGE_SIZE as u32,
        flags: 0,
    }
}

/// Attributes of no inode: a reply that says "no such name" and may be cached.
#[must_use]
pub fn negative() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970() {
        // As fuser 0.18 hands over a request's (-2 s, 250_000_000 ns), which is -1.75 s.
        let garbled = UNIX_EPOCH - Duration::new(2, 250_000_000);
        assert_eq!(from_request_time(garbled), -1_750_000_000);
        assert_eq!(
            from_request_time(UNIX_EPOCH - Duration::from_secs(3)),
            -3_000_000_000
        );
        assert_eq!(
            from_request_time(UNIX_EPOCH + Duration::new(1, 5)),
            1_000_000_005
        );
        assert_eq!(
            to_system_time(-1_750_000_000),
            UNIX_EPOCH - Duration::from_millis(1750)
        );
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(from_request_time(far), i64::MAX);
    }
}
