// SPDX-License-Identifier: GPL-2.0
//! xattr_handler: one for each namespace. Those of access control lists are the VFS's own.

use super::zeroed;
use crate::bindings as c;
use crate::errno::{int, Errno, Result};
use crate::vfs::Inode;
use crate::xattrs::{self, Name};
use core::ffi::CStr;
use fs_core::XattrMode;
use kernel::ffi::{c_char, c_int, c_void};

/// The list that a superblock has, with a null behind it.
#[repr(transparent)]
pub(crate) struct Handlers(pub(crate) [*const c::xattr_handler; 4]);

// SAFETY: addresses of statics, never written.
unsafe impl Sync for Handlers {}

pub(crate) static HANDLERS: Handlers =
    Handlers([&USER.0, &TRUSTED.0, &SECURITY.0, core::ptr::null()]);

struct Handler(c::xattr_handler);

// SAFETY: functions and the address of a string, never written.
unsafe impl Sync for Handler {}

static USER: Handler = handler(c"user.");
static TRUSTED: Handler = handler(c"trusted.");
static SECURITY: Handler = handler(c"security.");

const fn handler(prefix: &'static CStr) -> Handler {
    Handler(c::xattr_handler {
        prefix: prefix.as_ptr().cast(),
        get: Some(get),
        set: Some(set),
        ..zeroed()
    })
}

/// The whole name.
///
/// # Safety
/// A handler of this file, and a C string.
unsafe fn whole(handler: *const c::xattr_handler, rest: *const c_char) -> Result<Name> {
    // SAFETY: both are C strings.
    unsafe {
        let prefix = CStr::from_ptr((*handler).prefix.cast());
        Name::new(prefix.to_bytes(), CStr::from_ptr(rest.cast()).to_bytes())
    }
}

/// # Safety
/// Called by the VFS with an inode of ours, a name behind the handler's prefix, and room for `size` bytes.
unsafe extern "C" fn get(
    handler: *const c::xattr_handler,
    _dentry: *mut c::dentry,
    inode: *mut c::inode,
    name: *const c_char,
    buffer: *mut c_void,
    size: usize,
) -> c_int {
    // SAFETY: by the contract.
    let (name, inode, buffer) = unsafe {
        let buffer: &mut [u8] = if size == 0 {
            &mut []
        } else {
            core::slice::from_raw_parts_mut(buffer.cast(), size)
        };
        (whole(handler, name), Inode::from_raw(inode), buffer)
    };
    match name.and_then(|name| xattrs::get(inode, &name, buffer)) {
        Ok(len) => len as c_int,
        Err(e) => e.negative(),
    }
}

/// # Safety
/// Called by the VFS with an inode of ours, locked, a name behind the handler's prefix, and a value of
/// `size` bytes, or null to remove it.
unsafe extern "C" fn set(
    handler: *const c::xattr_handler,
    _idmap: *mut c::mnt_idmap,
    _dentry: *mut c::dentry,
    inode: *mut c::inode,
    name: *const c_char,
    value: *const c_void,
    size: usize,
    flags: c_int,
) -> c_int {
    // SAFETY: by the contract.
    let (name, inode, value) = unsafe {
        let value = (!value.is_null()).then(|| core::slice::from_raw_parts(value.cast(), size));
        (whole(handler, name), Inode::from_raw(inode), value)
    };
    let mode = match flags as u32 {
        0 => XattrMode::Either,
        c::XATTR_CREATE => XattrMode::Create,
        c::XATTR_REPLACE => XattrMode::Replace,
        _ => return Errno::INVALID.negative(),
    };
    int(name.and_then(|name| xattrs::set(inode, &name, value, mode)))
}
