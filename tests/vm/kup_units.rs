// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Services of ordinary packages under systemd are carried from one kernel into the next, and come back as those
//! services: with their processes, connections and data, in their control groups and mounts, under systemd's eyes.

use crate::apps::counter::Counter;
use crate::apps::redis::Redis;
use crate::apps::{digest, Fingerprints};
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Result};
use std::net::Ipv4Addr;
use std::time::Duration;

const REGION: Size = Size::gib(1);
const MOUNT: &str = "/srv/region";
const PATIENCE: Duration = Duration::from_secs(180);
const KEYS: usize = 15_000;
const SERVICES: &[&str] = &["redis-server", "memcached", "nginx"];

/// The network of this guest, as units of its own would bring it up.
const NETWORK: &str = "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target sys-subsystem-net-devices-eth0.device\n\
    Wants=network-pre.target sys-subsystem-net-devices-eth0.device\nBefore=network-online.target\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/ip addr add ADDRESS/30 dev eth0\nExecStart=/bin/ip link set eth0 up\n\
    [Install]\nWantedBy=network-online.target\n";

pub fn run(lab: &Lab) -> Result<()> {
    let (old, new) = (boot(lab, "7.x-1")?, boot(lab, "7.x")?);
    lab.prepare(&old)?;
    let guest = lab.boot(&old)?;
    let host = guest.address()?;
    set_up(&guest, host)?;
    Redis::connect(host)?.fill(7, KEYS, 2900)?;
    let before = items(host)?;
    let pids = pids(&guest)?;
    println!("{}", pids.trim());
    let counter = Counter::start(host, PATIENCE)?;

    let dir = lab.bring(&guest, &new)?;
    let units: String = SERVICES
        .iter()
        .map(|unit| format!(" --unit {unit}"))
        .collect();
    let (hello, said, seconds) = lab.leave_by(
        &guest,
        &format!(
            "exec kup update --kernel /{dir}/vmlinuz --initrd /{dir}/initrd \
             --command-line \"$(cat /{dir}/cmdline)\" {units}"
        ),
    )?;
    println!("{said}\n{} after {seconds:.1} s", hello.release);
    is_running(&guest)?;
    println!(
        "{}",
        guest.run("systemctl status --no-pager -n 5 kup-resume; kup report")?
    );
    counter.wait(20, PATIENCE)?;
    ensure!(items(host)? == before, "the keys differ");
    let now = self::pids(&guest)?;
    ensure!(now == pids, "other processes: {now}");
    counter.finish()?;
    are_services(&guest)?;
    by_hand(&guest, host)?;
    guest.check()
}

/// What an operator does with a service works as ever; what it says is in the journal.
fn are_services(guest: &Guest) -> Result<()> {
    // Redis says this to its standard output, which systemd had connected to the old kernel's journal.
    guest.run(
        "redis-cli config set loglevel debug >/dev/null
         for i in $(seq 100); do \
            journalctl -b -u redis-server | grep -q 'clients connected' && break; sleep 0.2; \
         done
         journalctl -b -u redis-server | grep 'clients connected'",
    )?;
    guest.run(
        "pid=$(cat /run/nginx.pid); [ $pid = $(systemctl show -P MainPID nginx) ] || exit 1
         workers=$(pgrep -P $pid); systemctl reload nginx
         for i in $(seq 100); do [ \"$(pgrep -P $pid)\" != \"$workers\" ] && exit; sleep 0.1; done; exit 1",
    )?;
    // A service whose main process is killed is started anew, and has forgotten what it held.
    guest.run(
        "old=$(systemctl show -P MainPID memcached); kill -9 $old; systemctl restart memcached
         for i in $(seq 100); do \
            new=$(systemctl show -P MainPID memcached); \
            [ $new != $old ] && [ \"$(cat /proc/$new/comm)\" = memcached ] && break; sleep 0.1; \
         done
         echo $old $new $(cat /proc/$new/comm) >&2; ls /run/systemd/system >&2
         [ $new != $old ] && [ $(cat /proc/$new/comm) = memcached ] && ! ls /run/systemd/system | grep -q memcached",
    )?;
    Ok(())
}

/// `kup checkpoint --unit` ends a service; to start it again is to restore it.
fn by_hand(guest: &Guest, host: Ipv4Addr) -> Result<()> {
    let before = items(host)?;
    let said = guest
        .command(
            "pid=$(systemctl show -P MainPID redis-server)
             kup checkpoint held --unit redis-server 2>&1 || exit 1
             for i in $(seq 50); do systemctl is-active -q redis-server || break; sleep 0.1; done
             ! systemctl is-active redis-server || exit 1
             kup restore --wait held 2>&1 || { journalctl -b -u redis-server | tail -n 20; exit 1; }
             [ $(systemctl show -P MainPID redis-server) = $pid ] && systemctl is-active redis-server",
        )
        .timeout(120)
        .run()?;
    println!("{said}");
    ensure!(items(host)? == before, "the keys differ");
    let failed = guest.run("systemctl --failed --no-legend")?;
    ensure!(failed.is_empty(), "{failed}");
    Ok(())
}

fn boot(lab: &Lab, kernel: &str) -> Result<Boot> {
    let kernels = lab.kernels()?;
    let module = kmod::module(lab.cache(), kernels, kernels.release(kernel)?)?;
    Ok(Boot::new(kernel)
        .root_disk()
        .region(Region::reserved(REGION))
        .network()
        .external_module(&module))
}

/// What an operator does once.
fn set_up(guest: &Guest, host: Ipv4Addr) -> Result<()> {
    is_running(guest)?;
    let units = [
        (
            "kup-hold",
            include_str!("../../kup/systemd/kup-hold.service"),
        ),
        (
            "kup-resume",
            include_str!("../../kup/systemd/kup-resume.service"),
        ),
    ];
    for (name, text) in units {
        guest.push(&format!("/etc/systemd/system/{name}.service"), text)?;
    }
    let network = NETWORK.replace("ADDRESS", &host.to_string());
    guest.push("/etc/systemd/system/lab-network.service", network)?;
    guest.run(format!(
        "mkfs.rpramfs -q -L state '{}'
         echo 'label=state {MOUNT} rpramfs defaults 0 0' >> /etc/fstab
         sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode yes/protected-mode no/; s/^# save \"\"/save \"\"/; s/^logfile .*/logfile \"\"/' /etc/redis/redis.conf
         sed -i 's/^-l .*/-l 0.0.0.0/' /etc/memcached.conf
         mkdir -p /etc/systemd/system/redis-server.service.d
         printf '[Service]\nPrivateUsers=no\n' > /etc/systemd/system/redis-server.service.d/kup.conf
         systemctl daemon-reload
         systemctl enable -q kup-hold kup-resume lab-network {}
         systemctl start srv-region.mount && systemctl start kup-hold lab-network || {{ journalctl -b -u kup-hold >&2; exit 1; }}",
        Region::reserved(REGION).spec(),
        SERVICES.join(" ")
    ))?;
    for service in SERVICES {
        guest
            .command(format!("systemctl start {service}"))
            .timeout(120)
            .run()?;
    }
    Ok(())
}

/// The main process of each service, if it runs and its control group is its own.
fn pids(guest: &Guest) -> Result<String> {
    guest.run(format!(
        "for unit in {}; do \
            pid=$(systemctl show -P MainPID $unit); \
            echo $unit $(systemctl is-active $unit) $pid $(cat /proc/$pid/comm) $(cut -d: -f3 /proc/$pid/cgroup); \
         done",
        SERVICES.join(" ")
    ))
}

/// The agent says hello before the last unit is up.
fn is_running(guest: &Guest) -> Result<()> {
    let state = guest
        .command("systemctl is-system-running --wait || { systemctl --failed; journalctl -b --no-pager | tail -n 80; cat /srv/region/kup/*/log/* | grep -i error; }")
        .timeout(180)
        .run()?;
    ensure!(state.trim() == "running", "{state}");
    Ok(())
}

fn items(host: Ipv4Addr) -> Result<String> {
    let items: Fingerprints = Redis::connect(host)?.items("key:")?;
    Ok(digest(&items))
}
