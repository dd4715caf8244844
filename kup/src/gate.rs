// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! New connections wait outside while processes stand still. The kernel would open them, for a process that does not
//! come to accept them any more: CRIU refuses to dump a socket behind which some wait, and those that are opened
//! later than that end with this kernel. So what opens a connection is dropped, and clients send it again.

use crate::{namespaces, sockets};
use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TABLE: &str = "inet kup-gate";
/// Who listens accepts at once. Who does not for so long has other things to do.
const PATIENCE: Duration = Duration::from_secs(2);
/// To start a program, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// States of sockets (`include/net/tcp_states.h`).
const SYN_RECEIVED: &str = "03";
const LISTENS: &str = "0A";

/// New connections wait as long as this is there.
pub struct Gate {
    /// The table is its, and the kernel takes it away when this ends (nft(8), `flags owner`); which it does when we
    /// do, in whatever way.
    nft: Option<Nft>,
}

struct Nft {
    process: Child,
    /// What it says. It would end if nobody could hear that.
    _output: UnixStream,
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(Nft { process, .. }) = &mut self.nft {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }
}

impl Gate {
    /// Closes it where these processes listen, and waits until they have accepted what is inside. If that does not
    /// work out it is said; CRIU may refuse to dump them then.
    #[must_use]
    pub fn close(pids: &[u32], say: &dyn Fn(&str)) -> Gate {
        // Who has a network of its own has other ports.
        let here = pids.iter().filter(|&&pid| !namespaces::own_network(pid));
        let own: BTreeSet<u32> = here.flat_map(|&pid| sockets::inodes(pid)).collect();
        let queues = Queues::read(&own);
        if queues.ports.is_empty() {
            return Gate { nft: None };
        }
        let nft = match drop_openings(&queues.ports) {
            Ok(nft) => Some(nft),
            Err(e) => {
                say(&format!("new connections cannot be held back: {e:#}"));
                None
            }
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let waiting = Queues::read(&own).waiting;
            if waiting.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                say(&format!(
                    "connections to port {} wait to be accepted. CRIU cannot carry them: it refuses, or cuts them \
                     with --criu-option=--skip-in-flight",
                    list(&waiting)
                ));
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Gate { nft }
    }
}

/// Drops what opens a connection to these ports, until the process ends.
fn drop_openings(ports: &BTreeSet<u16>) -> Result<Nft> {
    let (output, theirs) = UnixStream::pair()?;
    output.set_read_timeout(Some(START))?;
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new("nft");
    command.arg("--interactive").stdin(Stdio::piped());
    command.stdout(theirs.try_clone()?).stderr(theirs);
    // It keeps a history of what it was told; not of this. And a Ctrl-C is not for it.
    command.env("HOME", "/dev/null").process_group(0);
    let mut process = command
        .spawn()
        .context("cannot run nft: is nftables installed?")?;
    // Ours of it are in there.
    drop(command);
    let mut told = || -> Result<String> {
        let stdin = process.stdin.as_mut().context("no pipe")?;
        let rules = rules(ports);
        stdin.write_all(format!("{rules}\nlist table {TABLE}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(&output).read_line(&mut line)?;
        Ok(line)
    };
    let said = told();
    if said
        .as_ref()
        .is_ok_and(|line| line.starts_with(&format!("table {TABLE} ")))
    {
        return Ok(Nft {
            process,
            _output: output,
        });
    }
    let _ = process.kill();
    let _ = process.wait();
    bail!("nft: {}", said?.trim_end())
}

/// In one line, as nft(8) takes it from its user.
fn rules(ports: &BTreeSet<u16>) -> String {
    format!(
        "add table {TABLE} {{ flags owner; chain input {{ type filter hook input priority -300; \
         tcp flags & (syn | ack) == syn tcp dport {{ {} }} drop; }}; }}",
        list(ports)
    )
}

fn list(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

/// Of some sockets that listen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Queues {
    ports: BTreeSet<u16>,
    /// Where connections wait to be accepted, or are being opened.
    waiting: BTreeSet<u16>,
}

impl Queues {
    fn read(own: &BTreeSet<u32>) -> Queues {
        let read = |name| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
        Queues::of(own, &(read("tcp") + &read("tcp6")))
    }

    /// `proc_pid_net(5)`: the second word is the local address, the fourth the state, behind the colon of the fifth
    /// is how many wait to be accepted, the tenth is the inode.
    fn of(own: &BTreeSet<u32>, text: &str) -> Queues {
        let mut queues = Queues::default();
        let mut opening = BTreeSet::new();
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
                    opening.insert(port);
                }
                _ => {}
            }
        }
        queues.waiting.extend(opening.intersection(&queues.ports));
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
        assert_eq!(queues.waiting, [0x50, 0x51].into());
        assert_eq!(Queues::of(&BTreeSet::new(), text), Queues::default());
    }

    #[test]
    fn a_connection_waits_until_it_is_accepted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = sockets::inodes(std::process::id());
        assert!(Queues::read(&own).ports.contains(&address.port()));
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert!(Queues::read(&own).waiting.contains(&address.port()));
        let _server = listener.accept().unwrap();
        assert!(!Queues::read(&own).waiting.contains(&address.port()));
    }
}
