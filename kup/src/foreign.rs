// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Files that a service has open from outside of its own mounts: systemd opens /dev/null, or a log, for its
//! standard streams before the service gets mounts of its own. CRIU cannot find those among the service's, leaves
//! them out if it is told to, and takes what it is given in their place.

use anyhow::{Context, Result};
use nix::fcntl::{fcntl, open, FcntlArg, FdFlag, OFlag};
use nix::sys::stat::{major, minor, Mode};
use nix::unistd::{lseek, Whence};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// A file of the system's own mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// The mount, and the file there: CRIU's name for it.
    pub mount: u32,
    pub inode: u64,
    pub path: PathBuf,
    /// As it is open (`/proc/PID/fdinfo`).
    pub flags: i32,
    pub position: i64,
}

impl Foreign {
    /// The option of a dump that leaves it out.
    #[must_use]
    pub fn left_out(&self) -> String {
        format!("file[{:x}:{:x}]", self.mount, self.inode)
    }

    /// The option of a restore that puts `fd` in its place.
    #[must_use]
    pub fn replaced_by(&self, fd: &OwnedFd) -> String {
        format!("fd[{}]:{}", fd.as_raw_fd(), self.left_out())
    }

    /// The same file, open as it was, to be inherited by CRIU.
    ///
    /// # Errors
    /// It cannot be opened any more.
    pub fn replacement(&self) -> Result<OwnedFd> {
        let open = || -> nix::Result<OwnedFd> {
            // Nothing that opening would do to the file.
            let kept = OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_NONBLOCK;
            let flags = OFlag::from_bits_truncate(self.flags) & kept;
            let fd = open(&self.path, flags | OFlag::O_NOCTTY, Mode::empty())?;
            if self.position != 0 {
                lseek(&fd, self.position, Whence::SeekSet)?;
            }
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(fd)
        };
        open().with_context(|| self.path.display().to_string())
    }
}

/// What these processes have open from outside of the mounts of the first of them.
///
/// # Errors
/// They cannot be looked at.
pub fn of(pids: &[u32]) -> Result<Vec<Foreign>> {
    let mut all: Vec<Foreign> = Vec::new();
    let Some(root) = pids.first() else {
        return Ok(all);
    };
    let own = mounts(root)?;
    for pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            // It has ended.
            continue;
        };
        for entry in entries.flatten() {
            let Some(file) = opened(*pid, &entry.file_name().to_string_lossy()) else {
                continue;
            };
            if own.contains(&file.mount) {
                continue;
            }
            let same =
                |other: &&mut Foreign| (other.mount, other.inode) == (file.mount, file.inode);
            match all.iter_mut().find(same) {
                // Open twice, it becomes one that serves both.
                Some(other) if (other.flags ^ file.flags) & libc::O_ACCMODE != 0 => {
                    other.flags = other.flags & !libc::O_ACCMODE | libc::O_RDWR;
                }
                Some(_) => {}
                None => all.push(file),
            }
        }
    }
    Ok(all)
}

/// The mounts that a process sees. The first field of a line is the mount's number (`proc_pid_mountinfo(5)`).
fn mounts(pid: &u32) -> Result<BTreeSet<u32>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = fs::read_to_string(&path).context(path)?;
    let number = |line: &str| line.split(' ').next()?.parse().ok();
    Ok(text.lines().filter_map(number).collect())
}

/// A descriptor of something that has a name in a file system.
fn opened(pid: u32, descriptor: &str) -> Option<Foreign> {
    let link = format!("/proc/{pid}/fd/{descriptor}");
    let path = fs::read_link(&link).ok()?;
    let named = path.is_absolute() && !path.starts_with("/memfd:");
    if !named || path.to_string_lossy().ends_with(" (deleted)") {
        return None;
    }
    let metadata = fs::metadata(&link).ok()?;
    // A mount that is nobody's any more has paths that lead nowhere.
    let path = match metadata.file_type().is_char_device() {
        true => device(metadata.rdev()).unwrap_or(path),
        false => path,
    };
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).ok()?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    Some(Foreign {
        mount: field("mnt_id:")?.trim().parse().ok()?,
        inode: metadata.ino(),
        flags: i32::from_str_radix(field("flags:")?.trim(), 8).ok()?,
        position: field("pos:")?.trim().parse().ok()?,
        path,
    })
}

/// The name in /dev that the kernel has for a character device.
fn device(number: u64) -> Option<PathBuf> {
    let (major, minor) = (major(number), minor(number));
    let event = fs::read_to_string(format!("/sys/dev/char/{major}:{minor}/uevent")).ok()?;
    let name = event
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(PathBuf::from("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn opened_again_as_it_was() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut open = fs::File::open(file.path()).unwrap();
        open.seek(std::io::SeekFrom::Start(4)).unwrap();
        let pid = std::process::id();
        let seen = opened(pid, &open.as_raw_fd().to_string()).unwrap();
        assert!(mounts(&pid).unwrap().contains(&seen.mount));
        assert_eq!(seen.inode, open.metadata().unwrap().ino());
        let mut text = String::new();
        let mut again = fs::File::from(seen.replacement().unwrap());
        again.read_to_string(&mut text).unwrap();
        assert_eq!(text, "456789");
        assert!(again.write(b"x").is_err());
    }

    #[test]
    fn devices_by_number() {
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!(device(null.rdev()), Some(PathBuf::from("/dev/null")));
    }

    #[test]
    fn nothing_of_ones_own_is_foreign() {
        assert_eq!(of(&[std::process::id()]).unwrap(), []);
    }
}
