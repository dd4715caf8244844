// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Services of ordinary packages under systemd are carried from one kernel into the next, and come back as those
//! services: with their processes, connections and data, in their control groups and mounts, under systemd's eyes.

use super::services::{System, MEMCACHED, NGINX, REDIS};
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Result};

pub fn run(lab: &Lab) -> Result<()> {
    let mut system = System::start(lab, "7.x-1", &[&REDIS, &MEMCACHED, &NGINX])?;
    system.update("7.x")?;
    let guest = system.end()?;
    are_services(&guest)?;
    by_hand(&guest)?;
    are_refused(&guest)?;
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
    guest.run(
        "old=$(systemctl show -P MainPID memcached); systemctl restart memcached
         for i in $(seq 100); do \
            new=$(systemctl show -P MainPID memcached); \
            [ $new != $old ] && [ \"$(cat /proc/$new/comm)\" = memcached ] && break; sleep 0.1; \
         done
         [ $new != $old ] && [ $(cat /proc/$new/comm) = memcached ] && \
         ! ls /run/systemd/system | grep -q memcached",
    )?;
    Ok(())
}

/// `kup checkpoint --unit` ends a service; to start it again is to restore it.
fn by_hand(guest: &Guest) -> Result<()> {
    let said = guest
        .command(
            "pid=$(systemctl show -P MainPID redis-server); redis-cli set kept by-hand >/dev/null
             kup checkpoint held --unit redis-server 2>&1 || exit 1
             for i in $(seq 50); do systemctl is-active -q redis-server || break; sleep 0.1; done
             ! systemctl is-active redis-server || exit 1
             kup restore --wait held 2>&1 || { journalctl -b -u redis-server | tail -n 20; exit 1; }
             [ $(systemctl show -P MainPID redis-server) = $pid ] && systemctl is-active redis-server && \
             redis-cli get kept",
        )
        .timeout(120)
        .run()?;
    ensure!(said.trim_end().ends_with("by-hand"), "{said}");
    let failed = guest.run("systemctl --failed --no-legend")?;
    ensure!(failed.is_empty(), "{failed}");
    Ok(())
}

/// Services that systemd could not have restored.
fn are_refused(guest: &Guest) -> Result<()> {
    guest.run(
        "cd /run/systemd/system
         printf '[Socket]\\nListenStream=127.0.0.1:9999\\n' > triggered.socket
         printf '[Service]\\nExecStart=/bin/sleep 1000\\n' > triggered.service
         systemctl daemon-reload && systemctl start triggered.socket triggered.service
         systemd-run -q --unit=delegated -p Delegate=yes sleep 1000
         systemd-run -q --unit=elsewhere -p RootDirectory=/ sleep 1000",
    )?;
    for (unit, why) in [
        ("triggered", "started by triggered.socket"),
        ("delegated", "Delegate=yes"),
        ("elsewhere", "RootDirectory="),
    ] {
        guest.run(format!(
            "! kup checkpoint {unit} --unit {unit} 2>/tmp/said && grep -q '{why}' /tmp/said || \
             {{ cat /tmp/said >&2; exit 1; }}"
        ))?;
    }
    guest.run("systemctl stop triggered.socket triggered delegated elsewhere")?;
    Ok(())
}
