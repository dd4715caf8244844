// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A system as operators have it, with systemd and a root disk, whose work is carried from kernel to kernel by
//! `kup update`: services by their units, other programs by their processes. Each has a witness outside of the guest
//! who has something to lose.

mod compile;
mod mariadb;
mod memcached;
mod nginx;
mod redis;

use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};
use std::net::Ipv4Addr;
use std::time::Duration;

pub use compile::COMPILE;
pub use mariadb::MARIADB;
pub use memcached::MEMCACHED;
pub use nginx::NGINX;
pub use redis::REDIS;

pub const ALL: &[&App] = &[&REDIS, &MEMCACHED, &NGINX, &MARIADB, &COMPILE];

pub const REGION: Size = Size::gib(1);
const MOUNT: &str = "/srv/region";
/// No client waits longer than this for an answer.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is carried along.
pub struct App {
    pub name: &'static str,
    /// Its unit; another program is known by the PID in /root/NAME.pid.
    pub unit: Option<&'static str>,
    /// What an operator sets, once, by a shell.
    configure: &'static str,
    /// What is done before anything puts a load on the guest.
    prepare: fn(&Lab, &Guest) -> Result<()>,
    /// Gives it something to hold.
    begin: fn(&Lab, &Guest, Ipv4Addr) -> Result<Box<dyn Witness>>,
}

/// Knows what an application held, and goes on using it.
pub trait Witness {
    /// Behind each update: it answers, over the same connection.
    fn goes_on(&mut self, guest: &Guest) -> Result<()>;
    /// In the end: nothing is lost. Says what was found.
    fn end(self: Box<Self>, guest: &Guest) -> Result<String>;
}

/// The network of this guest, as units of its own would bring it up.
const NETWORK: &str = "[Unit]
DefaultDependencies=no
After=network-pre.target sys-subsystem-net-devices-eth0.device
Wants=network-pre.target sys-subsystem-net-devices-eth0.device
Before=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip addr add ADDRESS/30 dev eth0
ExecStart=/bin/ip link set eth0 up
[Install]
WantedBy=network-online.target
";

/// A guest in which applications run that can be carried along.
pub struct System<'a> {
    lab: &'a Lab,
    pub guest: Guest,
    apps: Vec<&'a App>,
    witnesses: Vec<Box<dyn Witness>>,
}

impl<'a> System<'a> {
    /// Boots a kernel, does what an operator does once, and starts the applications.
    pub fn start(lab: &'a Lab, kernel: &str, apps: &[&'a App]) -> Result<System<'a>> {
        System::start_with(lab, boot(lab, kernel)?, apps)
    }

    /// The same with more than the usual in the guest.
    pub fn start_with(lab: &'a Lab, boot: Boot, apps: &[&'a App]) -> Result<System<'a>> {
        let guest = lab.boot(&boot)?;
        is_running(&guest)?;
        let host = guest.address()?;
        set_up(&guest, host, apps)?;
        for app in apps {
            (app.prepare)(lab, &guest).context(app.name)?;
        }
        let mut witnesses = Vec::new();
        for app in apps {
            if let Some(unit) = app.unit {
                let start =
                    format!("systemctl start {unit} || {{ journalctl -u {unit} >&2; exit 1; }}");
                guest.command(start).timeout(240).run()?;
            }
            witnesses.push((app.begin)(lab, &guest, host).context(app.name)?);
        }
        Ok(System {
            lab,
            guest,
            apps: apps.to_vec(),
            witnesses,
        })
    }

    /// Updates to a kernel. The same processes must run afterwards, each as what it was before.
    pub fn update(&mut self, kernel: &str) -> Result<()> {
        self.update_by(kernel, &|_, _| Ok(()))
    }

    /// The same, with something done before to what the next kernel is started with: vmlinuz, initrd and cmdline in
    /// a directory of the guest's.
    pub fn update_by(
        &mut self,
        kernel: &str,
        prepare: &dyn Fn(&Guest, &str) -> Result<()>,
    ) -> Result<()> {
        let before = self.processes()?;
        let dir = self.lab.bring(&self.guest, &boot(self.lab, kernel)?)?;
        prepare(&self.guest, dir)?;
        let members: String = self
            .apps
            .iter()
            .map(|app| match app.unit {
                Some(unit) => format!(" --unit {}={unit}", app.name),
                // It may have come to its end by itself.
                None => format!(
                    " $(pid=$(cat /root/{0}.pid); [ -e /proc/$pid ] && echo --pid {0}=$pid)",
                    app.name
                ),
            })
            .collect();
        let (hello, said, seconds) = self.lab.leave_by(
            &self.guest,
            &format!(
                "exec kup update --kernel /{dir}/vmlinuz --initrd /{dir}/initrd \
                 --command-line \"$(cat /{dir}/cmdline)\" {members}"
            ),
        )?;
        println!(
            "{}\n{}: init {seconds:.1} s later",
            said.trim(),
            hello.release
        );
        ensure!(
            hello.release == self.lab.kernels()?.release(kernel)?,
            "{hello:?}"
        );
        is_running(&self.guest)?;
        println!("{}", self.guest.run("kup report")?.trim());
        for (app, witness) in self.apps.iter().zip(&mut self.witnesses) {
            witness.goes_on(&self.guest).context(app.name)?;
        }
        let after = self.processes()?;
        ensure!(before == after, "before:\n{before}after:\n{after}");
        Ok(())
    }

    /// The main process of each, and the control group of a service's.
    fn processes(&self) -> Result<String> {
        let one = |app: &&App| {
            match app.unit {
            Some(unit) => format!(
                "pid=$(systemctl show -P MainPID {unit})
                 echo {unit} $(systemctl is-active {unit}) $pid $(cat /proc/$pid/comm) $(cut -d: -f3 /proc/$pid/cgroup)\n"
            ),
            // It may have come to its end.
            None => String::new(),
        }
        };
        self.guest
            .run(self.apps.iter().map(one).collect::<String>())
    }

    /// Ends all witnesses.
    pub fn end(self) -> Result<Guest> {
        for (app, witness) in self.apps.iter().zip(self.witnesses) {
            let found = witness.end(&self.guest).context(app.name)?;
            println!("{}: {found}", app.name);
        }
        self.guest.check()?;
        Ok(self.guest)
    }
}

pub fn boot(lab: &Lab, kernel: &str) -> Result<Boot> {
    let kernels = lab.kernels()?;
    let module = kmod::module(lab.cache(), kernels, kernels.release(kernel)?)?;
    Ok(Boot::new(kernel)
        .root_disk()
        .region(Region::reserved(REGION))
        .network()
        .external_module(&module))
}

fn set_up(guest: &Guest, host: Ipv4Addr, apps: &[&App]) -> Result<()> {
    let units = [
        (
            "kup-hold",
            include_str!("../../../kup/systemd/kup-hold.service"),
        ),
        (
            "kup-resume",
            include_str!("../../../kup/systemd/kup-resume.service"),
        ),
    ];
    for (name, text) in units {
        guest.push(&format!("/etc/systemd/system/{name}.service"), text)?;
    }
    let network = NETWORK.replace("ADDRESS", &host.to_string());
    guest.push("/etc/systemd/system/lab-network.service", network)?;
    for app in apps {
        guest.run(app.configure).context(app.name)?;
    }
    let enabled: Vec<&str> = apps.iter().filter_map(|app| app.unit).collect();
    guest.run(format!(
        "mkfs.rpramfs -q -L state '{}'
         echo 'label=state {MOUNT} rpramfs defaults 0 0' >> /etc/fstab
         systemctl daemon-reload
         systemctl enable -q kup-hold kup-resume lab-network {}
         systemctl start srv-region.mount && systemctl start kup-hold lab-network",
        Region::reserved(REGION).spec(),
        enabled.join(" ")
    ))?;
    Ok(())
}

/// The agent says hello before the last unit is up.
pub fn is_running(guest: &Guest) -> Result<()> {
    let state = guest
        .command(
            "systemctl is-system-running --wait || { systemctl --failed; \
             journalctl -b --no-pager | tail -n 80; grep -h Error /srv/region/kup/*/log/*; }",
        )
        .timeout(180)
        .run()?;
    ensure!(state.trim() == "running", "{state}");
    Ok(())
}
