// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A region in the address space of a process.

#![allow(unsafe_code)]

use crate::device::{self, Device, DeviceKind};
use crate::in_use::{device_number, Uses};
use crate::iomem::PhysMap;
use crate::windows::Windows;
use crate::{resolve, Error, Kind, PhysRange, Result, Spec};
use fs_core::{MappedRegion, Region};
use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{fcntl, FcntlArg, Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

/// What the opener wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look, whoever else uses the region; takes no lock. What is seen may be changing.
    Inspect,
    /// Read while nobody writes: a shared lock.
    ReadOnly,
    /// As [`Access::ReadOnly`]; what is stored stays in this process and ends with it. For what
    /// cannot be written, and must be recovered to be read. Files and block devices only.
    Private,
    /// Read and write, alone: an exclusive lock.
    ReadWrite,
}

/// What is behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A regular file.
    File,
    /// A block device such as `/dev/pmem0`.
    Block,
    /// A device-dax device.
    Dax,
    /// Physical memory through `/dev/mem`.
    Physical,
    /// Anonymous memory of this process.
    Anonymous,
}

/// The memory itself.
#[derive(Debug)]
enum Mapping {
    /// All of it, from the start.
    Whole(MmapRaw),
    /// `/dev/mem`, which is costly to map, as it is used. Its file holds the lock on the range.
    Windows(Windows),
}

/// A mapped region. Unmapped, and its lock released, when dropped.
#[derive(Debug)]
pub struct UserRegion {
    mapped: MappedRegion,
    mapping: Mapping,
    writable: bool,
    backing: Backing,
    name: String,
    physical: Option<PhysRange>,
    /// Keeps others out. The lock belongs to the open file, so a child of fork holds it on when
    /// its parent ends.
    _lock: Option<Flock<File>>,
}

/// Opens the region that `spec` names. Nothing is written.
///
/// Refuses (see [`Kind`]) what is in use by somebody else, what is no place for a region, and
/// physical ranges the kernel uses.
pub fn open(spec: &Spec, access: Access) -> Result<UserRegion> {
    match spec {
        Spec::Path(path) => open_path(path, access),
        Spec::Physical(range) => open_physical(range, access, &PhysMap::system()?),
        Spec::Label(_) | Spec::Uuid(_) => open(&resolve::resolve(spec)?, access),
    }
}

impl UserRegion {
    /// `len` bytes of zeros that end with the process; address space only until they are touched.
    pub fn anonymous(len: u64) -> Result<Self> {
        let size = usize::try_from(len)
            .ok()
            .filter(|_| len > 0 && len % fs_core::PAGE_SIZE == 0)
            .ok_or_else(|| Error::usage(format!("{len} bytes are no whole pages")))?;
        let map = MmapOptions::new()
            .len(size)
            .no_reserve_swap()
            .map_anon()
            .map_err(|e| Error::io(format!("cannot map {len} bytes"), &e))?;
        let mapping = Mapping::Whole(map.into());
        let name = "anonymous memory".into();
        UserRegion::wrap(mapping, len, true, Backing::Anonymous, name, None, None)
    }

    fn wrap(
        mapping: Mapping,
        len: u64,
        writable: bool,
        backing: Backing,
        name: String,
        physical: Option<PhysRange>,
        lock: Option<Flock<File>>,
    ) -> Result<Self> {
        let base = match &mapping {
            Mapping::Whole(map) => NonNull::new(map.as_mut_ptr())
                .ok_or_else(|| Error::new(Kind::System, format!("{name}: mapped at address 0")))?,
            Mapping::Windows(windows) => windows.base(),
        };
        // SAFETY: mmap gives page-aligned memory; `len` is the length every caller mapped or
        // reserved, a whole number of pages no longer than isize::MAX (mmap fails beyond the
        // address space). The mapping lives in the same struct, is never unmapped or moved before
        // the struct is dropped, and nobody makes a reference into it. The `Region` methods below
        // make sure that a window is mapped before `mapped` is used there, and refuse to store to
        // a read-only mapping.
        let mapped = unsafe { MappedRegion::new(base, len) };
        Ok(UserRegion {
            mapped,
            mapping,
            writable,
            backing,
            name,
            physical,
            _lock: lock,
        })
    }

    /// How a person names it: the path or `ADDR+SIZE`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is behind it.
    #[must_use]
    pub const fn backing(&self) -> Backing {
        self.backing
    }

    /// May it be stored to?
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.writable
    }

    /// Where it lies in physical memory, where that is known.
    #[must_use]
    pub const fn physical(&self) -> Option<PhysRange> {
        self.physical
    }

    /// Are stores in the memory itself as soon as they are made? Not so behind a file or a block
    /// device (`/dev/pmemN` too): mmap reaches their page cache, and what is there is lost with
    /// the kernel until [`UserRegion::sync`] has run.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        matches!(self.backing, Backing::Dax | Backing::Physical)
    }

    /// Writes the page cache of a file or block device back; nothing to do for the others.
    pub fn sync(&self) -> Result<()> {
        match (&self.mapping, self.backing) {
            (Mapping::Whole(map), Backing::File | Backing::Block) if self.writable => map
                .flush()
                .map_err(|e| Error::io(format!("{}: cannot write back", self.name), &e)),
            _ => Ok(()),
        }
    }
}

fn map(file: &File, len: u64, access: Access) -> io::Result<Mapping> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut options = MmapOptions::new();
    options.len(len);
    let map = match access {
        Access::ReadWrite => options.map_raw(file),
        Access::Inspect | Access::ReadOnly => options.map_raw_read_only(file),
        Access::Private => {
            // SAFETY: what memmap2 asks for is that the file does not change under a slice of it;
            // no slice is ever made of this mapping, it becomes a raw one at once.
            unsafe { options.no_reserve_swap().map_copy(file) }.map(MmapRaw::from)
        }
    };
    map.map(Mapping::Whole)
}

fn open_path(path: &Path, access: Access) -> Result<UserRegion> {
    let device = device::identify(path)?;
    let Device { path, .. } = &device;
    let shown = path.display();
    let writable = access == Access::ReadWrite;
    let meta = fs::metadata(path).map_err(|e| Error::io(&shown, &e))?;
    if access != Access::Inspect {
        Uses::system().check(path, device_number(&meta))?;
    }
    device.require_driver()?;
    let mut options = OpenOptions::new();
    options.read(true).write(writable);
    if writable && device.kind == DeviceKind::Block {
        // Exclusive use of a block device: refused while it is mounted or part of something.
        options.custom_flags(libc::O_EXCL);
    }
    let file = options.open(path).map_err(|e| {
        let error = Error::io(format!("cannot open {shown}"), &e);
        match e.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => error.hint("run this as root or as its owner"),
            Some(libc::EROFS) => error.hint("it can only be read; -o ro mounts it so"),
            Some(libc::EBUSY) => error.hint("it is mounted, or part of another device"),
            Some(libc::ETXTBSY) => error.hint("it is swap space or a running program"),
            _ => error,
        }
    })?;
    let (lock, mapping) = match access {
        Access::Inspect => (None, map(&file, device.len, access)),
        Access::ReadOnly | Access::Private | Access::ReadWrite => {
            let lock = lock_whole(file, writable).map_err(|e| match e {
                nix::Error::EWOULDBLOCK => {
                    let holder = Uses::system().holder(path, &meta);
                    Error::new(Kind::Busy, format!("{shown}: {holder}"))
                        .hint("umount it, or wait until the other is done")
                }
                e => Error::io(format!("cannot lock {shown}"), &e.into()),
            })?;
            let mapping = map(&lock, device.len, access);
            (Some(lock), mapping)
        }
    };
    let mapping = mapping
        .map_err(|e| Error::io(format!("cannot map {} bytes of {shown}", device.len), &e))?;
    let backing = match device.kind {
        DeviceKind::File => Backing::File,
        DeviceKind::Block => Backing::Block,
        DeviceKind::Dax => Backing::Dax,
    };
    let name = shown.to_string();
    UserRegion::wrap(
        mapping,
        device.len,
        writable || access == Access::Private,
        backing,
        name,
        device.physical,
        lock,
    )
}

/// Takes flock(2), for a second if need be: udev holds it while it probes a device, and a daemon
/// that was just unmounted while it ends.
fn lock_whole(mut file: File, exclusive: bool) -> nix::Result<Flock<File>> {
    let how = if exclusive {
        FlockArg::LockExclusiveNonblock
    } else {
        FlockArg::LockSharedNonblock
    };
    let mut tries = 20;
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::Error::EWOULDBLOCK)) if tries > 0 => {
                file = back;
                tries -= 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            Err((_, e)) => return Err(e),
        }
    }
}

/// Locks a range of `/dev/mem`, so that other regions of the same device stay free.
fn lock_range(file: &File, range: &PhysRange, exclusive: bool) -> nix::Result<()> {
    let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.size)) else {
        return Err(nix::Error::EOVERFLOW);
    };
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    let mut tries = 20;
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Opens physical memory after `machine` has found nothing against it.
pub(crate) fn open_physical(
    range: &PhysRange,
    access: Access,
    machine: &PhysMap,
) -> Result<UserRegion> {
    machine.require(range)?;
    let writable = access == Access::ReadWrite;
    // Without O_SYNC: the mapping is write-back cached, as memory should be.
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        .open("/dev/mem")
        .map_err(|e| no_dev_mem(range, &e))?;
    if access != Access::Inspect {
        lock_range(&file, range, writable).map_err(|e| match e {
            nix::Error::EAGAIN | nix::Error::EACCES => {
                Error::new(Kind::Busy, format!("{range}: in use by another process"))
                    .hint("findmnt -t fuse.rpramfs shows where regions are mounted")
            }
            e => Error::io(format!("cannot lock {range} of /dev/mem"), &e.into()),
        })?;
    }
    let windows = Windows::reserve(file, range.start, range.size, writable);
    // Both ends at once, so that what the kernel has against it is known now.
    let both_ends = |w: Windows| {
        w.touch(0, 1)?;
        w.touch(range.size - 1, 1)?;
        Ok(w)
    };
    let windows = windows.and_then(both_ends).map_err(|e| {
        let error = Error::io(format!("cannot map {range} of /dev/mem"), &e);
        match e.raw_os_error() {
            Some(libc::EPERM) => error.hint(format!(
                "{}the kernel forbids it: the range is System RAM (STRICT_DEVMEM) or claimed by a \
                 driver (IO_STRICT_DEVMEM)",
                if locked_down() { "lockdown, or " } else { "" }
            )),
            Some(libc::EINVAL) => error.hint(
                "the address is beyond what the CPU can reach, or mapped elsewhere with another \
                 cache mode (see /sys/kernel/debug/x86/pat_memtype_list)",
            ),
            _ => error,
        }
    })?;
    let name = range.to_string();
    UserRegion::wrap(
        Mapping::Windows(windows),
        range.size,
        writable,
        Backing::Physical,
        name,
        Some(*range),
        None,
    )
}

/// Does the kernel say that it is locked down? (`none [integrity] confidentiality`)
fn locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|text| text.contains("[integrity]") || text.contains("[confidentiality]"))
}

fn no_dev_mem(range: &PhysRange, e: &io::Error) -> Error {
    let error = Error::io(format!("{range}: cannot open /dev/mem"), e);
    match e.raw_os_error() {
        Some(libc::EPERM) => error.hint(format!(
            "{}: /dev/mem is blocked. Ways out: the signed kernel module; or reserve the range \
             with memmap={}!{:#x} and use its /dev/daxX.Y; or boot without Secure Boot",
            if locked_down() {
                "the kernel is locked down (Secure Boot)"
            } else {
                "the kernel is locked down (Secure Boot), or CAP_SYS_RAWIO is missing"
            },
            crate::size::exact(range.size),
            range.start
        )),
        Some(libc::EACCES) => error.hint("run this as root"),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => error.hint(format!(
            "this kernel has no /dev/mem (CONFIG_DEVMEM=n), or /dev is not populated. Ways out: \
             the kernel module; or reserve the range with memmap={}!{:#x} and use its /dev/daxX.Y",
            crate::size::exact(range.size),
            range.start
        )),
        _ => error,
    }
}

impl UserRegion {
    /// The memory, with these bytes of it mapped.
    #[inline]
    fn at(&self, off: u64, len: u64) -> fs_core::Result<&MappedRegion> {
        if let Mapping::Windows(windows) = &self.mapping {
            windows.touch(off, len).map_err(|e| {
                log::error!("{}: cannot map offset {off:#x}: {e}", self.name);
                fs_core::Error::corrupt(off, "the memory cannot be mapped")
            })?;
        }
        Ok(&self.mapped)
    }

    /// The same, to be stored to.
    #[inline]
    fn at_mut(&self, off: u64, len: u64) -> fs_core::Result<&MappedRegion> {
        if self.writable {
            self.at(off, len)
        } else {
            Err(fs_core::Error::ReadOnly)
        }
    }
}

impl Region for UserRegion {
    #[inline]
    fn len(&self) -> u64 {
        self.mapped.len()
    }

    #[inline]
    fn load(&self, off: u64) -> fs_core::Result<u64> {
        self.at(off, 8)?.load(off)
    }

    #[inline]
    fn store(&self, off: u64, value: u64) -> fs_core::Result<()> {
        self.at_mut(off, 8)?.store(off, value)
    }

    #[inline]
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> fs_core::Result<std::result::Result<(), u64>> {
        self.at_mut(off, 8)?.compare_exchange(off, old, new)
    }

    #[inline]
    fn read(&self, off: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.at(off, buf.len() as u64)?.read(off, buf)
    }

    #[inline]
    fn write(&self, off: u64, buf: &[u8]) -> fs_core::Result<()> {
        self.at_mut(off, buf.len() as u64)?.write(off, buf)
    }

    #[inline]
    fn zero(&self, off: u64, len: u64) -> fs_core::Result<()> {
        self.at_mut(off, len)?.zero(off, len)
    }

    #[inline]
    fn copy(&self, from: u64, to: u64, len: u64) -> fs_core::Result<()> {
        self.at_mut(from, len)?;
        self.at_mut(to, len)?.copy(from, to, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> (tempfile::TempDir, Spec) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("region");
        File::create(&path)
            .and_then(|f| f.set_len(len))
            .expect("create");
        (dir, Spec::Path(path))
    }

    #[test]
    fn what_is_written_is_read_by_the_next() {
        let (_dir, spec) = file(1 << 20);
        let region = open(&spec, Access::ReadWrite).expect("open");
        assert_eq!(region.len(), 1 << 20);
        assert_eq!(region.backing(), Backing::File);
        region.write(5000, b"hello").expect("write");
        region.store(8, 42).expect("store");
        region.sync().expect("sync");
        drop(region);
        let region = open(&spec, Access::ReadOnly).expect("open");
        let mut buf = [0; 5];
        region.read(5000, &mut buf).expect("read");
        assert_eq!(&buf, b"hello");
        assert_eq!(region.load(8), Ok(42));
    }

    #[test]
    fn a_reader_cannot_store() {
        use fs_core::Error::ReadOnly;
        let (_dir, spec) = file(1 << 20);
        for access in [Access::Inspect, Access::ReadOnly] {
            let region = open(&spec, access).expect("open");
            assert!(!region.writable());
            assert_eq!(region.store(0, 1), Err(ReadOnly));
            assert_eq!(region.write(0, b"x"), Err(ReadOnly));
            assert_eq!(region.zero(0, 8), Err(ReadOnly));
            assert_eq!(region.copy(0, 4096, 8), Err(ReadOnly));
            assert_eq!(region.compare_exchange(0, 0, 1), Err(ReadOnly));
            assert_eq!(region.load(0), Ok(0));
        }
    }

    #[test]
    fn one_writer_at_a_time() {
        let (_dir, spec) = file(1 << 20);
        let writer = open(&spec, Access::ReadWrite).expect("writer");
        for access in [Access::ReadWrite, Access::ReadOnly] {
            let e = open(&spec, access).expect_err("locked");
            assert_eq!(e.kind(), Kind::Busy);
            let me = format!("process {}", std::process::id());
            assert!(e.to_string().contains(&me), "{e}");
        }
        open(&spec, Access::Inspect).expect("looking is allowed");
        drop(writer);
        let reader = open(&spec, Access::ReadOnly).expect("reader");
        open(&spec, Access::ReadOnly).expect("readers share");
        assert_eq!(
            open(&spec, Access::ReadWrite).expect_err("read").kind(),
            Kind::Busy
        );
        drop(reader);
        open(&spec, Access::ReadWrite).expect("free again");
    }

    #[test]
    fn a_lock_of_dev_mem_covers_its_range_only() {
        // Any file will do to see how the locks behave.
        let (_dir, spec) = file(1 << 20);
        let Spec::Path(path) = &spec else {
            unreachable!()
        };
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .expect("open")
        };
        let range = |start| PhysRange::new(start, 8192).expect("range");
        let (a, b) = (open(), open());
        lock_range(&a, &range(0x1000), true).expect("first");
        lock_range(&b, &range(0x3000), true).expect("beside it");
        assert!(lock_range(&b, &range(0x2000), true).is_err());
        drop(a);
        lock_range(&b, &range(0x1000), true).expect("given back");
    }

    #[test]
    fn anonymous_memory_may_be_far_larger_than_ram() {
        let region = UserRegion::anonymous(16 << 40).expect("16 TiB of nothing");
        region.store((16 << 40) - 8, 7).expect("store");
        assert_eq!(region.load((16 << 40) - 8), Ok(7));
        assert!(UserRegion::anonymous(100).is_err());
        assert!(UserRegion::anonymous(0).is_err());
    }

    #[test]
    fn kernel_memory_is_refused_before_dev_mem_is_opened() {
        let iomem = "00000000-ffffffff : System RAM\n";
        let machine = PhysMap::from_text(iomem, Vec::new(), "");
        let range = PhysRange::new(0x10_0000, 1 << 20).expect("range");
        let e = open_physical(&range, Access::ReadWrite, &machine).expect_err("refused");
        assert_eq!(e.kind(), Kind::Refused);
    }
}
