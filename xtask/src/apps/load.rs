// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Clients that keep both servers busy, over connections of their own that live through the
//! update too. Each writes keys that nobody else writes, so that it knows what they have to hold:
//! whatever was answered, no more and no less.

use super::memcached::Memcached;
use super::redis::{Redis, Reply};
use super::Noise;
use anyhow::{bail, ensure, Result};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

const CLIENTS: u64 = 2;
/// Keys of one client.
const KEYS: u64 = 200;
const PAUSE: Duration = Duration::from_millis(2);

pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<usize>>>,
}

/// What the load did.
pub struct Report {
    pub requests: u64,
    /// Keys that were compared with what they have to hold.
    pub redis_keys: usize,
    pub memcached_keys: usize,
}

impl Load {
    pub fn start(host: Ipv4Addr, limit: Duration) -> Result<Load> {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut threads = Vec::new();
        for number in 0..CLIENTS {
            let mut redis = Redis::connect(host)?;
            redis.limit(limit)?;
            let (stop_too, done_too) = (stop.clone(), done.clone());
            threads.push(thread::spawn(move || {
                on_redis(&mut redis, number, &stop_too, &done_too)
            }));
            let mut memcached = Memcached::connect(host)?;
            memcached.limit(limit)?;
            let (stop_too, done_too) = (stop.clone(), done.clone());
            threads.push(thread::spawn(move || {
                on_memcached(&mut memcached, number, &stop_too, &done_too)
            }));
        }
        Ok(Load {
            stop,
            done,
            threads,
        })
    }

    pub fn requests(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the load, then compares every key it wrote, over the same connections.
    pub fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Release);
        let mut keys = [0, 0];
        for (number, thread) in self.threads.into_iter().enumerate() {
            match thread.join() {
                Ok(count) => keys[number % 2] += count?,
                Err(_) => bail!("a client of the load panicked"),
            }
        }
        let requests = self.done.load(Ordering::Relaxed);
        Ok(Report {
            requests,
            redis_keys: keys[0],
            memcached_keys: keys[1],
        })
    }
}

fn on_redis(redis: &mut Redis, number: u64, stop: &AtomicBool, done: &AtomicU64) -> Result<usize> {
    let mut noise = Noise::new(1000 + number);
    let mut expected = HashMap::new();
    while !stop.load(Ordering::Acquire) {
        let key = format!("load:{number}:{:04}", noise.word() % KEYS);
        let length = 100 + noise.word() as usize % 900;
        let value = noise.bytes(length);
        let reply = redis.call(&[b"SET", key.as_bytes(), &value])?;
        ensure!(reply == Reply::Status("OK".into()), "SET {key}: {reply:?}");
        expected.insert(key, value);
        done.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    for (key, value) in &expected {
        let reply = redis.call(&[b"GET", key.as_bytes()])?;
        ensure!(
            reply == Reply::Bulk(value.clone()),
            "{key} does not hold what was answered"
        );
    }
    Ok(expected.len())
}

fn on_memcached(
    memcached: &mut Memcached,
    number: u64,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> Result<usize> {
    let mut noise = Noise::new(2000 + number);
    let mut expected = HashMap::new();
    while !stop.load(Ordering::Acquire) {
        let key = format!("load-{number}-{:04}", noise.word() % KEYS);
        let length = 100 + noise.word() as usize % 900;
        let value = noise.bytes(length);
        memcached.set(&key, number as u32, &value)?;
        expected.insert(key, value);
        done.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    for (key, value) in &expected {
        let found = memcached.get(std::slice::from_ref(key))?;
        let same =
            matches!(&found[..], [(k, f, v)] if k == key && *f == number as u32 && v == value);
        ensure!(same, "{key} does not hold what was answered");
    }
    Ok(expected.len())
}
