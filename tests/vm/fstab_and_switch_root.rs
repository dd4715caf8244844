// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The life of a mount in a system: from /etc/fstab, from an initramfs over switch_root into the
//! real root, ended by umount, by a signal or by a kill, and in the order of a shutdown. However it
//! ends, the region is whole.

use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{bail, ensure, Context, Result};
use std::time::{Duration, Instant};

const REGION: &str = "0x100000000+256M";
const CLEAN: &str = "fsck.rpramfs -n 0x100000000+256M";

pub fn run(lab: &Lab) -> Result<()> {
    let boot = Boot::new("6.12").region(Region::reserved(Size::mib(256)));
    let guest = lab.boot(&boot)?;
    guest.run(format!("mkfs.rpramfs -q -L images {REGION}"))?;
    fstab(&guest)?;
    terminated(&guest)?;
    killed(&guest)?;
    shut_down(&guest)?;
    switched_root(&guest)?;
    guest.check()
}

/// By its line in /etc/fstab, with label, UUID or address.
fn fstab(guest: &Guest) -> Result<()> {
    let uuid =
        format!("rpramfs stat --json {REGION} | sed -n 's/.*\"uuid\": \"\\(.*\\)\".*/\\1/p'");
    let uuid = guest.run(uuid)?;
    let uuid = format!("uuid={}", uuid.trim());
    for source in ["label=images", &uuid, REGION] {
        let line = format!("{source} /mnt rpramfs defaults,nofail 0 0");
        guest.push("/etc/fstab", line + "\n")?;
        for mount in ["mount /mnt", "mount -a"] {
            guest.run(mount).with_context(|| source.to_owned())?;
            let found = guest.run("findmnt -n -o SOURCE,FSTYPE,OPTIONS /mnt")?;
            let found: Vec<&str> = found.split_whitespace().collect();
            ensure!(found[..2] == [source, "fuse.rpramfs"], "findmnt: {found:?}");
            for option in ["rw", "nosuid", "nodev", "allow_other"] {
                ensure!(found[2].split(',').any(|o| o == option), "{found:?}");
            }
            // A second `mount -a` has nothing to do.
            guest.run("mount -a")?;
            guest.run(format!(
                "echo {source} > /mnt/file; grep -q {source} /mnt/file"
            ))?;
            let holder = holder(guest)?;
            ensure!(
                holder.contains(&format!("process {}", daemon(guest)?)),
                "{holder}"
            );
            guest.run("umount /mnt")?;
            is_over(guest, "umount")?;
            ensure!(self::holder(guest)? == "nobody", "the marker is left");
            guest.run(CLEAN)?;
        }
    }
    // One that is not there does not keep a system from booting.
    guest.push(
        "/etc/fstab",
        "label=nowhere /mnt rpramfs defaults,nofail 0 0\n",
    )?;
    let absent = guest.command("mount /mnt").output()?;
    ensure!(
        !absent.success() && absent.stderr().contains("no such region"),
        "{absent:?}"
    );
    guest.push("/etc/fstab", "")
}

fn terminated(guest: &Guest) -> Result<()> {
    mount(guest)?;
    guest.run("echo before > /mnt/term && kill $(pidof @mount.rpramfs)")?;
    is_over(guest, "SIGTERM")?;
    ensure!(holder(guest)? == "nobody", "the marker is left");
    guest.run(CLEAN)?;
    // With a user in it, it leaves the tree at once and ends with the last one.
    mount(guest)?;
    guest
        .run("(cd /mnt; exec sleep 300 3<term) >/dev/null 2>&1 </dev/null & echo $! > /tmp/user")?;
    guest
        .run("until [ \"$(readlink /proc/$(cat /tmp/user)/cwd)\" = /mnt ]; do sleep 0.05; done")?;
    guest.run("kill $(pidof @mount.rpramfs); while mountpoint -q /mnt; do sleep 0.05; done")?;
    guest.run("kill $(cat /tmp/user)")?;
    is_over(guest, "the last user's end")?;
    ensure!(holder(guest)? == "nobody", "the marker is left");
    guest.run(CLEAN).map(drop)
}

/// Nothing that was written is lost with the daemon, and the next mount needs no repair.
fn killed(guest: &Guest) -> Result<()> {
    mount(guest)?;
    let write = "i=0; while echo $i > /mnt/w/$i && echo $i > /tmp/last; do i=$((i+1)); done";
    guest.run("mkdir /mnt/w && head -c 3000000 /dev/urandom > /tmp/big && cp /tmp/big /mnt/big")?;
    guest.run(format!("({write}) >/dev/null 2>&1 </dev/null &"))?;
    guest.run("sleep 1; kill -9 $(pidof @mount.rpramfs)")?;
    // The dead mount is still in the tree; a new one needs no help to take the region over.
    let gone = guest.command("ls /mnt").output()?;
    ensure!(!gone.success(), "a mount without its daemon: {gone:?}");
    let holder = holder(guest)?;
    ensure!(holder.contains("no longer alive"), "{holder}");
    guest.run(format!(
        "mkdir -p /again && mount -t rpramfs {REGION} /again"
    ))?;
    let last: u64 = guest.run("cat /tmp/last")?.trim().parse()?;
    println!("killed while file {last} was written");
    ensure!(last >= 10, "only {last} files written");
    guest.run(format!(
        "cmp /tmp/big /again/big && for i in $(seq 0 {last}); do [ $(cat /again/w/$i) = $i ] || exit 1; done"
    ))?;
    guest.run("umount /again && umount /mnt")?;
    is_over(guest, "umount")?;
    guest.run(CLEAN)?;
    // Without any new mount in between, too.
    mount(guest)?;
    guest.run("rm -r /mnt/w /mnt/big && cp /tmp/big /mnt/big & sleep 0.3; kill -9 $(pidof @mount.rpramfs)")?;
    guest.run("umount -l /mnt")?;
    is_over(guest, "SIGKILL")?;
    guest.run(CLEAN).map(drop)
}

/// What systemd-shutdown does to what is left: all read-only, then unmount, then kill.
fn shut_down(guest: &Guest) -> Result<()> {
    mount(guest)?;
    guest.run("echo 1 > /mnt/last")?;
    // By mount(8), and by the system call alone.
    let again = format!("mount -t rpramfs -o remount,ro {REGION} /mnt");
    for remount in [
        "mount -o remount,ro /mnt",
        &again,
        "busybox mount -o remount,ro /mnt",
    ] {
        guest.run(remount)?;
        let write = guest.command("echo 2 > /mnt/last").output()?;
        ensure!(
            !write.success() && write.stderr().contains("Read-only"),
            "{remount}: {write:?}"
        );
        guest.run("busybox mount -o remount,rw /mnt && echo 1 > /mnt/last")?;
    }
    guest.run("mount -o remount,ro /mnt")?;
    guest.run("grep -q 1 /mnt/last && umount /mnt")?;
    is_over(guest, "umount")?;
    guest.run(CLEAN)?;
    // The unmount failed for a user who stays: then the kill.
    mount(guest)?;
    guest.run("sleep 300 </mnt/last >/dev/null 2>&1 & echo $! > /tmp/user; sleep 0.2")?;
    guest.run("mount -o remount,ro /mnt; ! umount /mnt 2>/dev/null")?;
    guest.run("kill $(pidof @mount.rpramfs); sleep 0.2; kill -9 $(pidof @mount.rpramfs)")?;
    guest.run("kill $(cat /tmp/user); umount -l /mnt 2>/dev/null || true")?;
    is_over(guest, "SIGKILL")?;
    guest.run(CLEAN).map(drop)
}

/// Mounted in an initramfs, used in the system. The initramfs is a tree of its own here, for the
/// lab's agent lives in the real one; busybox's switch_root deletes all of it.
fn switched_root(guest: &Guest) -> Result<()> {
    guest
        .command(
            "for root in /initramfs /system; do
             mkdir $root && mount -t tmpfs -o size=256M tmpfs $root && cd $root || exit 1
             cp -a /bin /etc /init /lib /lib64 /sbin /usr . || exit 1
             mkdir dev proc sys run tmp mnt new
         done
         cd /initramfs
         for dir in dev proc sys run; do mount --rbind /$dir $dir || exit 1; done
         mount --move /system new",
        )
        .run()?;
    guest.run(format!(
        "chroot /initramfs sh -c 'mount -t rpramfs {REGION} /mnt && echo initramfs > /mnt/who'"
    ))?;
    let before = daemon(guest)?;
    // Its namespace of processes makes it PID 1, as which alone switch_root works.
    guest.run(
        "cd /initramfs && for dir in dev proc sys run mnt; do mount --move $dir new/$dir || exit 1; done
         chroot . unshare --pid --fork switch_root /new /bin/sleep 1000 </dev/null >/dev/null 2>&1 &
         for i in $(seq 100); do pidof sleep >/dev/null && exit 0; sleep 0.1; done; exit 1",
    )?;
    let system = "chroot /proc/$(pidof sleep)/root";
    let gone = format!("! [ -e /proc/{before}/root/init ]");
    guest.run(gone).context("the initramfs is still there")?;
    ensure!(daemon(guest)? == before, "another daemon");
    guest.run(format!("grep -q '^@' /proc/{before}/cmdline"))?;
    guest.run(format!(
        "{system} sh -c 'grep initramfs /mnt/who && echo system > /mnt/who && grep system /mnt/who \
         && findmnt -n /mnt && df /mnt && cp /bin/busybox /mnt/ && cmp /bin/busybox /mnt/busybox'"
    ))?;

    // The daemon, whose own root is an empty directory by now, ends as cleanly.
    guest.run(format!("kill {before}"))?;
    is_over(guest, "SIGTERM after switch_root")?;
    let still = guest
        .command(format!("{system} mountpoint -q /mnt"))
        .output()?;
    ensure!(!still.success(), "a dead mount is left");
    ensure!(holder(guest)? == "nobody", "the marker is left");
    guest.run(CLEAN)?;
    guest.run(format!(
        "{system} sh -c 'mount -t rpramfs {REGION} /mnt && grep system /mnt/who && umount /mnt'"
    ))?;
    is_over(guest, "umount in the system")?;
    guest.run(CLEAN).map(drop)
}

fn mount(guest: &Guest) -> Result<()> {
    guest
        .run(format!("mount -t rpramfs {REGION} /mnt"))
        .map(drop)
}

fn daemon(guest: &Guest) -> Result<String> {
    let pid = guest.run("pidof @mount.rpramfs")?;
    Ok(pid.trim().to_owned())
}

/// Who has the region, by its marker.
fn holder(guest: &Guest) -> Result<String> {
    let stat = guest.run(format!("rpramfs stat --json {REGION}"))?;
    let stat: serde_json::Value = serde_json::from_str(&stat)?;
    let holder = stat["holder"].as_str().context("no holder in the report")?;
    Ok(holder.to_owned())
}

/// The daemon has ended, soon.
fn is_over(guest: &Guest, why: &str) -> Result<()> {
    let start = Instant::now();
    while guest.command("pidof @mount.rpramfs").output()?.success() {
        if start.elapsed() > Duration::from_secs(10) {
            bail!("the daemon lives on after {why}");
        }
    }
    Ok(())
}
