// SPDX-License-Identifier: GPL-2.0
//! Pages whose memory has failed: nothing is read or stored there any more, until the machine is started anew.
//! The module cannot be unloaded once there is one.

use crate::bindings as c;
use core::sync::atomic::{AtomicBool, Ordering};
use fs_core::PAGE_SIZE;

/// Those of one range, by their numbers in it.
pub(crate) struct Failed {
    /// The frame of page 0.
    frame: u64,
    any: AtomicBool,
}

impl Failed {
    /// What is known of a range from an earlier mount.
    pub(crate) fn known(frame: u64, pages: u64) -> Failed {
        let failed = Failed {
            frame,
            any: AtomicBool::new(true),
        };
        let any = failed.first(0, pages).is_some();
        failed.any.store(any, Ordering::Relaxed);
        failed
    }

    /// Notes that a page has failed.
    pub(crate) fn add(&self, page: u64) {
        if self.first(page, 1).is_some() {
            return;
        }
        complain!("memory has failed at offset {:#x}, 4096 bytes: what was there is lost. If a file had it, the rest of the file can be read; with a hole punched there it can be written again",
            page * PAGE_SIZE
        );
        // SAFETY: any number may be noted, anywhere.
        if unsafe { c::rpramfs_frame_failed((self.frame + page) as _) } != 0 {
            complain!("out of memory: the page will be used all the same");
        }
        self.any.store(true, Ordering::Release);
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
        let frame = |page: u64| self.frame.saturating_add(page) as _;
        // SAFETY: any numbers may be asked about.
        let found = unsafe { c::rpramfs_first_failed(frame(first), frame(last)) } as u64;
        let page = found.checked_sub(self.frame)?;
        (page <= last).then_some(page)
    }
}
