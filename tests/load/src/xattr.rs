// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Extended attributes, of symbolic links themselves where a path names one.

use nix::errno::Errno;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

pub fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> Result<(), Errno> {
    let (path, name) = (c(path), CString::new(name).expect("no NUL"));
    // SAFETY: both strings end with NUL, and the value is as long as it says.
    let r = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    };
    Errno::result(r).map(|_| ())
}

pub fn get(path: &Path, name: &str, room: usize) -> Result<Vec<u8>, Errno> {
    let (path, name) = (c(path), CString::new(name).expect("no NUL"));
    let mut value = vec![0; room];
    // SAFETY: both strings end with NUL, and the buffer is as long as it says.
    let r = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            room,
        )
    };
    value.truncate(Errno::result(r)? as usize);
    Ok(value)
}

pub fn list(path: &Path) -> Result<BTreeSet<String>, Errno> {
    let mut names = vec![0u8; 65536];
    let path = c(path);
    // SAFETY: the path ends with NUL, and the buffer is as long as it says.
    let r = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(Errno::result(r)? as usize);
    let names = names.split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names
        .map(|n| String::from_utf8_lossy(n).into_owned())
        .collect())
}

pub fn remove(path: &Path, name: &str) -> Result<(), Errno> {
    let (path, name) = (c(path), CString::new(name).expect("no NUL"));
    // SAFETY: both strings end with NUL.
    let r = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    Errno::result(r).map(|_| ())
}
