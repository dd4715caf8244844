// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that stands in for a region.

use fs_core::{MappedRegion, Region, Result};
use std::ptr::NonNull;

/// A private mapping that lives as long as the value, zeroed and sparse at first.
#[derive(Debug)]
pub struct MemRegion {
    map: MappedRegion,
    len: usize,
}

/// How the memory of a [`MemRegion`] is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// A memfd, mapped shared: what a file on tmpfs is.
    Memfd,
}

impl MemRegion {
    /// Anonymous memory of `len` bytes (a multiple of 4096), all zero.
    ///
    /// # Panics
    /// When the kernel has none to give, or `len` is not a multiple of 4096.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self::with_backing(len, Backing::Anonymous)
    }

    /// As [`MemRegion::new`], choosing what backs the memory.
    ///
    /// # Panics
    /// When the kernel has none to give, or `len` is not a multiple of 4096.
    #[must_use]
    pub fn with_backing(len: u64, backing: Backing) -> Self {
        assert!(len > 0 && len % 4096 == 0, "length {len} is not in pages");
        let size = usize::try_from(len).expect("fits the address space");
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let addr = match backing {
            Backing::Anonymous => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
                unsafe { libc::mmap(std::ptr::null_mut(), size, prot, flags, -1, 0) }
            }
            Backing::Memfd => {
                // SAFETY: the name is a C string; the call makes a new descriptor.
                let fd = unsafe { libc::memfd_create(c"rpramfs-tests".as_ptr(), 0) };
                assert!(fd >= 0, "memfd: {}", std::io::Error::last_os_error());
                // SAFETY: `fd` is ours, just made.
                let rc = unsafe { libc::ftruncate(fd, len as libc::off_t) };
                assert_eq!(rc, 0, "ftruncate: {}", std::io::Error::last_os_error());
                let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
                // SAFETY: as for the anonymous mapping; `fd` is open and `size` long.
                let addr = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, flags, fd, 0) };
                // SAFETY: `fd` is ours and not used again; the mapping keeps the memory.
                unsafe { libc::close(fd) };
                addr
            }
        };
        assert!(
            addr != libc::MAP_FAILED,
            "mmap of {len} bytes: {}",
            std::io::Error::last_os_error()
        );
        let base = NonNull::new(addr.cast::<u8>()).expect("not mapped at 0");
        // SAFETY: the mapping is page-aligned, readable, writable, `len` long, and unmapped only
        // in `drop`; no reference into it is ever made.
        let map = unsafe { MappedRegion::new(base, len) };
        MemRegion { map, len: size }
    }

    /// A copy of another region's bytes.
    #[must_use]
    pub fn copy_of(other: &MemRegion) -> Self {
        let new = MemRegion::new(other.len());
        // Only what is not zero: a region is mostly empty, and untouched pages cost nothing.
        let mut page = [0u8; 4096];
        for off in (0..other.len()).step_by(4096) {
            other.read(off, &mut page).expect("inside");
            if page.iter().any(|&b| b != 0) {
                new.write(off, &page).expect("inside");
            }
        }
        new
    }

    /// Copies the page at `off` from a region of the same length.
    pub fn copy_page_from(&self, other: &MemRegion, off: u64) {
        let mut page = [0u8; 4096];
        other.read(off, &mut page).expect("inside");
        self.write(off, &page).expect("inside");
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.len];
        self.read(0, &mut all).expect("inside");
        all
    }
}

impl Drop for MemRegion {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `with_backing` with this length and is not used again.
        unsafe { libc::munmap(self.map.base().as_ptr().cast(), self.len) };
    }
}

impl Region for MemRegion {
    #[inline]
    fn len(&self) -> u64 {
        self.map.len()
    }
    #[inline]
    fn load(&self, off: u64) -> Result<u64> {
        self.map.load(off)
    }
    #[inline]
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.map.store(off, value)
    }
    #[inline]
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.map.compare_exchange(off, old, new)
    }
    #[inline]
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.map.read(off, buf)
    }
    #[inline]
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.map.write(off, buf)
    }
    #[inline]
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.map.zero(off, len)
    }
    #[inline]
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.map.copy(from, to, len)
    }
}

/// The C library's `memcpy` into a region, past the core's own copies: what the benchmarks measure against.
///
/// # Panics
/// Outside of the region.
pub fn memcpy(to: &MemRegion, to_off: u64, from: &[u8]) {
    let place = to.map.address(to_off, from.len() as u64).expect("inside");
    // SAFETY: `place` is valid for as many bytes, and no Rust memory; whoever stores there at the same
    // time gets a mix of bytes.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len()) };
}

/// The same out of a region.
///
/// # Panics
/// Outside of the region.
pub fn memcpy_out(from: &MemRegion, from_off: u64, to: &mut [u8]) {
    let place = from.map.address(from_off, to.len() as u64).expect("inside");
    // SAFETY: as in `memcpy`.
    unsafe { std::ptr::copy_nonoverlapping(place.cast_const(), to.as_mut_ptr(), to.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the alignments and the length: these bytes, and no others.
    #[test]
    fn copies_and_zeros_keep_to_their_range() {
        const LEN: usize = 512;
        let source: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8 + 1).collect();
        let mem = MemRegion::new(8192);
        let old = [0xff; LEN];
        let check = |from: usize, to: usize, expected: &dyn Fn(usize) -> u8, what: &str| {
            let mut now = [0; LEN];
            mem.read(0, &mut now).expect("inside");
            for (i, byte) in now.iter().enumerate() {
                let want = if (from..to).contains(&i) {
                    expected(i - from)
                } else {
                    0xff
                };
                assert_eq!(*byte, want, "{what} {from}..{to}: byte {i}");
            }
        };
        for start in 64..96 {
            for len in (0..150).chain([200, 255, 256, 257]) {
                let skew = (start * 7 + len) % 17;
                let bytes = &source[skew..skew + len];
                mem.write(0, &old).expect("inside");
                mem.write(start as u64, bytes).expect("inside");
                check(start, start + len, &|i| bytes[i], "write");
                mem.write(4096 + skew as u64, bytes).expect("inside");
                mem.write(0, &old).expect("inside");
                mem.copy(4096 + skew as u64, start as u64, len as u64)
                    .expect("inside");
                check(start, start + len, &|i| bytes[i], "copy");
                mem.write(0, &old).expect("inside");
                mem.zero(start as u64, len as u64).expect("inside");
                check(start, start + len, &|_| 0, "zero");
            }
        }
    }
}
