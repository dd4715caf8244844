// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the host needs, installed where it is missing.

use crate::host::{self, command, have};
use anyhow::{bail, ensure, Context, Result};
use std::path::Path;
use std::process::Command;

/// A program we call, and the Debian package it comes from.
struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// For building.
const BUILD: &[Need] = &[need("cc", "gcc"), need("xz", "xz-utils")];

/// For the lab with its guests, besides QEMU.
const LAB: &[Need] = &[
    need("apt-get", "apt"),
    need("depmod", "kmod"),
    need("dpkg-deb", "dpkg"),
    need("gpgv", "gpgv"),
    need("ip", "iproute2"),
    need("xz", "xz-utils"),
    need("zstd", "zstd"),
];

/// For the kernel module, which is built with compilers of Debian 13.
const KMOD: &[Need] = &[
    need("apt-get", "apt"),
    need("dpkg-deb", "dpkg"),
    need("gpgv", "gpgv"),
    need("tar", "tar"),
    need("unshare", "util-linux"),
    need("xz", "xz-utils"),
];

/// For a guest's root disk.
const ROOT_DISK: &[Need] = &[
    need("mke2fs", "e2fsprogs"),
    need("mmdebstrap", "mmdebstrap"),
    need("tar", "tar"),
];

/// What mmdebstrap takes for whoever is not root.
const SUBORDINATE: &[Need] = &[need("newuidmap", "uidmap"), need("unshare", "util-linux")];

/// Older ones now and then oops in the guest's text patching under multi-threaded TCG.
const QEMU_MAJOR: u32 = 10;

pub fn all() -> Result<()> {
    build()?;
    lab()?;
    println!("setup: everything is there");
    Ok(())
}

pub fn build() -> Result<()> {
    // The static tools link libc.a.
    let mut missing = missing(BUILD);
    if !Path::new("/usr/lib/x86_64-linux-gnu/libc.a").exists() && have("apt-get") {
        missing.push("libc6-dev");
    }
    install(&missing, &[])
}

pub fn lab() -> Result<()> {
    build()?;
    install(&missing(LAB), &[])?;
    qemu()
}

pub fn kmod() -> Result<()> {
    install(&missing(KMOD), &[])
}

pub fn root_disk() -> Result<()> {
    let mut packages = missing(ROOT_DISK);
    if !host::is_root() {
        packages.extend(missing(SUBORDINATE));
    }
    install(&packages, &[])
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    needs
        .iter()
        .filter(|need| !have(need.program))
        .map(|need| need.package)
        .collect()
}

fn qemu() -> Result<()> {
    if qemu_version().is_some_and(|major| major >= QEMU_MAJOR) {
        return Ok(());
    }
    let package = "qemu-system-x86";
    let candidate = |release: &str| -> Option<u32> {
        let policy = host::stdout(&mut command("apt-cache", ["madison", package])).ok()?;
        let lines = policy.lines().filter(|line| line.contains(release));
        lines
            .filter_map(|line| major(line.split('|').nth(1)?))
            .max()
    };
    if candidate("").is_some_and(|major| major >= QEMU_MAJOR) {
        // A plain install may still prefer an older release: name the backports if it does.
        let codename = codename()?;
        let backports = format!("{codename}-backports");
        let plain = host::stdout(&mut command("apt-cache", ["policy", package]))?;
        let plain = plain
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate:"));
        if plain
            .and_then(major)
            .is_some_and(|major| major >= QEMU_MAJOR)
        {
            return install(&[package], &[]);
        }
        return install(&[package], &["-t", &backports]);
    }
    let codename = codename()?;
    ensure!(
        codename == "bookworm",
        "QEMU {QEMU_MAJOR} or newer is needed and this system ({codename}) offers none: \
         install qemu-system-x86_64 by hand"
    );
    let list = "/etc/apt/sources.list.d/rpramfs-backports.sources";
    let source = "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm-backports\n\
                  Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
    println!("setup: QEMU {QEMU_MAJOR} comes from bookworm-backports: adding {list}");
    privileged("tee", &[list], Some(source))?;
    privileged("apt-get", &["update", "-q"], None)?;
    install(&[package], &["-t", "bookworm-backports"])
}

fn qemu_version() -> Option<u32> {
    let text = host::stdout(&mut command("qemu-system-x86_64", ["--version"])).ok()?;
    text.split("version ")
        .nth(1)?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// The upstream major version in a Debian version such as `1:10.0.2+ds-2`.
fn major(version: &str) -> Option<u32> {
    let version = version.trim();
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split('.').next()?.parse().ok()
}

fn codename() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.unwrap_or("unknown").trim_matches('"').to_owned())
}

fn install(packages: &[&str], options: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", packages.join(" "));
    if !have("apt-get") {
        bail!(
            "no apt-get here: install what these Debian packages bring: {}",
            packages.join(" ")
        );
    }
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(options);
    args.extend(packages);
    if privileged("apt-get", &args, None).is_ok() {
        return Ok(());
    }
    // Perhaps only the package lists are old or absent.
    privileged("apt-get", &["update", "-q"], None)?;
    privileged("apt-get", &args, None)
}

/// Runs a program as root, by sudo if need be.
pub fn privileged(program: &str, args: &[&str], input: Option<&str>) -> Result<()> {
    let mut command = if host::is_root() {
        Command::new(program)
    } else if have("sudo") {
        println!("setup: sudo {program} {}", args.join(" "));
        let mut sudo = Command::new("sudo");
        sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        sudo
    } else {
        bail!("please run as root: {program} {}", args.join(" "));
    };
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command.stdout(std::process::Stdio::null());
    if let Some(text) = input {
        use std::io::Write;
        command.stdin(std::process::Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut pipe = child.stdin.take().expect("piped");
        pipe.write_all(text.as_bytes())?;
        drop(pipe);
        let status = child.wait()?;
        ensure!(status.success(), "{command:?}: {status}");
        return Ok(());
    }
    host::show(&mut command)
}
