// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup checkpoint` and `kup restore` under one kernel: what the processes hold is the same.

use crate::apps::digest;
use crate::apps::redis::Redis;
use crate::kmod;
use crate::lab::{Boot, Lab, Region, Size};
use anyhow::{ensure, Result};

const MODULE: &str = "usr/lib/rpramfs.ko";
const KEYS: usize = 60_000;

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?;
    let region = Region::reserved(Size::gib(1));
    let boot = Boot::new(release)
        .region(region)
        .network()
        .file(MODULE, &kmod::module(lab.cache(), kernels, release)?);
    let guest = lab.boot(&boot)?;
    guest.network_up()?;
    guest.run(format!(
        "insmod /{MODULE} && mkfs.rpramfs -q '{0}' && mkdir -p /mnt && mount -t rpramfs '{0}' /mnt",
        region.spec()
    ))?;
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    guest.run(
        "cd / && setsid redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no \
         </dev/null >/dev/null 2>&1 &",
    )?;
    let host = guest.address()?;
    Redis::connect(host)?.fill(7, KEYS, 2900)?;
    let before = digest(&Redis::connect(host)?.items("key:")?);
    println!("{}", guest.run("kup check")?);
    let said = guest
        .command("kup checkpoint redis --pid $(pidof redis-server) 2>&1; du -sh /mnt/kup")
        .timeout(180)
        .run()?;
    println!("{said}");
    let said = guest
        .command("kup restore --wait redis 2>&1 || { cat /mnt/kup/redis/log/*; exit 1; }; kup list; cat /mnt/kup/redis/drain.json")
        .timeout(180)
        .run()?;
    println!("{said}");
    let after = digest(&Redis::connect(host)?.items("key:")?);
    ensure!(before == after, "the keys differ");
    guest.check()
}
