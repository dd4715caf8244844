// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! As much of a redis client as we need.

use super::{fingerprint, Fingerprints, Noise};
use anyhow::{bail, ensure, Context, Result};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

pub const PORT: u16 = 6379;
/// Requests on their way at once.
const BATCH: usize = 500;

#[derive(Debug, PartialEq)]
pub enum Reply {
    Status(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

pub struct Redis {
    input: BufReader<TcpStream>,
    output: BufWriter<TcpStream>,
}

impl Redis {
    pub fn connect(host: Ipv4Addr) -> Result<Redis> {
        let stream = super::connect(host, PORT)?;
        Ok(Redis {
            input: BufReader::with_capacity(1 << 16, stream.try_clone()?),
            output: BufWriter::with_capacity(1 << 16, stream),
        })
    }

    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.input.get_ref().local_addr()?)
    }

    /// An answer that takes longer is an error.
    pub fn limit(&self, limit: Duration) -> Result<()> {
        Ok(self.input.get_ref().set_read_timeout(Some(limit))?)
    }

    pub fn call(&mut self, words: &[&[u8]]) -> Result<Reply> {
        self.send(words)?;
        self.output.flush()?;
        self.reply()
    }

    pub fn integer(&mut self, words: &[&[u8]]) -> Result<i64> {
        match self.call(words)? {
            Reply::Integer(number) => Ok(number),
            other => bail!("redis: {other:?} instead of a number"),
        }
    }

    fn send(&mut self, words: &[&[u8]]) -> Result<()> {
        write!(self.output, "*{}\r\n", words.len())?;
        for word in words {
            write!(self.output, "${}\r\n", word.len())?;
            self.output.write_all(word)?;
            self.output.write_all(b"\r\n")?;
        }
        Ok(())
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let line = line
            .strip_suffix("\r\n")
            .context("redis: the connection was closed")?;
        let (kind, rest) = line.split_at_checked(1).context("redis: an empty answer")?;
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => bail!("redis: {rest}"),
            ":" => Reply::Integer(rest.parse()?),
            "$" | "*" if rest == "-1" => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.input.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(bytes)
            }
            "*" => {
                let count = rest.parse::<usize>()?;
                Reply::Array((0..count).map(|_| self.reply()).collect::<Result<_>>()?)
            }
            _ => bail!("redis: {line:?}"),
        })
    }

    /// Sets `count` keys to values of about `length` bytes.
    pub fn fill(&mut self, seed: u64, count: usize, length: usize) -> Result<()> {
        let mut noise = Noise::new(seed);
        let numbers: Vec<usize> = (0..count).collect();
        for batch in numbers.chunks(BATCH) {
            for number in batch {
                let key = format!("key:{number:08}");
                let length = length - length / 8 + noise.word() as usize % (length / 4);
                let value = noise.bytes(length);
                self.send(&[b"SET", key.as_bytes(), &value])?;
            }
            self.output.flush()?;
            for _ in batch {
                let reply = self.reply()?;
                ensure!(reply == Reply::Status("OK".into()), "redis: SET: {reply:?}");
            }
        }
        Ok(())
    }

    /// Every key the server itself names that begins so.
    pub fn keys(&mut self, prefix: &str) -> Result<Vec<Vec<u8>>> {
        let pattern = format!("{prefix}*");
        let mut cursor = b"0".to_vec();
        let mut keys = Vec::new();
        loop {
            let scan = [
                b"SCAN",
                &cursor[..],
                b"MATCH",
                pattern.as_bytes(),
                b"COUNT",
                b"1000",
            ];
            let Reply::Array(parts) = self.call(&scan)? else {
                bail!("redis: SCAN")
            };
            let mut parts = parts.into_iter();
            let (Some(Reply::Bulk(next)), Some(Reply::Array(found))) = (parts.next(), parts.next())
            else {
                bail!("redis: SCAN")
            };
            for key in found {
                let Reply::Bulk(key) = key else {
                    bail!("redis: SCAN")
                };
                keys.push(key);
            }
            if next == b"0" {
                // SCAN may name a key twice.
                keys.sort();
                keys.dedup();
                return Ok(keys);
            }
            cursor = next;
        }
    }

    /// The fingerprints of all keys that begin so.
    pub fn items(&mut self, prefix: &str) -> Result<Fingerprints> {
        let keys = self.keys(prefix)?;
        let mut items = Fingerprints::new();
        for batch in keys.chunks(BATCH) {
            for key in batch {
                self.send(&[b"GET", key])?;
            }
            self.output.flush()?;
            for key in batch {
                match self.reply()? {
                    Reply::Bulk(value) => items.insert(key.clone(), fingerprint(&[&value])),
                    other => bail!("redis: GET {}: {other:?}", String::from_utf8_lossy(key)),
                };
            }
        }
        Ok(items)
    }
}
