// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The one error type of the core.

use core::fmt;

/// Result of a core operation.
pub type Result<T> = core::result::Result<T, Error>;

/// A structure of the region that is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Region offset in bytes of the structure at fault.
    pub offset: u64,
    /// What is wrong, in words for a log line.
    pub what: &'static str,
}

/// Why an operation failed. [`Error::errno`] gives the number POSIX uses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No such name (ENOENT).
    NotFound,
    /// The name exists (EEXIST).
    Exists,
    /// A directory was needed (ENOTDIR).
    NotDirectory,
    /// A directory was not wanted (EISDIR).
    IsDirectory,
    /// The directory has entries (ENOTEMPTY).
    NotEmpty,
    /// No free page or inode is left (ENOSPC).
    NoSpace,
    /// A name longer than 255 bytes, or a target longer than 4095 (ENAMETOOLONG).
    NameTooLong,
    /// Beyond the largest file offset (EFBIG).
    FileTooBig,
    /// Link count at its limit (EMLINK).
    TooManyLinks,
    /// An argument that makes no sense (EINVAL).
    Invalid,
    /// Refused whoever asks, such as writing to a sealed file (EPERM).
    NotPermitted,
    /// The mount is read-only, or became so after corruption was found (EROFS).
    ReadOnly,
    /// The caller's own memory cannot be read or written (EFAULT).
    Fault,
    /// The memory that holds the file's bytes has failed (EIO).
    Io,
    /// The region is mounted by somebody else (EBUSY).
    Busy,
    /// No such extended attribute, or no data past the offset (ENODATA / ENXIO).
    NoData,
    /// SEEK_DATA or SEEK_HOLE at or past the end of the file (ENXIO).
    PastEnd,
    /// The caller's buffer is too small (ERANGE).
    Range,
    /// The value is too large to be stored (E2BIG).
    TooBig,
    /// Not supported by this filesystem (EOPNOTSUPP).
    NotSupported,
    /// The inode number names nothing any more (ESTALE).
    Stale,
    /// The region holds no RP-RAMFS (EINVAL at mount, as mount(2) says).
    NotOurs,
    /// The region needs features this code does not know; the unknown flags (EOPNOTSUPP).
    UnknownFeatures {
        /// The incompat flags, or for a writable mount the ro_compat flags, not known here; 0 where the
        /// version itself is not.
        flags: u64,
    },
    /// The region is smaller than the superblock says, or than the least size (EINVAL).
    TooSmall,
    /// The region contradicts itself (EUCLEAN).
    Corrupt(Corruption),
}

impl Error {
    /// Shorthand for [`Error::Corrupt`].
    #[must_use]
    pub const fn corrupt(offset: u64, what: &'static str) -> Self {
        Error::Corrupt(Corruption { offset, what })
    }

    /// The Linux errno (positive) of this error; numbers from `asm-generic/errno{,-base}.h`.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        match self {
            Error::NotFound => 2,
            Error::Exists => 17,
            Error::NotDirectory => 20,
            Error::IsDirectory => 21,
            Error::NotEmpty => 39,
            Error::NoSpace => 28,
            Error::NameTooLong => 36,
            Error::FileTooBig => 27,
            Error::TooManyLinks => 31,
            Error::Invalid | Error::NotOurs | Error::TooSmall => 22,
            Error::NotPermitted => 1,
            Error::ReadOnly => 30,
            Error::Fault => 14,
            Error::Io => 5,
            Error::Busy => 16,
            Error::NoData => 61,
            Error::PastEnd => 6,
            Error::Range => 34,
            Error::TooBig => 7,
            Error::NotSupported | Error::UnknownFeatures { .. } => 95,
            Error::Stale => 116,
            Error::Corrupt(_) => 117,
        }
    }
}

/// What touching the bytes of a file came to: that their memory has failed is no damage of the filesystem.
pub(crate) fn of_file<T>(result: Result<T>) -> Result<T> {
    result.map_err(|e| match e {
        Error::Corrupt(_) => Error::Io,
        e => e,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound => f.write_str("no such file or directory"),
            Error::Exists => f.write_str("the name exists already"),
            Error::NotDirectory => f.write_str("not a directory"),
            Error::IsDirectory => f.write_str("is a directory"),
            Error::NotEmpty => f.write_str("directory not empty"),
            Error::NoSpace => f.write_str("no space left in the region"),
            Error::NameTooLong => f.write_str("name too long"),
            Error::FileTooBig => f.write_str("file too large"),
            Error::TooManyLinks => f.write_str("too many links"),
            Error::Invalid => f.write_str("invalid argument"),
            Error::NotPermitted => f.write_str("operation not permitted"),
            Error::ReadOnly => f.write_str("read-only filesystem"),
            Error::Fault => f.write_str("bad address"),
            Error::Io => f.write_str("memory error"),
            Error::Busy => f.write_str("the region is in use"),
            Error::NoData => f.write_str("no such attribute"),
            Error::PastEnd => f.write_str("offset past the end of the file"),
            Error::Range => f.write_str("the buffer is too small"),
            Error::TooBig => f.write_str("the value is too large"),
            Error::NotSupported => f.write_str("operation not supported"),
            Error::Stale => f.write_str("stale inode number"),
            Error::NotOurs => f.write_str("no RP-RAMFS superblock in this region"),
            Error::UnknownFeatures { flags: 0 } => f.write_str("made by a newer version"),
            Error::UnknownFeatures { flags } => {
                write!(
                    f,
                    "made by a newer version: unknown feature flags {flags:#x}"
                )
            }
            Error::TooSmall => f.write_str("the region is too small"),
            Error::Corrupt(c) => write!(f, "corrupt at offset {:#x}: {}", c.offset, c.what),
        }
    }
}

impl core::error::Error for Error {}
