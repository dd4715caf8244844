// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup checkpoint` and `kup restore` under one kernel: what redis holds is the same, and it can be emptied and filled
//! anew, when all memory has come back and while it does. (Emptied pages are zeros for an allocator: one that saw
//! what was there before would crash.)

use super::redis_guest;
use crate::apps::redis::Redis;
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Result};

const KEYS: usize = 40_000;

pub fn run(lab: &Lab) -> Result<()> {
    let guest = lab.boot(&redis_guest::boot(lab)?.network())?;
    redis_guest::mount_new(&guest)?;
    redis_guest::start(&guest, KEYS)?;
    println!("{}", guest.run("kup check")?);
    let first = redis_guest::items(&guest)?;
    let second = fill_anew(&guest, 8)?;
    ensure!(first != second, "two seeds give the same keys");

    checkpoint(&guest)?;
    restore(&guest, "--wait")?;
    drained(&guest)?;
    guest.run("kup remove redis")?;
    let held = redis_guest::items(&guest)?;
    ensure!(held == second, "the keys differ");
    ensure!(
        fill_anew(&guest, 7)? == first,
        "what was written when all memory was back differs"
    );

    checkpoint(&guest)?;
    restore(&guest, "")?;
    ensure!(
        fill_anew(&guest, 8)? == second,
        "what was written while memory came back differs"
    );
    drained(&guest)?;
    let held = redis_guest::items(&guest)?;
    ensure!(held == second, "the keys differ when all is back");
    guest.check()
}

/// Frees all it holds, gives the memory back, and writes it anew. Returns what it holds then.
fn fill_anew(guest: &Guest, seed: u64) -> Result<String> {
    let mut redis = Redis::connect(guest.address()?)?;
    redis.call(&[b"FLUSHALL"])?;
    redis.call(&[b"MEMORY", b"PURGE"])?;
    redis.fill(seed, KEYS, 2900)?;
    redis_guest::items(guest)
}

fn checkpoint(guest: &Guest) -> Result<()> {
    let take = "kup checkpoint redis --pid $(pidof redis-server) 2>&1; du -sh /mnt/kup";
    let said = guest.command(take).timeout(180).run()?;
    println!("{said}");
    Ok(())
}

fn restore(guest: &Guest, how: &str) -> Result<()> {
    let restore = format!(
        "kup restore {how} redis 2>&1 || {{ cat /mnt/kup/redis/log/*; exit 1; }}; kup list"
    );
    let said = guest.command(restore).timeout(180).run()?;
    println!("{said}");
    Ok(())
}

/// Waits until all memory is back.
fn drained(guest: &Guest) -> Result<()> {
    let report =
        "until [ -e /mnt/kup/redis/drain.json ]; do sleep 0.1; done; cat /mnt/kup/redis/drain.json";
    println!("{}", guest.command(report).timeout(120).run()?);
    Ok(())
}
