// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Physical memory, mapped piece by piece as it is used.
//!
//! `/dev/mem` fills in the page tables of all that is mapped at once, 8 bytes for each 4 KiB: for
//! 64 GiB some tenths of a second and 128 MiB of kernel memory, before the first byte is read.
//! mkfs and mount must not depend on the size of the region; so address space is reserved for all
//! of it, and a window is mapped when it is first touched.

#![allow(unsafe_code)]

use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

/// Least size of a window, in bytes: 16384 page table entries, about 0.1 ms.
const LEAST: u64 = 64 << 20;

/// Most windows: each is a mapping of its own, and a process may have 65530 (vm.max_map_count).
const MOST: u64 = 16384;

/// A range of a file, at one place in the address space, mapped on demand.
#[derive(Debug)]
pub(crate) struct Windows {
    file: File,
    offset: u64,
    len: u64,
    writable: bool,
    base: NonNull<u8>,
    /// log2 of a window's size.
    shift: u32,
    ready: Box<[AtomicBool]>,
    growing: Mutex<()>,
}

// SAFETY: `base` is an address whose mapping belongs to this value alone; all that changes is
// atomic or behind the mutex.
unsafe impl Send for Windows {}
// SAFETY: as for `Send`.
unsafe impl Sync for Windows {}

/// log2 of the window size for a range of so many bytes.
fn shift_for(len: u64) -> u32 {
    len.div_ceil(MOST)
        .max(LEAST)
        .next_power_of_two()
        .trailing_zeros()
}

impl Windows {
    /// Reserves address space for `len` bytes of `file` from `offset` on, both multiples of 4096.
    pub(crate) fn reserve(file: File, offset: u64, len: u64, writable: bool) -> io::Result<Self> {
        Windows::with_shift(file, offset, len, writable, shift_for(len))
    }

    fn with_shift(
        file: File,
        offset: u64,
        len: u64,
        writable: bool,
        shift: u32,
    ) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = len.div_ceil(1 << shift);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED and with a null hint the kernel picks addresses that nobody
        // uses; PROT_NONE memory costs nothing and cannot be touched.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Windows {
            file,
            offset,
            len,
            writable,
            base,
            shift,
            ready: (0..count).map(|_| AtomicBool::new(false)).collect(),
            growing: Mutex::new(()),
        })
    }

    /// Address of the first byte; valid where [`Windows::touch`] has been.
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Makes sure that the bytes `off..off + len` are mapped; what lies outside the range is left
    /// to the caller's own check.
    #[inline]
    pub(crate) fn touch(&self, off: u64, len: u64) -> io::Result<()> {
        let first = off >> self.shift;
        let last = off.saturating_add(len.saturating_sub(1)) >> self.shift;
        let mut n = first;
        while n <= last {
            match self.ready.get(n as usize) {
                Some(ready) if ready.load(Ordering::Acquire) => n += 1,
                Some(_) => self.grow(n)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Maps window `n`, which exists.
    #[cold]
    fn grow(&self, n: u64) -> io::Result<()> {
        let _one_at_a_time = self.growing.lock();
        let ready = &self.ready[n as usize];
        if ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let start = n << self.shift;
        let len = (self.len - start).min(1 << self.shift);
        let protection = if self.writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let at = libc::off_t::try_from(self.offset + start)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: `start + len <= self.len`, so the addresses lie inside of what `reserve` got
        // from the kernel and this value owns. They are PROT_NONE until now and not marked
        // ready, so nobody reads or writes there while the mapping is replaced.
        let got = unsafe {
            libc::mmap(
                self.base.as_ptr().add(start as usize).cast(),
                len as usize,
                protection,
                libc::MAP_SHARED | libc::MAP_FIXED,
                self.file.as_raw_fd(),
                at,
            )
        };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        ready.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        // SAFETY: exactly what `reserve` got and `grow` replaced parts of; whoever uses the memory
        // borrows from the value that owns this one.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const WINDOW: u64 = 8192;

    /// Three windows and a half, from the second page of a file on.
    fn windows() -> (File, Windows) {
        let file = tempfile::tempfile().expect("file");
        file.set_len(4096 + 3 * WINDOW + 4096).expect("length");
        let twin = file.try_clone().expect("clone");
        let w = Windows::with_shift(twin, 4096, 3 * WINDOW + 4096, true, 13).expect("reserve");
        (file, w)
    }

    fn mapped(w: &Windows) -> Vec<bool> {
        w.ready.iter().map(|r| r.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn only_what_is_touched_is_mapped() {
        let (file, w) = windows();
        assert_eq!(mapped(&w), [false; 4]);
        w.touch(WINDOW, 1).expect("touch");
        assert_eq!(mapped(&w), [false, true, false, false]);
        w.touch(3 * WINDOW - 1, 2).expect("touch over a border");
        assert_eq!(mapped(&w), [false, true, true, true]);
        // SAFETY: the byte is inside of a window that was touched.
        unsafe { w.base().as_ptr().add(WINDOW as usize).write(7) };
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096 + WINDOW).expect("read");
        assert_eq!(byte, [7]);
    }

    #[test]
    fn nonsense_is_left_to_the_caller() {
        let (_file, w) = windows();
        w.touch(u64::MAX, 8).expect("ignored");
        w.touch(1 << 40, u64::MAX).expect("ignored");
        w.touch(0, 0).expect("nothing");
    }

    #[test]
    fn threads_may_come_at_once() {
        let (_file, w) = windows();
        std::thread::scope(|s| {
            for t in 0..4u64 {
                let w = &w;
                s.spawn(move || {
                    for page in 0..7u64 {
                        let off = page * 4096 + t * 8;
                        w.touch(off, 8).expect("touch");
                        // SAFETY: touched; each thread has its own words.
                        unsafe { w.base().as_ptr().add(off as usize).cast::<u64>().write(t) };
                    }
                });
            }
        });
        assert_eq!(mapped(&w), [true; 4]);
    }

    #[test]
    fn the_number_of_windows_is_bounded() {
        for len in [4096u64, 1 << 30, 64 << 30, 1 << 40, 16 << 40, 64 << 40] {
            assert!(len.div_ceil(1 << shift_for(len)) <= MOST, "{len}");
        }
        assert_eq!(1u64 << shift_for(1 << 40), LEAST);
    }
}
