// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! System calls. Addresses are numbers: the memory at them comes and goes, and no reference to it is ever made.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub const PAGE: u64 = 4096;
pub const WORDS: u64 = PAGE / 8;
pub const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn descriptor(fd: libc::c_int, what: &str) -> OwnedFd {
    assert!(fd >= 0, "{what}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just made it, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Maps `len` bytes at `at`, where there is nothing.
pub fn map(at: u64, len: u64, flags: i32, file: Option<&File>) {
    let fd = file.map_or(-1, AsRawFd::as_raw_fd);
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: replaces no mapping.
    let got = unsafe { libc::mmap(at as *mut _, len as usize, READ_WRITE, flags, fd, 0) };
    assert_eq!(got as u64, at, "mmap: {}", io::Error::last_os_error());
}

pub fn unmap(start: u64, len: u64) {
    // SAFETY: only memory of the model is given here.
    checked(unsafe { libc::munmap(start as *mut _, len as usize) }).expect("munmap");
}

pub fn advise(start: u64, len: u64, advice: i32) -> io::Result<()> {
    // SAFETY: only memory of the model is given here.
    checked(unsafe { libc::madvise(start as *mut _, len as usize, advice) })
}

pub fn protect(start: u64, len: u64, prot: i32) {
    // SAFETY: only memory of the model is given here, which knows what it took away.
    checked(unsafe { libc::mprotect(start as *mut _, len as usize, prot) }).expect("mprotect");
}

pub fn lock(start: u64, len: u64) {
    // SAFETY: changes no memory.
    checked(unsafe { libc::mlock(start as *const _, len as usize) }).expect("mlock");
}

/// Is there a mapping?
pub fn is_mapped(page: u64) -> bool {
    let mut there = 0u8;
    // SAFETY: the kernel writes one byte for one page.
    unsafe { libc::mincore(page as *mut _, PAGE as usize, &mut there) == 0 }
}

/// mremap(2), to a fixed place or in place.
pub fn remap(start: u64, len: u64, to: Option<u64>, new_len: u64, more: i32) -> io::Result<()> {
    let flags = more | to.map_or(0, |_| libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
    let to = to.unwrap_or(start);
    let (len, new_len) = (len as usize, new_len as usize);
    // SAFETY: only memory of the model is given here, and places that are free or the model's.
    let got = unsafe {
        libc::mremap(
            start as *mut _,
            len,
            new_len,
            flags,
            to as *mut libc::c_void,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    assert_eq!(got as u64, to, "mremap");
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

/// Lets the kernel read a page: where a load would be a signal it says EFAULT.
pub fn kernel_reads(addr: u64) -> io::Result<Vec<u64>> {
    let (mut reader, writer) = pipe();
    // SAFETY: the kernel checks the address.
    let sent = unsafe { libc::write(writer.as_raw_fd(), addr as *const _, PAGE as usize) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut page = vec![0; sent as usize];
    reader.read_exact(&mut page)?;
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
    Ok(page.chunks_exact(8).map(word).collect())
}

pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two numbers.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }).expect("pipe");
    let [reader, writer] = ends.map(|fd| File::from(descriptor(fd, "pipe")));
    (reader, writer)
}

pub fn memfd() -> File {
    // SAFETY: the name is a string.
    let fd = unsafe { libc::memfd_create(c"remembered".as_ptr(), libc::MFD_CLOEXEC) };
    File::from(descriptor(fd, "memfd_create"))
}

/// A namespace of its own for SysV segments: CRIU dumps them only there.
pub fn own_segments() {
    // SAFETY: changes no memory.
    checked(unsafe { libc::unshare(libc::CLONE_NEWIPC) }).expect("unshare");
}

/// Attaches a new SysV segment. It goes with the last process that has it.
pub fn segment(at: u64, len: u64) {
    // SAFETY: a new segment, attached where there is nothing.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, len as usize, libc::IPC_CREAT | 0o600);
        assert!(id >= 0, "shmget: {}", io::Error::last_os_error());
        let got = libc::shmat(id, at as *const _, 0);
        assert_eq!(got as u64, at, "shmat: {}", io::Error::last_os_error());
    }
}

/// Runs `body` in a child, which ends with status 0 when `body` returns; its pid.
pub fn fork(body: impl FnOnce()) -> i32 {
    // SAFETY: the child uses what its own thread used; what libc needs after a fork, glibc sees to.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        0 => {
            body();
            exit(0)
        }
        pid => pid,
    }
}

/// Ends the process at once, with all its threads.
pub fn exit(status: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(status) }
}

/// How a child ended: its exit status, or its signal as a negative number. `None`: not yet.
pub fn ended(pid: i32, wait: bool) -> Option<i32> {
    let mut status = 0;
    let options = if wait { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: the kernel writes the status.
        match unsafe { libc::waitpid(pid, &mut status, options) } {
            0 => return None,
            got if got == pid => break,
            _ => {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "waitpid {pid}");
            }
        }
    }
    Some(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    })
}

/// The signal that waits, queued with a value.
fn queued() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

fn queued_set() -> libc::sigset_t {
    // SAFETY: plain data, made by the calls that are for it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, queued());
        set
    }
}

/// For this thread and those that it starts.
pub fn block_queued() {
    let set = queued_set();
    // SAFETY: the set lives over the call; what was blocked is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    assert_eq!(result, 0, "pthread_sigmask");
}

pub fn queue(value: usize) {
    let value = libc::sigval {
        sival_ptr: value as *mut _,
    };
    // SAFETY: to this process, which blocks it.
    checked(unsafe { libc::sigqueue(libc::getpid(), queued(), value) }).expect("sigqueue");
}

/// Takes one of the signals that wait, and its value.
pub fn dequeue() -> Option<usize> {
    let set = queued_set();
    // SAFETY: `info` is plain data that the kernel fills; the signal has a value.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let none = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        (libc::sigtimedwait(&set, &mut info, &none) == queued())
            .then(|| info.si_value().sival_ptr as usize)
    }
}

fn far(interval: i64) -> libc::itimerspec {
    let seconds = |tv_sec| libc::timespec { tv_sec, tv_nsec: 0 };
    libc::itimerspec {
        it_interval: seconds(interval),
        it_value: seconds(100_000),
    }
}

fn is_far(left: &libc::itimerspec, interval: i64) {
    let good = left.it_interval.tv_sec == interval
        && left.it_interval.tv_nsec == 0
        && (90_000..=100_000).contains(&left.it_value.tv_sec);
    assert!(
        good,
        "a timer: {} s left, again after {} s instead of {interval}",
        left.it_value.tv_sec, left.it_interval.tv_sec
    );
}

/// Two timers that have long to go: a timerfd, and a POSIX timer that tells nobody.
pub struct Timers {
    fd: OwnedFd,
    posix: libc::timer_t,
    interval: i64,
}

impl Timers {
    pub fn new(interval: i64) -> Timers {
        let spec = far(interval);
        // SAFETY: all that is pointed to lives over the calls and is plain data.
        unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC);
            let fd = descriptor(fd, "timerfd_create");
            let set = libc::timerfd_settime(fd.as_raw_fd(), 0, &spec, std::ptr::null_mut());
            checked(set).expect("timerfd_settime");
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_NONE;
            let mut posix = std::mem::zeroed();
            let made = libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut posix);
            checked(made).expect("timer_create");
            checked(libc::timer_settime(posix, 0, &spec, std::ptr::null_mut()))
                .expect("timer_settime");
            Timers {
                fd,
                posix,
                interval,
            }
        }
    }

    pub fn check(&self) {
        // SAFETY: the kernel fills plain data.
        let (one, other) = unsafe {
            let mut one = std::mem::zeroed();
            let mut other = std::mem::zeroed();
            checked(libc::timerfd_gettime(self.fd.as_raw_fd(), &mut one)).expect("timerfd_gettime");
            checked(libc::timer_gettime(self.posix, &mut other)).expect("timer_gettime");
            (one, other)
        };
        is_far(&one, self.interval);
        is_far(&other, self.interval);
    }
}

pub fn signal(pid: i32, signal: i32) -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Where the first byte at or behind `offset` is that is not in a hole.
pub fn data_behind(file: &File, offset: u64) -> io::Result<u64> {
    // SAFETY: a plain system call.
    match unsafe { libc::lseek(file.as_raw_fd(), offset as libc::off_t, libc::SEEK_DATA) } {
        at @ 0.. => Ok(at as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Traces a process until this one ends. It is not stopped by that, nor does it go on.
pub fn trace(pid: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
