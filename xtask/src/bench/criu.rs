// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checkpoint and restore of a process with 256 MiB of its own, to the mount and to tmpfs in turns.

use super::{Measure, Pairs, Settings};
use crate::lab::{Boot, Filesystem, Guest, Lab, Size};
use anyhow::{ensure, Result};

const BYTES: u64 = 256 << 20;
const OURS: &str = "/mnt/ours";
const TMPFS: &str = "/mnt/tmpfs";

pub fn run(settings: &Settings) -> Result<Vec<Measure>> {
    let lab = Lab::open("bench-criu")?;
    let mut measures = Vec::new();
    let kinds = [
        (Filesystem::Rpramfs, "fuse"),
        (Filesystem::Ext4Dax, "ext4dax"),
    ];
    for (fs, name) in kinds {
        let (dump, restore) = compare(&lab, fs, settings.rounds)?;
        measures.push(dump.measure(format!("criu.dump_256m_{name}_vs_tmpfs"), "s"));
        measures.push(restore.measure(format!("criu.restore_256m_{name}_vs_tmpfs"), "s"));
    }
    Ok(measures)
}

fn compare(lab: &Lab, fs: Filesystem, rounds: usize) -> Result<(Pairs, Pairs)> {
    let region = fs.region(Size::gib(1));
    let mut boot = Boot::new("6.12").region(region).memory(Size::gib(3));
    if !fs.needs_tools() {
        boot = boot.without_tools();
    }
    let guest = lab.boot(&boot)?;
    guest.run(format!(
        "mkdir -p {OURS} {TMPFS} && mount -t tmpfs -o size=1G tmpfs {TMPFS}"
    ))?;
    guest.run(fs.mkfs(&region))?;
    guest.run(fs.mount(&region, OURS))?;
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    let start = format!("setsid /init hold {BYTES} </dev/null >/dev/null 2>&1 & echo $!");
    let pid = guest.run(start)?.trim().to_owned();
    let resident = || guest.run(format!("awk '/^VmRSS:/ {{ print $2 }}' /proc/{pid}/status"));
    while resident()?.trim().parse::<u64>()? * 1024 < BYTES {
        guest.run("sleep 0.2")?;
    }

    // One round that is not counted, then the counted ones, each beginning with the other.
    let (mut dumps, mut restores) = (Pairs::default(), Pairs::default());
    for round in 0..=rounds {
        let mut dump = [0.0; 2];
        let mut restore = [0.0; 2];
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let dir = format!("{}/images", [OURS, TMPFS][which]);
            dump[which] = criu(&guest, &dir, &format!("criu dump -t {pid}"))?;
            restore[which] = criu(&guest, &dir, "criu restore -d")?;
            let held = resident()?.trim().parse::<u64>()? * 1024;
            ensure!(held >= BYTES, "only {held} bytes were restored");
            guest.run(format!("rm -r {dir}"))?;
        }
        if round > 0 {
            dumps.push(dump[0], dump[1]);
            restores.push(restore[0], restore[1]);
        }
    }
    guest.check()?;
    Ok((dumps, restores))
}

/// Seconds by the guest's clock.
fn criu(guest: &Guest, dir: &str, command: &str) -> Result<f64> {
    guest.run(format!("mkdir -p {dir}"))?;
    let options = format!("--images-dir {dir} -o criu.log --manage-cgroups=ignore");
    let script = format!("{command} {options} || {{ tail -n 30 {dir}/criu.log >&2; exit 1; }}");
    Ok(guest.command(script).timeout(120).succeed()?.seconds())
}
