// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Clients of the applications that are carried over an update. They speak the protocols
//! themselves, most of them over connections that they never open anew.

pub mod asker;
pub mod counter;
pub mod crowd;
pub mod load;
pub mod memcached;
pub mod redis;
pub mod toucher;

use crate::lab::hex;
use anyhow::{ensure, Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connects to a server that may just be starting.
pub fn connect(host: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let address = (host, port).into();
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("connecting to {address}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Waits until a count has gone on by so many. `is_there` says whether it still can, `silence` what it means if it does
/// not within the limit.
pub fn wait_for_more(
    more: u64,
    limit: Duration,
    count: impl Fn() -> u64,
    is_there: impl Fn() -> Result<()>,
    silence: &'static str,
) -> Result<()> {
    let (goal, deadline) = (count() + more, Instant::now() + limit);
    while count() < goal {
        is_there()?;
        ensure!(Instant::now() < deadline, silence);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Has a client not ended?
pub fn lives<T>(client: &JoinHandle<T>, lost: &'static str) -> Result<()> {
    ensure!(!client.is_finished(), lost);
    Ok(())
}

/// The fingerprints of a server's items by their keys.
pub type Fingerprints = BTreeMap<Vec<u8>, [u8; 32]>;

/// A digest of all items by key, whatever order they came in.
pub fn digest(items: &Fingerprints) -> String {
    let mut hash = Sha256::new();
    for (key, value) in items {
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update(value);
    }
    hex(&hash.finalize())
}

/// The digest of one value.
pub fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Bytes that do not compress and that no other seed gives.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn word(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.word().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
