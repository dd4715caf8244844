// SPDX-License-Identifier: GPL-2.0
//! Errors as the VFS wants them: small negative numbers.

use crate::bindings as c;

/// A positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

pub(crate) type Result<T = ()> = core::result::Result<T, Errno>;

impl Errno {
    pub(crate) const AGAIN: Errno = Errno::of(c::EAGAIN);
    pub(crate) const BUSY: Errno = Errno::of(c::EBUSY);
    pub(crate) const CHILD: Errno = Errno::of(c::ECHILD);
    pub(crate) const FAULT: Errno = Errno::of(c::EFAULT);
    pub(crate) const INTERRUPTED: Errno = Errno::of(c::EINTR);
    pub(crate) const INVALID: Errno = Errno::of(c::EINVAL);
    pub(crate) const IO: Errno = Errno::of(c::EIO);
    pub(crate) const NO_DATA: Errno = Errno::of(c::ENODATA);
    pub(crate) const NO_ENTRY: Errno = Errno::of(c::ENOENT);
    pub(crate) const NO_MEMORY: Errno = Errno::of(c::ENOMEM);
    pub(crate) const NOT_A_TTY: Errno = Errno::of(c::ENOTTY);
    pub(crate) const NOT_SUPPORTED: Errno = Errno::of(c::EOPNOTSUPP);
    pub(crate) const OVERFLOW: Errno = Errno::of(c::EOVERFLOW);
    pub(crate) const PERMISSION: Errno = Errno::of(c::EPERM);
    pub(crate) const POISONED: Errno = Errno::of(c::EHWPOISON);
    pub(crate) const READ_ONLY: Errno = Errno::of(c::EROFS);
    pub(crate) const STALE: Errno = Errno::of(c::ESTALE);

    const fn of(n: u32) -> Errno {
        Errno(n as i32)
    }

    /// From a return value that is negative.
    pub(crate) fn from_return(n: isize) -> Errno {
        Errno(n.checked_neg().map_or(c::EIO as i32, |n| n as i32))
    }

    /// As a return value.
    pub(crate) const fn negative(self) -> i32 {
        0i32.wrapping_sub(self.0)
    }
}

/// A return value that is an errno if it is negative.
pub(crate) fn check(n: i32) -> Result {
    if n < 0 {
        Err(Errno::from_return(n as isize))
    } else {
        Ok(())
    }
}

impl From<fs_core::Error> for Errno {
    fn from(e: fs_core::Error) -> Errno {
        Errno(e.errno())
    }
}

impl From<kernel::error::Error> for Errno {
    fn from(e: kernel::error::Error) -> Errno {
        Errno::from_return(e.to_errno() as isize)
    }
}

impl From<kernel::alloc::AllocError> for Errno {
    fn from(_: kernel::alloc::AllocError) -> Errno {
        Errno::NO_MEMORY
    }
}

/// What a callback that answers `int` returns.
pub(crate) fn int(r: Result) -> i32 {
    match r {
        Ok(()) => 0,
        Err(e) => e.negative(),
    }
}

/// What a callback that answers `ssize_t` or `loff_t` returns.
pub(crate) fn long(r: Result<i64>) -> i64 {
    match r {
        Ok(n) => n,
        Err(e) => e.negative() as i64,
    }
}
