// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The region's bytes are the same after `kexec -s` into a much newer kernel.

use crate::lab::{Boot, Lab, Region, Size};
use anyhow::{ensure, Result};

pub fn run(lab: &Lab) -> Result<()> {
    let region = Region::reserved(Size::gib(1));
    let old = Boot::new("6.12").region(region).without_tools();
    let new = Boot::new("7.x").region(region).without_tools();
    lab.prepare(&new)?;

    let guest = lab.boot(&old)?;
    let before = guest.release();
    guest
        .command("/init memory fill 42 0x100000000 0x40000000")
        .timeout(180)
        .run()?;

    lab.kexec_load(&guest, &new)?;
    let (hello, seconds) = lab.kexec(&guest)?;
    println!("{before} → {} in {seconds:.1} s", hello.release);
    ensure!(hello.release != before, "still {before}");

    let changed = guest
        .command("/init memory check 42 0x100000000 0x40000000")
        .timeout(180);
    let changed = changed.run()?;
    ensure!(
        changed.trim() == "0",
        "{} words of the region changed",
        changed.trim()
    );
    Ok(())
}
