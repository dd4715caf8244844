// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The calls that a restored process and CRIU make.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use linux_raw_sys::general as raw;
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};

pub const PAGE: u64 = 4096;

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// As CRIU opens one.
pub fn userfaultfd() -> OwnedFd {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    assert!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
    // SAFETY: a new descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let features = raw::UFFD_FEATURE_EVENT_FORK
        | raw::UFFD_FEATURE_EVENT_REMAP
        | raw::UFFD_FEATURE_EVENT_UNMAP
        | raw::UFFD_FEATURE_EVENT_REMOVE;
    let mut api = raw::uffdio_api {
        api: raw::UFFD_API.into(),
        features: features.into(),
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes `api` alone.
    checked(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            linux_raw_sys::ioctl::UFFDIO_API as _,
            &mut api,
        )
    })
    .unwrap();
    fd
}

pub fn register(uffd: &OwnedFd, start: u64, len: u64) {
    let range = raw::uffdio_range { start, len };
    let mode = raw::UFFDIO_REGISTER_MODE_MISSING.into();
    let mut arg = raw::uffdio_register {
        range,
        mode,
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes `arg` alone; the memory is this program's to lose.
    checked(unsafe {
        libc::ioctl(
            uffd.as_raw_fd(),
            linux_raw_sys::ioctl::UFFDIO_REGISTER as _,
            &mut arg,
        )
    })
    .unwrap();
}

/// A byte with a descriptor.
pub fn send_fd(stream: &UnixStream, fd: &OwnedFd) {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &control,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}

// Below, addresses are numbers: the memory at them comes and goes, and no reference to it is ever
// made. All of it lies where nothing else of the program is.

/// Maps anonymous memory where there is none.
pub fn map(start: u64, len: u64) {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: replaces no mapping.
    let got = unsafe { libc::mmap(start as *mut _, len as usize, prot, flags, -1, 0) };
    assert_eq!(got as u64, start, "{}", io::Error::last_os_error());
}

pub fn unmap(start: u64, len: u64) {
    // SAFETY: only memory of the model is given here.
    checked(unsafe { libc::munmap(start as *mut _, len as usize) }).unwrap();
}

pub fn advise(start: u64, len: u64, advice: i32) -> io::Result<()> {
    // SAFETY: only memory of the model is given here.
    checked(unsafe { libc::madvise(start as *mut _, len as usize, advice) })
}

pub fn protect(start: u64, len: u64, prot: i32) {
    // SAFETY: only memory of the model is given here; who takes rights away gives them back before use.
    checked(unsafe { libc::mprotect(start as *mut _, len as usize, prot) }).unwrap();
}

/// mremap(2), to a fixed place or in place.
pub fn remap(
    start: u64,
    len: u64,
    to: Option<u64>,
    new_len: u64,
    dont_unmap: bool,
) -> io::Result<()> {
    let mut flags = to.map_or(0, |_| libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
    if dont_unmap {
        flags |= libc::MREMAP_DONTUNMAP;
    }
    let to = to.unwrap_or(start);
    // SAFETY: only memory of the model is given here, and places that are free or the model's.
    let got = unsafe {
        libc::mremap(
            start as *mut _,
            len as usize,
            new_len as usize,
            flags,
            to as *mut libc::c_void,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    assert_eq!(got as u64, to);
    Ok(())
}

pub fn load(addr: u64) -> u64 {
    // SAFETY: the model has this address as mapped and readable, aligned for a word.
    unsafe { (addr as *const u64).read_volatile() }
}

pub fn store(addr: u64, value: u64) {
    // SAFETY: the model has this address as mapped and writable, aligned for a word.
    unsafe { (addr as *mut u64).write_volatile(value) };
}

/// Lets the kernel read a page; it says EFAULT where a load would be SIGBUS.
pub fn kernel_reads(addr: u64) -> io::Result<Vec<u8>> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two numbers.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }).unwrap();
    // SAFETY: new descriptors.
    let (reader, writer) =
        unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: the kernel checks the address.
    let sent = unsafe { libc::write(writer.as_raw_fd(), addr as *const _, PAGE as usize) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut page = vec![0; sent as usize];
    nix::unistd::read(&reader, &mut page).unwrap();
    Ok(page)
}

/// Runs `body` in a child, which never returns from here; its pid. It ends with status 0 if `body`
/// says that all was well.
pub fn fork(body: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child uses what its own thread used; what libc needs after a fork, glibc sees to. A
    // child that hangs all the same is ended by its alarm.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        0 => {
            limit_time();
            let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process.
            unsafe { libc::_exit(if matches!(good, Ok(true)) { 0 } else { 1 }) }
        }
        pid => pid,
    }
}

/// Waits for a child; its exit status, or the signal that ended it as a negative number.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes the status.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            break;
        }
        assert_eq!(
            io::Error::last_os_error().kind(),
            io::ErrorKind::Interrupted
        );
    }
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

/// Whatever happens, this process does not hang for ever.
pub fn limit_time() {
    // SAFETY: SIGALRM ends the process.
    unsafe { libc::alarm(60) };
}

/// A sparse file in memory, as long as the address space allows.
pub fn memfd() -> std::fs::File {
    // SAFETY: the name is a string; the descriptor is new.
    unsafe {
        let fd = libc::memfd_create(c"foam".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        std::fs::File::from_raw_fd(fd)
    }
}

/// A write to no one is an error, not a signal.
pub fn ignore_broken_pipes() {
    // SAFETY: to ignore a signal runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
