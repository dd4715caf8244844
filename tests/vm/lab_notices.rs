// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The lab itself: a guest that panics or hangs is an error soon, not a long wait.

use crate::lab::{Boot, Lab};
use anyhow::{ensure, Context, Result};
use std::time::{Duration, Instant};

pub fn run(lab: &Lab) -> Result<()> {
    let boot = Boot::new("6.12").cpus(1).without_tools();

    let guest = lab.boot(&boot)?;
    let start = Instant::now();
    let panic = guest
        .run("echo c > /proc/sysrq-trigger")
        .err()
        .context("a panic unnoticed")?;
    notices(
        &format!("{panic:#}"),
        "sysrq triggered crash",
        start,
        Duration::from_secs(10),
    )?;
    drop(guest);

    let guest = lab.boot(&boot)?;
    guest.freeze();
    let start = Instant::now();
    let hang = guest
        .command("true")
        .timeout(300)
        .run()
        .err()
        .context("a hang unnoticed")?;
    notices(
        &format!("{hang:#}"),
        "the guest hangs",
        start,
        Duration::from_secs(60),
    )
}

fn notices(error: &str, sign: &str, start: Instant, limit: Duration) -> Result<()> {
    let elapsed = start.elapsed();
    println!("`{sign}` after {:.1} s", elapsed.as_secs_f64());
    ensure!(elapsed < limit, "noticed only after {elapsed:?}");
    ensure!(error.contains(sign), "unclear: {error}");
    ensure!(
        error.contains("console"),
        "no word of the console log: {error}"
    );
    Ok(())
}
