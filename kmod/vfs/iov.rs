// SPDX-License-Identifier: GPL-2.0
//! A caller's memory, and the copies to and from the region.

use super::file::File;
use crate::bindings as c;
use crate::errno::{Errno, Result};
use crate::memory::Memory;
use fs_core::Region;

/// The memory that a read or write is about.
pub(crate) struct IovIter<'a>(&'a mut c::iov_iter);

impl<'a> IovIter<'a> {
    /// # Safety
    /// `p` is the iterator of a call that lasts for `'a`; nobody else uses it meanwhile.
    pub(crate) unsafe fn from_raw(p: *mut c::iov_iter) -> Self {
        // SAFETY: ours alone, by the contract.
        IovIter(unsafe { &mut *p })
    }

    /// Bytes left.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        // SAFETY: an iterator.
        unsafe { c::rpramfs_iter_count(self.0) as u64 }
    }

    /// Moves on.
    pub(crate) fn advance(&mut self, n: u64) {
        // SAFETY: an iterator; it stops at its end itself.
        unsafe { c::iov_iter_advance(self.0, n as usize) };
    }

    /// A copy that begins `skip` bytes further on, to read from.
    fn at(&self, skip: u64) -> c::iov_iter {
        // SAFETY: a copy of an iterator is one: it owns nothing.
        let mut iter = unsafe { core::ptr::read(self.0) };
        if skip != 0 {
            // SAFETY: a copy of an iterator is one.
            unsafe { c::iov_iter_advance(&mut iter, skip as usize) };
        }
        iter
    }

    /// Copies `n` bytes at `pos` of what is left here to the region. How many came: does not wait for memory
    /// that is not there.
    #[inline]
    pub(crate) fn copy_in(
        &self,
        region: &Memory,
        to: u64,
        pos: u64,
        n: u64,
    ) -> fs_core::Result<u64> {
        let address = region.address(to, n)?;
        let mut iter = self.at(pos);
        // SAFETY: `n` bytes at `address` are in the region. They may be written by others at the same time
        // (a mapping): bytes are bytes.
        let done = unsafe { c::rpramfs_copy_from_iter(address.cast(), n as usize, &mut iter) };
        Ok(done as u64)
    }

    /// Copies out of the region, or zeros, and moves on. How many bytes came through: fewer where memory
    /// is not there, or has failed behind them.
    #[inline]
    pub(crate) fn copy_out(
        &mut self,
        region: &Memory,
        from: Option<u64>,
        n: u64,
    ) -> fs_core::Result<u64> {
        let done = match from {
            Some(from) => {
                let n = region.before_bad(from, n);
                let address = region.address(from, n)?;
                // SAFETY: `n` bytes at `address` are in the region.
                unsafe { c::rpramfs_copy_to_iter(address.cast(), n as usize, self.0) }
            }
            // SAFETY: an iterator.
            None => unsafe { c::rpramfs_zero_iter(n as usize, self.0) },
        };
        Ok(done as u64)
    }

    /// Brings memory in that a read will write. How many of `n` bytes are not there to be had.
    pub(crate) fn fault_in_writeable(&self, n: u64) -> u64 {
        // SAFETY: an iterator.
        unsafe { c::fault_in_iov_iter_writeable(self.0, n as usize) as u64 }
    }

    /// Brings memory in that a write will read.
    pub(crate) fn fault_in_readable(&self, n: u64) -> u64 {
        // SAFETY: an iterator.
        unsafe { c::fault_in_iov_iter_readable(self.0, n as usize) as u64 }
    }
}

/// A read or write of an open file, at a position.
pub(crate) struct Kiocb<'a>(&'a mut c::kiocb);

impl<'a> Kiocb<'a> {
    /// # Safety
    /// `p` is that of a call that lasts for `'a`; nobody else uses it meanwhile.
    pub(crate) unsafe fn from_raw(p: *mut c::kiocb) -> Self {
        // SAFETY: ours alone, by the contract.
        Kiocb(unsafe { &mut *p })
    }

    pub(crate) fn file(&self) -> &'a File {
        // SAFETY: the file stays open for the call.
        unsafe { File::from_raw(self.0.ki_filp) }
    }

    pub(crate) fn position(&self) -> u64 {
        self.0.ki_pos as u64
    }

    pub(crate) fn advance(&mut self, n: u64) {
        self.0.ki_pos = self.0.ki_pos.wrapping_add(n as i64);
    }

    pub(crate) fn is_nowait(&self) -> bool {
        self.0.ki_flags & c::IOCB_NOWAIT != 0
    }

    /// O_APPEND, limits: how many bytes may be written. The inode is locked.
    pub(crate) fn write_checks(&mut self, iter: &mut IovIter<'_>) -> Result<u64> {
        // SAFETY: both are of this call.
        let n = unsafe { c::generic_write_checks(self.0, iter.0) };
        u64::try_from(n).map_err(|_| Errno::from_return(n))
    }
}
