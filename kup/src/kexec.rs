// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The next kernel: loaded while everything runs, started when nothing does.

use crate::system::Uninterrupted;
use anyhow::{bail, ensure, Context, Result};
use host::cmdline::reservations;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to start.
#[derive(Clone, Debug)]
pub struct Next {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub command_line: String,
}

/// The command line of the running kernel, for the next one.
///
/// # Errors
/// /proc is not mounted.
pub fn current_command_line() -> Result<String> {
    let text = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    // The boot loader puts these before it.
    let ours = |word: &&str| !word.starts_with("BOOT_IMAGE=") && !word.starts_with("initrd=");
    Ok(text
        .split_whitespace()
        .filter(ours)
        .collect::<Vec<_>>()
        .join(" "))
}

/// Every range that this kernel leaves alone must be one for the next too: it would use it as its memory.
///
/// # Errors
/// One is not.
pub fn keeps_reservations(command_line: &str) -> Result<()> {
    let text = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let next = reservations(command_line);
    for (range, mark) in reservations(&text) {
        if !next.contains(&(range, mark)) {
            let sign = match mark {
                host::cmdline::Mark::Reserved => '$',
                host::cmdline::Mark::Persistent => '!',
            };
            bail!(
                "the next kernel's command line lacks memmap={:#x}{sign}{:#x}, so it would overwrite the region. \
                 Nothing inherits it: leave out --command-line to take over all of the running kernel's, or add it",
                range.size,
                range.start
            );
        }
    }
    Ok(())
}

/// Loads it by kexec_file_load(2). The older kexec_load(2) places kernel and initrd by the firmware's map,
/// in which the region is RAM like any other.
///
/// # Errors
/// kexec(8) is not there, or the kernel refuses.
pub fn load(next: &Next) -> Result<()> {
    keeps_reservations(&next.command_line)?;
    let mut command = Command::new("kexec");
    command
        .arg("--kexec-file-syscall")
        .arg("--load")
        .arg(&next.kernel);
    if let Some(initrd) = &next.initrd {
        let mut arg = std::ffi::OsString::from("--initrd=");
        arg.push(initrd);
        command.arg(arg);
    }
    command.arg(format!("--command-line={}", next.command_line));
    let output = command
        .output()
        .context("cannot run kexec: is kexec-tools installed?")?;
    ensure!(
        output.status.success(),
        "kexec --load {}: {}{}",
        next.kernel.display(),
        String::from_utf8_lossy(&output.stderr),
        "(kexec_file_load(2) may want a signed kernel: see kexec(8))"
    );
    Ok(())
}

/// Forgets a kernel that was loaded.
pub fn unload() {
    let _ = Command::new("kexec").arg("--unload").output();
}

/// Starts what is loaded. Returns only if that failed.
///
/// # Errors
/// It returned.
pub fn start() -> Result<()> {
    // While the kernel shuts devices down, which can take seconds, a Ctrl-C would have CRIU let the applications go
    // on, for as long as that kernel lasts. The program that is started has this from us.
    let uninterrupted = Uninterrupted::begin();
    let status = Command::new("kexec").arg("--exec").status();
    drop(uninterrupted);
    let status = status.context("cannot run kexec")?;
    bail!("kexec --exec came back: {status}")
}

/// The release of an x86 kernel image, such as 7.3.4 (`Documentation/arch/x86/boot.rst`, kernel_version).
///
/// # Errors
/// It is no such image.
pub fn release(kernel: &Path) -> Result<String> {
    let read = || -> Result<String> {
        let mut file = File::open(kernel)?;
        let mut head = [0; 0x212];
        file.read_exact(&mut head)?;
        ensure!(&head[0x202..0x206] == b"HdrS", "no Linux kernel");
        let at = u16::from_le_bytes([head[0x20e], head[0x20f]]);
        ensure!(at != 0, "it does not say its release");
        file.seek(SeekFrom::Start(u64::from(at) + 0x200))?;
        let mut text = [0; 256];
        let n = file.read(&mut text)?;
        let text = String::from_utf8_lossy(&text[..n]);
        let release = text.split(['\0', ' ']).next().unwrap_or_default();
        Ok(release.to_owned())
    };
    read().with_context(|| kernel.display().to_string())
}
