// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a path stands for: a regular file, a memory-like block device, a device-dax device.

use crate::iomem::PhysMap;
use crate::{Error, Kind, PhysRange, Result};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file or device that can back a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Absolute path without symbolic links.
    pub(crate) path: PathBuf,
    pub(crate) kind: DeviceKind,
    /// Usable length in bytes, a multiple of 4096.
    pub(crate) len: u64,
    /// Where it lies in physical memory, if sysfs tells.
    pub(crate) physical: Option<PhysRange>,
    /// What a driver is bound to, in sysfs.
    pub(crate) node: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    File,
    Block,
    Dax,
}

/// The driver through which a device-dax device is mapped.
const DEVICE_DAX: &str = "device_dax";

impl Device {
    /// The driver that has the device, in sysfs.
    pub(crate) fn driver(&self) -> Option<PathBuf> {
        fs::canonicalize(self.node.as_ref()?.join("driver")).ok()
    }

    /// Refuses a device-dax device whose driver does not let it be opened: its memory is with somebody
    /// else, or with nobody.
    pub(crate) fn require_driver(&self) -> Result<()> {
        if self.kind != DeviceKind::Dax {
            return Ok(());
        }
        let shown = self.path.display();
        let name = self.path.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let Some(driver) = self.driver() else {
            if let Some(range) = &self.physical {
                // Does the kernel module have it?
                match PhysMap::system()?.require(range) {
                    Err(e) if e.kind() == Kind::Busy => return Err(e),
                    _ => {}
                }
            }
            return Err(
                Error::new(Kind::Refused, format!("{shown}: no driver has the device")).hint(
                    format!(
                "give it back to its own: echo {name} > /sys/bus/dax/drivers/{DEVICE_DAX}/bind"
            ),
                ),
            );
        };
        let driver = driver.file_name().unwrap_or_default().to_string_lossy();
        if driver != DEVICE_DAX {
            return Err(Error::new(
                Kind::Refused,
                format!("{shown}: has the driver {driver}, which uses its memory itself"),
            )
            .hint(format!(
                "make it a device to be mapped: daxctl reconfigure-device --mode=devdax {name}"
            )));
        }
        Ok(())
    }
}

/// Finds out what `path` is, and refuses what cannot back a region.
pub(crate) fn identify(path: &Path) -> Result<Device> {
    let shown = path.display();
    let path = fs::canonicalize(path).map_err(|e| {
        let error = Error::io(&shown, &e);
        if e.kind() == std::io::ErrorKind::NotFound {
            error.hint("a region is a file, /dev/pmemN, /dev/daxX.Y, ADDR+SIZE, LABEL= or UUID=")
        } else {
            error
        }
    })?;
    let meta = fs::metadata(&path).map_err(|e| Error::io(&shown, &e))?;
    let kind = meta.file_type();
    let number = format!("{}:{}", libc::major(meta.rdev()), libc::minor(meta.rdev()));
    if kind.is_file() {
        return Ok(Device {
            len: whole_pages(&path, meta.len())?,
            path,
            kind: DeviceKind::File,
            physical: None,
            node: None,
        });
    }
    if kind.is_block_device() {
        return block(path, Path::new("/sys/dev/block").join(number).as_path());
    }
    if kind.is_char_device() {
        return character(path, meta.rdev(), &Path::new("/sys/dev/char").join(number));
    }
    Err(Error::new(
        Kind::Refused,
        format!("{shown}: neither a regular file nor a device of memory"),
    ))
}

/// Cuts a length down to whole pages.
fn whole_pages(path: &Path, len: u64) -> Result<u64> {
    let whole = len / fs_core::PAGE_SIZE * fs_core::PAGE_SIZE;
    if whole == 0 {
        return Err(Error::new(
            Kind::Refused,
            format!("{}: {len} bytes are too small for a region", path.display()),
        )
        .hint("a region has at least 1 MiB"));
    }
    Ok(whole)
}

fn sysfs_number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    crate::size::parse(text.trim()).ok()
}

/// A driver's own resource; sysfs shows 0 or nothing where it does not tell.
fn resource(sysfs: &Path, len: u64) -> Option<PhysRange> {
    let start = sysfs_number(&sysfs.join("resource")).filter(|start| *start != 0)?;
    PhysRange::new(start, len).ok()
}

/// Block devices made of memory. On a disk every store would go through the page cache to a
/// medium that is slower than memory and is not what this filesystem is for; most likely the
/// name is a mistake, and a costly one.
const MEMORY_BLOCK: [&str; 3] = ["pmem", "ram", "loop"];

fn block(path: PathBuf, sysfs: &Path) -> Result<Device> {
    let real = fs::canonicalize(sysfs)
        .map_err(|e| Error::io(format!("{}: no {}", path.display(), sysfs.display()), &e))?;
    let name = real
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    if !MEMORY_BLOCK.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(Error::new(
            Kind::Refused,
            format!("{}: {name} is a disk, not memory", path.display()),
        )
        .hint("RP-RAMFS lives in memory: use /dev/pmemN, /dev/daxX.Y or ADDR+SIZE; to try it, a regular file"));
    }
    if name.starts_with("pmem") && name.ends_with('s') {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "{}: a namespace in sector mode (BTT) is not byte-addressable",
                path.display()
            ),
        )
        .hint(format!(
            "make it raw or devdax: ndctl create-namespace -f -e {} -m devdax",
            name
        )));
    }
    // In sectors of 512 bytes, whatever the device's own sector size.
    let sectors = sysfs_number(&real.join("size")).ok_or_else(|| {
        Error::new(
            Kind::System,
            format!("{}: sysfs tells no size", path.display()),
        )
    })?;
    let len = whole_pages(&path, sectors.saturating_mul(512))?;
    // The disk's parent.
    let node = real.join("device");
    Ok(Device {
        physical: resource(&node, len),
        node: Some(node),
        path,
        kind: DeviceKind::Block,
        len,
    })
}

fn character(path: PathBuf, rdev: u64, sysfs: &Path) -> Result<Device> {
    // Major 1, minor 1: devices.txt of the kernel.
    if (libc::major(rdev), libc::minor(rdev)) == (1, 1) {
        return Err(Error::usage(format!(
            "{}: all of physical memory is no region",
            path.display()
        ))
        .hint("say which range: 0x100000000+1G"));
    }
    let subsystem = fs::canonicalize(sysfs.join("subsystem")).unwrap_or_default();
    if subsystem.file_name().is_none_or(|name| name != "dax") {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "{}: a character device that is no device-dax",
                path.display()
            ),
        ));
    }
    let len = sysfs_number(&sysfs.join("size")).ok_or_else(|| {
        Error::new(
            Kind::System,
            format!("{}: sysfs tells no size", path.display()),
        )
    })?;
    let len = whole_pages(&path, len)?;
    // device-dax maps only multiples of its alignment; older kernels do not show it here.
    let align = sysfs_number(&sysfs.join("align")).unwrap_or(fs_core::PAGE_SIZE);
    if align == 0 || len % align != 0 {
        return Err(Error::new(
            Kind::Refused,
            format!(
                "{}: its size {len} is no multiple of its alignment {align}",
                path.display()
            ),
        )
        .hint("make the namespace anew with a smaller --align (ndctl create-namespace)"));
    }
    Ok(Device {
        physical: resource(sysfs, len),
        node: Some(sysfs.to_owned()),
        path,
        kind: DeviceKind::Dax,
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_to_whole_pages() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r");
        fs::write(&path, vec![0; 10_000]).expect("write");
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).expect("symlink");
        let device = identify(&link).expect("identify");
        assert_eq!(device.len, 8192);
        assert_eq!(device.kind, DeviceKind::File);
        assert_eq!(device.path, fs::canonicalize(&path).expect("canonical"));
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let small = dir.path().join("small");
        fs::write(&small, b"x").expect("write");
        for (path, why) in [
            (dir.path(), "neither"),
            (small.as_path(), "too small"),
            (Path::new("/dev/null"), "no device-dax"),
            (Path::new("/no/such/file"), "No such file"),
        ] {
            let error = identify(path).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
