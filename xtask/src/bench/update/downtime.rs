// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A whole update, as a client sees it, less a kexec that carries nothing: from the last answer to the first
//! of the next kernel.

use super::super::{others, Measure, Pairs};
use super::criu;
use super::machine::Machine;
use crate::apps::asker::Asker;
use crate::lab::Lab;
use anyhow::Result;

const PORT: u16 = 7000;
const HOLDS: u64 = 1 << 30;

/// Seconds.
struct Round {
    update: f64,
    kexec: f64,
    /// Of the update: from the stop to the switch, and in `kup resume`.
    stop: f64,
    resume: f64,
}

pub fn run(lab: &Lab, rounds: usize) -> Result<Vec<Measure>> {
    let machine = Machine::start(lab)?;
    let taken = others::rounds(&machine.guest, "downtime", rounds, |_| {
        let kexec = bare(&machine)?;
        update(&machine, kexec)
    })?;
    machine.guest.check()?;
    let measure = |name: &str, pick: &dyn Fn(&Round) -> (f64, f64)| {
        let pairs: Pairs = taken.iter().map(pick).collect();
        pairs.measure(name, "s")
    };
    Ok(vec![
        measure("update.downtime_minus_kexec_1g", &|round| {
            (round.update - round.kexec, round.kexec)
        }),
        measure("update.downtime_1g_vs_kexec", &|round| {
            (round.update, round.kexec)
        }),
        // The difference of two kexecs scatters by more than what an update adds. These are most of that, without
        // the starts of `kup hold` and `kup resume`.
        measure("update.stop_and_resume_1g_vs_downtime", &|round| {
            (round.stop + round.resume, round.update)
        }),
        measure("update.stop_to_switch_1g_vs_downtime", &|round| {
            (round.stop, round.update)
        }),
        measure("update.resume_1g_vs_downtime", &|round| {
            (round.resume, round.update)
        }),
    ])
}

/// A kexec that carries nothing. Then it is the network that answers: nobody is at that port.
fn bare(machine: &Machine) -> Result<f64> {
    machine.guest.high_pids()?;
    criu::hold(&machine.guest, 4096, &format!("answer {PORT}"))?;
    let asker = Asker::by_datagrams(machine.guest.address()?, PORT, true)?;
    machine.kexec(|| asker.wait())?;
    asker.wait()?;
    Ok(asker.finish()?.as_secs_f64())
}

fn update(machine: &Machine, kexec: f64) -> Result<Round> {
    machine.guest.high_pids()?;
    let pid = criu::hold(&machine.guest, HOLDS, &format!("answer {PORT}"))?;
    let asker = Asker::by_datagrams(machine.guest.address()?, PORT, false)?;
    asker.wait()?;
    let parts = machine.update("held", &pid)?;
    asker.wait()?;
    let update = asker.finish()?.as_secs_f64();
    machine.drained("held")?;
    machine.clear("held", &pid)?;
    Ok(Round {
        update,
        kexec,
        stop: parts.stop,
        resume: parts.resume,
    })
}
