// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The region's bytes are the same when the kernel panics and its crash kernel takes over.

use crate::lab::{Boot, Lab, Region, Size};
use anyhow::{ensure, Result};

pub fn run(lab: &Lab) -> Result<()> {
    let region = Region::reserved(Size::mib(512));
    let old = Boot::new("6.12")
        .region(region)
        .argument("crashkernel=512M")
        .without_tools();
    let new = Boot::new("7.x").region(region).without_tools();
    lab.prepare(&new)?;

    let guest = lab.boot(&old)?;
    let before = guest.release();
    guest
        .command("/init memory fill 7 0x100000000 0x20000000")
        .timeout(180)
        .run()?;
    lab.crash_load(&guest, &new)?;

    guest.console().tolerate();
    let hello = guest.panic()?;
    ensure!(
        guest.console().text().contains("sysrq triggered crash"),
        "that was no panic"
    );
    println!("{before} panicked → {}", hello.release);
    ensure!(hello.release != before, "still {before}");

    let changed = guest
        .command("/init memory check 7 0x100000000 0x20000000")
        .timeout(180);
    let changed = changed.run()?;
    ensure!(
        changed.trim() == "0",
        "{} words of the region changed",
        changed.trim()
    );
    Ok(())
}
