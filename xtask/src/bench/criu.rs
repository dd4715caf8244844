// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checkpoint and restore of a process with memory of its own, to ours and to what a user would take
//! instead, in turns.

use super::others::{self, Others, TOO_MUCH};
use super::{Measure, Pairs, Settings};
use crate::kmod;
use crate::lab::{Boot, Filesystem, Guest, Lab, Size};
use anyhow::{ensure, Result};
use std::time::Duration;

/// How long to wait for a quiet machine before a round is taken again.
const PATIENCE: Duration = Duration::from_secs(20);
const OURS: &str = "/mnt/ours";
/// What is in the guest besides, by name.
const TMPFS: (&str, &str) = ("tmpfs", "/mnt/tmpfs");
const EXT4DAX: (&str, &str) = ("ext4dax", "/mnt/ext4dax");

struct Setup {
    name: &'static str,
    kernel: &'static str,
    /// What the process holds, in MiB; regions are half as large again.
    holds: u64,
    filesystem: Filesystem,
    /// The kernel module mounts ours, and ext4-DAX is there too.
    module: bool,
    /// A command for the guest, before the mount.
    before: &'static str,
}

const FUSE: Setup = Setup {
    name: "256m_fuse",
    kernel: "6.12",
    holds: 256,
    filesystem: Filesystem::Rpramfs,
    module: false,
    before: "true",
};

const KMOD: Setup = Setup {
    name: "256m_kmod",
    kernel: "7.x",
    module: true,
    before: "insmod /usr/lib/rpramfs.ko",
    ..FUSE
};

const USER_SPACE: &[Setup] = &[
    FUSE,
    Setup {
        name: "256m_fuse_4m",
        kernel: "7.x",
        before: "echo 1024 > /proc/sys/fs/fuse/max_pages_limit",
        ..FUSE
    },
    Setup {
        name: "256m_ext4dax",
        filesystem: Filesystem::Ext4Dax,
        ..FUSE
    },
];

const MODULE: &[Setup] = &[
    KMOD,
    Setup {
        name: "1g_kmod",
        holds: 1024,
        ..KMOD
    },
];

/// FUSE, and ext4-DAX, against tmpfs.
pub fn run(settings: &Settings) -> Result<Vec<Measure>> {
    all(USER_SPACE, settings)
}

/// The kernel module against tmpfs and ext4-DAX.
pub fn module(settings: &Settings) -> Result<Vec<Measure>> {
    all(MODULE, settings)
}

fn all(setups: &[Setup], settings: &Settings) -> Result<Vec<Measure>> {
    let lab = Lab::open("bench-criu")?;
    let mut measures = Vec::new();
    for setup in setups {
        let name = setup.name;
        for (peer, dump, restore) in compare(&lab, setup, settings.rounds)? {
            measures.push(dump.measure(format!("criu.dump_{name}_vs_{peer}"), "s"));
            measures.push(restore.measure(format!("criu.restore_{name}_vs_{peer}"), "s"));
        }
    }
    Ok(measures)
}

/// Boots a guest and mounts everything. Returns the peers.
fn prepare(lab: &Lab, setup: &Setup) -> Result<(Guest, Vec<(&'static str, &'static str)>)> {
    let fs = setup.filesystem;
    let size = Size::mib((setup.holds * 3 / 2).max(1024));
    let region = fs.region(size);
    let mut boot = Boot::new(setup.kernel)
        .region(region)
        .memory(Size::mib(2048 + setup.holds * 3));
    if !fs.needs_tools() {
        boot = boot.without_tools();
    }
    let mut peers = vec![TMPFS];
    let mut mount = fs.mount(&region, OURS);
    if setup.module {
        let kernels = lab.kernels()?;
        let release = kernels.release(setup.kernel)?.to_owned();
        let module = kmod::module(lab.cache(), kernels, &release)?;
        boot = boot
            .with_kernel(&release)
            .file("usr/lib/rpramfs.ko", &module)
            .memory(Size::mib(2048 + setup.holds * 3 + (size.0 >> 20)))
            .argument(&format!("memmap={size}!{:#x}", region.end()));
        mount = format!("mount -i -t rpramfs {} {OURS}", region.spec());
        peers.push(EXT4DAX);
    }
    let guest = lab.boot(&boot)?;
    guest.run(format!(
        "mkdir -p {OURS} {0} && mount -t tmpfs -o size={size} tmpfs {0}",
        TMPFS.1
    ))?;
    guest.run(setup.before)?;
    guest.run(fs.mkfs(&region))?;
    guest.run(mount)?;
    if setup.module {
        guest.run(format!(
            "mkfs.ext4 -q -F -b 4096 /dev/pmem0 && mkdir -p {0} && \
             mount -t ext4 -o dax /dev/pmem0 {0}",
            EXT4DAX.1
        ))?;
    }
    Ok((guest, peers))
}

type Compared = Vec<(&'static str, Pairs, Pairs)>;

fn compare(lab: &Lab, setup: &Setup, rounds: usize) -> Result<Compared> {
    let bytes = setup.holds << 20;
    let (guest, peers) = prepare(lab, setup)?;
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    let start = format!("setsid /init hold {bytes} </dev/null >/dev/null 2>&1 & echo $!");
    let pid = guest.run(start)?.trim().to_owned();
    let resident = || guest.run(format!("awk '/^VmRSS:/ {{ print $2 }}' /proc/{pid}/status"));
    while resident()?.trim().parse::<u64>()? * 1024 < bytes {
        guest.run("sleep 0.2")?;
    }

    let places: Vec<&str> = [OURS]
        .into_iter()
        .chain(peers.iter().map(|peer| peer.1))
        .collect();
    let mut compared: Compared = peers
        .iter()
        .map(|peer| (peer.0, Pairs::default(), Pairs::default()))
        .collect();
    // One round that is not counted, then the counted ones, each beginning with another. As many
    // again may be given up because others wanted the CPUs.
    let (mut round, mut spare) = (0, rounds);
    while round <= rounds {
        let others = Others::watch(guest.process())?;
        let mut dump = vec![0.0; places.len()];
        let mut restore = dump.clone();
        for turn in 0..places.len() {
            let which = (round + turn) % places.len();
            let dir = format!("{}/images", places[which]);
            dump[which] = criu(&guest, &dir, &format!("criu dump -t {pid}"))?;
            restore[which] = criu(&guest, &dir, "criu restore -d")?;
            let held = resident()?.trim().parse::<u64>()? * 1024;
            ensure!(held >= bytes, "only {held} bytes were restored");
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
            for (which, (_, dumps, restores)) in compared.iter_mut().enumerate() {
                dumps.push(dump[0], dump[which + 1]);
                restores.push(restore[0], restore[which + 1]);
            }
        }
        round += 1;
    }
    guest.check()?;
    Ok(compared)
}

/// Seconds by the guest's clock.
fn criu(guest: &Guest, dir: &str, command: &str) -> Result<f64> {
    guest.run(format!("mkdir -p {dir}"))?;
    let options = format!("--images-dir {dir} -o criu.log --manage-cgroups=ignore");
    let script = format!("{command} {options} || {{ tail -n 30 {dir}/criu.log >&2; exit 1; }}");
    Ok(guest.command(script).timeout(120).succeed()?.seconds())
}
