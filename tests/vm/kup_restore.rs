// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup checkpoint` and `kup restore` under one kernel: what the processes hold is the same.

use super::redis_guest;
use crate::lab::Lab;
use anyhow::{ensure, Result};

const KEYS: usize = 60_000;

pub fn run(lab: &Lab) -> Result<()> {
    let guest = lab.boot(&redis_guest::boot(lab)?.network())?;
    redis_guest::mount_new(&guest)?;
    redis_guest::start(&guest, KEYS)?;
    let before = redis_guest::items(&guest)?;
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
    ensure!(before == redis_guest::items(&guest)?, "the keys differ");
    guest.check()
}
