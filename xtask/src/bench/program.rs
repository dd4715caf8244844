// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Measures that a program of the workspace takes and prints as a JSON array.

use super::{Measure, Settings};
use crate::host::{cargo, command, quiet, show, target};
use anyhow::{Context, Result};
use std::process::Stdio;

fn measures(program: &std::path::Path, args: &[String]) -> Result<Vec<Measure>> {
    // Progress on stderr is for the person who waits.
    let output = command(&program.to_string_lossy(), args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{}", program.display()))?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        output.status
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} printed no measures", program.display()))
}

/// The core beside memcpy; mkfs, mount and the first write whatever the size and the contents; what is
/// left of it after many rounds of deleting and writing.
pub fn core(settings: &Settings) -> Result<Vec<Measure>> {
    show(cargo().args([
        "build",
        "-q",
        "--release",
        "-p",
        "rpramfs-tests",
        "--bin",
        "rpramfs-bench",
    ]))?;
    let ageing = if settings.full { "100" } else { "20" };
    let args = ["21", ageing].map(String::from);
    measures(&target().join("release/rpramfs-bench"), &args)
}

/// The FUSE mount beside tmpfs, and beside a FUSE loop with nothing but a memcpy in it.
pub fn fuse(settings: &Settings) -> Result<Vec<Measure>> {
    // Apart: what tests and examples need of the core is not to be in the daemon that is measured.
    for (packages, targets) in [
        (&["-p", "mkfs", "-p", "fuse-frontend"][..], "--bins"),
        (&["-p", "fuse-frontend"], "--examples"),
    ] {
        let mut build = cargo();
        build.args(["build", "--release", targets]).args(packages);
        quiet(&mut build)?;
    }
    let release = target().join("release");
    let rounds = settings.rounds.to_string();
    let mkfs = release.join("mkfs-rpramfs").display().to_string();
    let mount = release.join("mount-rpramfs").display().to_string();
    let args = ["--rounds", &rounds, "--mkfs", &mkfs, "--mount", &mount].map(String::from);
    measures(&release.join("examples/fuse_bench"), &args)
}
