// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A whole update, as a client sees it, less a kexec that carries nothing: from the last answer to the first
//! of the next kernel.
//!
//! The client asks by datagrams, again and again: a TCP connection waits longer each time before it asks again,
//! so that its gap would say more of that than of the update.

use super::super::{others, Measure, Pairs};
use super::{criu, kup};
use crate::apps::asker::Asker;
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{Context, Result};

const MODULE: &str = "/usr/lib/rpramfs.ko";
const MOUNT: &str = criu::OURS;
/// Where the next kernel lies: in the region, which outlives the one that runs.
const NEXT: &str = "next";
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
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?.to_owned();
    let region = Region::reserved(Size::mib(1536));
    let boot = Boot::new(&release)
        .region(region)
        .memory(Size::gib(3))
        .network()
        .file(
            MODULE.trim_start_matches('/'),
            &kmod::module(lab.cache(), kernels, &release)?,
        );
    let guest = lab.boot(&boot)?;
    guest.run(format!(
        "insmod {MODULE} && mkfs.rpramfs -q {0} && mkdir -p {MOUNT} && mount -i -t rpramfs {0} {MOUNT}",
        region.spec()
    ))?;
    guest.run(network(&guest)?)?;
    let dir = lab.bring(&guest, &boot)?;
    guest.run(format!(
        "mkdir {MOUNT}/{NEXT} && mv /{dir}/* {MOUNT}/{NEXT}"
    ))?;
    let taken = others::rounds(&guest, "downtime", rounds, |_| {
        let kexec = bare(lab, &guest, &region)?;
        let (update, stop, resume) = update(lab, &guest, &region)?;
        Ok(Round {
            update,
            kexec,
            stop,
            resume,
        })
    })?;
    guest.check()?;
    let measure = |name: &str, pick: &dyn Fn(&Round) -> (f64, f64)| {
        let mut pairs = Pairs::default();
        for round in &taken {
            let (ours, baseline) = pick(round);
            pairs.push(ours, baseline);
        }
        pairs.measure(name, "s")
    };
    Ok(vec![
        measure("update.downtime_minus_kexec_1g", &|round| {
            (round.update - round.kexec, round.kexec)
        }),
        measure("update.downtime_1g_vs_kexec", &|round| {
            (round.update, round.kexec)
        }),
        measure("update.stop_to_switch_1g_vs_downtime", &|round| {
            (round.stop, round.update)
        }),
        measure("update.resume_1g_vs_downtime", &|round| {
            (round.resume, round.update)
        }),
    ])
}

/// What an init does to be heard: the clients' machine learns at once that it is there.
fn network(guest: &Guest) -> Result<String> {
    let address = guest.address()?;
    Ok(format!(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify && \
         ip addr add {address}/30 dev eth0 && ip link set eth0 up"
    ))
}

/// All that is done in the next kernel, with what is added to it: first, before the network, and behind it.
fn init(guest: &Guest, region: &Region, [first, before, behind]: [&str; 3]) -> Result<()> {
    let script = format!(
        "{first} insmod {MODULE} && mkdir -p {MOUNT} && mount -i -t rpramfs {} {MOUNT} && {before} && {} && {behind}",
        region.spec(),
        network(guest)?
    );
    guest.command(script).timeout(180).run().map(drop)
}

/// A kexec that carries nothing. Then it is the network that answers: nobody is at that port.
fn bare(lab: &Lab, guest: &Guest, region: &Region) -> Result<f64> {
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    criu::hold(guest, 4096, &format!("answer {PORT}"))?;
    guest.run(format!(
        "cd {MOUNT}/{NEXT} && kexec -s -l vmlinuz --initrd=initrd --command-line=\"$(cat cmdline)\""
    ))?;
    let asker = Asker::start(guest.address()?, PORT, true)?;
    asker.wait()?;
    lab.kexec(guest)?;
    init(guest, region, ["", "true", "true"])?;
    asker.wait()?;
    Ok(asker.finish()?.as_secs_f64())
}

/// The whole downtime, and how much of it was the stop and the resume.
fn update(lab: &Lab, guest: &Guest, region: &Region) -> Result<(f64, f64, f64)> {
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    let pid = criu::hold(guest, HOLDS, &format!("answer {PORT}"))?;
    let asker = Asker::start(guest.address()?, PORT, false)?;
    asker.wait()?;
    lab.leave_by(
        guest,
        &format!(
            "cd {MOUNT}/{NEXT} && exec kup update --kernel vmlinuz --initrd initrd \
             --command-line \"$(cat cmdline)\" --pid held={pid}"
        ),
    )?;
    init(
        guest,
        region,
        ["kup prepare &", "kup -q hold", "kup -q resume"],
    )?;
    asker.wait()?;
    let gap = asker.finish()?.as_secs_f64();
    let report: serde_json::Value = serde_json::from_str(&kup(guest, "report")?)?;
    let at = |step: &str| -> Result<f64> {
        let events = report["events"].as_array().context("no events")?;
        let event = events.iter().rev().find(|event| event["step"] == step);
        let at = event.and_then(|event| event["at"].as_f64());
        at.with_context(|| format!("kup report: no {step}"))
    };
    let parts = (
        at("switching")? - at("stopping")?,
        at("running")? - at("resuming")?,
    );
    let drained = "until kup show held --json | grep -q '\"restored\"'; do sleep 0.2; done";
    guest.command(drained).timeout(180).run()?;
    guest.run(super::end(&pid))?;
    guest.run("kup remove held")?;
    Ok((gap, parts.0, parts.1))
}
