// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The one door to the memory of a region.
//!
//! Everything the core reads or stores goes through [`Region`]; a test that implements it sees
//! every store in program order. This is the only file of the crate with `unsafe` in it, and no
//! reference into the region ever exists: other CPUs, other processes and user mappings may write
//! there at any time.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::layout::PAGE;
use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// A contiguous run of memory that outlives us. Offsets are bytes from its start.
///
/// Every method checks its bounds and answers [`Error::Corrupt`] outside of them: an offset comes
/// from the region itself as often as not, and is an allegation until checked.
pub trait Region: Sync {
    /// Length in bytes, a multiple of 4096, the same for the life of the value.
    fn len(&self) -> u64;

    /// True for a region of no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Loads the little-endian word at `off` (a multiple of 8), with Acquire order.
    fn load(&self, off: u64) -> Result<u64>;

    /// Stores a little-endian word at `off` (a multiple of 8), undivided, with Release order:
    /// whoever sees it sees every store made before it.
    #[cfg_attr(feature = "sites", track_caller)]
    fn store(&self, off: u64, value: u64) -> Result<()>;

    /// Replaces the word at `off` if it is `old`. `Ok(Err(found))` where it was not.
    #[cfg_attr(feature = "sites", track_caller)]
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>>;

    /// Copies bytes out of the region.
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()>;

    /// Copies bytes into the region, in no particular order of their own, but before any later
    /// [`Region::store`]. Aligned 8-byte words are not torn.
    #[cfg_attr(feature = "sites", track_caller)]
    fn write(&self, off: u64, buf: &[u8]) -> Result<()>;

    /// Stores zeros.
    #[cfg_attr(feature = "sites", track_caller)]
    fn zero(&self, off: u64, len: u64) -> Result<()>;

    /// Copies `len` bytes inside the region between ranges that do not overlap.
    #[cfg_attr(feature = "sites", track_caller)]
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()>;

    /// What was stored before is in the memory for good before anything that is stored later.
    ///
    /// Nothing, where memory keeps what a CPU has stored: plain RAM over a kexec. Where dirty cache
    /// lines may be lost (persistent memory and a power cut, a reset that drops caches), the storing
    /// methods write their lines back (`clwb`) and this waits for them (`sfence`).
    #[cfg_attr(feature = "sites", track_caller)]
    fn persist(&self) -> Result<()> {
        Ok(())
    }

    /// The first of the pages `page..page + len` whose memory has failed, if that is known of any:
    /// reading or storing there is [`Error::Corrupt`]. No file is given such a page, and one that is
    /// freed stays allocated, with no file to name it, until a repair gives it back.
    #[inline]
    fn bad_page(&self, page: u64, len: u64) -> Option<u64> {
        let _ = (page, len);
        None
    }

    /// How many of `n` bytes come before a page whose memory has failed; all of them where the first
    /// is in it.
    #[inline]
    fn before_bad(&self, off: u64, n: u64) -> u64 {
        let first = off / PAGE;
        let end = off.saturating_add(n).div_ceil(PAGE);
        match self.bad_page(first, end.saturating_sub(first)) {
            Some(bad) if bad > first => bad * PAGE - off,
            _ => n,
        }
    }
}

/// Is `off..off+len` inside `0..size`?
#[inline]
fn check(size: u64, off: u64, len: u64) -> Result<()> {
    match off.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::corrupt(off, "offset outside the region")),
    }
}

/// A region that is mapped into this address space.
#[derive(Debug)]
pub struct MappedRegion {
    base: NonNull<u8>,
    len: u64,
}

// SAFETY: the value is only an address and a length; every access goes through raw pointers or
// atomics, and `MappedRegion::new` demands that the memory be usable from any thread.
unsafe impl Send for MappedRegion {}
// SAFETY: as for `Send`; methods take `&self` and make no reference into the memory.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// Wraps mapped memory.
    ///
    /// # Safety
    /// `base` is aligned to 4096, and `len` (a multiple of 4096, at most `isize::MAX`) bytes from
    /// it stay mapped, readable and (unless nothing is ever stored) writable as long as the value
    /// lives, from every thread. No Rust reference to any of these bytes exists meanwhile.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: u64) -> Self {
        MappedRegion { base, len }
    }

    /// Address of the first byte, for whoever made the mapping.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of `len` bytes from `off` on, for whoever copies them himself.
    ///
    /// # Errors
    /// `Corrupt` where they are not all in the region.
    #[inline]
    pub fn address(&self, off: u64, len: u64) -> Result<*mut u8> {
        check(self.len, off, len)?;
        // SAFETY: `off <= self.len <= isize::MAX`, so the result lies inside the mapping (or one
        // past its end for an empty range), which is one allocation by the contract of `new`.
        Ok(unsafe { self.base.as_ptr().add(off as usize) })
    }

    #[inline]
    fn word(&self, off: u64) -> Result<&AtomicU64> {
        if off % 8 != 0 {
            return Err(Error::corrupt(off, "unaligned word"));
        }
        let p = self.address(off, 8)?;
        // SAFETY: `p` is valid for 8 bytes for the life of `self` and, base being page-aligned and
        // `off` a multiple of 8, aligned. All word accesses of this process are atomic; an
        // `AtomicU64` is a permitted view of memory that others change.
        Ok(unsafe { AtomicU64::from_ptr(p.cast()) })
    }
}

/// What the processor stores at once, a whole number of aligned words: none of them is ever half done.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
type Piece = core::arch::x86_64::__m128i;
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
type Piece = u64;

const PIECE: usize = size_of::<Piece>();
/// Pieces in one turn of a loop.
const TURN: usize = 4;

/// Stores a run of bytes from `$dst` on, piece by piece, each where it is aligned: `$store!(type)` stores one
/// of that type and moves on, `$turn` several at once.
macro_rules! in_pieces {
    ($dst:ident, $rest:ident, $store:ident, $turn:block) => {
        macro_rules! edge {
            ($what:ty, $wanted:expr) => {
                if $wanted && $rest >= size_of::<$what>() {
                    $store!($what);
                }
            };
        }
        edge!(u8, $dst as usize & 1 != 0);
        edge!(u16, $dst as usize & 2 != 0);
        edge!(u32, $dst as usize & 4 != 0);
        edge!(u64, $dst as usize & (PIECE - 8) != 0);
        while $rest >= TURN * PIECE {
            $turn
        }
        while $rest >= PIECE {
            $store!(Piece);
        }
        while $rest >= 8 {
            $store!(u64);
        }
        edge!(u32, true);
        edge!(u16, true);
        edge!(u8, true);
    };
}

/// Copies so that each aligned word of the target comes whole, whenever the processor stops: `memcpy` may
/// be one long instruction (`rep movsb`) that can be interrupted behind any byte. Of the words at the two
/// ends that are not all in the range, it may be a part.
///
/// # Safety
/// As for [`core::ptr::copy_nonoverlapping`] with `len` bytes.
#[allow(unused_assignments)] // behind the last piece
unsafe fn copy_words(mut src: *const u8, mut dst: *mut u8, len: usize) {
    let mut rest = len;
    // SAFETY: what is stored is behind the last and no more than is left of the `len` bytes for which the
    // caller vouches. A type is stored only where it is aligned: the first edges make it so, and if the
    // bytes ran out on the way, what is left is smaller than what they aligned for. The source is read
    // without need of that, and any bytes are of these types.
    unsafe {
        macro_rules! store {
            ($what:ty) => {
                let value = src.cast::<$what>().read_unaligned();
                dst.cast::<$what>().write_volatile(value);
                src = src.add(size_of::<$what>());
                dst = dst.add(size_of::<$what>());
                rest -= size_of::<$what>();
            };
        }
        in_pieces!(dst, rest, store, {
            let values = src.cast::<[Piece; TURN]>().read_unaligned();
            let to = dst.cast::<Piece>();
            for (i, value) in values.into_iter().enumerate() {
                to.add(i).write_volatile(value);
            }
            src = src.add(TURN * PIECE);
            dst = dst.add(TURN * PIECE);
            rest -= TURN * PIECE;
        });
    }
}

/// Stores zeros so that each aligned word comes whole, as [`copy_words`] does: `memset` may be one long
/// instruction too, and one that is ten times as slow where it is emulated.
///
/// # Safety
/// `dst` is valid for writes of `len` bytes.
#[allow(unused_assignments)] // behind the last piece
unsafe fn zero_words(mut dst: *mut u8, len: usize) {
    let mut rest = len;
    // SAFETY: as in `copy_words`; zeros are of any of these types.
    unsafe {
        macro_rules! store {
            ($what:ty) => {
                dst.cast::<$what>().write_volatile(core::mem::zeroed());
                dst = dst.add(size_of::<$what>());
                rest -= size_of::<$what>();
            };
        }
        in_pieces!(dst, rest, store, {
            let to = dst.cast::<Piece>();
            for i in 0..TURN {
                to.add(i).write_volatile(core::mem::zeroed());
            }
            dst = dst.add(TURN * PIECE);
            rest -= TURN * PIECE;
        });
    }
}

impl Region for MappedRegion {
    #[inline]
    fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn load(&self, off: u64) -> Result<u64> {
        Ok(u64::from_le(self.word(off)?.load(Ordering::Acquire)))
    }

    #[inline]
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.word(off)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        let word = self.word(off)?;
        let done = word.compare_exchange(
            old.to_le(),
            new.to_le(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        Ok(done.map(|_| ()).map_err(u64::from_le))
    }

    #[inline]
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let p = self.address(off, buf.len() as u64)?;
        // SAFETY: `p` is valid for `buf.len()` bytes; `buf` is Rust memory and so, by the contract
        // of `new`, disjoint from the region. A concurrent writer can make the bytes a mix of old
        // and new; they are plain `u8`, valid whatever they hold, and nothing is derived from two
        // reads of the same place.
        unsafe { core::ptr::copy_nonoverlapping(p.cast_const(), buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    #[inline]
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        let p = self.address(off, buf.len() as u64)?;
        // SAFETY: as in `read`, with the directions exchanged.
        unsafe { copy_words(buf.as_ptr(), p, buf.len()) };
        Ok(())
    }

    fn zero(&self, off: u64, len: u64) -> Result<()> {
        let p = self.address(off, len)?;
        // SAFETY: `p` is valid for `len` bytes, and `len <= isize::MAX` fits in `usize`.
        unsafe { zero_words(p, len as usize) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let src = self.address(from, len)?;
        let dst = self.address(to, len)?;
        if from.abs_diff(to) < len {
            return Err(Error::Invalid);
        }
        // SAFETY: both are valid for `len` bytes, and the test above shows them disjoint.
        unsafe { copy_words(src.cast_const(), dst, len as usize) };
        Ok(())
    }
}

impl<T: Region + ?Sized> Region for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        (**self).load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        (**self).store(off, value)
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        (**self).compare_exchange(off, old, new)
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        (**self).write(off, buf)
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        (**self).zero(off, len)
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        (**self).copy(from, to, len)
    }
    fn persist(&self) -> Result<()> {
        (**self).persist()
    }
    #[inline]
    fn bad_page(&self, page: u64, len: u64) -> Option<u64> {
        (**self).bad_page(page, len)
    }
}
