// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel module mounts what mkfs made, does what the VFS asks of it, and leaves a filesystem that is
//! clean and that FUSE shows in the same way.

use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};

const REGION: &str = "0x100000000+256M";

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    for release in kernels.series(7) {
        let module = kmod::module(lab.cache(), kernels, release)?;
        let boot = Boot::new(release)
            .region(Region::reserved(Size::mib(256)))
            .program("coreutils", "cp")
            .program("util-linux", "fallocate")
            .file("usr/lib/rpramfs.ko", &module);
        let guest = lab.boot(&boot)?;
        files(&guest).with_context(|| {
            let log = guest.run("dmesg | tail -60").unwrap_or_default();
            format!("{release}\n{log}")
        })?;
        println!("{release}: the module and FUSE agree");
    }
    Ok(())
}

fn files(guest: &Guest) -> Result<()> {
    guest.run(format!(
        "mkfs.rpramfs -q {REGION} && insmod /usr/lib/rpramfs.ko"
    ))?;
    mount(guest)?;
    guest.run(
        "cd /mnt && mkdir d && echo hello > d/a && ln d/a d/b && ln -s a d/l && mkfifo d/p && \
         dd if=/dev/urandom of=big bs=1M count=20 && cp big copy && cmp big copy && \
         mv d/a c && rm d/b && truncate -s 1000 copy && truncate -s 1000000 copy && \
         fallocate --punch-hole --offset 4096 --length 65536 big && cat d/l || ls -l d && \
         for i in $(seq 500); do echo $i > d/file-$i; done && rm d/file-*7 && sync",
    )?;
    let before = listing(guest)?;
    guest.run("cd / && umount /mnt && rmmod rpramfs")?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    guest.run(format!("mount -t rpramfs -o fuse {REGION} /mnt"))?;
    let after = listing(guest)?;
    ensure!(
        before == after,
        "the module shows\n{before}\nand FUSE\n{after}"
    );
    guest.run("umount /mnt")?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    let log = guest.run("dmesg")?;
    ensure!(
        !log.contains("WARNING: ") && !log.contains("BUG: ") && !log.contains("rpramfs: corrupt"),
        "{log}"
    );
    guest.check()
}

fn mount(guest: &Guest) -> Result<()> {
    guest.run(format!(
        "mount -i -t rpramfs {REGION} /mnt && grep ' /mnt rpramfs ' /proc/mounts"
    ))?;
    Ok(())
}

/// Names, attributes and contents.
fn listing(guest: &Guest) -> Result<String> {
    guest.run(
        "cd /mnt && find . | sort | while read f; do stat -c '%n %i %f %h %u %g %s %b %Y %Z' $f; done && \
         find . -type f | sort | xargs md5sum",
    )
}
