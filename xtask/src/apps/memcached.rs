// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! As much of a memcached client as we need (the text protocol).

use super::{fingerprint, Fingerprints, Noise};
use anyhow::{bail, ensure, Context, Result};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

pub const PORT: u16 = 11211;
const BATCH: usize = 50;

pub struct Memcached {
    input: BufReader<TcpStream>,
    output: BufWriter<TcpStream>,
}

impl Memcached {
    pub fn connect(host: Ipv4Addr) -> Result<Memcached> {
        let stream = super::connect(host, PORT)?;
        Ok(Memcached {
            input: BufReader::with_capacity(1 << 16, stream.try_clone()?),
            output: BufWriter::with_capacity(1 << 16, stream),
        })
    }

    /// An answer that takes longer is an error.
    pub fn limit(&self, limit: Duration) -> Result<()> {
        Ok(self.input.get_ref().set_read_timeout(Some(limit))?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let line = line
            .strip_suffix('\n')
            .context("memcached: the connection was closed")?;
        Ok(line.trim_end_matches('\r').to_owned())
    }

    fn send_set(&mut self, key: &str, flags: u32, value: &[u8]) -> Result<()> {
        write!(self.output, "set {key} {flags} 0 {}\r\n", value.len())?;
        self.output.write_all(value)?;
        self.output.write_all(b"\r\n")?;
        Ok(())
    }

    fn stored(&mut self) -> Result<()> {
        let line = self.line()?;
        ensure!(line == "STORED", "memcached: set: {line}");
        Ok(())
    }

    pub fn set(&mut self, key: &str, flags: u32, value: &[u8]) -> Result<()> {
        self.send_set(key, flags, value)?;
        self.output.flush()?;
        self.stored()
    }

    /// Sets `count` items of about `length` bytes.
    pub fn fill(&mut self, seed: u64, count: usize, length: usize) -> Result<()> {
        let mut noise = Noise::new(seed);
        let numbers: Vec<usize> = (0..count).collect();
        for batch in numbers.chunks(BATCH) {
            for number in batch {
                let length = length - length / 8 + noise.word() as usize % (length / 4);
                let value = noise.bytes(length);
                self.send_set(&format!("item-{number:08}"), *number as u32, &value)?;
            }
            self.output.flush()?;
            batch.iter().try_for_each(|_| self.stored())?;
        }
        Ok(())
    }

    /// Every key the server itself names that begins so.
    pub fn keys(&mut self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        self.send_metadump()?;
        loop {
            let line = self.line()?;
            if line == "OK" {
                continue;
            }
            if line.starts_with("BUSY") {
                // The server looks through its items for its own reasons.
                std::thread::sleep(Duration::from_millis(100));
                self.send_metadump()?;
                continue;
            }
            if line == "END" {
                keys.sort();
                keys.dedup();
                return Ok(keys);
            }
            let key = line
                .strip_prefix("key=")
                .and_then(|rest| rest.split(' ').next());
            let key = key.with_context(|| format!("memcached: metadump: {line}"))?;
            if key.starts_with(prefix) {
                keys.push(key.to_owned());
            }
        }
    }

    /// By way of the hash table: a dump of the LRU lists misses items that move between them.
    fn send_metadump(&mut self) -> Result<()> {
        write!(self.output, "lru_crawler metadump hash\r\n")?;
        Ok(self.output.flush()?)
    }

    /// The values of these keys, with their flags.
    pub fn get(&mut self, keys: &[String]) -> Result<Vec<(String, u32, Vec<u8>)>> {
        write!(self.output, "get {}\r\n", keys.join(" "))?;
        self.output.flush()?;
        let mut found = Vec::new();
        loop {
            let line = self.line()?;
            if line == "END" {
                return Ok(found);
            }
            let words: Vec<&str> = line.split(' ').collect();
            let ["VALUE", key, flags, length] = words[..] else {
                bail!("memcached: get: {line}")
            };
            let mut value = vec![0; length.parse::<usize>()? + 2];
            self.input.read_exact(&mut value)?;
            value.truncate(value.len() - 2);
            found.push((key.to_owned(), flags.parse()?, value));
        }
    }

    /// The fingerprints of all items whose keys begin so.
    pub fn items(&mut self, prefix: &str) -> Result<Fingerprints> {
        let keys = self.keys(prefix)?;
        let mut items = Fingerprints::new();
        for batch in keys.chunks(BATCH) {
            let found = self.get(batch)?;
            ensure!(
                found.len() == batch.len(),
                "memcached: items are gone while being read"
            );
            for (key, flags, value) in found {
                items.insert(
                    key.into_bytes(),
                    fingerprint(&[&flags.to_le_bytes(), &value]),
                );
            }
        }
        Ok(items)
    }
}
