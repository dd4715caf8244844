// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The same for real applications, redis and memcached, which hold values and are asked for nothing meanwhile.
//!
//! They cannot say how long they stood still: CRIU does, of each dump alike. A restore ends for them with the
//! first answer over a new connection. Nobody may ask while they are dumped: of a connection that waits to be
//! accepted CRIU would say that it cannot be dumped.

use super::super::criu::{Setup, DISK, EXT4DAX, OURS};
use super::super::{criu, others, Measure, Pairs};
use super::{begun, end, kup, reported};
use crate::apps::memcached::{self, Memcached};
use crate::apps::redis::{self, Redis};
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Context, Result};
use std::fs;
use std::net::Ipv4Addr;

/// Of a value, on average.
const LENGTH: usize = 2900;
const SIZES: [(&str, u64); 5] = [
    ("64m", 64),
    ("128m", 128),
    ("256m", 256),
    ("512m", 512),
    ("1g", 1024),
];
const ANSWERED: &str = "/run/answered";

pub struct Server {
    pub name: &'static str,
    command: &'static str,
    pub port: u16,
    pub request: &'static str,
    fill: fn(Ipv4Addr, usize) -> Result<()>,
}

pub const SERVERS: [Server; 2] = [
    Server {
        name: "redis",
        command: "redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no",
        port: redis::PORT,
        request: "PING",
        fill: |host, count| Redis::connect(host)?.fill(7, count, LENGTH),
    },
    Server {
        name: "memcached",
        command: "memcached -u root -l 0.0.0.0 -U 0 -t 4 -m 2048",
        port: memcached::PORT,
        request: "version",
        fill: |host, count| Memcached::connect(host)?.fill(7, count, LENGTH),
    },
];

/// One `criu dump` into each of these directories, then `kup`: rounds into FOAM, memory on demand.
const PLACES: [&str; 3] = [DISK.1, EXT4DAX.1, OURS];
const ON_DISK: usize = 0;
const EXT4: usize = 1;
const SIMPLE: usize = 2;
const FOAM: usize = 3;
const WAYS: usize = 4;

/// Seconds.
#[derive(Clone, Copy, Default)]
struct Taken {
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

type Turns = [Taken; WAYS];

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
        for (size, mib) in SIZES {
            let name = format!("{} {size}", server.name);
            let subject = Subject {
                lab,
                guest: &guest,
                server,
                bytes: mib << 20,
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
                size,
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
    (server.fill)(guest.address()?, (mib << 20) as usize / LENGTH)?;
    Ok(pid)
}

/// A server that holds something.
struct Subject<'a> {
    lab: &'a Lab,
    guest: &'a Guest,
    server: &'a Server,
    /// Of values alone.
    bytes: u64,
    pid: String,
}

impl Subject<'_> {
    /// Each way in its turn.
    fn all_ways(&self, round: usize) -> Result<Turns> {
        let mut taken = [Taken::default(); WAYS];
        for turn in 0..WAYS {
            let which = (round + turn) % WAYS;
            // Time for it to close the connection of who asked last.
            self.guest.run("sleep 1")?;
            taken[which] = match PLACES.get(which) {
                Some(place) => self.simple(place)?,
                None => self.foam()?,
            };
            let held = criu::resident(self.guest, &self.pid)?;
            ensure!(held >= self.bytes, "only {held} bytes were restored");
        }
        Ok(taken)
    }

    fn simple(&self, place: &str) -> Result<Taken> {
        let (guest, pid) = (self.guest, &self.pid);
        let images = format!("{place}/images");
        criu::criu(
            guest,
            &images,
            &format!("criu dump --leave-running -t {pid}"),
        )?;
        let stop = self.frozen(&images)?;
        self.kill()?;
        let mut sync = 0.0;
        if place == DISK.1 {
            sync = guest.command("sync").timeout(180).succeed()?.seconds();
            // The next kernel would have nothing of it in its page cache.
            guest.run("echo 3 > /proc/sys/vm/drop_caches")?;
        }
        let (restore, whole) = self.restored(&format!(
            "criu restore -d --images-dir {images} -o restore.log --manage-cgroups=ignore"
        ))?;
        guest.run(format!("rm -r {images}"))?;
        Ok(Taken {
            stop,
            sync,
            restore,
            whole,
        })
    }

    fn foam(&self) -> Result<Taken> {
        let name = self.server.name;
        let text = kup(
            self.guest,
            &format!("checkpoint {name} --leave-running --pid {}", self.pid),
        )?;
        self.kill()?;
        let (restore, whole) = self.restored(&format!("kup -q restore --wait {name}"))?;
        self.guest.run(format!("kup -q remove {name}"))?;
        Ok(Taken {
            stop: reported(&text)?,
            sync: 0.0,
            restore,
            whole,
        })
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
        "{name:16} round {round}: still {} s (synced {:.3} s later), answered {} s, whole {} s",
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
    for (peer, way) in [(DISK.0, ON_DISK), (EXT4DAX.0, EXT4), ("simple", SIMPLE)] {
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
    all
}
