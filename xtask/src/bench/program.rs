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

/// The core beside memcpy; mkfs and mount at 64 GiB beside 1 GiB.
pub fn core(_: &Settings) -> Result<Vec<Measure>> {
    show(cargo().args([
        "build",
        "-q",
        "--release",
        "-p",
        "rpramfs-tests",
        "--bin",
        "rpramfs-bench",
    ]))?;
    measures(&target().join("release/rpramfs-bench"), &[])
}

/// The FUSE mount beside tmpfs, and beside a FUSE loop with nothing but a memcpy in it.
pub fn fuse(settings: &Settings) -> Result<Vec<Measure>> {
    quiet(cargo().args([
        "build",
        "--release",
        "-p",
        "mkfs",
        "-p",
        "fuse-frontend",
        "--bins",
        "--examples",
    ]))?;
    let release = target().join("release");
    let rounds = settings.rounds.to_string();
    let mkfs = release.join("mkfs-rpramfs").display().to_string();
    let mount = release.join("mount-rpramfs").display().to_string();
    let args = ["--rounds", &rounds, "--mkfs", &mkfs, "--mount", &mount].map(String::from);
    measures(&release.join("examples/fuse_bench"), &args)
}
