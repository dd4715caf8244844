// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A child with a copy of our memory and with our very table of descriptors.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};

use linux_raw_sys::general as raw;

/// A child, and a descriptor that is readable when it is dead.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// How many threads this process has.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// Runs `body` in a child, which ends with the status that it returns, or with 101 if it panics.
/// What `body` opens is open here, and what it closes is closed here.
pub fn spawn(body: impl FnOnce() -> i32) -> io::Result<Child> {
    // Another thread may hold a lock that no one would release in the child.
    if threads()? != 1 {
        return Err(io::Error::other(
            "a process that has threads cannot supervise a restore",
        ));
    }
    let mut pidfd = -1i32;
    let args = raw::clone_args {
        flags: u64::from(raw::CLONE_FILES | raw::CLONE_PIDFD),
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // No SIGCHLD: it is for the caller's own children.
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM and with one thread this is fork(2): the child goes on from here on a
    // copy of everything. It never returns from this function, so no value of the parent's is dropped
    // in it, and no descriptor that the two share is closed by a drop.
    match unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) } {
        0 => {
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends the process; what the parent has to flush or to drop is left alone.
            unsafe { libc::_exit(status) }
        }
        pid @ 1.. => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child {
                pid: pid as i32,
                pidfd,
            })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for the end of a child; its exit status, or nothing if a signal ended it.
pub fn reap(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes `status` alone. Children without a signal need __WALL.
        if unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } == pid {
            return Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
