// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! From the oldest kernel we care for, Debian 12's 6.1, into the newest: all that was written is
//! there, though the old kernel was left with the filesystem mounted.

use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Result};

const REGION: &str = "0x100000000+256M";
/// One line for everything in the tree: type, mode, owner, size and time; targets; contents;
/// attributes.
const LIST: &str = "
    set -e; cd /mnt
    find . -exec stat -c '%F %a %u %g %h %s %Y %t:%T %N' {} + | sort
    find . -type f -size -1000000000k -exec md5sum {} + | sort -k 2
    find . -type f -o -type d | sort > /tmp/names
    xargs /usr/bin/getfattr -d -m - < /tmp/names
    xargs getfacl < /tmp/names";

pub fn run(lab: &Lab) -> Result<()> {
    let old = Boot::new("6.1").region(Region::reserved(Size::mib(256)));
    let new = old.with_kernel("7.x");
    lab.prepare(&new)?;
    let guest = lab.boot(&old)?;
    let from = guest.release();
    ensure!(from.starts_with("6.1."), "that is {from}");
    guest.run(format!("mkfs.rpramfs -q -L carried {REGION}"))?;
    guest.run(format!("mount -t rpramfs {REGION} /mnt"))?;
    fill(&guest)?;
    let before = guest.run(LIST)?;
    ensure!(before.lines().count() > 300, "what was written:\n{before}");

    lab.kexec_load(&guest, &new)?;
    let (hello, seconds) = lab.kexec(&guest)?;
    println!("{from} → {} in {seconds:.1} s", hello.release);
    ensure!(hello.release.starts_with("7."), "still {}", hello.release);
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    guest.run("mount -t rpramfs label=carried /mnt")?;
    let after = guest.run(LIST)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    fill(&guest)?;
    guest.run("umount /mnt")?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    guest.check()
}

/// A tree with something of everything.
fn fill(guest: &Guest) -> Result<()> {
    let script = "
        set -e
        dir=$(mktemp -d -p /mnt); cd $dir
        head -c 20000000 /dev/urandom > big
        mkdir many deep
        for i in $(seq 200); do echo $i > many/$i; done
        ln many/1 hard; ln -s many/2 soft; ln -s $(seq -s / 100) long
        mkfifo fifo; mknod null c 1 3
        truncate -s 20480G sparse; echo end >> sparse
        setfattr -n user.small -v value many/3
        setfattr -n user.large -v $(head -c 3000 /dev/zero | tr '\\0' x) many/3
        setfacl -m u:one:rwx,d:u:two:r deep
        chown 1001:1002 many/4; chmod 4751 many/4; touch -d '2001-02-03 04:05:06' many/5
        rm many/6; mv many/7 deep/seven";
    guest.run(script).map(drop)
}
