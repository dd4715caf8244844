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
        match off.checked_add(n) {
            // SAFETY: inside the region, and so inside one mapping.
            Some(end) if end <= self.0.len() => {
                Ok(unsafe { self.0.base().as_ptr().add(off as usize) })
            }
            _ => Err(Error::corrupt(off, "offset outside the region")),
        }
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

    /// By words, as far as there are whole ones: `memset` may be microcode, which takes ten times as long
    /// where that is emulated, and is no faster where memory is what there is to wait for.
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        const LINE: u64 = 64;
        self.address(off, len)?;
        let end = off + len;
        let first = off.next_multiple_of(LINE).min(end);
        let lines = (end - first) / LINE;
        let last = first + lines * LINE;
        self.0.zero(off, first - off)?;
        let mut p = self.address(first, last - first)?.cast::<u64>();
        for _ in 0..lines {
            for word in 0..8 {
                // SAFETY: `lines` times 64 bytes from `first` on are in the region, and aligned.
                unsafe { p.add(word).write_volatile(0) };
            }
            // SAFETY: not behind the end of the lines.
            p = unsafe { p.add(8) };
        }
        self.0.zero(last, end - last)
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.0.copy(from, to, len)
    }
}
