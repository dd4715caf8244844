// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checkpoint and restore of a process with 256 MiB of its own, to the mount and to tmpfs in turns.

use super::others::{self, Others, TOO_MUCH};
use super::{Measure, Pairs, Settings};
use crate::lab::{Boot, Filesystem, Guest, Lab, Size};
use anyhow::{ensure, Result};
use std::time::Duration;

/// How long to wait for a quiet machine before a round is taken again.
const PATIENCE: Duration = Duration::from_secs(20);
const BYTES: u64 = 256 << 20;
const OURS: &str = "/mnt/ours";
const TMPFS: &str = "/mnt/tmpfs";

struct Setup {
    name: &'static str,
    kernel: &'static str,
    filesystem: Filesystem,
    /// A command for the guest, before the mount.
    before: &'static str,
}

const SETUPS: &[Setup] = &[
    Setup {
        name: "fuse",
        kernel: "6.12",
        filesystem: Filesystem::Rpramfs,
        before: "true",
    },
    Setup {
        name: "fuse_4m",
        kernel: "7.x",
        filesystem: Filesystem::Rpramfs,
        before: "echo 1024 > /proc/sys/fs/fuse/max_pages_limit",
    },
    Setup {
        name: "ext4dax",
        kernel: "6.12",
        filesystem: Filesystem::Ext4Dax,
        before: "true",
    },
];

pub fn run(settings: &Settings) -> Result<Vec<Measure>> {
    let lab = Lab::open("bench-criu")?;
    let mut measures = Vec::new();
    for setup in SETUPS {
        let (dump, restore) = compare(&lab, setup, settings.rounds)?;
        let name = setup.name;
        measures.push(dump.measure(format!("criu.dump_256m_{name}_vs_tmpfs"), "s"));
        measures.push(restore.measure(format!("criu.restore_256m_{name}_vs_tmpfs"), "s"));
    }
    Ok(measures)
}

fn compare(lab: &Lab, setup: &Setup, rounds: usize) -> Result<(Pairs, Pairs)> {
    let fs = setup.filesystem;
    let region = fs.region(Size::gib(1));
    let mut boot = Boot::new(setup.kernel).region(region).memory(Size::gib(3));
    if !fs.needs_tools() {
        boot = boot.without_tools();
    }
    let guest = lab.boot(&boot)?;
    guest.run(format!(
        "mkdir -p {OURS} {TMPFS} && mount -t tmpfs -o size=1G tmpfs {TMPFS}"
    ))?;
    guest.run(setup.before)?;
    guest.run(fs.mkfs(&region))?;
    guest.run(fs.mount(&region, OURS))?;
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    let start = format!("setsid /init hold {BYTES} </dev/null >/dev/null 2>&1 & echo $!");
    let pid = guest.run(start)?.trim().to_owned();
    let resident = || guest.run(format!("awk '/^VmRSS:/ {{ print $2 }}' /proc/{pid}/status"));
    while resident()?.trim().parse::<u64>()? * 1024 < BYTES {
        guest.run("sleep 0.2")?;
    }

    // One round that is not counted, then the counted ones, each beginning with the other. As many
    // again may be given up because others wanted the CPUs.
    let (mut dumps, mut restores) = (Pairs::default(), Pairs::default());
    let (mut round, mut spare) = (0, rounds);
    while round <= rounds {
        let others = Others::watch(guest.process())?;
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
        let others = others.share()?;
        let disturbed = round > 0 && others > TOO_MUCH;
        if disturbed {
            println!(
                "{}: others had {:.0} % of this machine: {}",
                setup.name,
                others * 100.0,
                if spare > 0 {
                    "the round is taken again"
                } else {
                    "THE FIGURES ARE THEIRS AS MUCH AS OURS"
                }
            );
        }
        if disturbed && spare > 0 {
            spare -= 1;
            others::wait(guest.process(), PATIENCE)?;
            continue;
        }
        if round > 0 {
            dumps.push(dump[0], dump[1]);
            restores.push(restore[0], restore[1]);
        }
        round += 1;
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
