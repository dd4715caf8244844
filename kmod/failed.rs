// SPDX-License-Identifier: GPL-2.0
//! Pages whose memory has failed, as the kernel tells of them: nothing is read or stored there any more.

use crate::bindings as c;
use crate::errno::{check, Errno, Result};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

/// Those of one range, by their numbers in it.
pub(crate) struct Failed {
    any: AtomicBool,
    pages: NonNull<c::xarray>,
}

// SAFETY: an XArray has a lock of its own, and may be used from any task.
unsafe impl Send for Failed {}
// SAFETY: as for `Send`.
unsafe impl Sync for Failed {}

impl Failed {
    pub(crate) fn new() -> Result<Failed> {
        // SAFETY: allocates.
        let pages = unsafe { c::rpramfs_pages_new() };
        Ok(Failed {
            any: AtomicBool::new(false),
            pages: NonNull::new(pages).ok_or(Errno::NO_MEMORY)?,
        })
    }

    /// Notes that a page has failed.
    pub(crate) fn add(&self, page: u64) -> Result {
        // SAFETY: the array lives as long as `self`; called in process context.
        let added = check(unsafe { c::rpramfs_pages_add(self.pages.as_ptr(), page as _) });
        self.any.store(true, Ordering::Release);
        added
    }

    /// The first of the pages `page..page + len` that has failed.
    #[inline]
    pub(crate) fn first(&self, page: u64, len: u64) -> Option<u64> {
        if !self.any.load(Ordering::Acquire) || len == 0 {
            return None;
        }
        self.look(page, page.saturating_add(len - 1))
    }

    #[cold]
    fn look(&self, first: u64, last: u64) -> Option<u64> {
        // SAFETY: as in `add`.
        let found =
            unsafe { c::rpramfs_pages_first(self.pages.as_ptr(), first as _, last as _) } as u64;
        (found <= last).then_some(found)
    }
}

impl Drop for Failed {
    fn drop(&mut self) {
        // SAFETY: nobody else can have it.
        unsafe { c::rpramfs_pages_free(self.pages.as_ptr()) };
    }
}
