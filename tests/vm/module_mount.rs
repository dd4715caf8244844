// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `mount -t rpramfs` where there is a kernel module: who serves which mount, what is refused and with
//! which words, and that nobody touches what another has.

use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};

const REGION: &str = "0x100000000+64M";
/// Behind it, and no multiple of 2 MiB.
const ODD: &str = "0x104001000+16M";
/// Behind that, and not formatted.
const EMPTY: &str = "0x108000000+16M";

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?;
    let module = kmod::module(lab.cache(), kernels, release)?;
    let place = format!("lib/modules/{release}/rpramfs.ko");
    let boot = Boot::new(release)
        .region(Region::reserved(Size::mib(256)))
        .memory(Size::gib(3))
        .argument("memmap=128M!0x120000000")
        .file(&place, &module);
    let guest = lab.boot(&boot)?;
    let all = || -> Result<()> {
        guest.run(format!(
            "mkfs.rpramfs -q -L images {REGION} && mkfs.rpramfs -q {ODD}"
        ))?;
        without(&guest)?;
        // From now on the helper loads it.
        guest.run(
            "echo rpramfs.ko: > /lib/modules/$(uname -r)/modules.dep && \
             ln -s /usr/bin/busybox /usr/sbin/modprobe",
        )?;
        chosen(&guest)?;
        refused(&guest)?;
        held(&guest)?;
        remounted(&guest)?;
        fstab(&guest)?;
        held_by_fuse(&guest)?;
        device(&guest)
    };
    all().with_context(|| guest.run("dmesg | tail -40").unwrap_or_default())?;
    let log = guest.run("dmesg")?;
    ensure!(
        !log.contains("WARNING: ") && !log.contains("BUG: "),
        "{log}"
    );
    guest.check()
}

/// A device is taken from its driver where that is asked for, and only if it holds what is to be mounted.
fn device(guest: &Guest) -> Result<()> {
    let mount = "mount -v -t rpramfs -o kernel /dev/pmem0";
    refuse(guest, &format!("{mount} /mnt"), 32, &["/dev/pmem0"])?;
    guest.run(
        "mkfs.rpramfs -q /dev/pmem0 && mount -t rpramfs /dev/pmem0 /mnt && echo 1 > /mnt/one",
    )?;
    served_by(guest, "fuse.rpramfs")?;
    refuse(guest, &format!("{mount} /second"), 32, &["/dev/pmem0"])?;
    guest.run("grep -q 1 /mnt/one")?;
    unmount(guest)?;
    // Neither of the two has made the device go.
    let said = says(guest, &format!("{mount} /mnt"))?;
    served_by(guest, "rpramfs")?;
    ensure!(said.contains("taken from nd_pmem"), "{said}");
    let back = said.split("once unmounted, ").nth(1);
    let back = back.and_then(|rest| rest.split(" gives it back").next());
    let back = back.with_context(|| said.clone())?;
    guest.run("[ ! -e /dev/pmem0 ] && grep -q 1 /mnt/one && echo 2 > /mnt/two")?;
    let again = says(guest, &format!("{mount} /mnt"))?;
    ensure!(again.contains("mounted on /mnt already"), "{again}");
    unmount(guest)?;
    guest.run(format!("{back} && fsck.rpramfs -n /dev/pmem0"))?;
    guest.run("mount -t rpramfs /dev/pmem0 /mnt && grep -q 2 /mnt/two")?;
    unmount(guest)
}

/// No module: FUSE, or an error that says what to do.
fn without(guest: &Guest) -> Result<()> {
    refuse(
        guest,
        &format!("mount -t rpramfs -o kernel {REGION} /mnt"),
        32,
        &["is not loaded", "modprobe", "FUSE"],
    )?;
    let said = says(guest, &format!("mount -v -t rpramfs {REGION} /mnt"))?;
    ensure!(
        said.contains("mounted through FUSE: the kernel module is not there"),
        "{said}"
    );
    served_by(guest, "fuse.rpramfs")?;
    unmount(guest)
}

/// Who serves what.
fn chosen(guest: &Guest) -> Result<()> {
    let said = says(guest, &format!("mount -v -t rpramfs {REGION} /mnt"))?;
    ensure!(said.contains("mounted by the kernel module"), "{said}");
    served_by(guest, "rpramfs")?;
    ensure!(
        guest.run("findmnt -n -o SOURCE /mnt")?.trim() == REGION,
        "the source of the mount"
    );
    guest.run("echo by the module > /mnt/who")?;
    unmount(guest)?;
    guest.run(format!(
        "mount -t rpramfs -o fuse {REGION} /mnt && grep -q module /mnt/who"
    ))?;
    served_by(guest, "fuse.rpramfs")?;
    unmount(guest)?;
    let uuid = guest.run(format!(
        "rpramfs stat --json {REGION} | sed -n 's/.*\"uuid\": \"\\(.*\\)\".*/\\1/p'"
    ))?;
    for source in ["label=images", &format!("uuid={}", uuid.trim()), "64M$4G"] {
        guest.run(format!("mount -t rpramfs -o kernel '{source}' /mnt"))?;
        served_by(guest, "rpramfs")?;
        unmount(guest)?;
    }
    // Owner and mode of the root directory, whoever serves it.
    let root = "uid=5,gid=6,mode=1770";
    for (option, kind) in [("kernel", "rpramfs"), ("fuse", "fuse.rpramfs")] {
        guest.run(format!("mount -t rpramfs -o {option},{root} {REGION} /mnt"))?;
        served_by(guest, kind)?;
        let stat = guest.run("stat -c '%u %g %a' /mnt")?;
        ensure!(stat.trim() == "5 6 1770", "{option}: {stat}");
        guest.run("chown 0:0 /mnt && chmod 755 /mnt")?;
        unmount(guest)?;
    }
    let flags = "noexec,noatime,ro";
    guest.run(format!("mount -t rpramfs -o {flags} {REGION} /mnt"))?;
    let shown = guest.run("findmnt -n -o OPTIONS /mnt")?;
    for flag in ["noexec", "noatime", "ro", "nosuid", "nodev"] {
        ensure!(
            shown.trim().split(',').any(|f| f == flag),
            "{flag}: {shown}"
        );
    }
    unmount(guest)?;
    // What only a daemon can do, asks for one; what only makes a difference in speed, does not.
    guest.run(format!("mount -t rpramfs -o noallow_other {REGION} /mnt"))?;
    served_by(guest, "fuse.rpramfs")?;
    unmount(guest)?;
    let said = says(
        guest,
        &format!("mount -t rpramfs -o threads=3 {REGION} /mnt"),
    )?;
    ensure!(said.contains("threads= is without effect"), "{said}");
    served_by(guest, "rpramfs")?;
    unmount(guest)?;
    // Nor can the module have a region that begins anywhere, or a file.
    let said = says(guest, &format!("mount -v -t rpramfs {ODD} /mnt"))?;
    ensure!(
        said.contains("through FUSE") && said.contains("2 MiB"),
        "{said}"
    );
    served_by(guest, "fuse.rpramfs")?;
    unmount(guest)?;
    let said = says(guest, &format!("mount.rpramfs -f -v {REGION} /mnt"))?;
    ensure!(
        said.contains("would be mounted on /mnt by the kernel module"),
        "{said}"
    );
    // In another namespace.
    guest.run(format!(
        "unshare -m sleep 60 & pid=$!; sleep 0.5; mount -N $pid -t rpramfs {REGION} /mnt && \
         ! mountpoint -q /mnt && grep -q ' /mnt rpramfs ' /proc/$pid/mounts; result=$?; \
         kill $pid; wait; exit $result"
    ))?;
    free(guest)
}

/// With the kernel's own words.
fn refused(guest: &Guest) -> Result<()> {
    for (options, source, code, words) in [
        (
            "defaults",
            EMPTY,
            32,
            &["no RP-RAMFS here", "mkfs.rpramfs"][..],
        ),
        ("defaults", "0x10000000+64M", 32, &["System RAM", "memmap="]),
        ("defaults", "0x100000000+32M", 32, &["too small", "length"]),
        ("kernel", ODD, 32, &["multiples of 2 MiB", "FUSE"]),
        ("kernel", "label=nowhere", 32, &["no such region"]),
        ("kernel", "/dev/null", 32, &["no device-dax"]),
        ("kernel", "/usr/bin/busybox", 32, &["no physical memory"]),
        ("kernel,threads=2", REGION, 1, &["threads="]),
        ("kernel,foreground", REGION, 1, &["foreground"]),
    ] {
        let command = format!("mount -t rpramfs -o {options} {source} /mnt");
        refuse(guest, &command, code, words)?;
        ensure!(
            !guest.command("mountpoint -q /mnt").output()?.success(),
            "{command}: mounted"
        );
    }
    Ok(())
}

/// While the module has it, nobody else gets it, and it is mounted once.
fn held(guest: &Guest) -> Result<()> {
    guest.run(format!(
        "mkdir -p /second && mount -t rpramfs {REGION} /mnt && echo kept > /mnt/kept"
    ))?;
    let where_it_is = ["mounted on /mnt by the kernel module", "umount /mnt"];
    for source in [REGION, "label=images"] {
        for (command, code) in [
            ("mkfs.rpramfs", 8),
            ("mkfs.rpramfs -f", 8),
            ("fsck.rpramfs -n", 8),
            ("fsck.rpramfs -y", 8),
            ("rpramfs tune -L new", 8),
            ("rpramfs stat", 8),
        ] {
            refuse(guest, &format!("{command} {source}"), code, &where_it_is)?;
        }
        for options in ["fuse", "defaults", "kernel", "ro"] {
            refuse(
                guest,
                &format!("mount -t rpramfs -o {options} {source} /second"),
                32,
                &where_it_is,
            )?;
        }
        // Where it is already, it is left as it is.
        let said = says(guest, &format!("mount.rpramfs {source} /mnt"))?;
        ensure!(said.contains("already"), "{said}");
    }
    // Part of it.
    refuse(
        guest,
        "mkfs.rpramfs -f 0x100000000+32M",
        8,
        &["overlaps", "mounted on /mnt"],
    )?;
    let count = guest.run("grep -c ' rpramfs ' /proc/mounts")?;
    ensure!(count.trim() == "1", "{count} mounts");
    guest.run("grep -q kept /mnt/kept")?;
    // Detached, with a user left.
    guest.run(
        "sleep 60 </mnt/kept >/dev/null 2>&1 & echo $! > /tmp/user; sleep 0.2; umount -l /mnt",
    )?;
    refuse(
        guest,
        &format!("mount -t rpramfs {REGION} /mnt"),
        32,
        &["not on a directory seen here", "umount -l"],
    )?;
    guest.run("kill $(cat /tmp/user)")?;
    free(guest)?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    Ok(())
}

fn remounted(guest: &Guest) -> Result<()> {
    guest.run(format!("mount -t rpramfs {REGION} /mnt"))?;
    for remount in [
        "mount -o remount,ro /mnt",
        &format!("mount -t rpramfs -o remount,ro {REGION} /mnt"),
        "busybox mount -o remount,ro /mnt",
    ] {
        guest.run(remount)?;
        refuse(guest, "echo 2 > /mnt/last", 2, &["Read-only"])?;
        guest.run("mount -o remount,rw /mnt && echo 1 > /mnt/last")?;
    }
    guest.run("mount -o remount,ro /mnt")?;
    unmount(guest)
}

/// By its line in /etc/fstab; a second time there is nothing to do.
fn fstab(guest: &Guest) -> Result<()> {
    for source in ["label=images", REGION, "4G+64M"] {
        let line = format!("{source} /mnt rpramfs noatime,nofail 0 0\n");
        guest.push("/etc/fstab", line)?;
        for mount in ["mount /mnt", "mount -a"] {
            guest.run(mount).with_context(|| source.to_owned())?;
            served_by(guest, "rpramfs")?;
            guest.run("mount -a && mount -o remount,ro /mnt && mount -o remount,rw /mnt")?;
            served_by(guest, "rpramfs")?;
            unmount(guest)?;
        }
    }
    guest.push("/etc/fstab", "")
}

/// The module does not take it from a daemon that lives, which goes on.
fn held_by_fuse(guest: &Guest) -> Result<()> {
    guest.run(format!(
        "mount -t rpramfs -o fuse {REGION} /mnt && head -c 5000000 /dev/urandom > /mnt/data && \
         md5sum /mnt/data > /tmp/sum"
    ))?;
    for source in [REGION, "label=images"] {
        for options in ["defaults", "kernel", "kernel,ro"] {
            refuse(
                guest,
                &format!("mount -t rpramfs -o {options} {source} /second"),
                32,
                &["is mounted by process", "unmount it there first"],
            )?;
        }
    }
    refuse(
        guest,
        &format!("mount -i -t rpramfs {REGION} /second"),
        32,
        &[],
    )?;
    guest.run("md5sum -c /tmp/sum && echo on > /mnt/on && rm /mnt/data")?;
    served_by(guest, "fuse.rpramfs")?;
    unmount(guest)?;
    // Nor does it need help where the daemon was killed.
    guest.run(format!(
        "mount -t rpramfs -o fuse {REGION} /mnt && echo 1 > /mnt/killed && \
         kill -9 $(pidof @mount.rpramfs) && umount -l /mnt"
    ))?;
    free(guest)?;
    guest.run(format!(
        "mount -t rpramfs {REGION} /mnt && grep -q 1 /mnt/killed"
    ))?;
    served_by(guest, "rpramfs")?;
    unmount(guest)?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    Ok(())
}

/// One mount, of this type.
pub fn served_by(guest: &Guest, kind: &str) -> Result<()> {
    let found = guest.run("awk '$2 == \"/mnt\" { print $3 }' /proc/mounts")?;
    ensure!(found.trim() == kind, "mounted as {found:?}, not {kind}");
    Ok(())
}

pub fn unmount(guest: &Guest) -> Result<()> {
    guest.run("umount /mnt")?;
    free(guest)
}

/// Nobody has the region any more, soon.
fn free(guest: &Guest) -> Result<()> {
    guest.run(
        "for i in $(seq 100); do
             pidof @mount.rpramfs >/dev/null || grep -q ': rpramfs$' /proc/iomem || exit 0
             sleep 0.05
         done; exit 1",
    )?;
    Ok(())
}

/// What a command that succeeds says.
fn says(guest: &Guest, command: &str) -> Result<String> {
    guest.run(format!("{command} 2>&1"))
}

pub fn refuse(guest: &Guest, command: &str, code: i32, words: &[&str]) -> Result<()> {
    let script = format!("({command}) >/tmp/said 2>&1; echo $?; cat /tmp/said");
    let output = guest.run(script)?;
    let (status, said) = output.split_once('\n').context("no exit status")?;
    ensure!(
        status == code.to_string(),
        "`{command}`: exit status {status}, not {code}: {said}"
    );
    for word in words {
        ensure!(
            said.contains(word),
            "`{command}`: not a word of `{word}`: {said}"
        );
    }
    Ok(())
}
