// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The same for real applications, redis and memcached, which hold values. They are idle, or a client writes to so
//! many of the values each second until they are dumped.
//!
//! They cannot say how long they stood still: CRIU does, of each dump alike. A restore ends for them with the
//! first answer over a new connection. Nobody may ask while they are dumped: of a connection that waits to be
//! accepted CRIU would say that it cannot be dumped.

use super::super::criu::{Setup, DISK, EXT4DAX, OURS};
use super::super::{criu, others, Measure, Pairs};
use super::{begun, end, kup, reported, Way};
use crate::apps;
use crate::apps::memcached::{self, Memcached};
use crate::apps::redis::{self, Redis};
use crate::apps::toucher::Toucher;
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Context, Result};
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

/// Of a value, on average. No page holds none, so that who writes to all of them writes to all pages.
const LENGTH: usize = 2900;
/// What it is called, MiB, and percent of the values that are written to each second.
const LOADS: [(&str, u64, u64); 8] = [
    ("64m", 64, 0),
    ("128m", 128, 0),
    ("256m", 256, 0),
    ("256m_write10", 256, 10),
    ("256m_write50", 256, 50),
    ("512m", 512, 0),
    ("1g", 1024, 0),
    ("1g_write10", 1024, 10),
];
/// Before a server that is written to is dumped.
const WARM: Duration = Duration::from_secs(3);
const ANSWERED: &str = "/run/answered";

pub struct Server {
    pub name: &'static str,
    command: &'static str,
    pub port: u16,
    pub request: &'static str,
    fill: fn(Ipv4Addr, usize) -> Result<()>,
    /// What makes it answer nothing more over a connection.
    mute: &'static str,
    /// Adds a request that writes to the value of this number.
    touch: fn(&mut Vec<u8>, usize),
}

pub const SERVERS: [Server; 2] = [
    Server {
        name: "redis",
        command: "redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no",
        port: redis::PORT,
        request: "PING",
        fill: |host, count| Redis::connect(host)?.fill(7, count, LENGTH),
        mute: "CLIENT REPLY OFF\r\n",
        touch: |requests, number| {
            let request =
                format!("*4\r\n$8\r\nSETRANGE\r\n$12\r\nkey:{number:08}\r\n$1\r\n0\r\n$1\r\nx\r\n");
            requests.extend_from_slice(request.as_bytes());
        },
    },
    Server {
        name: "memcached",
        command: "memcached -u root -l 0.0.0.0 -U 0 -t 4 -m 2048",
        port: memcached::PORT,
        request: "version",
        fill: |host, count| Memcached::connect(host)?.fill(7, count, LENGTH),
        mute: "",
        touch: |requests, number| {
            let request = format!("touch item-{number:08} 0 noreply\r\n");
            requests.extend_from_slice(request.as_bytes());
        },
    },
];

const ON_DISK: usize = 0;
const EXT4: usize = 1;
const SIMPLE: usize = 2;
const INCREMENTAL: usize = 3;
const FOAM: usize = 4;
const WAYS: [Way; 5] = [
    Way::Simple(DISK.1),
    Way::Simple(EXT4DAX.1),
    Way::Simple(OURS),
    Way::Incremental,
    Way::Foam,
];

/// Seconds.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// Which part of the values was written to each second.
    written: f64,
    /// It stood still for the checkpoint. CRIU does not wait for a disk: what of it is there by then is what the
    /// kernel began to write by itself, which is little of a small dump and nearly all of a large one.
    stop: f64,
    /// From when it is gone until all is on the disk, which a kexec would have to wait for. Not in the stop.
    sync: f64,
    /// From the begin of the restore to the first answer.
    restore: f64,
    /// To the end of the restore, with all memory.
    whole: f64,
}

type Turns = [Taken; WAYS.len()];

pub fn run(lab: &Lab, rounds: usize) -> Result<Vec<Measure>> {
    let setup = Setup {
        name: "apps",
        holds: 1024,
        network: true,
        disk: true,
        ..criu::KMOD
    };
    let (guest, _) = criu::prepare(lab, &setup)?;
    guest.network_up()?;
    guest.high_pids()?;
    let mut measures = Vec::new();
    for server in &SERVERS {
        for (load, mib, writes) in LOADS {
            let name = format!("{} {load}", server.name);
            let subject = Subject {
                lab,
                guest: &guest,
                server,
                bytes: mib << 20,
                writes,
                pid: start(&guest, server, mib).context(name.clone())?,
            };
            // One process lives through all of them: to fill it takes longer than a round.
            let taken = others::rounds(&guest, &name, rounds, |round| {
                let taken = subject.all_ways(round).context(name.clone())?;
                say(&name, round, &taken);
                Ok(taken)
            })?;
            subject.kill()?;
            measures.extend(self::measures(
                &format!("apps.{}", server.name),
                load,
                &taken,
            ));
        }
    }
    guest.check()?;
    Ok(measures)
}

/// Starts a server and fills it with so many MiB of values. The connection for that is closed in the end.
pub fn start(guest: &Guest, server: &Server, mib: u64) -> Result<String> {
    let command = server.command;
    let start = format!("cd / && setsid {command} </dev/null >/dev/null 2>&1 & echo $!");
    let pid = guest.run(start)?.trim().to_owned();
    (server.fill)(guest.address()?, values(mib << 20))?;
    Ok(pid)
}

/// How many take so many bytes.
fn values(bytes: u64) -> usize {
    bytes as usize / LENGTH
}

/// A server that holds something.
struct Subject<'a> {
    lab: &'a Lab,
    guest: &'a Guest,
    server: &'a Server,
    /// Of values alone.
    bytes: u64,
    /// Percent of its values in a second, while it is being dumped.
    writes: u64,
    pid: String,
}

impl Subject<'_> {
    /// Each way in its turn.
    fn all_ways(&self, round: usize) -> Result<Turns> {
        let mut taken = [Taken::default(); WAYS.len()];
        for turn in 0..WAYS.len() {
            let which = (round + turn) % WAYS.len();
            // Time for it to close the connection of who asked last.
            self.guest.run("sleep 1")?;
            taken[which] = self.one(WAYS[which])?;
            let held = criu::resident(self.guest, &self.pid)?;
            ensure!(held >= self.bytes, "only {held} bytes were restored");
        }
        Ok(taken)
    }

    fn one(&self, way: Way) -> Result<Taken> {
        let guest = self.guest;
        let name = self.server.name;
        let writer = self.writer()?;
        let written = writer
            .as_ref()
            .map_or(Ok(0.0), |writer| self.warm(writer))?;
        let images = match way {
            Way::Simple(place) => format!("{place}/images"),
            Way::Incremental => format!("{OURS}/two/images"),
            Way::Foam => format!("{OURS}/kup/{name}"),
        };
        let stop = match way {
            Way::Simple(_) => self.dump(&images, "")?,
            Way::Incremental => {
                let before = format!("{OURS}/two/rounds");
                let track = format!("--track-mem -t {}", self.pid);
                criu::criu(guest, &before, &format!("criu pre-dump {track}"))?;
                self.dump(&images, "--prev-images-dir ../rounds --track-mem")?
            }
            Way::Foam => reported(&kup(
                guest,
                &format!("checkpoint {name} --leave-running --pid {}", self.pid),
            )?)?,
        };
        writer.map_or(Ok(()), Toucher::finish)?;
        self.kill()?;
        // The restored connection has the numbers of the one that was there, as long as the kernel has it.
        let port = self.server.port;
        guest.run(format!(
            "while grep -qi ':{port:04x} ' /proc/net/tcp; do sleep 0.02; done"
        ))?;
        let mut sync = 0.0;
        if images.starts_with(DISK.1) {
            sync = guest.command("sync").timeout(180).succeed()?.seconds();
            // The next kernel would have nothing of it in its page cache.
            guest.run("echo 3 > /proc/sys/vm/drop_caches")?;
        }
        let (restore, whole) = match way {
            Way::Foam => self.restored(&format!("kup -q restore --wait {name}"))?,
            _ => self
                .restored(&format!(
                    "criu restore -d --images-dir {images} -o restore.log --manage-cgroups=ignore {}",
                    self.connections()
                ))
                .with_context(|| {
                    let log = guest.run(format!("grep Error {images}/restore.log || true"));
                    log.unwrap_or_default()
                })?,
        };
        match way {
            Way::Foam => guest.run(format!("kup -q remove {name}"))?,
            Way::Incremental => guest.run(format!("rm -r {OURS}/two"))?,
            Way::Simple(_) => guest.run(format!("rm -r {images}"))?,
        };
        Ok(Taken {
            written,
            stop,
            sync,
            restore,
            whole,
        })
    }

    /// By CRIU alone. Returns how long it stood still.
    fn dump(&self, images: &str, how: &str) -> Result<f64> {
        let (pid, connections) = (&self.pid, self.connections());
        let dump = format!("criu dump --leave-running {how} {connections} -t {pid}");
        criu::criu(self.guest, images, &dump)?;
        self.frozen(images)
    }

    /// What CRIU wants to be told when the writer's connection is there.
    fn connections(&self) -> &'static str {
        match self.writes {
            0 => "",
            _ => "--tcp-established --network-lock=nftables",
        }
    }

    /// Who writes to it, if somebody does.
    fn writer(&self) -> Result<Option<Toucher>> {
        if self.writes == 0 {
            return Ok(None);
        }
        let count = values(self.bytes);
        let mut stream = apps::connect(self.guest.address()?, self.server.port)?;
        stream.write_all(self.server.mute.as_bytes())?;
        let each_second = count as f64 * self.writes as f64 / 100.0;
        let touch = self.server.touch;
        Toucher::start(stream, count, each_second, touch).map(Some)
    }

    /// Lets it write for a while. Returns which part of the values it wrote to each second, by what the server took: some
    /// MiB of requests may lie in the sockets' buffers.
    fn warm(&self, writer: &Toucher) -> Result<f64> {
        let (begun, sent) = (Instant::now(), writer.sent());
        thread::sleep(WARM);
        let sent = (writer.sent() - sent) as f64 / begun.elapsed().as_secs_f64();
        ensure!(sent > 0.0, "nothing was written");
        Ok(sent / values(self.bytes) as f64)
    }

    /// How long a dump's process stood still, as CRIU says.
    fn frozen(&self, images: &str) -> Result<f64> {
        let stats = self.guest.command(format!("cat {images}/stats-dump"));
        let dir = self.lab.dir();
        fs::write(dir.join("stats-dump"), stats.succeed()?.stdout)?;
        let stats = ::kup::criu::dump_stats(&dir)?;
        Ok(f64::from(stats.frozen_time) / 1e6)
    }

    /// It was left running: CRIU would take the time to free its memory for a part of the stop, and an update
    /// frees nothing.
    fn kill(&self) -> Result<()> {
        self.guest.run(end(&self.pid)).map(drop)
    }

    /// Restores it by a command. Returns the time until it answered, and that until the command ended.
    fn restored(&self, command: &str) -> Result<(f64, f64)> {
        let (guest, port, request) = (self.guest, self.server.port, self.server.request);
        guest.run(format!(
            "rm -f {ANSWERED}; setsid /init answers {port} {request} </dev/null >{ANSWERED} 2>&1 &"
        ))?;
        let (whole, begun) = begun(guest, command)?;
        let answered = guest.run(format!(
            "until [ -s {ANSWERED} ]; do sleep 0.05; done; cat {ANSWERED}"
        ))?;
        let at: f64 = answered.trim().parse().context(answered)?;
        Ok((at - begun, whole))
    }
}

fn say(name: &str, round: usize, taken: &Turns) {
    let list = |pick: fn(&Taken) -> f64| {
        let each = taken.iter().map(|taken| format!("{:.3}", pick(taken)));
        each.collect::<Vec<_>>().join(" ")
    };
    println!(
        "{name:22} round {round}: written {}, still {} s (synced {:.3} s later), answered {} s, whole {} s",
        list(|taken| taken.written),
        list(|taken| taken.stop),
        taken[ON_DISK].sync,
        list(|taken| taken.restore),
        list(|taken| taken.whole),
    );
}

fn measures(name: &str, size: &str, taken: &[Turns]) -> Vec<Measure> {
    let mut all = Vec::new();
    let mut add =
        |what: &str, peer: &str, ours: fn(&Taken) -> f64, theirs: &dyn Fn(&Turns) -> f64| {
            let pair = |turns: &Turns| (ours(&turns[FOAM]), theirs(turns));
            let pairs: Pairs = taken.iter().map(pair).collect();
            all.push(pairs.measure(format!("{name}_{what}_{size}_vs_{peer}"), "s"));
        };
    for (peer, way) in [
        (DISK.0, ON_DISK),
        (EXT4DAX.0, EXT4),
        ("simple", SIMPLE),
        ("incremental", INCREMENTAL),
    ] {
        add("stop", peer, |foam| foam.stop, &|turns| turns[way].stop);
        add("restore", peer, |foam| foam.restore, &|turns| {
            turns[way].restore
        });
    }
    add("stop", "synced_disk", |foam| foam.stop, &|turns| {
        turns[ON_DISK].stop + turns[ON_DISK].sync
    });
    add("drain", "simple", |foam| foam.whole, &|turns| {
        turns[SIMPLE].whole
    });
    if taken.iter().all(|turns| turns[FOAM].written > 0.0) {
        let pair = |turns: &Turns| (turns[FOAM].written, turns[SIMPLE].written);
        let pairs: Pairs = taken.iter().map(pair).collect();
        all.push(pairs.measure(format!("{name}_written_{size}"), "of it each second"));
    }
    all
}
