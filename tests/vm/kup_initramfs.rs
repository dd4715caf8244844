// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! An initramfs that initramfs-tools(7) or dracut(8) has made with our hooks keeps the place of applications: the
//! network is held, and their PIDs are kept, before any program of the root runs.

use super::services::{boot, System, REDIS};
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Context, Result};

const KERNEL: &str = "7.x";

/// Where each file goes, as README.md has it.
const FILES: &[(&str, &str)] = &[
    (
        "/usr/lib/kup/initramfs-hold",
        include_str!("../../kup/initramfs/hold"),
    ),
    (
        "/etc/initramfs-tools/hooks/kup",
        include_str!("../../kup/initramfs/initramfs-tools/hooks/kup"),
    ),
    (
        "/etc/initramfs-tools/scripts/init-premount/kup",
        include_str!("../../kup/initramfs/initramfs-tools/scripts/init-premount/kup"),
    ),
    (
        "/usr/lib/dracut/modules.d/95kup/module-setup.sh",
        include_str!("../../kup/initramfs/dracut/95kup/module-setup.sh"),
    ),
    (
        "/usr/lib/dracut/modules.d/95kup/hold.sh",
        include_str!("../../kup/initramfs/dracut/95kup/hold.sh"),
    ),
];

/// How an initramfs is made, into $initrd for kernel $release. They look for the disk's modules in directories
/// that a guest of the lab does not have.
const MAKERS: [(&str, &str); 2] = [
    (
        "initramfs-tools",
        "printf 'virtio_pci\\nvirtio_blk\\next4\\n' >> /etc/initramfs-tools/modules; mkinitramfs -o $initrd $release",
    ),
    (
        "dracut",
        "dracut --quiet --force --no-hostonly --filesystems ext4 --force-drivers 'virtio_pci virtio_blk' \
         --kver $release $initrd",
    ),
];

pub fn run(lab: &Lab) -> Result<()> {
    let boot = boot(lab, KERNEL)?
        .program("initramfs-tools-core", "mkinitramfs")
        .program("dracut-core", "dracut");
    let mut system = System::start_with(lab, boot, &[&REDIS])?;
    for (path, text) in FILES {
        system.guest.push(path, *text)?;
        system.guest.run(format!("chmod +x {path}"))?;
    }
    // An initramfs of the lab brings its agent along.
    system.guest.run(
        "cp /run/systemd/system/lab-agent.service /etc/systemd/system/ && \
         printf '[Install]\\nWantedBy=sysinit.target\\n' >> /etc/systemd/system/lab-agent.service && \
         systemctl enable -q lab-agent",
    )?;
    for (name, make) in MAKERS {
        println!("━━ {name}");
        system
            .update_by(KERNEL, &|guest, dir| initramfs(guest, dir, make))
            .context(name)?;
        is_held(&system.guest).context(name)?;
    }
    system.end().map(drop)
}

/// Has an initramfs made, and the kernel told where its root is.
fn initramfs(guest: &Guest, dir: &str, make: &str) -> Result<()> {
    let said = guest
        .command(format!(
            "release=$(uname -r) initrd=/{dir}/initrd; {make} 2>&1 || exit 1
             sed -i 's|lab.root=\\([^ ]*\\)|root=\\1 rw|' /{dir}/cmdline; cat /{dir}/cmdline; ls -l /{dir}"
        ))
        .timeout(300)
        .run()?;
    println!("{}", said.trim());
    Ok(())
}

/// By the initramfs, and so before systemd began.
fn is_held(guest: &Guest) -> Result<()> {
    let said = guest.run("dmesg | grep 'kup: initramfs: '")?;
    println!("{}", said.trim());
    ensure!(said.contains("their place is kept"), "{said}");
    let pid = guest.run("systemctl show -P MainPID systemd-udevd")?;
    ensure!(
        pid.trim().parse::<u32>()? > 100_000,
        "systemd-udevd has PID {pid}"
    );
    Ok(())
}
