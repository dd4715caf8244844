// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The old kernel panics when all of the application is in the region, and the next kernel is not started yet: the
//! rescue kernel restores it, and a client's connection outlives that too.

use super::redis_guest;
use crate::apps::counter::Counter;
use crate::lab::Lab;
use anyhow::{ensure, Result};
use std::time::Duration;

const KEYS: usize = 15_000;
const PATIENCE: Duration = Duration::from_secs(180);

/// A kexec that loads, and where the next kernel should start there is none any more.
const FATAL_KEXEC: &str = "#!/bin/sh
case \"$*\" in *--exec*) echo c > /proc/sysrq-trigger; sleep 60;; esac
exec /usr/sbin/kexec.real \"$@\"
";

pub fn run(lab: &Lab) -> Result<()> {
    let boot = redis_guest::boot(lab)?.network();
    let next = boot.clone().argument("nr_cpus=1");
    let guest = lab.boot(&boot.argument("crashkernel=512M"))?;
    redis_guest::mount_new(&guest)?;
    redis_guest::start(&guest, KEYS)?;
    let before = redis_guest::items(&guest)?;
    let counter = Counter::start(guest.address()?, PATIENCE)?;

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
    redis_guest::mount(&guest)?;
    guest.run("kup hold")?;
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
    ensure!(redis_guest::items(&guest)? == before, "the keys differ");
    let counted = counter.finish()?;
    println!("the client waited {:.1} s", counted.gap.as_secs_f64());
    Ok(())
}
