// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs seal`, `unseal` and `verify`: ioctl(2) on files of a mounted RP-RAMFS.

#![allow(unsafe_code)]

use host::{Error, Kind, Result};
use serde_json::{json, Value};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

// Numbers as the FUSE front end documents them (its ioctl.rs), for every architecture alike:
// _IO('R', nr), and _IOWR('R', nr, u64).
const SEAL: libc::c_ulong = 0x5270;
const UNSEAL: libc::c_ulong = 0x5271;
const VERIFY_STEP: libc::c_ulong = 0xc008_5273;

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io(format!("{}: cannot open", path.display()), &e))
}

fn failed(path: &Path, what: &str) -> Error {
    let e = io::Error::last_os_error();
    let error = Error::io(format!("{}: cannot {what}", path.display()), &e);
    match e.raw_os_error() {
        Some(libc::ENOTTY | libc::EOPNOTSUPP) => error.hint("is it on a mounted RP-RAMFS?"),
        Some(libc::EPERM) => error.hint("only the owner of a file, and root, may do this"),
        Some(libc::EROFS) => error.hint("the filesystem is mounted read-only"),
        _ => error,
    }
}

fn plain(paths: &[PathBuf], request: libc::c_ulong, what: &str, done: &str) -> Result<Value> {
    let mut list = Vec::new();
    for path in paths {
        let file = open(path)?;
        // SAFETY: the descriptor is open as long as `file` lives; requests of the kind _IO take no
        // argument, so the kernel touches no memory of ours.
        if unsafe { libc::ioctl(file.as_raw_fd(), request as _) } < 0 {
            return Err(failed(path, what));
        }
        list.push(json!({ "path": path.to_string_lossy(), "state": done }));
    }
    Ok(Value::Array(list))
}

/// Seals files.
pub fn seal(paths: &[PathBuf]) -> Result<Value> {
    plain(paths, SEAL, "seal", "sealed")
}

/// Unseals files.
pub fn unseal(paths: &[PathBuf]) -> Result<Value> {
    plain(paths, UNSEAL, "unseal", "unsealed")
}

/// Verifies files; the flag tells whether all are what was sealed.
pub fn verify(paths: &[PathBuf]) -> Result<(Value, bool)> {
    let mut list = Vec::new();
    let mut sound = true;
    for path in paths {
        let file = open(path)?;
        let mut at = 0u64;
        let mut state = json!("as sealed");
        let mut changed_at = None;
        while at != u64::MAX {
            let from = at;
            // SAFETY: the descriptor is open as long as `file` lives; the request reads and writes
            // one u64 at the address given, which is that of a live local.
            let rc = unsafe { libc::ioctl(file.as_raw_fd(), VERIFY_STEP as _, &mut at) };
            if rc < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EUCLEAN) => {
                        sound = false;
                        changed_at = Some(from);
                        state = json!("changed since it was sealed");
                        break;
                    }
                    Some(libc::EINVAL | libc::ENODATA) => {
                        return Err(failed(path, "verify").hint("is it sealed? rpramfs seal does"))
                    }
                    _ => return Err(failed(path, "verify")),
                }
            }
            if at <= from || rpramfs_fsck::signals::stop() {
                return Err(Error::new(
                    Kind::System,
                    format!("{}: stopped at byte {from}", path.display()),
                ));
            }
        }
        list.push(json!({
            "path": path.to_string_lossy(),
            "state": state,
            "at_or_behind_byte": changed_at,
        }));
    }
    Ok((Value::Array(list), sound))
}
