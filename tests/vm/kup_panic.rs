// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The old kernel panics when all of the application is in the region, and the next kernel is not started yet: the
//! rescue kernel restores it, and a client's connection outlives that too.

use crate::apps::counter::Counter;
use crate::apps::digest;
use crate::apps::redis::Redis;
use crate::kmod;
use crate::lab::{Boot, Lab, Region, Size};
use anyhow::{ensure, Result};
use std::time::Duration;

const MODULE: &str = "usr/lib/rpramfs.ko";
const KEYS: usize = 15_000;
const PATIENCE: Duration = Duration::from_secs(180);

/// A kexec that loads, and where the next kernel should start there is none any more.
const FATAL_KEXEC: &str = "#!/bin/sh
case \"$*\" in *--exec*) echo c > /proc/sysrq-trigger; sleep 60;; esac
exec /usr/sbin/kexec.real \"$@\"
";

pub fn run(lab: &Lab) -> Result<()> {
    let kernels = lab.kernels()?;
    let (release, region) = (kernels.release("7.x")?, Region::reserved(Size::gib(1)));
    let module = kmod::module(lab.cache(), kernels, release)?;
    let boot = || {
        let boot = Boot::new(release).region(region).network();
        boot.file(MODULE, &module)
    };
    let next = boot().argument("nr_cpus=1");
    let guest = lab.boot(&boot().argument("crashkernel=512M"))?;
    guest.network_up()?;
    let mount = format!(
        "insmod /{MODULE} && mkdir -p /mnt && mount -i -t rpramfs '{}' /mnt",
        region.spec()
    );
    guest.run(format!("mkfs.rpramfs -q '{}' && {mount}", region.spec()))?;
    guest.run("echo 20000 > /proc/sys/kernel/ns_last_pid")?;
    guest.run(
        "cd / && setsid redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no \
         </dev/null >/dev/null 2>&1 &",
    )?;
    let host = guest.address()?;
    Redis::connect(host)?.fill(7, KEYS, 2900)?;
    let items = || -> Result<String> { Ok(digest(&Redis::connect(host)?.items("key:")?)) };
    let before = items()?;
    let counter = Counter::start(host, PATIENCE)?;

    lab.crash_load(&guest, &next)?;
    let dir = lab.bring(&guest, &next)?;
    guest.run("mv /usr/sbin/kexec /usr/sbin/kexec.real")?;
    guest.push("/usr/sbin/kexec", FATAL_KEXEC)?;
    guest.run("chmod 755 /usr/sbin/kexec")?;
    guest.console().tolerate();
    let (hello, ..) = lab.leave_by(
        &guest,
        &format!(
            "exec kup update --kernel /{dir}/vmlinuz --initrd /{dir}/initrd --pid redis=$(pidof redis-server)"
        ),
    )?;
    let text = guest.console().text();
    ensure!(
        text.matches("sysrq: Trigger a crash").count() == 1,
        "that was no panic"
    );
    println!("panicked → {}", hello.release);
    guest.run(format!("{mount} && kup hold"))?;
    guest.network_up()?;
    println!(
        "{}",
        guest
            .command("kup resume 2>&1; kup report")
            .timeout(120)
            .run()?
            .trim()
    );
    counter.wait(20, PATIENCE)?;
    ensure!(items()? == before, "the keys differ");
    let counted = counter.finish()?;
    println!("the client waited {:.1} s", counted.gap.as_secs_f64());
    Ok(())
}
