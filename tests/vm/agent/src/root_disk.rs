// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! From the initrd into the system on a root disk.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{symlink, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ROOT: &str = "/sysroot";
/// What the system goes on using.
const MOUNTS: &[&str] = &["/dev", "/proc", "/run", "/sys"];
/// systemd reads units here too, and they are gone with the kernel.
const UNITS: &str = "/run/systemd/system";

/// Its commands are not to end with it, nor it with a change of target. An argv[0] with `@` is spared by the
/// last round of a shutdown, so that the host hears of what goes wrong there.
const AGENT: &str = "[Unit]
Description=Agent of the lab
DefaultDependencies=no
IgnoreOnIsolate=yes
After=local-fs.target systemd-tmpfiles-setup.service

[Service]
ExecStart=@/init @lab-agent agent
Environment=HOME=/root
KillMode=process
";

/// The host makes the file once all is set up; the guest is switched off when the person leaves.
const SHELL: &str = "[Unit]
Description=Prompt for a person

[Service]
ExecStartPre=/bin/sh -c 'until [ -e /run/lab-shell ]; do sleep 0.1; done'
ExecStart=/bin/bash -l
ExecStopPost=systemctl --force poweroff
Environment=HOME=/root TERM=linux
WorkingDirectory=/root
TimeoutStartSec=infinity
StandardInput=tty
TTYPath=/dev/hvc0
StandardOutput=tty
";

/// Does not return: without its root the kernel has nothing to go on with.
pub fn enter(disk: &str, shell: bool) -> ! {
    if let Err(error) = prepare(disk, shell).and_then(|()| switch()) {
        println!("init: {disk}: {error}");
    }
    // The end of PID 1 is a panic, which the host sees at once.
    std::process::exit(1)
}

fn prepare(disk: &str, shell: bool) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !Path::new(disk).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::create_dir_all(ROOT)?;
    mount(disk, ROOT, "ext4", 0)?;
    install(Path::new("/"), Path::new(ROOT))?;
    unit("lab-agent", AGENT, "sysinit.target")?;
    if shell {
        unit("lab-shell", SHELL, "multi-user.target")?;
    }
    Ok(())
}

/// Copies what the initrd brought to where packages would have put it.
fn install(from: &Path, to: &Path) -> io::Result<()> {
    for (path, meta) in entries(from)? {
        let to = to.join(path.file_name().expect("an entry has a name"));
        if meta.is_dir() {
            // Not for those that the disk has as a symbolic link, such as /lib.
            if !to.is_dir() {
                fs::create_dir(&to)?;
            }
            install(&path, &to)?;
            continue;
        }
        // What an earlier boot left may be a link to elsewhere.
        let _ = fs::remove_file(&to);
        if meta.is_symlink() {
            symlink(fs::read_link(&path)?, &to)?;
        } else if meta.is_file() {
            fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// What a directory holds, without what is mounted there.
fn entries(dir: &Path) -> io::Result<Vec<(std::path::PathBuf, fs::Metadata)>> {
    let device = fs::symlink_metadata(dir)?.dev();
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.dev() == device {
            found.push((path, meta));
        }
    }
    Ok(found)
}

fn unit(name: &str, text: &str, wanted_by: &str) -> io::Result<()> {
    let wants = format!("{UNITS}/{wanted_by}.wants");
    fs::create_dir_all(&wants)?;
    let file = format!("{UNITS}/{name}.service");
    fs::write(&file, text)?;
    symlink(file, format!("{wants}/{name}.service"))
}

/// As switch_root(8) does it.
fn switch() -> io::Result<()> {
    for dir in MOUNTS {
        mount(dir, &format!("{ROOT}{dir}"), "", libc::MS_MOVE)?;
    }
    // The initrd's memory is given back with its files.
    for (path, meta) in entries(Path::new("/"))? {
        if meta.is_dir() {
            let _ = remove(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    std::env::set_current_dir(ROOT)?;
    mount(".", "/", "", libc::MS_MOVE)?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")?;
    Err(Command::new("/sbin/init").exec())
}

/// Only what lies on the same file system.
fn remove(dir: &Path) -> io::Result<()> {
    for (path, meta) in entries(dir)? {
        if meta.is_dir() {
            remove(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir(dir)
}

fn mount(from: &str, to: &str, kind: &str, flags: libc::c_ulong) -> io::Result<()> {
    let c = |text: &str| CString::new(text).map_err(io::Error::other);
    let (from, to, kind) = (c(from)?, c(to)?, c(kind)?);
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call.
    let result = unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
