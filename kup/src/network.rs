// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Clients must not notice that nobody is there. CRIU's own lock dies with the old kernel; until the
//! processes are back, the new one would answer their packets with "no such connection". So packets to
//! their ports are dropped, and clients send them again.

use crate::images::{magic, pb, Images};
use crate::nft::{self, Nft};
use anyhow::{Context, Result};
use std::collections::BTreeSet;

const TABLE: &str = "inet kup-hold";

/// Local ports of sockets, by protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ports {
    pub tcp: BTreeSet<u16>,
    pub udp: BTreeSet<u16>,
}

impl Ports {
    /// Those of checkpointed processes.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn of(images: &Images) -> Result<Ports> {
        let mut ports = Ports::default();
        let files: Vec<pb::FileEntry> = images.read("files.img", magic::FILES)?;
        for socket in files.iter().filter_map(|file| file.isk.as_ref()) {
            let Ok(port @ 1..) = u16::try_from(socket.src_port) else {
                continue;
            };
            match i32::try_from(socket.proto) {
                Ok(libc::IPPROTO_TCP) => ports.tcp.insert(port),
                Ok(libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => ports.udp.insert(port),
                _ => false,
            };
        }
        Ok(ports)
    }

    pub fn add(&mut self, other: &Ports) {
        self.tcp.extend(&other.tcp);
        self.udp.extend(&other.udp);
    }

    fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }
}

/// Drops what comes for these ports. Call it before the interface comes up. What was held before is not
/// any more.
///
/// # Errors
/// nft(8) is not there, or does not take it.
pub fn hold(ports: &Ports) -> Result<()> {
    if ports.is_empty() {
        // Nothing has to be held, by whatever means there are.
        let _ = release();
        return Ok(());
    }
    nft::tell(&held(ports)).context(OPEN)
}

/// Packets are held back for what is restored, by an nft(8) that waits to let them through again: to load it takes
/// longer than what it does. If it is not told to, they stay held.
pub enum Held {
    Nothing,
    /// It does not wait, and has to be started once more.
    Alone,
    By(Nft),
}

impl Held {
    /// Drops what comes for these ports. What was held before is not any more.
    ///
    /// # Errors
    /// nft(8) is not there, or does not take it.
    pub fn begin(ports: &Ports) -> Result<Held> {
        if ports.is_empty() {
            hold(ports)?;
            return Ok(Held::Nothing);
        }
        let begin = || -> Result<Nft> {
            let mut nft = Nft::start(TABLE)?;
            // A line is a transaction.
            nft.tell(&held(ports).replace('\n', "; "))?;
            Ok(nft)
        };
        match begin() {
            Ok(nft) => Ok(Held::By(nft)),
            Err(_) => hold(ports).map(|()| Held::Alone),
        }
    }

    /// Lets packets through again.
    ///
    /// # Errors
    /// nft(8) does not take it.
    pub fn release(self) -> Result<()> {
        match self {
            Held::Nothing => Ok(()),
            Held::Alone => release(),
            Held::By(nft) => {
                // It may have been killed.
                let released = nft.end(&without(TABLE).replace('\n', "; "));
                released.or_else(|_| release())
            }
        }
    }
}

const OPEN: &str = "packets cannot be held back: clients would see a reset";

/// In one transaction: what was held is held all the time.
fn held(ports: &Ports) -> String {
    without(TABLE) + &rules(ports)
}

fn rules(ports: &Ports) -> String {
    let rule = |protocol: &str, ports: &BTreeSet<u16>| {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        match list.is_empty() {
            true => String::new(),
            false => format!("{protocol} dport {{ {} }} drop\n", list.join(", ")),
        }
    };
    // CRIU closes half of a connection by a packet of its own with this mark (`SOCCR_MARK`).
    format!(
        "table {TABLE} {{\nchain input {{\ntype filter hook input priority -300;\nmeta mark 0xc114 accept\n{}{}}}\n}}\n",
        rule("tcp", &ports.tcp),
        rule("udp", &ports.udp)
    )
}

/// Lets packets through again.
///
/// # Errors
/// nft(8) is not there, or does not take it.
pub fn release() -> Result<()> {
    delete(&[TABLE])
}

/// Deletes tables, whether they are there or not.
///
/// # Errors
/// nft(8) is not there, or does not take it.
pub(crate) fn delete(tables: &[&str]) -> Result<()> {
    nft::tell(&tables.iter().copied().map(without).collect::<String>())
}

fn without(table: &str) -> String {
    format!("add table {table}\ndelete table {table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is() {
        let ports = Ports {
            tcp: [80, 6379].into(),
            udp: BTreeSet::new(),
        };
        let rules = rules(&ports);
        assert!(rules.contains("tcp dport { 80, 6379 } drop"), "{rules}");
        assert!(!rules.contains("udp"), "{rules}");
    }
}
