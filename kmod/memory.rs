// SPDX-License-Identifier: GPL-2.0
//! The region's memory as the core sees it: as in user space, but that memory which has gone bad is an error
//! where it is read, not the end of the machine.

use crate::bindings as c;
use crate::failed::Failed;
use fs_core::{Error, MappedRegion, Region, Result, PAGE_SIZE};
use kernel::sync::Arc;

/// Claimed memory.
pub(crate) struct Memory {
    region: MappedRegion,
    failed: Arc<Failed>,
}

impl Memory {
    pub(crate) fn new(region: MappedRegion, failed: Arc<Failed>) -> Self {
        Memory { region, failed }
    }

    /// Where `n` bytes of a file are.
    #[inline]
    pub(crate) fn address(&self, off: u64, n: u64) -> Result<*mut u8> {
        match self.good(off, n) {
            Ok(()) => self.region.address(off, n),
            Err(_) => Err(Error::Io),
        }
    }

    /// Of `n` bytes that were to be read `left` did not come.
    #[inline]
    fn came_whole(&self, off: u64, n: u64, left: u64) -> Result<()> {
        if left == 0 {
            return Ok(());
        }
        // Nobody has told us: the machine does only where it was the caller's memory.
        let failed = off.saturating_add(n.saturating_sub(left));
        self.failed.add(failed / PAGE_SIZE);
        Err(Error::corrupt(failed, "memory error"))
    }

    /// Reads all of a page: what has failed there is known then.
    pub(crate) fn probe(&self, off: u64) {
        let mut bytes = [0; 256];
        let page = off - off % PAGE_SIZE;
        for at in (page..page + PAGE_SIZE).step_by(bytes.len()) {
            if self.read(at, &mut bytes).is_err() {
                break;
            }
        }
    }

    #[inline]
    fn good(&self, off: u64, n: u64) -> Result<()> {
        let first = off / PAGE_SIZE;
        let end = off.saturating_add(n).div_ceil(PAGE_SIZE);
        match self.failed.first(first, end.saturating_sub(first)) {
            Some(page) => Err(Error::corrupt(page * PAGE_SIZE, "memory error")),
            None => Ok(()),
        }
    }
}

impl Region for Memory {
    #[inline]
    fn len(&self) -> u64 {
        self.region.len()
    }

    #[inline]
    fn load(&self, off: u64) -> Result<u64> {
        self.good(off, 8)?;
        self.region.load(off)
    }

    #[inline]
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.good(off, 8)?;
        self.region.store(off, value)
    }

    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.good(off, 8)?;
        self.region.compare_exchange(off, old, new)
    }

    #[inline]
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.good(off, buf.len() as u64)?;
        let from = self.region.address(off, buf.len() as u64)?;
        // SAFETY: both are there for that many bytes, and `buf` is no part of the region. How many bytes
        // could not be read is answered.
        let left =
            unsafe { c::rpramfs_copy_checked(buf.as_mut_ptr().cast(), from.cast(), buf.len()) };
        self.came_whole(off, buf.len() as u64, left as u64)
    }

    #[inline]
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.good(off, buf.len() as u64)?;
        self.region.write(off, buf)
    }

    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.good(off, len)?;
        self.region.zero(off, len)
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.good(from, len)?;
        self.good(to, len)?;
        let source = self.region.address(from, len)?;
        let target = self.region.address(to, len)?;
        // SAFETY: both are there for that many bytes, and do not overlap, as `Region::copy` demands.
        let left =
            unsafe { c::rpramfs_copy_checked(target.cast(), source.cast(), len as usize) } as u64;
        self.came_whole(from, len, left)
    }

    #[inline]
    fn bad_page(&self, page: u64, len: u64) -> Option<u64> {
        self.failed.first(page, len)
    }
}
