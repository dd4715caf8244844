// SPDX-License-Identifier: GPL-2.0
//! A range of physical memory that is ours: looked at, claimed, given struct pages, offered as DAX.

use crate::bindings as c;
use crate::errno::{check, Errno, Result};
use crate::failed::Failed;
use crate::memory::Memory;
use crate::source::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use fs_core::layout::{Geometry, PAGE};
use fs_core::MappedRegion;
use kernel::ffi::{c_int, c_long, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The kernel gives struct pages to this many bytes at a time (PAGES_PER_SUBSECTION).
pub(crate) const ALIGN: u64 = 2 << 20;

/// A look at a range before it is claimed: claiming revokes mappings of /dev/mem, and whoever serves
/// the region through one would die of it.
pub(crate) struct Peek {
    base: NonNull<u8>,
    range: Range,
}

impl Peek {
    /// Maps the range, if it is one that may hold a region.
    pub(crate) fn new(range: Range) -> Result<Peek> {
        let (start, len) = (range.start, range.len);
        if start % ALIGN != 0 || len % ALIGN != 0 || len == 0 {
            complain!("{range}: start and length must be multiples of 2 MiB for the kernel module; mount with -o fuse");
            return Err(Errno::INVALID);
        }
        // SAFETY: any numbers may be asked about.
        if unsafe { c::rpramfs_is_system_ram(start, len) } {
            complain!(
                "{range}: the kernel uses this memory itself (System RAM); reserve it with memmap="
            );
            return Err(Errno::BUSY);
        }
        // SAFETY: as above.
        if !unsafe { c::rpramfs_is_reserved(start, len) } {
            complain!("{range}: is not reserved memory, or not all of it; see /proc/iomem, and reserve it with memmap=");
            return Err(Errno::INVALID);
        }
        // SAFETY: the range is reserved memory, as was just seen.
        let base = unsafe { c::rpramfs_peek(start, len) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) => Ok(Peek { base, range }),
            None => {
                complain!("{range}: cannot be mapped");
                Err(Errno::NO_MEMORY)
            }
        }
    }

    /// The mapped memory.
    pub(crate) fn memory(&self) -> Result<Memory> {
        // SAFETY: mapped, page-aligned, `len` a multiple of 4096 below `isize::MAX` (a range of physical
        // memory); the caller drops the value before `self`.
        let region = unsafe { MappedRegion::new(self.base, self.range.len) };
        Ok(Memory::new(region, known(self.range)?))
    }
}

/// What is known to have failed in a range.
fn known(range: Range) -> Result<Arc<Failed>> {
    let failed = Failed::known(range.start / PAGE, range.len / PAGE);
    Ok(Arc::new(failed, GFP_KERNEL)?)
}

impl Drop for Peek {
    fn drop(&mut self) {
        // SAFETY: `rpramfs_peek` mapped it.
        unsafe { c::rpramfs_unpeek(self.base.as_ptr().cast()) };
    }
}

/// A claimed range. Gives everything back when it is dropped.
pub(crate) struct Claim {
    range: Range,
    base: NonNull<u8>,
    /// Pinned: the kernel keeps its address.
    pagemap: NonNull<c::dev_pagemap>,
    dax: NonNull<c::dax_device>,
    failed: Arc<Failed>,
    given_back: AtomicBool,
}

// SAFETY: the value only keeps addresses; what it calls may be called from any task.
unsafe impl Send for Claim {}
// SAFETY: as for `Send`.
unsafe impl Sync for Claim {}

/// What is undone if a later step of a claim fails.
struct Undo<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Undo<F> {
    fn new(f: F) -> Self {
        Undo(Some(f))
    }
    fn keep(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

impl Claim {
    /// Claims a range that was peeked at. Struct pages lie in the region itself, where `geometry` has
    /// room for them.
    pub(crate) fn new(range: Range, geometry: &Geometry) -> Result<Claim> {
        let (start, len) = (range.start, range.len);
        // SAFETY: the resource tree is the kernel's, the name is static.
        let resource = unsafe {
            c::__request_region(
                &raw mut c::iomem_resource,
                start,
                len,
                c"rpramfs".as_ptr().cast(),
                0,
            )
        };
        if resource.is_null() {
            complain!("{range}: is claimed by a driver; see /proc/iomem");
            return Err(Errno::BUSY);
        }
        let release = Undo::new(move || {
            // SAFETY: it was claimed above, and nobody else knows of it yet.
            unsafe { c::__release_region(&raw mut c::iomem_resource, start, len) }
        });

        // What is told of the range while it is claimed; where it is mapped is not known yet.
        let failed = known(range)?;
        let place = KBox::new(
            Place {
                base: NonNull::dangling(),
                pfn: (start / PAGE) as c_ulong,
                pages: (len / PAGE) as c_ulong,
                failed: failed.clone(),
                left: AtomicBool::new(false),
            },
            GFP_KERNEL,
        )?;
        let place = KBox::into_raw(place);
        let forget = Undo::new(move || {
            // SAFETY: it came from `KBox::into_raw`; neither a DAX device nor struct pages have it any more.
            drop(unsafe { KBox::from_raw(place) });
        });
        let pagemap = KBox::new(c::dev_pagemap::default(), GFP_KERNEL)?;
        let pagemap = KBox::into_raw(pagemap);
        let free = Undo::new(move || {
            // SAFETY: it came from `KBox::into_raw`, and the kernel has let go of it.
            drop(unsafe { KBox::from_raw(pagemap) });
        });
        // SAFETY: the value is ours alone until `memremap_pages`.
        unsafe {
            (*pagemap).type_ = c::memory_type_MEMORY_DEVICE_FS_DAX;
            (*pagemap).nr_range = 1;
            (*pagemap).ops = &PAGEMAP_OPERATIONS;
            (*pagemap).owner = place.cast();
            *(*pagemap).__bindgen_anon_1.range.as_mut() = c::range {
                start,
                end: start + len - 1,
            };
            if geometry.has_struct_pages() {
                (*pagemap).flags |= c::PGMAP_ALTMAP_VALID;
                (*pagemap).altmap = c::vmem_altmap {
                    base_pfn: (start / PAGE) as _,
                    end_pfn: ((start + len) / PAGE - 1) as _,
                    reserve: geometry.struct_start as _,
                    free: geometry.struct_pages as _,
                    align: 0,
                    alloc: 0,
                };
            }
        }
        // SAFETY: the range is reserved, claimed and aligned; `pagemap` stays until `memunmap_pages`.
        let base = unsafe { c::memremap_pages(pagemap, -1) };
        // SAFETY: looks at the address only.
        let error = unsafe { c::rpramfs_ptr_err(base) };
        if error != 0 {
            complain!("{range}: cannot be mapped, error {error}");
            return Err(Errno::from_return(error as isize));
        }
        let unmap = Undo::new(move || {
            // SAFETY: mapped above; nothing uses it yet.
            unsafe { c::memunmap_pages(pagemap) }
        });
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NO_MEMORY)?;

        // SAFETY: only the DAX device, which is made next, asks for it.
        unsafe { (*place).base = base };
        // SAFETY: `place` lives until the device is gone; the operations are static.
        let dax = unsafe { c::alloc_dax(place.cast(), &DAX_OPERATIONS) };
        // SAFETY: looks at the address only.
        check(unsafe { c::rpramfs_ptr_err(dax.cast()) } as i32)?;
        let dax = NonNull::new(dax).ok_or(Errno::NOT_SUPPORTED)?;
        // SAFETY: a device of ours. What a CPU stores is in this memory for good: MAP_SYNC holds.
        unsafe { c::set_dax_synchronous(dax.as_ptr()) };

        unmap.keep();
        free.keep();
        forget.keep();
        release.keep();
        Ok(Claim {
            range,
            base,
            // SAFETY: `KBox::into_raw` gives no null.
            pagemap: unsafe { NonNull::new_unchecked(pagemap) },
            dax,
            failed,
            given_back: AtomicBool::new(false),
        })
    }

    /// The range.
    pub(crate) fn range(&self) -> Range {
        self.range
    }

    /// The claimed memory.
    pub(crate) fn memory(&self) -> Memory {
        // SAFETY: as for `Peek::region`; whoever has the value has the claim too, and drops it later.
        let region = unsafe { MappedRegion::new(self.base, self.range.len) };
        Memory::new(region, self.failed.clone())
    }

    /// The device that iomaps name.
    pub(crate) fn dax(&self) -> *mut c::dax_device {
        self.dax.as_ptr()
    }
}

impl Claim {
    /// Files go, and the filesystem with them: who handles a failure has let go of them when this returns.
    pub(crate) fn leave_files(&self) {
        // SAFETY: the device has its `Place`; the flag is read and written under a lock of the callee's.
        unsafe {
            let place = c::dax_get_private(self.dax.as_ptr()).cast::<Place>();
            if !place.is_null() {
                c::rpramfs_leave_files((*place).left.as_ptr());
            }
        }
    }

    pub(crate) fn is_given_back(&self) -> bool {
        self.given_back.load(Ordering::Acquire)
    }

    /// Gives everything back. No inode, so no mapping, is left, and nobody uses the memory.
    pub(crate) fn give_back(&self) {
        if self.given_back.swap(true, Ordering::AcqRel) {
            return;
        }
        let (start, len) = (self.range.start, self.range.len);
        // SAFETY: undone once, in the reverse order of `new`. `dax_get_private` would be null after
        // `kill_dax`, so it is asked before.
        unsafe {
            let place = c::dax_get_private(self.dax.as_ptr()).cast::<Place>();
            c::kill_dax(self.dax.as_ptr());
            c::put_dax(self.dax.as_ptr());
            c::memunmap_pages(self.pagemap.as_ptr());
            drop(KBox::from_raw(self.pagemap.as_ptr()));
            if !place.is_null() {
                drop(KBox::from_raw(place));
            }
            c::__release_region(&raw mut c::iomem_resource, start, len);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What the operations below know of a range: address, first frame, how many there are, which have failed.
struct Place {
    base: NonNull<u8>,
    pfn: c_ulong,
    pages: c_ulong,
    failed: Arc<Failed>,
    /// Files are not looked for any more.
    left: AtomicBool,
}

impl Place {
    fn failed(&self, page: c_ulong, pages: u64) -> Option<u64> {
        self.failed.first(page as u64, pages)
    }
}

static PAGEMAP_OPERATIONS: c::dev_pagemap_ops = c::dev_pagemap_ops {
    memory_failure: Some(memory_failure),
    // SAFETY: the other operations are functions that may be missing.
    ..unsafe { core::mem::zeroed() }
};

static DAX_OPERATIONS: c::dax_operations = c::dax_operations {
    direct_access: Some(direct_access),
    zero_page_range: Some(zero_page_range),
    recovery_write: None,
};

/// # Safety
/// Called by the kernel where memory has failed, with a pagemap of `Claim::new`.
unsafe extern "C" fn memory_failure(
    pagemap: *mut c::dev_pagemap,
    pfn: c_ulong,
    pages: c_ulong,
    flags: c_int,
) -> c_int {
    // SAFETY: the owner is the `Place` of `Claim::new`, there as long as the struct pages.
    let place = unsafe { &*(*pagemap).owner.cast::<Place>() };
    let mut result = 0;
    for pfn in pfn..pfn.saturating_add(pages) {
        let Some(page) = pfn.checked_sub(place.pfn).filter(|n| *n < place.pages) else {
            return Errno::INVALID.negative();
        };
        // First, so that no fault maps it again.
        place.failed.add(page as u64);
        // SAFETY: a page of ours, with a struct page.
        let told = unsafe { c::rpramfs_take_away(pfn, flags, place.left.as_ptr()) };
        if told != 0 {
            result = told;
        }
    }
    result
}

/// # Safety
/// Called by the DAX core, with a device of `Claim::new` and places for the answers, or null.
unsafe extern "C" fn direct_access(
    dax: *mut c::dax_device,
    page: c_ulong,
    pages: c_long,
    _mode: c::dax_access_mode,
    address: *mut *mut c_void,
    pfn: *mut c_ulong,
) -> c_long {
    // SAFETY: the private pointer is the `Place` of `Claim::new`, there as long as the device.
    let place = unsafe { &*c::dax_get_private(dax).cast::<Place>() };
    if page >= place.pages {
        return Errno::INVALID.negative() as c_long;
    }
    let left = place.pages - page;
    let wanted = u64::try_from(pages).unwrap_or(0).clamp(1, left as u64);
    let good = match place.failed(page, wanted) {
        Some(bad) => bad as c_ulong - page,
        None => left,
    };
    if good == 0 {
        return Errno::POISONED.negative() as c_long;
    }
    if !address.is_null() {
        // SAFETY: a place for an answer; `page` is inside the mapping.
        unsafe { *address = place.base.as_ptr().add(page * PAGE as usize).cast() };
    }
    if !pfn.is_null() {
        // SAFETY: a place for an answer.
        unsafe { *pfn = place.pfn + page };
    }
    good as c_long
}

/// # Safety
/// As for `direct_access`.
unsafe extern "C" fn zero_page_range(
    dax: *mut c::dax_device,
    page: c_ulong,
    pages: usize,
) -> c_int {
    // SAFETY: as in `direct_access`.
    let place = unsafe { &*c::dax_get_private(dax).cast::<Place>() };
    if pages > place.pages || page > place.pages - pages {
        return Errno::INVALID.negative();
    }
    if place.failed(page, pages as u64).is_some() {
        return Errno::IO.negative();
    }
    // SAFETY: inside the mapping, as was just checked.
    unsafe {
        place
            .base
            .as_ptr()
            .add(page * PAGE as usize)
            .write_bytes(0, pages * PAGE as usize);
    }
    0
}
