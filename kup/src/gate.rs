// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! New connections wait outside while processes stand still. The kernel would open them, for a process that does not
//! come to accept them any more: CRIU refuses to dump a socket behind which some wait, and those that are opened
//! later than that end with this kernel. So what opens a connection is dropped, and clients send it again.

use crate::nft::Nft;
use crate::{namespaces, sockets};
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

/// Who listens accepts at once. Who does not for so long has other things to do.
const PATIENCE: Duration = Duration::from_secs(2);
/// A connection that is being opened is open after a round trip. Of some nobody hears any more.
const ROUND_TRIP: Duration = Duration::from_millis(500);
/// States of sockets (`include/net/tcp_states.h`).
const SYN_RECEIVED: &str = "03";
const LISTENS: &str = "0A";

/// New connections wait as long as this is there.
pub struct Gate {
    nft: Option<Nft>,
}

impl Gate {
    /// Closes it where these processes listen, and waits until they have accepted what is inside. If they do not, it
    /// is said; CRIU refuses to dump them then.
    ///
    /// # Errors
    /// Packets cannot be dropped.
    pub fn close(pids: &[u32], say: &dyn Fn(&str)) -> Result<Gate> {
        // Who has a network of its own has other ports.
        let (elsewhere, here): (Vec<u32>, _) =
            pids.iter().partition(|&&pid| namespaces::own_network(pid));
        for pid in elsewhere {
            if !Queues::read(&[pid]).ports.is_empty() {
                say(&format!(
                    "process {pid} listens in a network namespace of its own, where new connections are not held back"
                ));
            }
        }
        let queues = || Queues::read(&here);
        let ports = queues().ports;
        if ports.is_empty() {
            return Ok(Gate { nft: None });
        }
        // First for who comes from outside: to answer who is inside, the applications may have to ask each other.
        let (table, list) = (table(), list(&ports));
        let mut nft = Nft::start(&table)?;
        nft.tell(&format!(
            "add table {table} {{ flags owner; chain input {{ type filter hook input priority -300; \
             iifname != lo tcp flags & (syn | ack) == syn tcp dport {{ {list} }} drop; }}; }}"
        ))?;
        let start = Instant::now();
        wait_until(PATIENCE, || {
            let queues = queues();
            queues.waiting.is_empty() && (queues.opening.is_empty() || start.elapsed() > ROUND_TRIP)
        });
        // Then for all, whatever comes: the last packet of a handshake, of which nothing is listed perhaps
        // (tcp_syncookies), opens a connection, too.
        // Who listened before may not any more, and some may have begun to.
        let list = self::list(&(&ports | &queues().ports));
        nft.tell(&format!(
            "add rule {table} input tcp dport {{ {list} }} drop"
        ))?;
        if !wait_until(PATIENCE, || queues().waiting.is_empty()) {
            say(&format!(
                "connections to port {} wait to be accepted. CRIU cannot carry them: it refuses, or cuts them with \
                 --criu-option=--skip-in-flight",
                self::list(&queues().waiting)
            ));
        }
        Ok(Gate { nft: Some(nft) })
    }

    /// Is it closed still?
    pub fn holds(&mut self) -> bool {
        self.nft.as_mut().is_none_or(Nft::is_alive)
    }
}

/// Could it be closed here?
///
/// # Errors
/// It could not.
pub fn works() -> Result<()> {
    let table = table();
    let mut nft = Nft::start(&table)?;
    nft.tell(&format!("add table {table} {{ flags owner; }}"))
}

/// It belongs to an nft(8) that ends when we do, in whatever way, and the kernel takes it away then (nft(8), `flags
/// owner`).
fn table() -> String {
    format!("inet kup-gate-{}", std::process::id())
}

fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn list(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

/// Of some sockets that listen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Queues {
    ports: BTreeSet<u16>,
    /// Where connections wait to be accepted.
    waiting: BTreeSet<u16>,
    /// Where connections are being opened.
    opening: BTreeSet<u16>,
}

impl Queues {
    /// Of these processes, which have one network.
    fn read(pids: &[u32]) -> Queues {
        let Some(network) = pids.first() else {
            return Queues::default();
        };
        let own = pids.iter().flat_map(|&pid| sockets::inodes(pid)).collect();
        let read =
            |name| fs::read_to_string(format!("/proc/{network}/net/{name}")).unwrap_or_default();
        Queues::of(&own, &(read("tcp") + &read("tcp6")))
    }

    /// `proc_pid_net(5)`: the second word is the local address, the fourth the state, behind the colon of the fifth
    /// is how many wait to be accepted, the tenth is the inode.
    fn of(own: &BTreeSet<u32>, text: &str) -> Queues {
        let mut queues = Queues::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, bytes, _, _, _, _, inode, ..] = words[..] else {
                continue;
            };
            let behind = |text: &str| {
                let (_, digits) = text.rsplit_once(':')?;
                u32::from_str_radix(digits, 16).ok()
            };
            let Some(port) = behind(local).and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            let is_own = inode.parse().is_ok_and(|inode| own.contains(&inode));
            match state {
                LISTENS if is_own => {
                    queues.ports.insert(port);
                    if behind(bytes) != Some(0) {
                        queues.waiting.insert(port);
                    }
                }
                // It is nobody's yet.
                SYN_RECEIVED => {
                    queues.opening.insert(port);
                }
                _ => {}
            }
        }
        queues.opening = &queues.opening & &queues.ports;
        queues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:0050 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0\n\
            1: 00000000:0051 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0 0 10 0\n\
            2: 00000000:0052 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0 0 10 0\n\
            3: 00000000:0053 00000000:0000 0A 00000000:00000009 00:00000000 00000000     0        0 44 1 0 100 0 0 10 0\n\
            4: 0100007F:0051 0100007F:9999 03 00000000:00000000 01:00000064 00000000     0        0 0 1 0\n\
            5: 0100007F:0050 0100007F:9998 01 00000000:00000007 00:00000000 00000000     0        0 45 1 0 20 4 30 10 -1\n";
        let queues = Queues::of(&[41, 42, 43, 45].into(), text);
        assert_eq!(queues.ports, [0x50, 0x51, 0x52].into());
        assert_eq!(queues.waiting, [0x50].into());
        assert_eq!(queues.opening, [0x51].into());
        assert_eq!(Queues::of(&BTreeSet::new(), text), Queues::default());
    }

    #[test]
    fn a_connection_waits_until_it_is_accepted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let read = || Queues::read(&[std::process::id()]);
        assert!(read().ports.contains(&address.port()));
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert!(read().waiting.contains(&address.port()));
        let _server = listener.accept().unwrap();
        assert!(!read().waiting.contains(&address.port()));
    }
}
