// SPDX-License-Identifier: GPL-2.0
//! The run of written pages that a read or an overwrite found last, so that the next one need not look.
//!
//! Where a file's pages are changes only under the inode's `meta`, exclusively; whoever takes that makes
//! the run forgotten. Tasks that have it shared may store a run at the same time, so that the four words
//! are a sequence lock: a count, odd while somebody stores, and page of the file, page of the region,
//! number of pages.

use super::inode::{Inode, MetaShared};
use crate::bindings as c;
use core::sync::atomic::{fence, AtomicU64, Ordering};
use fs_core::Extent;

type Words = [AtomicU64; 4];

impl Inode {
    #[inline]
    fn words(&self) -> &Words {
        // SAFETY: four words that lie in front of the VFS's inode, as aligned as atomics are, and that
        // nobody uses in another way once the inode is found.
        unsafe { &*c::rpramfs_remembered(self.raw()).cast::<Words>() }
    }

    /// The run, if there is one.
    #[inline]
    pub(crate) fn remembered(&self, _meta: &MetaShared<'_>) -> Option<Extent> {
        let [count, file_page, page, len] = self.words();
        let before = count.load(Ordering::Acquire);
        let run = Extent {
            file_page: file_page.load(Ordering::Relaxed),
            page: page.load(Ordering::Relaxed),
            len: len.load(Ordering::Relaxed),
            unwritten: false,
        };
        fence(Ordering::Acquire);
        let whole = before % 2 == 0 && count.load(Ordering::Relaxed) == before;
        (whole && run.len != 0).then_some(run)
    }

    /// Remembers a run of written pages, unless another task is about to.
    #[inline]
    pub(crate) fn remember(&self, _meta: &MetaShared<'_>, run: &Extent) {
        let [count, file_page, page, len] = self.words();
        let before = count.load(Ordering::Relaxed);
        let odd = before | 1;
        let (order, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        if before == odd || count.compare_exchange(before, odd, order, relaxed).is_err() {
            return;
        }
        fence(Ordering::Release);
        file_page.store(run.file_page, Ordering::Relaxed);
        page.store(run.page, Ordering::Relaxed);
        len.store(run.len, Ordering::Relaxed);
        count.store(before.wrapping_add(2), Ordering::Release);
    }

    /// Where the pages are is about to change. The caller has `meta` exclusively, whose own barriers tell
    /// the others.
    #[inline]
    pub(super) fn forget_run(&self) {
        let [.., len] = self.words();
        len.store(0, Ordering::Relaxed);
    }
}
