// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A system as operators have it, with systemd and a root disk: the region is mounted by its line in
//! /etc/fstab, services of ordinary packages run, and after a kexec disk and region hold what they held.

use super::services::{boot, is_running, REGION};
use crate::lab::{Guest, Lab, Region};
use anyhow::{ensure, Context, Result};
use std::time::Instant;

const MOUNT: &str = "/srv/region";

/// A service, a command that asks it something, and what is in the answer.
const SERVICES: &[(&str, &str, &str)] = &[
    (
        "redis-server",
        "redis-cli set key value && redis-cli get key",
        "value",
    ),
    (
        "memcached",
        "printf 'set key 0 0 5\\r\\nvalue\\r\\nget key\\r\\nquit\\r\\n' | socat - TCP:127.0.0.1:11211",
        "value",
    ),
    ("mariadb", "mariadb -N -e 'select 6 * 7'", "42"),
    (
        "nginx",
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | socat - TCP:127.0.0.1:80",
        "200 OK",
    ),
];

const PROGRAM: &str = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n";

pub fn run(lab: &Lab) -> Result<()> {
    let (old, new) = (boot(lab, "7.x-1")?, boot(lab, "7.x")?);
    lab.prepare(&old)?;
    let start = Instant::now();
    let guest = lab.boot(&old)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: hello after {seconds:.1} s ({:.1} s of the guest's)",
        guest.release(),
        guest.hello().uptime
    );
    is_running(&guest)?;
    guest.run("criu check")?;
    guest.push("/root/program.c", PROGRAM)?;
    let said = guest.run("cd /root && make -s program && ./program")?;
    ensure!(said == "compiled\n", "{said}");

    let spec = Region::reserved(REGION).spec();
    guest.run(format!("mkfs.rpramfs -q -L images '{spec}'"))?;
    guest.run(format!(
        "echo 'label=images {MOUNT} rpramfs defaults 0 0' >> /etc/fstab
         systemctl daemon-reload && systemctl start srv-region.mount"
    ))?;
    is_mounted(&guest)?;
    services(&guest)?;
    guest.run(format!(
        "head -c 3000000 /dev/urandom > /root/file && cp /root/file {MOUNT}/file && sync"
    ))?;

    lab.kexec_load(&guest, &new)?;
    let (hello, seconds) = lab.kexec(&guest)?;
    println!(
        "{}: hello {seconds:.1} s after kexec ({:.1} s of the guest's)",
        hello.release, hello.uptime
    );
    ensure!(hello.release == lab.kernels()?.release("7.x")?, "{hello:?}");
    is_mounted(&guest)?;
    guest.run(format!("cmp /root/file {MOUNT}/file && /root/program"))?;
    is_running(&guest)?;
    guest.run("criu check")?;
    services(&guest)?;
    guest.check()
}

fn is_mounted(guest: &Guest) -> Result<()> {
    let kind = guest.run(format!("findmnt -n -o FSTYPE {MOUNT}"))?;
    ensure!(kind.trim() == "rpramfs", "{MOUNT}: {kind}");
    Ok(())
}

fn services(guest: &Guest) -> Result<()> {
    for (service, ask, answer) in SERVICES {
        let start = Instant::now();
        guest
            .command(format!(
                "systemctl start {service} && systemctl is-active {service}"
            ))
            .timeout(180)
            .run()
            .with_context(|| {
                format!(
                    "journal: {:?}",
                    guest.run(format!("journalctl -b -u {service}"))
                )
            })?;
        // Not every unit is up only when it answers.
        let ask = format!("for i in $(seq 100); do {ask} && exit; sleep 0.1; done; exit 1");
        let said = guest.run(ask)?;
        ensure!(said.contains(answer), "{service}: {said}");
        println!("{service}: up in {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
