// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What PID 1 does.

use crate::root_disk;
use lab_agent::{ROOT_ARGUMENT, SHELL_ARGUMENT};
use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn run() -> ! {
    std::env::set_var("PATH", PATH);
    std::env::set_var("HOME", "/root");
    std::env::set_var("TERM", "linux");
    for (kind, dir, options) in [
        ("devtmpfs", "/dev", "mode=0755"),
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("tmpfs", "/run", "mode=0755"),
    ] {
        mount(kind, dir, options);
    }
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let words: Vec<&str> = words.split_whitespace().collect();
    let value = |word: &&str| {
        Some(
            word.strip_prefix(ROOT_ARGUMENT)?
                .strip_prefix('=')?
                .to_owned(),
        )
    };
    if let Some(disk) = words.iter().find_map(value) {
        load_modules();
        root_disk::enter(&disk, words.contains(&SHELL_ARGUMENT));
    }
    for (kind, dir, options) in [
        ("tmpfs", "/tmp", "mode=1777"),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
        ("cgroup2", "/sys/fs/cgroup", ""),
    ] {
        mount(kind, dir, options);
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    load_modules();
    let _ = fs::write("/proc/sys/kernel/hostname", "lab");
    // The agent must not be what the OOM killer picks.
    start("/init", &["agent"], Stdio::inherit);
    let _ = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    if words.contains(&SHELL_ARGUMENT) {
        start_shell();
    }
    reap()
}

fn mount(kind: &str, dir: &str, options: &str) {
    let _ = fs::create_dir_all(dir);
    let c = |s: &str| CString::new(s).expect("no NUL in a constant");
    let (kind_c, dir_c, options_c) = (c(kind), c(dir), c(options));
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call.
    let result = unsafe {
        libc::mount(
            kind_c.as_ptr(),
            dir_c.as_ptr(),
            kind_c.as_ptr(),
            0,
            options_c.as_ptr().cast(),
        )
    };
    if result != 0 {
        println!("init: mount {dir}: {}", std::io::Error::last_os_error());
    }
}

/// Loads what the host listed, in its order. What is built in or absent is not on the list.
fn load_modules() {
    let dir = Path::new("/lib/rpramfs-lab");
    let list = fs::read_to_string(dir.join("modules.load")).unwrap_or_default();
    for name in list.lines() {
        let Ok(file) = fs::File::open(dir.join(name)) else {
            println!("init: {name}: not there");
            continue;
        };
        // SAFETY: the descriptor is open and the parameter string is NUL-terminated.
        let result =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EEXIST) {
                println!("init: {name}: {error}");
            }
        }
    }
    // Loaded once, needed no more: give the memory back.
    let _ = fs::remove_dir_all(dir);
}

fn start(program: &str, args: &[&str], io: fn() -> Stdio) {
    let child = Command::new(program)
        .args(args)
        .stdout(io())
        .stderr(io())
        .spawn();
    if let Err(error) = child {
        println!("init: {program}: {error}");
    }
}

/// A prompt on the second console, once the host says that all is set up; the guest is switched
/// off when the person leaves.
fn start_shell() {
    std::thread::spawn(|| {
        while !Path::new("/run/lab-shell").exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let open = || {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/hvc0")
        };
        let (Ok(input), Ok(output), Ok(errors)) = (open(), open(), open()) else {
            println!("init: /dev/hvc0 cannot be opened");
            return;
        };
        let mut shell = Command::new("/bin/bash");
        shell
            .arg("-l")
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .current_dir("/root");
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            shell.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 1);
                Ok(())
            });
        }
        // PID 1 reaps, so that wait() here may find no child any more: the exit is seen in /proc.
        match shell.spawn() {
            Ok(child) => {
                let proc = format!("/proc/{}", child.id());
                while Path::new(&proc).exists() {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
            Err(error) => println!("init: shell: {error}"),
        }
        // SAFETY: plain system calls.
        unsafe {
            libc::sync();
            libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
        }
    });
}

fn reap() -> ! {
    loop {
        let mut status = 0;
        // SAFETY: waits for any child; the status pointer is valid.
        let pid = unsafe { libc::waitpid(-1, &mut status, 0) };
        if pid < 0 {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}
