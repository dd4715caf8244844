// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A region in a device-dax device: through FUSE, by the kernel module, refused with a reason where somebody
//! else has it, and in the next kernel.

use super::module_mount::{refuse, served_by, unmount};
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};

const DEVICE: &str = "/dev/dax0.0";

/// What `ndctl create-namespace -f -e namespace0.0 -m devdax` does: the namespace is taken from the driver of
/// block devices and given to that of device-dax, with its struct pages in the region's own first MiB.
const MAKE: &str = "
    cd /sys/bus/nd
    echo namespace0.0 > drivers/nd_pmem/unbind
    dax=$(cat devices/region0/dax_seed)
    echo 2097152 > devices/$dax/align
    cat /proc/sys/kernel/random/uuid > devices/$dax/uuid
    echo pmem > devices/$dax/mode
    echo namespace0.0 > devices/$dax/namespace
    echo $dax > drivers/dax_pmem/bind
    [ -c /dev/dax0.0 ]";
const BACK: &str = "echo dax0.0 > /sys/bus/dax/drivers/device_dax/bind";

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let boot = |pattern: &str| -> Result<Boot> {
        let release = kernels.release(pattern)?;
        let module = kmod::module(lab.cache(), kernels, release)?;
        Ok(Boot::new(release)
            .region(Region::pmem(Size::mib(256)))
            .file("usr/lib/rpramfs.ko", &module))
    };
    let (old, new) = (boot("7.x-1")?, boot("7.x")?);
    let guest = lab.boot(&old)?;
    guest.run(MAKE)?;
    fuse(&guest)?;
    guest.run("insmod /usr/lib/rpramfs.ko")?;
    module(&guest)?;

    // What the next kernel finds at the beginning of the namespace says that it is one for device-dax.
    guest.run(format!(
        "mount -t rpramfs -o kernel {DEVICE} /mnt && cp /bin/busybox /mnt && sha256sum /mnt/busybox"
    ))?;
    let sum = guest.run("sha256sum < /mnt/busybox")?;
    lab.kexec_load(&guest, &new)?;
    lab.kexec(&guest)?;
    guest.run(format!(
        "[ -c {DEVICE} ] && fsck.rpramfs -n {DEVICE} && mount -t rpramfs label=dax /mnt"
    ))?;
    served_by(&guest, "fuse.rpramfs")?;
    let again = guest.run("sha256sum < /mnt/busybox")?;
    ensure!(sum == again, "{sum} has become {again}");
    unmount(&guest)?;
    guest.run("insmod /usr/lib/rpramfs.ko")?;
    module(&guest)?;
    let log = guest.run("dmesg")?;
    ensure!(
        !log.contains("WARNING: ") && !log.contains("BUG: "),
        "{log}"
    );
    guest.check()
}

fn fuse(guest: &Guest) -> Result<()> {
    refuse(
        guest,
        &format!("mount -t rpramfs {DEVICE} /mnt"),
        32,
        &["no RP-RAMFS"],
    )?;
    guest.run(format!(
        "mkfs.rpramfs -q -L dax {DEVICE} && mount -t rpramfs {DEVICE} /mnt && echo 1 > /mnt/one"
    ))?;
    served_by(guest, "fuse.rpramfs")?;
    for command in ["mkfs.rpramfs -f", "fsck.rpramfs -p"] {
        refuse(
            guest,
            &format!("{command} {DEVICE}"),
            8,
            &["mounted on /mnt"],
        )?;
    }
    // Its memory, by the address.
    let range = "$(cat /sys/bus/dax/devices/dax0.0/resource)+128M";
    refuse(
        guest,
        &format!("mkfs.rpramfs {range}"),
        8,
        &["claimed by", "dax0.0"],
    )?;
    // A daemon that is killed leaves what any crash leaves.
    guest.run("kill -9 $(pidof @mount.rpramfs) && umount -l /mnt")?;
    guest.run(format!(
        "sleep 0.2; fsck.rpramfs -n {DEVICE} && mount -t rpramfs -o ro label=dax /mnt && grep -q 1 /mnt/one"
    ))?;
    unmount(guest)
}

/// With the module loaded.
fn module(guest: &Guest) -> Result<()> {
    let mount = format!("mount -v -t rpramfs -o kernel {DEVICE}");
    // Without being asked to, nobody takes a device from its driver.
    guest.run(format!(
        "mkdir -p /second && mount -t rpramfs {DEVICE} /mnt"
    ))?;
    served_by(guest, "fuse.rpramfs")?;
    refuse(guest, &format!("{mount} /second"), 32, &[DEVICE])?;
    unmount(guest)?;
    let said = guest.run(format!("{mount} /mnt 2>&1"))?;
    served_by(guest, "rpramfs")?;
    ensure!(
        said.contains("taken from device_dax") && said.contains(BACK),
        "{said}"
    );
    guest.run("grep -q 1 /mnt/one && echo 2 > /mnt/two")?;
    for (command, code) in [("mkfs.rpramfs -f", 8), ("fsck.rpramfs -p", 8)] {
        let words = ["mounted on /mnt by the kernel module"];
        refuse(guest, &format!("{command} {DEVICE}"), code, &words)?;
    }
    for options in ["fuse", "defaults", "kernel"] {
        refuse(
            guest,
            &format!("mount -t rpramfs -o {options} {DEVICE} /second"),
            32,
            &["mounted on /mnt"],
        )?;
    }
    for source in [DEVICE, "label=dax"] {
        let again = guest.run(format!("mount -t rpramfs -o kernel {source} /mnt 2>&1"))?;
        ensure!(
            again.contains("mounted on /mnt already"),
            "{source}: {again}"
        );
    }
    unmount(guest)?;
    // Nobody has it: the module may, and all others say what to do.
    for command in ["mkfs.rpramfs -f", "fsck.rpramfs -p"] {
        refuse(
            guest,
            &format!("{command} {DEVICE}"),
            8,
            &["no driver", BACK],
        )?;
    }
    refuse(
        guest,
        &format!("mount -t rpramfs {DEVICE} /mnt"),
        32,
        &["no driver", BACK],
    )?;
    guest.run(format!("{mount} /mnt && grep -q 2 /mnt/two"))?;
    served_by(guest, "rpramfs")?;
    unmount(guest)?;
    guest
        .run(format!("{BACK} && fsck.rpramfs -n {DEVICE}"))
        .context("given back")
        .map(drop)
}
