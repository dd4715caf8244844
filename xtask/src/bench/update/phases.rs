// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a whole update of redis and memcached consists of, by how much they hold. A client opens a connection for
//! each question, and notes how long nobody answered: what its own machine knows of the parts is in the rest.

use super::super::{others, Measure, Pairs};
use super::machine::{Machine, Parts};
use super::servers::{self, Server, SERVERS};
use crate::apps::asker::Asker;
use crate::lab::Lab;
use anyhow::{Context, Result};

/// MiB of values.
const SIZES: [(&str, u64); 3] = [("64m", 64), ("256m", 256), ("1g", 1024)];

/// Seconds.
struct Taken {
    /// From the last answer to the first of the next kernel.
    downtime: f64,
    parts: Parts,
    /// From then on, until all memory is there.
    drain: f64,
}

impl Taken {
    /// In no clock of the guest: from the switch to the next kernel's first look at one, and from the end of the
    /// resume to an answer.
    fn rest(&self) -> f64 {
        let parts = &self.parts;
        self.downtime - parts.stop - parts.boot - parts.mount - parts.network - parts.resume
    }
}

pub fn run(lab: &Lab, rounds: usize) -> Result<Vec<Measure>> {
    let machine = Machine::start(lab)?;
    one(&machine, &SERVERS[0], SIZES[0].1).context("the round that is not counted")?;
    let mut measures = Vec::new();
    for server in &SERVERS {
        for (size, mib) in SIZES {
            let name = format!("phases.{}_{size}", server.name);
            let taken = others::counted(&machine.guest, &name, rounds, |round| {
                let taken = one(&machine, server, mib).context(name.clone())?;
                println!("{name} round {round}: {:.3} s", taken.downtime);
                Ok(taken)
            })?;
            measures.extend(self::measures(&name, &taken));
        }
    }
    machine.guest.check()?;
    Ok(measures)
}

fn one(machine: &Machine, server: &Server, mib: u64) -> Result<Taken> {
    machine.guest.high_pids()?;
    let pid = servers::start(&machine.guest, server, mib)?;
    let question = format!("{}\r\n", server.request);
    let asker = Asker::by_connections(machine.guest.address()?, server.port, question);
    asker.wait()?;
    let parts = machine.update(server.name, &pid)?;
    asker.wait()?;
    let downtime = asker.finish()?.as_secs_f64();
    let drain = machine.drained(server.name)? - parts.running;
    machine.clear(server.name, &pid)?;
    Ok(Taken {
        downtime,
        parts,
        drain,
    })
}

/// Each part of the downtime, and the drain behind it.
fn measures(name: &str, taken: &[Taken]) -> Vec<Measure> {
    type Part = (&'static str, fn(&Taken) -> f64);
    let parts: [Part; 7] = [
        ("stop", |taken| taken.parts.stop),
        ("boot", |taken| taken.parts.boot),
        ("mount", |taken| taken.parts.mount),
        ("network", |taken| taken.parts.network),
        ("resume", |taken| taken.parts.resume),
        ("rest", Taken::rest),
        ("drain", |taken| taken.drain),
    ];
    let measure = |(part, pick): Part| {
        let pairs: Pairs = taken.iter().map(|one| (pick(one), one.downtime)).collect();
        pairs.measure(format!("{name}_{part}_vs_downtime"), "s")
    };
    parts.into_iter().map(measure).collect()
}
