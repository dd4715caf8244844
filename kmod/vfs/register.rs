// SPDX-License-Identifier: GPL-2.0
//! The filesystem type, and how a mount comes and goes.

use super::super_block::{Handle, Super};
use super::tables::{self, zeroed, Table};
use crate::bindings as c;
use crate::errno::{check, int, Errno, Result};
use crate::host;
use crate::mount::Site;
use crate::nodes;
use crate::reclaim::Reclaim;
use crate::source::Range;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;

/// "RPRF", what statfs(2) calls the type.
const MAGIC: u64 = 0x5250_5246;

/// A structure that the kernel writes to after it was registered.
#[repr(transparent)]
struct Registry(UnsafeCell<c::file_system_type>);

// SAFETY: only the kernel uses it, under locks of its own, but for `Registered`, which is made once.
unsafe impl Sync for Registry {}

static TYPE: Registry = Registry(UnsafeCell::new(c::file_system_type {
    name: c"rpramfs".as_ptr().cast(),
    fs_flags: c::FS_ALLOW_IDMAP as i32,
    init_fs_context: Some(init_context),
    kill_sb: Some(kill),
    ..zeroed()
}));

/// The filesystem type is known to the kernel as long as this lives.
pub(crate) struct Registered(());

impl Registered {
    pub(crate) fn new(module: &'static ThisModule) -> core::result::Result<Self, Error> {
        // SAFETY: nothing is mounted yet. The type is registered last, when all it needs is there.
        let error = unsafe {
            let error = c::rpramfs_inodes_init();
            if error == 0 {
                (*TYPE.0.get()).owner = module.as_ptr().cast();
                let error = c::register_filesystem(TYPE.0.get());
                if error != 0 {
                    c::rpramfs_inodes_exit();
                }
                error
            } else {
                error
            }
        };
        kernel::error::to_result(error)?;
        Ok(Registered(()))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: a mount has the module in use: there is none, and none can begin.
        unsafe {
            c::unregister_filesystem(TYPE.0.get());
            c::rpramfs_inodes_exit();
        }
    }
}

static CONTEXT_OPERATIONS: Table<c::fs_context_operations> = Table(c::fs_context_operations {
    free: Some(free_context),
    get_tree: Some(get_tree),
    reconfigure: Some(reconfigure),
    ..zeroed()
});

/// # Safety
/// Called by the VFS with a new context.
unsafe extern "C" fn init_context(fc: *mut c::fs_context) -> c_int {
    // SAFETY: the context is ours to fill.
    unsafe { (*fc).ops = &CONTEXT_OPERATIONS.0 };
    0
}

/// # Safety
/// Called by the VFS with a context that ends.
unsafe extern "C" fn free_context(fc: *mut c::fs_context) {
    // SAFETY: what is still here was not handed to a superblock; `get_tree` put it there.
    unsafe {
        let site = (*fc).s_fs_info.cast::<Site>();
        (*fc).s_fs_info = core::ptr::null_mut();
        if !site.is_null() {
            drop(KBox::from_raw(site));
        }
    }
}

/// # Safety
/// Called by the VFS to mount.
unsafe extern "C" fn get_tree(fc: *mut c::fs_context) -> c_int {
    // SAFETY: the context is ours for the call.
    int(unsafe { tree(fc) })
}

/// # Safety
/// As for `get_tree`.
unsafe fn tree(fc: *mut c::fs_context) -> Result {
    // SAFETY: the source is a C string, or null.
    let source = unsafe {
        let source = (*fc).source;
        if source.is_null() {
            complain!("no source; say where the region is: 0x100000000+1G");
            return Err(Errno::INVALID);
        }
        CStr::from_ptr(source.cast())
    };
    let Some(range) = Range::parse(source.to_bytes()) else {
        complain!("source {source:?}: not ADDRESS+LENGTH, such as 0x100000000+1G; mount.rpramfs knows other names");
        return Err(Errno::INVALID);
    };
    let site = Site::new(range)?;
    // SAFETY: `free_context` or the superblock's end gives it back. `sget_fc` hands it to a new superblock.
    unsafe {
        (*fc).s_fs_info = KBox::into_raw(site).cast();
        let sb = c::sget_fc(fc, Some(is_at), Some(c::set_anon_super_fc));
        check(c::rpramfs_ptr_err(sb.cast()) as i32)?;
        let is_new = (*sb).s_root.is_null();
        if is_new {
            if let Err(e) = fill(sb, fc) {
                c::deactivate_locked_super(sb);
                return Err(e);
            }
            (*sb).s_flags |= c::SB_ACTIVE;
        } else if ((*fc).sb_flags as c_ulong ^ (*sb).s_flags) & c::SB_RDONLY != 0 {
            // Mounted already, and otherwise.
            c::deactivate_locked_super(sb);
            return Err(Errno::BUSY);
        }
        (*fc).root = c::rpramfs_dget((*sb).s_root);
    }
    Ok(())
}

/// # Safety
/// Called by `sget_fc` with a superblock of this type and the context of `tree`.
unsafe extern "C" fn is_at(sb: *mut c::super_block, fc: *mut c::fs_context) -> c_int {
    // SAFETY: both have a `Site`.
    unsafe {
        let (one, other) = (
            (*sb).s_fs_info.cast::<Site>(),
            (*fc).s_fs_info.cast::<Site>(),
        );
        c_int::from(!one.is_null() && (*one).range == (*other).range)
    }
}

/// # Safety
/// `sb` is new, and `fc` the context that asks for it.
unsafe fn fill(sb: *mut c::super_block, fc: *mut c::fs_context) -> Result {
    // SAFETY: nobody else can see the superblock.
    let this = unsafe { Super::from_raw(sb) };
    // SAFETY: the context is ours for the call.
    let read_only = unsafe { (*fc).sb_flags } as c_ulong & c::SB_RDONLY != 0;
    let boot_id = host::boot_id().inspect_err(|_| {
        complain!("cannot read /proc/sys/kernel/random/boot_id: is /proc mounted?");
    })?;
    let mount = this.site().open(read_only, boot_id)?;
    let info = mount.fs().info();
    // SAFETY: the superblock is ours to fill, and outlives the mount, which takes the pointer back.
    unsafe {
        mount.fs().host().set_super(sb);
        (*sb).s_op = &tables::SUPER_OPERATIONS.0;
        (*sb).s_xattr = tables::XATTR_HANDLERS.0.as_ptr().cast();
        (*sb).s_export_op = &tables::EXPORT_OPERATIONS.0;
        (*sb).s_magic = MAGIC as _;
        (*sb).s_maxbytes = i64::MAX;
        (*sb).s_time_gran = 1;
        (*sb).s_time_min = i64::MIN / 1_000_000_000;
        (*sb).s_time_max = i64::MAX / 1_000_000_000;
        (*sb).s_blocksize = 4096;
        (*sb).s_blocksize_bits = 12;
        // What has no capabilities has none until somebody sets some: writes need not look each time.
        (*sb).s_flags |= c::SB_POSIXACL | c::SB_NOSEC;
        if mount.fs().is_read_only() && !read_only {
            complain!(
                "{}: mounted read-only: damaged, or with features that this version does not know",
                this.site().range
            );
            (*sb).s_flags |= c::SB_RDONLY;
        }
        c::rpramfs_set_uuid(sb, info.uuid.as_ptr());
    }
    let root = nodes::named(this, fs_core::ROOT_INO)?;
    // SAFETY: the reference is handed over, also where it fails.
    unsafe {
        (*sb).s_root = c::d_make_root(root.into_raw());
        if (*sb).s_root.is_null() {
            return Err(Errno::NO_MEMORY);
        }
    }
    // SAFETY: `kill` ends the work before the superblock goes.
    this.site()
        .prepare_reclaim(Reclaim::new(unsafe { Handle::new(sb) }))?;
    if !mount.fs().is_read_only() {
        this.site().go_on_reclaiming();
    }
    Ok(())
}

/// # Safety
/// Called by the VFS when the last mount of a superblock has gone, or one could not be filled.
unsafe extern "C" fn kill(sb: *mut c::super_block) {
    // SAFETY: the superblock is ours; after `kill_anon_super` no inode of it is left, so that nobody uses
    // the site.
    unsafe {
        let site = (*sb).s_fs_info.cast::<Site>();
        if !site.is_null() {
            (*site).stop_reclaim();
            if let Some(mount) = (*site).opened() {
                mount.claim().leave_files();
            }
            if (*sb).s_root.is_null() {
                // Never mounted: `put_super` will not be called.
                Super::from_raw(sb).close();
            }
        }
        c::kill_anon_super(sb);
        if !site.is_null() {
            drop(KBox::from_raw(site));
        }
    }
}

/// # Safety
/// Called by the VFS to remount, with the superblock's root in the context.
unsafe extern "C" fn reconfigure(fc: *mut c::fs_context) -> c_int {
    // SAFETY: the context names the root of a superblock of ours.
    let (sb, asked, read_only) = unsafe {
        (
            Super::from_raw((*(*fc).root).d_sb),
            (*fc).sb_flags_mask as c_ulong & c::SB_RDONLY != 0,
            (*fc).sb_flags as c_ulong & c::SB_RDONLY != 0,
        )
    };
    if !asked {
        return 0;
    }
    let fs = sb.mount().fs();
    if read_only {
        sb.site().stop_reclaim();
    }
    fs.set_read_only(read_only);
    if !read_only {
        if fs.is_read_only() {
            complain!("stays read-only: something corrupt was found, or it has features that this version does not know");
            return Errno::from(fs_core::Error::ReadOnly).negative();
        }
        sb.site().go_on_reclaiming();
    }
    0
}
