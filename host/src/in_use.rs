// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Is a file or device mounted, swapped to, or behind a loop device?

use crate::{Error, Kind, PhysRange, Result, Spec};
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What the kernel tells about the use of files and devices, as text.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// `/proc/swaps`.
    pub swaps: String,
    /// Loop devices and the files behind them: (`loop0`, `/path`).
    pub loops: Vec<(String, String)>,
    /// `/proc/locks`.
    pub locks: String,
}

impl Uses {
    /// What this machine says; what cannot be read counts as empty.
    #[must_use]
    pub fn system() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let loops = fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
                let name = entry.file_name().into_string().ok()?;
                Some((name, file.trim_end_matches('\n').to_string()))
            })
            .collect();
        Uses {
            mountinfo: read("/proc/self/mountinfo"),
            swaps: read("/proc/swaps"),
            loops,
            locks: read("/proc/locks"),
        }
    }

    /// Refuses a file or device that somebody uses. `path` is absolute and free of symbolic
    /// links; `device` is the number of a block or character device.
    ///
    /// A FUSE mount of the file does not count: when its daemon was killed the mount point stays
    /// behind, and a living daemon holds the lock.
    pub fn check(&self, path: &Path, device: Option<u64>) -> Result<()> {
        let busy = |what: String| Error::new(Kind::Busy, format!("{}: {what}", path.display()));
        if let Some(mount) = self
            .mounts()
            .find(|m| m.is_of(path, device) && !m.is_fuse())
        {
            return Err(busy(format!("mounted on {} ({})", mount.on, mount.kind))
                .hint(format!("umount {} first", mount.on)));
        }
        let name = path.to_string_lossy();
        let swap = self.swaps.lines().skip(1).find_map(|line| {
            let file = line.split_ascii_whitespace().next()?;
            (unescape(file) == name).then_some(())
        });
        if swap.is_some() {
            return Err(busy("in use as swap".into()).hint(format!("swapoff {name} first")));
        }
        if let Some((device, _)) = self.loops.iter().find(|(_, file)| *file == name) {
            return Err(
                busy(format!("behind the loop device /dev/{device}")).hint(format!(
                    "losetup -d /dev/{device} first, or name /dev/{device}"
                )),
            );
        }
        Ok(())
    }

    /// Who holds the lock on a file, for a message: where it is mounted, or the process.
    #[must_use]
    pub fn holder(&self, path: &Path, meta: &Metadata) -> String {
        let device = device_number(meta);
        if let Some(mount) = self.mounts().find(|m| m.is_of(path, device)) {
            return format!("mounted on {}", mount.on);
        }
        let dev = meta.dev();
        let id = format!(
            "{:02x}:{:02x}:{}",
            libc::major(dev),
            libc::minor(dev),
            meta.ino()
        );
        let pid = self.locks.lines().find_map(|line| {
            let mut fields = line
                .split_ascii_whitespace()
                .skip(1)
                .skip_while(|f| *f == "->");
            let kind = fields.next()?;
            let pid = fields.nth(2)?;
            let file = fields.next()?;
            (kind == "FLOCK" && file == id).then(|| pid.to_string())
        });
        match pid {
            Some(pid) => {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!("in use by process {pid} ({})", comm.trim())
            }
            None => "in use by another process".into(),
        }
    }

    /// What the kernel module has mounted. One range may be there more than once, as with bind
    /// mounts; the last mount on a directory is the one to be seen.
    #[must_use]
    pub fn kernel_mounts(&self) -> Vec<KernelMount> {
        self.mounts()
            .filter(|m| m.kind == "rpramfs")
            .filter_map(|m| match Spec::parse(&m.source) {
                Ok(Spec::Physical(range)) => Some(KernelMount {
                    range,
                    device: libc::makedev(m.device.0, m.device.1),
                    on: m.on,
                }),
                _ => None,
            })
            .collect()
    }

    fn mounts(&self) -> impl Iterator<Item = Mount> + '_ {
        self.mountinfo.lines().filter_map(Mount::parse)
    }
}

/// A mount of the kernel module's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelMount {
    /// The region.
    pub range: PhysRange,
    /// Number of the mounted filesystem, as stat(2) gives it.
    pub device: u64,
    /// The directory.
    pub on: String,
}

/// The number of a block or character device, `None` for anything else.
#[must_use]
pub fn device_number(meta: &Metadata) -> Option<u64> {
    let kind = meta.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| meta.rdev())
}

/// One line of mountinfo, see proc_pid_mountinfo(5).
struct Mount {
    device: (u32, u32),
    on: String,
    kind: String,
    source: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ');
        let (major, minor) = front.nth(2)?.split_once(':')?;
        let on = unescape(front.nth(1)?);
        let mut back = back.split(' ');
        Some(Mount {
            device: (major.parse().ok()?, minor.parse().ok()?),
            on,
            kind: back.next()?.into(),
            source: unescape(back.next()?),
        })
    }

    fn is_of(&self, path: &Path, device: Option<u64>) -> bool {
        let same_device =
            device.is_some_and(|dev| self.device == (libc::major(dev), libc::minor(dev)));
        // A relative source ("tmpfs", "proc") is no path.
        same_device || (self.source.starts_with('/') && Path::new(&self.source) == path)
    }

    fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }
}

/// Undoes the kernel's escapes: `\040` is a space, and so on.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|d| {
            bytes[at] == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)) && d[0] <= b'3'
        });
        match octal {
            Some(d) => {
                out.push((d[0] - b'0') << 6 | (d[1] - b'0') << 3 | (d[2] - b'0'));
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses() -> Uses {
        Uses {
            mountinfo: "\
22 1 259:0 / /mnt/pmem\\040zero rw,relatime shared:1 - ext4 /dev/pmem0 rw,dax
23 1 0:40 / /mnt/r rw - fuse.rpramfs /srv/region rw,user_id=0
24 1 0:41 / /mnt/k rw - rpramfs /srv/other rw
25 1 0:21 / /proc rw - proc proc rw
"
            .into(),
            swaps: "Filename Type Size Used Priority\n/srv/my\\040swap file 1 0 -2\n".into(),
            loops: vec![("loop3".into(), "/srv/looped".into())],
            locks: String::new(),
        }
    }

    fn why(path: &str, device: Option<u64>) -> String {
        uses()
            .check(Path::new(path), device)
            .expect_err("busy")
            .to_string()
    }

    #[test]
    fn every_use_is_named() {
        let pmem0 = libc::makedev(259, 0);
        assert!(why("/dev/other-name", Some(pmem0)).contains("/mnt/pmem zero"));
        assert!(why("/srv/other", None).contains("/mnt/k"));
        assert!(why("/srv/my swap", None).contains("swapoff"));
        assert!(why("/srv/looped", None).contains("/dev/loop3"));
    }

    #[test]
    fn the_kernel_modules_mounts_are_found() {
        let mut u = uses();
        u.mountinfo += "26 1 0:42 / /mnt/m\\040x rw - rpramfs 0x100000000+1G rw\n";
        u.mountinfo += "27 1 0:43 / /mnt/f rw - fuse.rpramfs 0x200000000+1G rw\n";
        let found = u.kernel_mounts();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].range.to_string(), "0x100000000+1G");
        assert_eq!(found[0].on, "/mnt/m x");
        assert_eq!(found[0].device, libc::makedev(0, 42));
    }

    #[test]
    fn the_rest_is_free() {
        let u = uses();
        for path in ["/srv/region", "/srv/free", "/proc", "proc"] {
            u.check(Path::new(path), None).expect(path);
        }
        u.check(Path::new("/dev/pmem1"), Some(libc::makedev(259, 1)))
            .expect("pmem1");
    }
}
