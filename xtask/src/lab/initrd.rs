// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The initial RAM disk of a guest: archives for the userland, the kernel's modules and our own
//! programs, compressed each for itself and put end to end, so that little is packed anew.

use super::cache::{key, Cache};
use super::cpio::Archive;
use super::kernel::{self, Kernel};
use super::root_disk;
use super::tools::Tools;
use super::userland::{self, Extra};
use crate::host;
use anyhow::{ensure, Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The modules every guest loads, as far as its kernel has them as modules.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "fuse",
    // What CRIU asks the kernel about sockets with, and locks the network with.
    "unix_diag",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "netlink_diag",
    "af_packet_diag",
    "nfnetlink",
    "nf_tables",
    "tun",
    // Persistent memory and DAX, for the peers.
    "libcrc32c",
    "crc32c_generic",
    "crc32c_intel",
    "ext4",
    "nd_e820",
    "nd_btt",
    "nd_pmem",
    "device_dax",
    "dax_pmem",
    "loop",
];

/// Those a guest needs to be talked to.
const FEW_MODULES: &[&str] = &["virtio_pci", "virtio_console"];

/// Without these a root disk cannot be mounted, nor the guest be talked to.
const ROOT_DISK_FIRST: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "virtio_console"];

/// What else a system with modprobe asks for: a packet filter of an operator's own.
const ROOT_DISK_MODULES: &[&str] = &[
    "autofs4",
    "nft_chain_nat",
    "nft_ct",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_reject_inet",
];

/// What goes into an initrd.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Modules besides the usual.
    pub modules: Vec<String>,
    pub extra: Extra,
    pub tools: bool,
    /// Without what a guest can be talked to without.
    pub small: bool,
    /// Only what it takes to get to the root disk, and what is to be installed there.
    pub root_disk: bool,
    /// Files of modules that are not the kernel's own; only for a root disk.
    pub external_modules: Vec<PathBuf>,
    /// Files of the scenario's own: (path in the guest, file on the host).
    pub files: Vec<(String, PathBuf)>,
}

/// Makes the initrd for a kernel and returns its path in the cache.
pub fn make(cache: &Cache, kernel: &Kernel, tools: &Tools, contents: &Contents) -> Result<PathBuf> {
    let mut parts = Vec::new();
    if contents.root_disk {
        parts.push(installed_modules(cache, kernel, contents)?);
    } else {
        ensure!(
            contents.external_modules.is_empty(),
            "only a guest with a root disk has a place for external modules"
        );
        parts.push(userland::archive(cache, &contents.extra, contents.small)?);
        parts.push(modules(cache, kernel, contents)?);
    }
    let own = own(tools, contents)?.pack()?;
    let name = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    let names = parts.iter().map(|path| name(path));
    let key = key(names.chain([own.clone()]));
    cache.get(&format!("initrd/{key}.img"), |out| {
        sweep(out.parent().context("a directory")?)?;
        compress(&own, 9, out)?;
        let own = fs::read(out)?;
        let mut file = File::create(out)?;
        let parts = parts.iter().map(fs::read).chain([Ok(own)]);
        for part in parts {
            let part = part?;
            file.write_all(&part)?;
            file.write_all(&vec![0; part.len().next_multiple_of(4) - part.len()])?;
        }
        Ok(())
    })
}

/// Every build of our tools makes new ones: keep the last few.
fn sweep(dir: &Path) -> Result<()> {
    const KEEP: usize = 12;
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|ext| ext == "img") {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    let old = files.len().saturating_sub(KEEP);
    for (_, path) in &files[..old] {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

fn modules(cache: &Cache, kernel: &Kernel, contents: &Contents) -> Result<PathBuf> {
    let mut wanted = if contents.small { FEW_MODULES } else { MODULES }.to_vec();
    wanted.extend(contents.modules.iter().map(String::as_str));
    let image = kernel.image.as_os_str().as_encoded_bytes();
    let key = key([image]
        .into_iter()
        .chain(wanted.iter().map(|name| name.as_bytes())));
    cache.get(
        &format!("modules/{}-{key}.cpio.zst", kernel.release),
        |out| {
            println!("lab: packing the modules of {}", kernel.release);
            let mut archive = Archive::default();
            let mut order = String::new();
            for (name, bytes) in kernel.modules(&wanted)? {
                archive.text(&format!("lib/rpramfs-lab/{name}.ko"), bytes, 0o644);
                order.push_str(&format!("{name}.ko\n"));
            }
            archive.text("lib/rpramfs-lab/modules.load", order, 0o644);
            compress(&archive.pack()?, 12, out)
        },
    )
}

/// The same as a system has them: in /lib/modules, where modprobe and the kernel itself find them.
fn installed_modules(cache: &Cache, kernel: &Kernel, contents: &Contents) -> Result<PathBuf> {
    let first: Vec<&str> = ROOT_DISK_FIRST
        .iter()
        .copied()
        .chain(contents.modules.iter().map(String::as_str))
        .collect();
    let mut external = Vec::new();
    for path in &contents.external_modules {
        let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
        let name = path.file_name().context("a module's file")?;
        external.push((name.to_string_lossy().into_owned(), bytes));
    }
    let needed: Vec<String> = external
        .iter()
        .flat_map(|(_, bytes)| kernel::depends(bytes))
        .collect();
    let mut wanted = first.clone();
    wanted.extend(MODULES.iter().chain(ROOT_DISK_MODULES));
    wanted.extend(needed.iter().map(String::as_str));
    let key = {
        let mut parts = vec![kernel.image.as_os_str().as_encoded_bytes()];
        parts.extend(wanted.iter().map(|name| name.as_bytes()));
        parts.extend(external.iter().map(|(_, bytes)| bytes.as_slice()));
        parts.push(include_bytes!("initrd.rs"));
        key(parts)
    };
    cache.get(
        &format!("modules/{}-{key}.cpio.zst", kernel.release),
        |out| {
            println!("lab: packing the modules of {}", kernel.release);
            let base = out.with_extension("tree");
            super::cache::remove(&base)?;
            let dir = base.join("lib/modules").join(&kernel.release);
            for sub in ["kernel", "updates"] {
                fs::create_dir_all(dir.join(sub))?;
            }
            for (name, bytes) in kernel.modules(&wanted)? {
                fs::write(dir.join("kernel").join(name + ".ko"), bytes)?;
            }
            for (name, bytes) in &external {
                fs::write(dir.join("updates").join(name), bytes)?;
            }
            for list in &kernel.lists {
                let name = list.file_name().context("a file")?;
                fs::copy(list, dir.join(name)).with_context(|| format!("{}", list.display()))?;
            }
            let mut depmod = Command::new("depmod");
            depmod.arg("-b").arg(&base).arg(&kernel.release);
            host::quiet(root_disk::with_sbin(&mut depmod))?;
            let mut archive = Archive::default();
            let place = format!("usr/lib/modules/{}", kernel.release);
            archive.tree(&place, &dir)?;
            let order: String = kernel
                .modules(&first)?
                .iter()
                .map(|(name, _)| format!("/{place}/kernel/{name}.ko\n"))
                .collect();
            archive.text("lib/rpramfs-lab/modules.load", order, 0o644);
            compress(&archive.pack()?, 12, out)?;
            super::cache::remove(&base)
        },
    )
}

fn own(tools: &Tools, contents: &Contents) -> Result<Archive> {
    let mut archive = Archive::default();
    archive.file("init", &tools.agent()?)?;
    if contents.tools {
        for (place, file) in tools.rpramfs()? {
            archive.file(place, &file)?;
        }
        // For a remount of what /etc/fstab does not name: its type is fuse.rpramfs then.
        archive.link("usr/sbin/mount.fuse.rpramfs", "mount.rpramfs");
    }
    for (place, file) in &contents.files {
        archive.file(place, file)?;
    }
    Ok(archive)
}

pub fn compress(bytes: &[u8], level: u32, out: &Path) -> Result<()> {
    let file = File::create(out).with_context(|| format!("{}", out.display()))?;
    let mut zstd = Command::new("zstd")
        .args(["-q", "-c", "-T0", &format!("-{level}")])
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("zstd")?;
    zstd.stdin.take().expect("piped").write_all(bytes)?;
    let status = zstd.wait()?;
    ensure!(status.success(), "zstd: {status}");
    Ok(())
}
