// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The disk of a guest as operators have it: Debian forky with systemd as PID 1 and services from ordinary
//! packages. The image is made once and kept; every guest writes to a copy of its own that ends with it.

use super::apt::{Apt, KEYRING, MIRROR};
use super::cache::{key, remove, Cache};
use super::userland::SUITE;
use crate::host;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the guest finds it.
pub const DEVICE: &str = "/dev/vda";

/// What systemd and udev are told: to call the network eth0 as the other guests do, to ask nothing of a
/// console that does not answer, and to say there only what went wrong.
pub const ARGUMENTS: &[&str] = &["net.ifnames=0", "TERM=dumb", "systemd.show_status=auto"];

const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "iproute2",
    "procps",
    "e2fsprogs",
    "util-linux",
    "mount",
    // Recommended by systemd, which everybody has them with; without the first there are no filters of system
    // calls around the services.
    "libseccomp2",
    "linux-sysctl-defaults",
    "login",
    // What a kernel update is made with.
    "criu",
    "kexec-tools",
    "nftables",
    // What is carried over it.
    "mariadb-server",
    "memcached",
    "nginx-light",
    "redis-server",
    // What programs of a scenario's own are built with.
    "gcc",
    "libc6-dev",
    "make",
];

/// Large, and nothing reads it.
const UNUSED: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// With room to write; what is not written to takes none on the host.
const SIZE: &str = "6G";

/// Each takes about a gigabyte: those of the last few days are kept.
const KEEP: usize = 3;

/// The image, with these packages besides the usual.
pub fn image(cache: &Cache, extra: &[String]) -> Result<PathBuf> {
    crate::setup::root_disk()?;
    let apt = Apt::open(cache, "userland", &[SUITE])?;
    let mut packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    packages.extend(extra.iter().cloned());
    // Those every Debian has are no package's dependency.
    let mut all = vec!["?essential".to_owned()];
    all.extend(packages.iter().cloned());
    let files = apt.closure(&all)?;
    let names = files.iter().map(|file| file.as_os_str().as_encoded_bytes());
    let recipe = [
        &include_bytes!("root_disk.rs")[..],
        include_bytes!("root_disk.sh"),
    ];
    let name = key(names.chain(recipe));
    cache.get(&format!("disks/{name}.ext4"), |out| {
        sweep(out.parent().context("a directory")?)?;
        let (tar, tree) = (out.with_extension("tar"), out.with_extension("tree"));
        println!("lab: installing {} packages for the root disk", files.len());
        let made = install(&packages, &files, &tar).and_then(|()| format(&tar, &tree, out));
        remove(&tar)?;
        made
    })
}

/// A tar archive keeps owners whoever makes it.
fn install(packages: &[String], files: &[PathBuf], tar: &Path) -> Result<()> {
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let mut debootstrap = Command::new("mmdebstrap");
    // /tmp may be memory, too little for a whole system.
    if std::env::var_os("TMPDIR").is_none() {
        debootstrap.env("TMPDIR", "/var/tmp");
    }
    debootstrap.args(["--quiet", "--format=tar", "--variant=essential"]);
    debootstrap.args([
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        "--aptopt=APT::Install-Recommends \"false\"",
        // What apt has downloaded and checked for us is not downloaded again; this apt checks it too.
        "--skip=download/empty",
        "--skip=essential/unlink",
        // It would empty /etc/machine-id.
        "--skip=cleanup/reproducible",
        "--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives",
    ]);
    debootstrap.arg(format!(
        "--setup-hook=copy-in {} /var/cache/apt/archives",
        files.join(" ")
    ));
    debootstrap.args(
        UNUSED
            .iter()
            .map(|path| format!("--dpkgopt=path-exclude={path}")),
    );
    debootstrap.arg(format!("--include={}", packages.join(",")));
    debootstrap.arg(concat!("--customize-hook=", include_str!("root_disk.sh")));
    debootstrap.arg(SUITE).arg(tar);
    debootstrap.arg(format!("deb [signed-by={KEYRING}] {MIRROR} {SUITE} main"));
    host::quiet(with_sbin(&mut debootstrap)).map(drop)
}

/// Needs no mount. Whoever is not root becomes it in a namespace that has their subordinate ids.
fn format(tar: &Path, tree: &Path, image: &Path) -> Result<()> {
    // Nothing is to be left for the guest's kernel to write in the background.
    const SCRIPT: &str = "set -e
        trap 'rm -rf \"$2\"' EXIT
        rm -rf \"$2\"; mkdir \"$2\"
        tar -x -f \"$1\" -C \"$2\" --numeric-owner --same-owner --xattrs --exclude='./dev/*'
        mke2fs -q -t ext4 -L root -E lazy_itable_init=0,lazy_journal_init=0 -d \"$2\" \"$3\" \"$4\"";
    let mut shell = if host::is_root() {
        Command::new("sh")
    } else {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-auto", "--map-root-user", "sh"]);
        unshare
    };
    shell
        .args(["-c", SCRIPT, "sh"])
        .args([tar, tree, image])
        .arg(SIZE);
    host::quiet(with_sbin(&mut shell)).map(drop)
}

/// A plain user's path does not have the programs of administrators.
pub fn with_sbin(command: &mut Command) -> &mut Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
}

/// The archive changes every day, and the image with it.
fn sweep(dir: &Path) -> Result<()> {
    let mut images = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|ext| ext == "ext4") {
            images.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    images.sort();
    let old = (images.len() + 1).saturating_sub(KEEP);
    images[..old.min(images.len())]
        .iter()
        .try_for_each(|(_, path)| remove(path))
}
