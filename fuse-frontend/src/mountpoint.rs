// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Mounting and unmounting by system call: no fusermount, nothing but the kernel is needed.

use host::{Error, Kind, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::{makedev, mknod, Mode, SFlag};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const DEVICE: &str = "/dev/fuse";

/// Opens a new FUSE connection, loading the kernel's module and making the device node where an
/// initramfs has neither.
pub fn open_device() -> Result<OwnedFd> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map(OwnedFd::from)
    };
    let missing = |e: &io::Error| {
        matches!(
            e.raw_os_error(),
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)
        )
    };
    match open() {
        Err(e) if missing(&e) => {}
        done => return done.map_err(|e| Error::io(format!("cannot open {DEVICE}"), &e)),
    }
    // Whether it worked shows in the second attempt.
    let _ = Command::new("modprobe")
        .args(["-q", "fuse"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !Path::new(DEVICE).exists() {
        let _ = mknod(
            DEVICE,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o600),
            makedev(10, 229),
        );
    }
    open().map_err(|e| {
        Error::io(format!("cannot open {DEVICE}"), &e)
            .hint("does the kernel have FUSE (CONFIG_FUSE_FS)? modprobe fuse")
    })
}

/// Who may use a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Everybody, as permissions allow.
    All,
    /// Nobody but the caller.
    Caller,
}

/// Mounts the connection on `dir` as type `fuse.SUBTYPE`.
pub fn mount(
    device: &OwnedFd,
    source: &str,
    dir: &Path,
    subtype: &str,
    flags: MsFlags,
    users: Users,
    more: &[String],
) -> Result<()> {
    let shown = dir.display();
    let meta = dir.metadata().map_err(|e| Error::io(&shown, &e))?;
    if !meta.is_dir() {
        return Err(Error::new(
            Kind::NotFound,
            format!("{shown}: is not a directory"),
        ));
    }
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        meta.mode() & libc::S_IFMT,
        nix::unistd::getuid(),
        nix::unistd::getgid(),
    );
    if users == Users::All {
        data += ",allow_other";
    }
    for option in more {
        data += ",";
        data += option;
    }
    let kind = format!("fuse.{subtype}");
    nix::mount::mount(
        Some(source),
        dir,
        Some(kind.as_str()),
        flags,
        Some(data.as_str()),
    )
    .map_err(|e| {
        let error = Error::io(format!("cannot mount on {shown}"), &io::Error::from(e));
        match e {
            Errno::EPERM => error.hint("only root may mount"),
            Errno::ENODEV => error.hint("the kernel has no FUSE: modprobe fuse"),
            _ => error,
        }
    })
}

/// Changes the flags of a live mount (`-o remount`).
pub fn remount(dir: &Path, flags: MsFlags) -> Result<()> {
    nix::mount::mount(
        None::<&str>,
        dir,
        None::<&str>,
        flags | MsFlags::MS_REMOUNT,
        None::<&str>,
    )
    .map_err(|e| Error::io(format!("cannot remount {}", dir.display()), &e.into()))
}

/// Refuses to remount what is none of ours.
pub fn require_ours(dir: &Path) -> Result<()> {
    let shown = dir.display();
    let dir = dir.canonicalize().map_err(|e| Error::io(&shown, &e))?;
    let table = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(table).map_err(|e| Error::io(table, &e))?;
    match kind_of(&text, &dir) {
        Some("fuse.rpramfs" | crate::module::TYPE) => Ok(()),
        Some(other) => Err(Error::usage(format!("{shown}: is a mount of {other}"))),
        None => Err(Error::usage(format!("{shown}: is not a mount point"))),
    }
}

/// The type of the last mount on a directory, which is the one to be seen.
fn kind_of<'a>(mountinfo: &'a str, dir: &Path) -> Option<&'a str> {
    mountinfo.lines().rev().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        (point == dir).then(|| after.split(' ').next()).flatten()
    })
}

/// Where the filesystem with device number `device` is mounted, last mount first.
fn mount_points(mountinfo: &str, device: u64) -> Vec<PathBuf> {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            (fields.next()? == number).then_some(())?;
            Some(unescape(fields.nth(1)?))
        })
        .collect();
    found.reverse();
    found
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

/// How an unmount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Gone,
    /// It was in use: it left the tree, and goes for good with its last user.
    Detached,
    /// It is mounted nowhere that could be found.
    Nowhere,
}

/// /proc, held open: switch_root moves it out of the tree that is ours.
static PROC: OnceLock<File> = OnceLock::new();

/// To be called while /proc is where it belongs, for [`unmount`] later.
pub fn remember_proc() {
    match File::open("/proc") {
        // The first one is as good as any.
        Ok(dir) => drop(PROC.set(dir)),
        Err(e) => log::info!("/proc: {e}"),
    }
}

/// Takes the filesystem with device number `device` out of the tree, wherever it has been moved
/// to. After a switch_root our own root is the old one, so init's view is tried as well. The
/// working directory is / afterwards.
#[must_use]
pub fn unmount(device: u64) -> Unmounted {
    let result = match PROC.get() {
        Some(dir) if nix::unistd::fchdir(dir).is_ok() => unmount_from_proc(device),
        _ => Unmounted::Nowhere,
    };
    if let Err(e) = std::env::set_current_dir("/") {
        log::info!("/: {e}");
    }
    result
}

/// The same, with /proc for working directory.
fn unmount_from_proc(device: u64) -> Unmounted {
    let mut result = Unmounted::Nowhere;
    for (table, root) in [("self/mountinfo", ""), ("1/mountinfo", "1/root")] {
        let Ok(text) = std::fs::read_to_string(table) else {
            continue;
        };
        for point in mount_points(&text, device) {
            let mut path = OsString::from(root);
            path.push(point);
            let path = PathBuf::from(path);
            match nix::mount::umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) if result == Unmounted::Nowhere => result = Unmounted::Gone,
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(e) => {
                    log::info!("{}: {e}; detached", path.display());
                    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
                    match nix::mount::umount2(&path, flags) {
                        Ok(()) => result = Unmounted::Detached,
                        Err(e) => log::warn!("cannot unmount {}: {e}", path.display()),
                    }
                }
            }
        }
    }
    result
}

/// Lets the kernel read ahead `bytes` on the filesystem with device number `device`. Without
/// sysfs it stays at its default.
pub fn set_readahead(device: u64, bytes: u32) {
    let path = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        libc::major(device),
        libc::minor(device)
    );
    if let Err(e) = std::fs::write(&path, (bytes / 1024).to_string()) {
        log::info!("{path}: {e}");
    }
}

/// Enters a mount namespace, named by a path or a process id.
pub fn enter_namespace(name: &std::ffi::OsStr) -> Result<()> {
    let path = match name.to_str().map(str::parse::<u32>) {
        Some(Ok(pid)) => PathBuf::from(format!("/proc/{pid}/ns/mnt")),
        _ => PathBuf::from(name),
    };
    let file = File::open(&path).map_err(|e| Error::io(path.display(), &e))?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNS).map_err(|e| {
        Error::io(
            format!("cannot enter the namespace {}", path.display()),
            &e.into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_all_mounts_of_a_device() {
        let text = "22 1 0:21 / /proc rw - proc proc rw\n\
                    40 22 0:45 / /mnt/a\\040b rw,nosuid shared:1 - fuse.rpramfs x rw\n\
                    41 22 0:456 / /no rw - fuse.rpramfs y rw\n\
                    42 22 0:45 /sub /bind rw - fuse.rpramfs x rw\n";
        let device = libc::makedev(0, 45);
        assert_eq!(
            mount_points(text, device),
            [PathBuf::from("/bind"), PathBuf::from("/mnt/a b")]
        );
        assert_eq!(mount_points(text, libc::makedev(0, 4)), [] as [PathBuf; 0]);
    }

    #[test]
    fn the_last_mount_on_a_directory_counts() {
        let text = "40 22 0:45 / /mnt rw - fuse.rpramfs x rw\n\
                    41 22 0:46 / /mnt/b rw - ext4 y rw\n\
                    42 22 0:47 / /mnt rw - rpramfs 0x100000000+1G rw\n";
        assert_eq!(kind_of(text, Path::new("/mnt")), Some("rpramfs"));
        assert_eq!(kind_of(text, Path::new("/mnt/b")), Some("ext4"));
        assert_eq!(kind_of(text, Path::new("/")), None);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape("a\\134b\\011\\"), PathBuf::from("a\\b\t\\"));
    }
}
