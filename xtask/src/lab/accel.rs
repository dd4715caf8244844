// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Whether KVM works here. `/dev/kvm` may be there and guests hang all the same, so one is booted,
//! with a time limit, and the answer kept until the machine changes.

use super::cache::{key, Cache};
use super::qemu::{self, Machine};
use super::region::Size;
use anyhow::{bail, Result};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Tcg,
}

impl Accel {
    pub fn option(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg,thread=multi",
        }
    }

    /// TCG emulates `rep movsb` much more slowly than plain moves: do not offer it.
    pub fn cpu(self) -> &'static str {
        match self {
            Accel::Kvm => "host",
            Accel::Tcg => "max,erms=off,fsrm=off",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG",
        }
    }
}

/// Chooses by `$RPRAMFS_ACCEL` (`kvm` or `tcg`), or by trying.
pub fn choose(cache: &Cache, kernel: &Path, initrd: &Path) -> Result<Accel> {
    match std::env::var("RPRAMFS_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) if !other.is_empty() => bail!("RPRAMFS_ACCEL={other}: kvm or tcg"),
        _ => {}
    }
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let qemu = crate::host::stdout(&mut crate::host::command(
        "qemu-system-x86_64",
        ["--version"],
    ))?;
    let machine = key([read("/etc/machine-id"), model.to_owned(), release, qemu]);
    let answer = cache.get(&format!("kvm-{machine}"), |path| {
        println!("lab: /dev/kvm is there: trying whether a guest boots with it (up to 15 s)");
        let works = boots(kernel, initrd)?;
        println!(
            "lab: KVM {}",
            if works {
                "works"
            } else {
                "does not work here: using TCG"
            }
        );
        Ok(fs::write(path, if works { "works" } else { "hangs" })?)
    })?;
    Ok(if fs::read_to_string(answer)? == "works" {
        Accel::Kvm
    } else {
        Accel::Tcg
    })
}

fn boots(kernel: &Path, initrd: &Path) -> Result<bool> {
    let console = std::env::temp_dir().join(format!("rpramfs-kvm-{}.log", std::process::id()));
    let machine = Machine {
        accel: Accel::Kvm,
        kernel,
        initrd,
        append: "console=ttyS0 panic=-1",
        cpus: 1,
        memory: Size::gib(1),
        region: None,
        console: &console,
        root_disk: None,
        disk: None,
        tap: None,
        ledger: None,
        resets: false,
        terminal: false,
    };
    let (mut child, line) = qemu::start(&machine)?;
    let agent = super::agent::Agent::new(line)?;
    let deadline = Instant::now() + Duration::from_secs(15);
    let works = loop {
        if agent.hellos().0 > 0 {
            break true;
        }
        if Instant::now() > deadline || child.try_wait()?.is_some() {
            break false;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    child.wait()?;
    let _ = fs::remove_file(console);
    Ok(works)
}
