// SPDX-License-Identifier: GPL-2.0
//! The region's memory as the core sees it: as in user space, but that memory which has gone bad is an error
//! where it is read, not the end of the machine.

use crate::bindings as c;
use fs_core::{Error, MappedRegion, Region, Result};

/// Claimed memory.
pub(crate) struct Memory(MappedRegion);

impl Memory {
    pub(crate) fn new(region: MappedRegion) -> Self {
        Memory(region)
    }

    /// Where `n` bytes from `off` on are.
    #[inline]
    pub(crate) fn address(&self, off: u64, n: u64) -> Result<*mut u8> {
        self.0.address(off, n)
    }
}

impl Region for Memory {
    #[inline]
    fn len(&self) -> u64 {
        self.0.len()
    }

    #[inline]
    fn load(&self, off: u64) -> Result<u64> {
        self.0.load(off)
    }

    #[inline]
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.0.store(off, value)
    }

    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.0.compare_exchange(off, old, new)
    }

    #[inline]
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let from = self.address(off, buf.len() as u64)?;
        // SAFETY: both are there for that many bytes, and `buf` is no part of the region. How many bytes
        // could not be read is answered.
        let left =
            unsafe { c::rpramfs_copy_checked(buf.as_mut_ptr().cast(), from.cast(), buf.len()) };
        match left {
            0 => Ok(()),
            _ => Err(Error::corrupt(off, "memory error")),
        }
    }

    #[inline]
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.0.write(off, buf)
    }

    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.0.zero(off, len)
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.0.copy(from, to, len)
    }
}
