// SPDX-License-Identifier: GPL-2.0
//! Work in the background.

use crate::bindings as c;
use core::cell::UnsafeCell;
use kernel::prelude::*;

/// A piece of work that runs once for each `queue`. It must not move once it was initialised.
#[repr(C)]
pub(crate) struct Work<T> {
    work: UnsafeCell<c::work_struct>,
    data: T,
}

// SAFETY: the workqueue locks what it changes; `data` is shared with the worker.
unsafe impl<T: Sync> Sync for Work<T> {}
// SAFETY: as for `Sync`.
unsafe impl<T: Send> Send for Work<T> {}

/// What a worker does with the data.
pub(crate) trait Run: Sync {
    fn run(&self);
}

impl<T: Run> Work<T> {
    /// A piece of work at an address of its own.
    pub(crate) fn new(data: T) -> Result<KBox<Self>> {
        let work = KBox::new(
            Work {
                work: UnsafeCell::new(c::work_struct::default()),
                data,
            },
            GFP_KERNEL,
        )?;
        // SAFETY: it stays where it is: in a box that is only taken apart by `Drop`.
        unsafe { c::rpramfs_work_init(work.work.get(), Some(Self::trampoline)) };
        Ok(work)
    }

    /// # Safety
    /// Called by a workqueue, with the work of a `Work<T>` that lives until `cancel`.
    unsafe extern "C" fn trampoline(work: *mut c::work_struct) {
        // SAFETY: `work` is the first field of a `repr(C)` structure.
        let this = unsafe { &*work.cast::<Work<T>>() };
        this.data.run();
    }

    pub(crate) fn queue(&self) {
        // SAFETY: initialised in `new`.
        unsafe { c::rpramfs_work_queue(self.work.get()) };
    }

    /// Waits for it to end, if it runs.
    pub(crate) fn cancel(&self) {
        // SAFETY: initialised in `new`.
        unsafe { c::cancel_work_sync(self.work.get()) };
    }

    pub(crate) fn data(&self) -> &T {
        &self.data
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`: nothing else makes one.
        unsafe { c::cancel_work_sync(self.work.get()) };
    }
}
