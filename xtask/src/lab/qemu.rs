// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The QEMU process.

use super::accel::Accel;
use super::region::{Size, BASE};
use super::tap::Tap;
use crate::host::zeros;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Below 4 GiB a q35 machine has this much memory, if it has more than 2.75 GiB in all.
const LOW: u64 = 2 << 30;

pub struct Machine<'a> {
    pub accel: Accel,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub append: &'a str,
    pub cpus: u32,
    /// Besides the region.
    pub memory: Size,
    pub region: Option<Size>,
    pub console: &'a Path,
    /// An ext4 image; what is written goes to a copy that ends with the guest.
    pub root_disk: Option<&'a Path>,
    /// An empty one besides.
    pub disk: Option<Size>,
    pub tap: Option<&'a Tap>,
    /// A file that is memory of the guest's too; see `lab_agent::LEDGER_DEVICE`.
    pub ledger: Option<&'a Path>,
    /// A reset starts the machine anew, with what is in its memory; otherwise it ends.
    pub resets: bool,
    /// A second console on the terminal.
    pub terminal: bool,
}

/// Starts QEMU. Returns it with the line to the agent.
pub fn start(machine: &Machine) -> Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    if !machine.resets {
        qemu.arg("-no-reboot");
    }
    qemu.args(["-machine", "q35", "-accel", machine.accel.option()]);
    qemu.args([
        "-cpu",
        machine.accel.cpu(),
        "-smp",
        &machine.cpus.to_string(),
    ]);
    qemu.args([
        "-m",
        &format!("{}M", total(machine.memory, machine.region) >> 20),
    ]);
    qemu.arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initrd);
    qemu.args(["-append", machine.append]);
    qemu.args([
        "-chardev",
        &format!("file,id=console,path={}", comma(machine.console)?),
    ]);
    qemu.args([
        "-serial",
        "chardev:console",
        "-device",
        "virtio-serial-pci,id=ports",
    ]);
    qemu.args([
        "-chardev",
        &format!("socket,id=agent,fd={}", theirs.as_raw_fd()),
    ]);
    let port = format!(
        "virtserialport,bus=ports.0,chardev=agent,name={}",
        lab_agent::PORT_NAME
    );
    qemu.args(["-device", &port]);
    let mut inherited = vec![theirs.as_raw_fd()];
    if let Some(tap) = machine.tap {
        inherited.push(tap.fd());
        qemu.args(["-netdev", &format!("tap,id=net,fd={}", tap.fd())]);
        let device = format!("virtio-net-pci,netdev=net,romfile=,mac={}", tap.mac());
        qemu.args(["-device", &device]);
    }
    if let Some(disk) = machine.root_disk {
        let path = comma(disk)?;
        qemu.arg("-drive");
        qemu.arg(format!(
            "file={path},format=raw,if=none,id=root,snapshot=on"
        ));
        qemu.args(["-device", "virtio-blk-pci,drive=root"]);
    }
    let disk = machine.disk.map(|size| blank(machine.console, size));
    let disk = disk.transpose()?;
    if let Some(disk) = &disk {
        inherited.push(disk.as_raw_fd());
        // Not out of the host's memory: a disk is what the host has.
        qemu.arg("-drive").arg(format!(
            "file=/proc/self/fd/{},format=raw,if=none,id=disk,cache=none",
            disk.as_raw_fd()
        ));
        qemu.args(["-device", "virtio-blk-pci,drive=disk"]);
    }
    if let Some(ledger) = machine.ledger {
        let (path, size) = (comma(ledger)?, lab_agent::LEDGER_SIZE);
        let memory = format!("memory-backend-file,id=ledger,share=on,size={size},mem-path={path}");
        qemu.args(["-object", &memory]);
        qemu.args(["-device", "ivshmem-plain,memdev=ledger"]);
    }
    if machine.terminal {
        qemu.args(["-chardev", "stdio,id=terminal,signal=off"]);
        qemu.args(["-device", "virtconsole,bus=ports.0,chardev=terminal"]);
    } else {
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        // A Ctrl-C at the terminal is for us; the guest ends with us.
        qemu.process_group(0);
    }
    let log = machine.console.with_file_name("qemu.log");
    qemu.stderr(File::create(log)?);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        qemu.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            inherited.iter().for_each(|fd| keep_open(*fd));
            Ok(())
        });
    }
    let child = qemu.spawn().context("qemu-system-x86_64")?;
    Ok((child, ours))
}

/// A file of zeros without a name: it is gone when nobody has it open.
fn blank(console: &Path, size: Size) -> Result<File> {
    let path = console.with_extension("disk");
    let file = zeros(&path, size.0)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The machine's memory such that the region lies at 4 GiB and is real.
fn total(memory: Size, region: Option<Size>) -> u64 {
    match region {
        Some(region) => {
            debug_assert_eq!(BASE, 4 << 30);
            (LOW + region.0 + memory.0.saturating_sub(LOW)).max(LOW + (1 << 30))
        }
        None => memory.0,
    }
}

/// A path as a value among QEMU's comma-separated options.
fn comma(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path in UTF-8")?.replace(',', ",,"))
}

fn keep_open(fd: RawFd) {
    // SAFETY: a system call on a descriptor of ours.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFD);
        libc::fcntl(fd, libc::F_SETFD, flags & !libc::FD_CLOEXEC);
    }
}
