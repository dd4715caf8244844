// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A guest that whole updates are measured in: the next kernel lies in its region, and an init that does nothing
//! but what is needed brings the applications back.

use super::super::criu;
use super::kup;
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{Context, Result};

const MODULE: &str = "/usr/lib/rpramfs.ko";
const MOUNT: &str = criu::OURS;
/// Where the next kernel lies: in the region, which outlives the one that runs.
const NEXT: &str = "next";
/// When init began, when the region was mounted, when the network was up: seconds since that kernel began.
const BEGAN: &str = "/run/began";
const MOUNTED: &str = "/run/mounted";
const UP: &str = "/run/up";

pub struct Machine<'a> {
    lab: &'a Lab,
    pub guest: Guest,
    region: Region,
}

/// The parts of an update that this machine's clocks know, in seconds.
pub struct Parts {
    /// From the stop to the switch.
    pub stop: f64,
    /// From the kernel's first look at a clock to init.
    pub boot: f64,
    /// The module is loaded, and the region mounted.
    pub mount: f64,
    /// Ports and PIDs are held, the network comes up.
    pub network: f64,
    /// `kup resume`, from holding to running.
    pub resume: f64,
    /// When that was, in seconds since 1970.
    pub running: f64,
}

impl<'a> Machine<'a> {
    pub fn start(lab: &'a Lab) -> Result<Machine<'a>> {
        let kernels = lab.kernels()?;
        let release = kernels.release("7.x")?.to_owned();
        let region = Region::reserved(Size::mib(1536));
        let module = kmod::module(lab.cache(), kernels, &release)?;
        let boot = Boot::new(&release)
            .region(region)
            .memory(Size::gib(3))
            .network()
            .file(MODULE.trim_start_matches('/'), &module);
        let guest = lab.boot(&boot)?;
        guest.run(format!(
            "mkfs.rpramfs -q {} && {}",
            region.spec(),
            mount(&region)
        ))?;
        guest.run(network(&guest)?)?;
        let dir = lab.bring(&guest, &boot)?;
        guest.run(format!(
            "mkdir {MOUNT}/{NEXT} && mv /{dir}/* {MOUNT}/{NEXT}"
        ))?;
        Ok(Machine { lab, guest, region })
    }

    /// A kexec that carries nothing. `heard` is called when the next kernel is loaded.
    pub fn kexec(&self, heard: impl FnOnce() -> Result<()>) -> Result<()> {
        self.guest.run(format!(
            "cd {MOUNT}/{NEXT} && kexec -s -l vmlinuz --initrd=initrd --command-line=\"$(cat cmdline)\""
        ))?;
        heard()?;
        self.lab.kexec(&self.guest)?;
        self.init(["", "true", "true"])
    }

    /// An update that carries a process by a name.
    pub fn update(&self, name: &str, pid: &str) -> Result<Parts> {
        self.lab.leave_by(
            &self.guest,
            &format!(
                "cd {MOUNT}/{NEXT} && exec kup update --kernel vmlinuz --initrd initrd \
                 --command-line \"$(cat cmdline)\" --pid {name}={pid}"
            ),
        )?;
        let note = |path| format!("cut -d ' ' -f 1 /proc/uptime > {path}");
        self.init([
            &format!("{}; kup prepare &", note(BEGAN)),
            &format!("{} && kup -q hold", note(MOUNTED)),
            &format!("{} && kup -q resume", note(UP)),
        ])?;
        let report: serde_json::Value = serde_json::from_str(&kup(&self.guest, "report")?)?;
        let at = |step: &str| -> Result<f64> {
            let events = report["events"].as_array().context("no events")?;
            let event = events.iter().rev().find(|event| event["step"] == step);
            let at = event.and_then(|event| event["at"].as_f64());
            at.with_context(|| format!("kup report: no {step}"))
        };
        let noted = |path: &str| -> Result<f64> {
            let text = self.guest.run(format!("cat {path}"))?;
            text.trim().parse().with_context(|| text.clone())
        };
        let [began, mounted, up] = [noted(BEGAN)?, noted(MOUNTED)?, noted(UP)?];
        Ok(Parts {
            stop: at("switching")? - at("stopping")?,
            boot: began,
            mount: mounted - began,
            network: up - mounted,
            resume: at("running")? - at("resuming")?,
            running: at("running")?,
        })
    }

    /// Waits until all memory of a process is there. Returns when that was, in seconds since 1970.
    pub fn drained(&self, name: &str) -> Result<f64> {
        let manifest = format!("{MOUNT}/kup/{name}/manifest.json");
        let drained = format!(
            "until grep -q '\"restored\"' {manifest}; do sleep 0.05; done; /init mtime {manifest}"
        );
        let text = self.guest.command(drained).timeout(180).run()?;
        text.trim().parse().with_context(|| text.clone())
    }

    /// Ends a process and removes what is left of its checkpoint.
    pub fn clear(&self, name: &str, pid: &str) -> Result<()> {
        self.guest.run(super::end(pid))?;
        self.guest.run(format!("kup remove {name}")).map(drop)
    }

    /// All that is done in the next kernel, with what is added to it: first, before the network, and behind it.
    fn init(&self, [first, before, behind]: [&str; 3]) -> Result<()> {
        let script = format!(
            "{first} {} && {before} && {} && {behind}",
            mount(&self.region),
            network(&self.guest)?
        );
        self.guest.command(script).timeout(180).run().map(drop)
    }
}

fn mount(region: &Region) -> String {
    format!(
        "insmod {MODULE} && mkdir -p {MOUNT} && mount -i -t rpramfs {} {MOUNT}",
        region.spec()
    )
}

/// What an init does to be heard: the clients' machine learns at once that it is there.
fn network(guest: &Guest) -> Result<String> {
    let address = guest.address()?;
    Ok(format!(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify && \
         ip addr add {address}/30 dev eth0 && ip link set eth0 up"
    ))
}
