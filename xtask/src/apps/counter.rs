// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A client that counts in redis over one connection and notes when it had to wait.

use super::redis::Redis;
use super::{lives, wait_for_more};
use anyhow::{bail, ensure, Result};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two counts.
const PAUSE: Duration = Duration::from_millis(5);

pub const KEY: &str = "counter";

pub struct Counter {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicI64>,
    thread: JoinHandle<Result<Report>>,
}

#[derive(Debug)]
pub struct Report {
    pub counts: i64,
    /// The longest wait from one answer to the next.
    pub gap: Duration,
}

impl Counter {
    pub fn start(host: Ipv4Addr, limit: Duration) -> Result<Counter> {
        let mut redis = Redis::connect(host)?;
        redis.limit(limit)?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicI64::new(0));
        let (stop_too, count_too) = (stop.clone(), count.clone());
        let thread = thread::spawn(move || run(&mut redis, &stop_too, &count_too));
        Ok(Counter {
            stop,
            count,
            thread,
        })
    }

    /// The last number the server answered with.
    pub fn count(&self) -> i64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until it has counted on by that many.
    pub fn wait(&self, more: u64, limit: Duration) -> Result<()> {
        wait_for_more(
            more,
            limit,
            || self.count().unsigned_abs(),
            || {
                lives(
                    &self.thread,
                    "the client that counts has lost its connection",
                )
            },
            "the client that counts gets no answer",
        )
    }

    /// Ends it; an error is what it met on the way.
    pub fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Release);
        match self.thread.join() {
            Ok(report) => report,
            Err(_) => bail!("the client that counts panicked"),
        }
    }
}

fn run(redis: &mut Redis, stop: &AtomicBool, count: &AtomicI64) -> Result<Report> {
    let identity = |redis: &mut Redis| -> Result<_> {
        Ok((redis.integer(&[b"CLIENT", b"ID"])?, redis.local()?))
    };
    let before = identity(redis)?;
    let (mut counts, mut gap, mut last) = (0, Duration::ZERO, Instant::now());
    while !stop.load(Ordering::Acquire) {
        let answer = redis.integer(&[b"INCR", KEY.as_bytes()])?;
        counts += 1;
        ensure!(
            answer == counts,
            "counted {counts}, the server says {answer}"
        );
        gap = gap.max(last.elapsed());
        last = Instant::now();
        count.store(counts, Ordering::Release);
        thread::sleep(PAUSE);
    }
    let after = identity(redis)?;
    ensure!(
        before == after,
        "not the same connection: {before:?}, {after:?}"
    );
    Ok(Report { counts, gap })
}
