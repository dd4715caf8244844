// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checkpoint and restore of a process with memory of its own, to ours and to what a user would take
//! instead, in turns.

use super::others;
use super::{Measure, Pairs, Settings};
use crate::kmod;
use crate::lab::{Boot, Filesystem, Guest, Lab, Shell, Size, BLANK};
use anyhow::{ensure, Result};

pub const OURS: &str = "/mnt/ours";
/// What is in the guest besides, by name.
const TMPFS: (&str, &str) = ("tmpfs", "/mnt/tmpfs");
pub const EXT4DAX: (&str, &str) = ("ext4dax", "/mnt/ext4dax");
pub const DISK: (&str, &str) = ("disk", "/mnt/disk");

pub struct Setup {
    pub name: &'static str,
    pub kernel: &'static str,
    /// What the process holds, in MiB; regions are half as large again.
    pub holds: u64,
    pub filesystem: Filesystem,
    /// The kernel module mounts ours, and ext4-DAX is there too.
    pub module: bool,
    /// The host reaches it by TCP.
    pub network: bool,
    /// An ext4 on a disk is there too.
    pub disk: bool,
    /// A command for the guest, before the mount.
    pub before: &'static str,
}

const FUSE: Setup = Setup {
    name: "256m_fuse",
    kernel: "6.12",
    holds: 256,
    filesystem: Filesystem::Rpramfs,
    module: false,
    network: false,
    disk: false,
    before: "true",
};

pub const KMOD: Setup = Setup {
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
pub fn prepare(lab: &Lab, setup: &Setup) -> Result<(Guest, Vec<(&'static str, &'static str)>)> {
    let fs = setup.filesystem;
    let size = Size::mib((setup.holds * 3 / 2).max(1024));
    let region = fs.region(size);
    let mut boot = Boot::new(setup.kernel)
        .region(region)
        .memory(Size::mib(2048 + setup.holds * 3));
    if !fs.needs_tools() {
        boot = boot.without_tools();
    }
    if setup.network {
        boot = boot.network();
    }
    if setup.disk {
        boot = boot.disk(size);
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
    if setup.disk {
        // Nothing is to be left for the kernel to write in the background.
        guest.run(format!(
            "mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 {BLANK} && \
             mkdir -p {0} && mount -t ext4 {BLANK} {0}",
            DISK.1
        ))?;
        peers.push(DISK);
    }
    Ok((guest, peers))
}

type Compared = Vec<(&'static str, Pairs, Pairs)>;

fn compare(lab: &Lab, setup: &Setup, rounds: usize) -> Result<Compared> {
    let bytes = setup.holds << 20;
    let (guest, peers) = prepare(lab, setup)?;
    guest.high_pids()?;
    let pid = hold(&guest, bytes, "")?;

    let places: Vec<&str> = [OURS]
        .into_iter()
        .chain(peers.iter().map(|peer| peer.1))
        .collect();
    let mut compared: Compared = peers
        .iter()
        .map(|peer| (peer.0, Pairs::default(), Pairs::default()))
        .collect();
    // Each round begins with another.
    let taken = others::rounds(&guest, setup.name, rounds, |round| {
        let mut dump = vec![0.0; places.len()];
        let mut restore = dump.clone();
        for turn in 0..places.len() {
            let which = (round + turn) % places.len();
            let dir = format!("{}/images", places[which]);
            dump[which] = criu(&guest, &dir, &format!("criu dump -t {pid}"))?;
            restore[which] = criu(&guest, &dir, "criu restore -d")?;
            let held = resident(&guest, &pid)?;
            ensure!(held >= bytes, "only {held} bytes were restored");
            guest.run(format!("rm -r {dir}"))?;
        }
        Ok((dump, restore))
    })?;
    for (dump, restore) in taken {
        for (which, (_, dumps, restores)) in compared.iter_mut().enumerate() {
            dumps.push(dump[0], dump[which + 1]);
            restores.push(restore[0], restore[which + 1]);
        }
    }
    guest.check()?;
    Ok(compared)
}

/// Starts a process that holds so many bytes (`/init hold`), and waits until it does.
pub fn hold(shell: &dyn Shell, bytes: u64, options: &str) -> Result<String> {
    let start = format!("setsid /init hold {bytes} {options} </dev/null >/dev/null 2>&1 & echo $!");
    let pid = shell.run(&start)?.trim().to_owned();
    while resident(shell, &pid)? < bytes {
        shell.run("sleep 0.2")?;
    }
    Ok(pid)
}

pub fn resident(shell: &dyn Shell, pid: &str) -> Result<u64> {
    let kib = shell.run(&format!(
        "awk '/^VmRSS:/ {{ print $2 }}' /proc/{pid}/status"
    ))?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// Seconds by the machine's clock.
pub fn criu(shell: &dyn Shell, dir: &str, command: &str) -> Result<f64> {
    shell.run(&format!("mkdir -p {dir}"))?;
    let options = format!("--images-dir {dir} -o criu.log --manage-cgroups=ignore");
    let script = format!("{command} {options} || {{ tail -n 30 {dir}/criu.log >&2; exit 1; }}");
    Ok(shell.timed(&script, 120)?.1)
}
