// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The calls of userfaultfd(2).
//!
//! Descriptors are plain numbers here: they live in a table that two processes share, so no value in
//! either of them can own one.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use linux_raw_sys::general as raw;
use nix::errno::Errno;

/// Why the kernel did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An event has to be read first, or the thread it stopped has not gone on yet.
    Again,
    /// There is a page already.
    Exists,
    /// No registered memory there, or not all in one mapping.
    Absent,
    /// The process has no memory any more.
    Gone,
    /// The bytes to copy could not be read.
    Unreadable,
    /// No memory for the page.
    NoMemory,
    Other(Errno),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Refusal {
        match error {
            Errno::EAGAIN => Refusal::Again,
            Errno::EEXIST => Refusal::Exists,
            Errno::ENOENT => Refusal::Absent,
            // Kernels before 4.13 said ENOSPC.
            Errno::ESRCH | Errno::ENOSPC => Refusal::Gone,
            Errno::EFAULT => Refusal::Unreadable,
            Errno::ENOMEM => Refusal::NoMemory,
            other => Refusal::Other(other),
        }
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Fault {
        addr: u64,
    },
    Fork {
        fd: i32,
    },
    Remap {
        from: u64,
        to: u64,
        len: u64,
    },
    /// UNMAP and REMOVE: whoever looks there next sees zeros or nothing.
    Drop {
        start: u64,
        end: u64,
    },
}

/// 64-bit words of a `struct uffd_msg`.
pub const MESSAGE_WORDS: usize = size_of::<raw::uffd_msg>() / 8;

/// Reads a `struct uffd_msg` as its words; `None` of one that was never written.
pub fn decode(words: [u64; MESSAGE_WORDS]) -> Option<Event> {
    let [head, a, b, c] = words;
    match u32::from(head.to_ne_bytes()[0]) {
        0 => None,
        raw::UFFD_EVENT_PAGEFAULT => Some(Event::Fault { addr: b }),
        raw::UFFD_EVENT_FORK => {
            let [b0, b1, b2, b3, ..] = a.to_ne_bytes();
            Some(Event::Fork {
                fd: i32::from_ne_bytes([b0, b1, b2, b3]),
            })
        }
        raw::UFFD_EVENT_REMAP => Some(Event::Remap {
            from: a,
            to: b,
            len: c,
        }),
        raw::UFFD_EVENT_REMOVE | raw::UFFD_EVENT_UNMAP => Some(Event::Drop { start: a, end: b }),
        // CRIU asks for no other; to drop nothing is to do nothing.
        _ => Some(Event::Drop { start: 0, end: 0 }),
    }
}

/// What a filling call came to: its own count of bytes when it did a part.
fn filled(result: libc::c_int, done: i64, len: u64) -> Result<u64, Refusal> {
    match result {
        0 => Ok(len),
        _ if done > 0 => Ok(done as u64),
        _ => Err(Errno::last().into()),
    }
}

/// Copies `len` bytes at our address `src` to the process's `dst` and wakes who waits for them.
/// Returns how many: whole pages, at least one.
pub fn copy(fd: i32, dst: u64, src: u64, len: u64) -> Result<u64, Refusal> {
    let mut arg = raw::uffdio_copy {
        dst,
        src,
        len,
        mode: 0,
        copy: 0,
    };
    // SAFETY: the kernel reads and writes `arg` alone; it checks `src`, of which it only reads.
    let result = unsafe { libc::ioctl(fd, linux_raw_sys::ioctl::UFFDIO_COPY as _, &mut arg) };
    filled(result, arg.copy, len)
}

/// Puts zeros at `start`.
pub fn zero(fd: i32, start: u64, len: u64) -> Result<u64, Refusal> {
    let range = raw::uffdio_range { start, len };
    let mut arg = raw::uffdio_zeropage {
        range,
        mode: 0,
        zeropage: 0,
    };
    // SAFETY: the kernel reads and writes `arg` alone.
    let result = unsafe { libc::ioctl(fd, linux_raw_sys::ioctl::UFFDIO_ZEROPAGE as _, &mut arg) };
    filled(result, arg.zeropage, len)
}

/// `struct uffdio_poison`.
#[repr(C)]
struct Poison {
    range: raw::uffdio_range,
    mode: u64,
    updated: i64,
}

/// Marks memory as failed: whoever touches it gets SIGBUS.
pub fn poison(fd: i32, start: u64, len: u64) -> Result<u64, Refusal> {
    let request =
        nix::request_code_readwrite!(raw::UFFDIO, raw::_UFFDIO_POISON, size_of::<Poison>());
    let range = raw::uffdio_range { start, len };
    let mut arg = Poison {
        range,
        mode: 0,
        updated: 0,
    };
    // SAFETY: the kernel reads and writes `arg` alone, which is as large as `request` says.
    let result = unsafe { libc::ioctl(fd, request as _, &mut arg) };
    filled(result, arg.updated, len)
}

/// Lets who waits for a page there try again. No memory need be there.
pub fn wake(fd: i32, start: u64, len: u64) -> Result<(), Refusal> {
    let arg = raw::uffdio_range { start, len };
    // SAFETY: the kernel reads `arg` alone.
    match unsafe { libc::ioctl(fd, linux_raw_sys::ioctl::UFFDIO_WAKE as _, &arg) } {
        0 => Ok(()),
        _ => Err(Errno::last().into()),
    }
}

/// Lets everyone who waits try again.
pub fn wake_all(fd: i32) {
    // The kernel refuses a range that leaves the address space, whose size depends on the machine
    // and on the process: the largest that it takes is the right one.
    const LOWEST: u64 = 64 << 10;
    for bits in (31..=57).rev() {
        for end in [(1 << bits) - 4096, (1 << bits) - 8192] {
            if wake(fd, LOWEST, end - LOWEST).is_ok() {
                return;
            }
        }
    }
}

/// Does this kernel have UFFDIO_POISON? (Linux 6.6 has.)
pub fn has_poison() -> bool {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let Ok(fd @ 0..) = i32::try_from(fd) else {
        return false;
    };
    let mut arg = raw::uffdio_api {
        api: raw::UFFD_API.into(),
        features: 0,
        ioctls: 0,
    };
    // SAFETY: the kernel reads and writes `arg` alone.
    let result = unsafe { libc::ioctl(fd, linux_raw_sys::ioctl::UFFDIO_API as _, &mut arg) };
    close(fd);
    result == 0 && arg.features & u64::from(raw::UFFD_FEATURE_POISON) != 0
}

/// Closes a number in the shared table.
pub fn close(fd: i32) {
    // SAFETY: a close harms only who owns the descriptor; our callers ask for theirs.
    unsafe { libc::close(fd) };
}

/// A read that finds nothing must return: poll(2) has nothing but an error for others.
pub fn nonblocking(fd: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
}

/// Waits until one of `fds` has something to read, and tells which; none after `timeout`.
pub fn poll(fds: &[i32], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` has `count` elements; the kernel writes their `revents`.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &timeout, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled
        .iter()
        .map(|fd| result > 0 && fd.revents != 0)
        .collect())
}
