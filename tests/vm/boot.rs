// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every kernel we care for boots with a region, and the lab can talk to it.

use crate::lab::{Boot, Lab, Region, Size};
use anyhow::{ensure, Result};

const KERNELS: &[&str] = &["6.1", "6.12", "7.x-1", "7.x"];

pub fn run(lab: &Lab) -> Result<()> {
    let region = Region::reserved(Size::gib(1));
    for kernel in KERNELS {
        let guest = lab.boot(&Boot::new(kernel).region(region).network().without_tools())?;
        println!(
            "{:>7}: {} after {:.1} s",
            kernel,
            guest.release(),
            guest.hello().uptime
        );

        let iomem = guest.run("cat /proc/iomem")?;
        ensure!(
            reserved(&iomem, 0x1_0000_0000, 0x1_3fff_ffff),
            "no region:\n{iomem}"
        );

        let failing = guest.command("echo out; echo err >&2; exit 3").output()?;
        ensure!(failing.exit.code == Some(3), "{failing:?}");
        ensure!(
            failing.stdout() == "out\n" && failing.stderr() == "err\n",
            "{failing:?}"
        );

        let slow = guest.command("sleep 60").timeout(1).output()?;
        ensure!(slow.exit.timed_out, "{slow:?}");

        let bytes = vec![0x5a; 1 << 20];
        guest.push("/tmp/file", bytes.clone())?;
        let back = guest.command("cat /tmp/file").output()?;
        ensure!(
            back.stdout == bytes,
            "{} bytes came back",
            back.stdout.len()
        );

        guest.network_up()?;
        guest.run("ls /dev/fuse && criu --version && which redis-server memcached")?;
        let zombies = guest.run("ps -o stat | grep -c ^Z || true")?;
        ensure!(zombies.trim() == "0", "{zombies} zombies");
    }
    Ok(())
}

/// Whether a reserved range of /proc/iomem holds this one; the kernel merges neighbours.
fn reserved(iomem: &str, first: u64, last: u64) -> bool {
    iomem.lines().any(|line| {
        let range = line
            .strip_suffix(" : Reserved")
            .and_then(|range| range.split_once('-'));
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        range.is_some_and(|(from, to)| {
            number(from).is_some_and(|from| from <= first)
                && number(to).is_some_and(|to| last <= to)
        })
    })
}
