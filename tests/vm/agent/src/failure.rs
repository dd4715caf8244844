// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init failure BASE DIR`: memory fails under a filesystem that the kernel module has mounted on `DIR`,
//! its region at the physical address `BASE`. The kernel is told so by hand, as it would be by the machine.
//! `/init failure BASE OFFSET fail`: only that, at an offset of the region.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;
const PAGES: u64 = 600;
const TELL: &str = "/sys/devices/system/memory/hard_offline_page";

pub fn main(args: &[String]) -> Result<(), String> {
    let said = match args {
        [base, dir] => number(base).and_then(|base| all(base, dir)),
        [base, offset, word] if word == "fail" => number(base)
            .and_then(|base| Ok(base + number(offset)?))
            .and_then(fail),
        _ => Err("usage: /init failure BASE DIR, or /init failure BASE OFFSET fail".to_owned()),
    };
    said.map(|()| println!("as it should be"))
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text}: no number"))
}

fn all(base: u64, dir: &str) -> Result<(), String> {
    let place = format!("{dir}/file");
    let file = pattern(&place)?;
    // One page in the middle of a mapping, with somebody who has it mapped.
    let user = Child::mapping(&file, 0..101, 100)?;
    let neighbour = Child::mapping(&file, 0..102, 101)?;
    fail(base + physical(&file, 100)?)?;
    expect("who had it mapped", user.end()?, Some(libc::SIGBUS))?;
    expect("who had another", neighbour.end()?, None)?;
    lost(&file, 100)?;
    // One that nobody has mapped, the first of the file, and of a large page.
    fail(base + physical(&file, 0)?)?;
    lost(&file, 0)?;
    for good in [1, 99, 101, 511, 512, PAGES - 1] {
        kept(&file, good)?;
        let user = Child::mapping(&file, good..good + 1, good)?;
        expect("who maps a good page", user.end()?, None)?;
    }
    // What comes before it is read.
    let mut many = vec![0; (PAGES * PAGE) as usize];
    let read = file.read_at(&mut many, PAGE).map_err(text)?;
    expect("bytes before a bad page", read as u64, 99 * PAGE)?;
    // A hole in its place.
    for page in [0, 100] {
        punch(&file, page)?;
        let fresh = [page as u8 ^ 0x5a; PAGE as usize];
        file.write_all_at(&fresh, page * PAGE).map_err(text)?;
        let mut back = [0; PAGE as usize];
        file.read_exact_at(&mut back, page * PAGE).map_err(text)?;
        expect("what was written anew", back == fresh, true)?;
        let user = Child::mapping(&file, page..page + 1, page)?;
        expect("who maps it anew", user.end()?, None)?;
    }
    huge(base, &format!("{dir}/huge"))?;
    // Free pages that fail: nobody is given one.
    let pages: Result<Vec<u64>, String> = (200..264).map(|p| physical(&file, p)).collect();
    drop(file);
    fs::remove_file(&place).map_err(text)?;
    for page in pages? {
        fail(base + page)?;
    }
    for _ in 0..2 {
        fill(&place)?;
        fs::remove_file(&place).map_err(text)?;
    }
    Ok(())
}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what}: {is:?} instead of {should:?}"))
    }
}

/// Pages in the middle of large ones, mapped whole and in part.
fn huge(base: u64, place: &str) -> Result<(), String> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(place)
        .map_err(text)?;
    file.write_all_at(&vec![7; 4 << 20], 0).map_err(text)?;
    let all = 0..1024;
    let user = Child::mapping(&file, all.clone(), 612)?;
    let neighbour = Child::mapping(&file, all.clone(), 712)?;
    fail(base + physical(&file, 612)?)?;
    expect("who had it mapped large", user.end()?, Some(libc::SIGBUS))?;
    expect("who had its neighbour", neighbour.end()?, None)?;
    lost(&file, 612)?;
    let user = Child::mapping(&file, all.clone(), 712)?;
    let part = Child::mapping(&file, 700..713, 712)?;
    let first = Child::mapping(&file, all, 512)?;
    fail(base + physical(&file, 712)?)?;
    expect("who had all", user.end()?, Some(libc::SIGBUS))?;
    expect("who had a part", part.end()?, Some(libc::SIGBUS))?;
    expect("who had the first page", first.end()?, None)?;
    lost(&file, 712)?;
    // A copy tells how far it came.
    let other = File::create(format!("{place}-copy")).map_err(text)?;
    let size = 4 << 20;
    // SAFETY: descriptors of ours, and no offsets.
    let copied = unsafe {
        let (none, fds) = (std::ptr::null_mut(), (file.as_raw_fd(), other.as_raw_fd()));
        libc::copy_file_range(fds.0, none, fds.1, none, size, 0)
    };
    expect("bytes copied before a bad page", copied as u64, 612 * PAGE)?;
    fs::remove_file(format!("{place}-copy")).map_err(text)?;
    fs::remove_file(place).map_err(text)
}

/// Tells the kernel that the memory at a physical address has failed.
fn fail(address: u64) -> Result<(), String> {
    match fs::write(TELL, format!("{address:#x}")) {
        Ok(()) => Ok(()),
        // Nobody had it mapped: there was nothing for the kernel to do.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(error) => Err(format!("{TELL}: {address:#x}: {error}")),
    }
}

fn word(page: u64) -> [u8; 8] {
    (page ^ 0x5eed_0000).to_le_bytes()
}

fn pattern(place: &str) -> Result<File, String> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(place)
        .map_err(text)?;
    for page in 0..PAGES {
        file.write_all_at(&word(page).repeat(PAGE as usize / 8), page * PAGE)
            .map_err(text)?;
    }
    Ok(file)
}

/// Reads and writes of the page fail, and nothing else happens.
fn lost(file: &File, page: u64) -> Result<(), String> {
    let mut bytes = [0; 100];
    let errno = |r: io::Result<usize>| r.err().and_then(|e| e.raw_os_error());
    let eio = Some(libc::EIO);
    let read = file.read_at(&mut bytes, page * PAGE + 8);
    expect("read(2)", errno(read), eio)?;
    let written = file.write_at(&bytes, page * PAGE + 8);
    expect("write(2)", errno(written), eio)?;
    let user = Child::mapping(file, page..page + 1, page)?;
    expect("who maps it now", user.end()?, Some(libc::SIGBUS))
}

fn kept(file: &File, page: u64) -> Result<(), String> {
    let mut bytes = [0; PAGE as usize];
    file.read_exact_at(&mut bytes, page * PAGE)
        .map_err(|e| format!("page {page}: {e}"))?;
    expect(
        "a good page's bytes",
        bytes[..] == word(page).repeat(PAGE as usize / 8),
        true,
    )
}

/// Writes until there is no space; any other error is one.
fn fill(place: &str) -> Result<(), String> {
    let file = File::create(place).map_err(text)?;
    let bytes = vec![7; 1 << 20];
    let mut at = 0;
    loop {
        match file.write_at(&bytes, at) {
            Ok(n) => at += n as u64,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => break,
            Err(e) => return Err(format!("filling it, at {at}: {e}")),
        }
    }
    let mut back = vec![0; 1 << 20];
    let file = File::open(place).map_err(text)?;
    let mut from = 0;
    while from < at {
        match file.read_at(&mut back, from) {
            Ok(n) if n > 0 => from += n as u64,
            other => return Err(format!("reading it back, at {from}: {other:?}")),
        }
    }
    Ok(())
}

fn punch(file: &File, page: u64) -> Result<(), String> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (at, len) = ((page * PAGE) as libc::off_t, PAGE as libc::off_t);
    // SAFETY: takes numbers only.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) } {
        0 => Ok(()),
        _ => Err(format!("punch: {}", io::Error::last_os_error())),
    }
}

/// Where a page of the file is in the region: `struct fiemap` with one extent, linux/fiemap.h.
fn physical(file: &File, page: u64) -> Result<u64, String> {
    const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
    let mut map = [0u64; 4 + 7];
    map[0] = page * PAGE;
    map[1] = PAGE;
    // fm_flags, fm_mapped_extents; then fm_extent_count, fm_reserved.
    map[3] = 1;
    // SAFETY: the structure and one extent behind it, as large as the kernel takes them for.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, map.as_mut_ptr()) };
    if done != 0 || map[2] >> 32 != 1 {
        return Err(format!("fiemap: {}", io::Error::last_os_error()));
    }
    let (logical, at) = (map[4], map[5]);
    Ok(at + (page * PAGE - logical))
}

/// A process that has mapped a page of a file.
struct Child {
    pid: libc::pid_t,
    /// Written to, to let it go on.
    go: [libc::c_int; 2],
}

impl Child {
    /// Maps `pages` and reads page `page` of the file, and once more before it ends.
    fn mapping(file: &File, pages: Range<u64>, page: u64) -> Result<Child, String> {
        let mut go = [0; 2];
        let mut ready = [0; 2];
        // SAFETY: there is room for two descriptors each.
        if unsafe { libc::pipe(go.as_mut_ptr()) | libc::pipe(ready.as_mut_ptr()) } != 0 {
            return Err(text(io::Error::last_os_error()));
        }
        // SAFETY: this program has one thread; the child does nothing but system calls.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(text(io::Error::last_os_error()));
        }
        if pid == 0 {
            // SAFETY: as above; the mapping covers the page that is read.
            unsafe {
                // Rust's own handler would take the first for one of a stack that is too small.
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                let address = libc::mmap(
                    std::ptr::null_mut(),
                    ((pages.end - pages.start) * PAGE) as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED,
                    file.as_raw_fd(),
                    (pages.start * PAGE) as libc::off_t,
                );
                if address == libc::MAP_FAILED {
                    libc::_exit(3);
                }
                let byte = address
                    .cast::<u8>()
                    .add(((page - pages.start) * PAGE) as usize);
                let seen = byte.read_volatile();
                byte.write_volatile(seen);
                libc::close(go[1]);
                libc::close(ready[0]);
                libc::close(ready[1]);
                let mut end = 0u8;
                libc::read(go[0], (&raw mut end).cast(), 1);
                byte.read_volatile();
                libc::_exit(0);
            }
        }
        let mut end = 0u8;
        // SAFETY: descriptors of ours. The read ends when the child has closed its side, or has died.
        unsafe {
            libc::close(go[0]);
            libc::close(ready[1]);
            libc::read(ready[0], (&raw mut end).cast(), 1);
            libc::close(ready[0]);
        }
        Ok(Child { pid, go })
    }

    /// Lets it end: which signal killed it?
    fn end(self) -> Result<Option<i32>, String> {
        let mut status = 0;
        // SAFETY: a descriptor and a child of ours.
        unsafe {
            // A later child may have this side open too, so that closing it says nothing.
            libc::write(self.go[1], [0u8].as_ptr().cast(), 1);
            libc::close(self.go[1]);
            if libc::waitpid(self.pid, &mut status, 0) != self.pid {
                return Err(text(io::Error::last_os_error()));
            }
        }
        match libc::WIFSIGNALED(status) {
            true => Ok(Some(libc::WTERMSIG(status))),
            false if libc::WEXITSTATUS(status) == 0 => Ok(None),
            false => Err(format!("the child failed: {}", libc::WEXITSTATUS(status))),
        }
    }
}
