// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The guests' programs: a few from Debian forky (the first with a CRIU that knows 7.x kernels),
//! with the libraries they are linked against, and busybox for everything else.

use super::apt::{self, Apt};
use super::cache::{key, Cache};
use super::cpio::Archive;
use crate::host;
use anyhow::{bail, ensure, Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const SUITE: &str = "forky";

const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "bash",
    "busybox-static",
    "criu",
    "dash",
    "e2fsprogs",
    "kexec-tools",
    "memcached",
    "mount",
    "nftables",
    "redis-server",
    "redis-tools",
    "util-linux",
];

const PROGRAMS: &[&str] = &[
    "bash",
    "criu",
    "dash",
    "e2fsck",
    "findmnt",
    "getfacl",
    "getfattr",
    "kexec",
    "memcached",
    "mkfs.ext4",
    "mount",
    "nft",
    "redis-cli",
    "redis-server",
    "setfacl",
    "setfattr",
    "umount",
];

/// Those without which nothing can be mounted and no kernel loaded.
const FEW_PROGRAMS: &[&str] = &["dash", "kexec", "mount", "umount"];

/// What a scenario needs besides the usual.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub packages: Vec<String>,
    /// Names of programs, or paths such as `/usr/lib/x/y`.
    pub programs: Vec<String>,
}

/// The packages of the userland, unpacked.
pub fn tree(cache: &Cache, extra: &Extra) -> Result<PathBuf> {
    let apt = Apt::open(cache, "userland", &[SUITE])?;
    let mut packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    packages.extend(extra.packages.iter().cloned());
    let files = apt.closure(&packages)?;
    let names: Vec<&[u8]> = files
        .iter()
        .map(|file| file.as_os_str().as_encoded_bytes())
        .collect();
    cache.get(&format!("userland/{}", key(names)), |dir| {
        unpack(&files, dir)
    })
}

/// The compressed archive of the userland.
pub fn archive(cache: &Cache, extra: &Extra, small: bool) -> Result<PathBuf> {
    let programs = if small { FEW_PROGRAMS } else { PROGRAMS };
    let mut programs: Vec<String> = programs.iter().map(|name| (*name).to_owned()).collect();
    programs.extend(extra.programs.iter().cloned());
    let tree = tree(cache, extra)?;
    let recipe = [
        tree.as_os_str().as_encoded_bytes(),
        include_bytes!("userland.rs"),
    ];
    let recipe = recipe
        .into_iter()
        .chain(programs.iter().map(|name| name.as_bytes()));
    cache.get(&format!("userland/{}.cpio.zst", key(recipe)), |out| {
        println!("lab: packing the guest's programs");
        let tree = Tree { root: tree.clone() };
        super::initrd::compress(&tree.select(&programs)?.pack()?, 12, out)
    })
}

fn unpack(files: &[PathBuf], dir: &Path) -> Result<()> {
    println!("lab: unpacking {} packages for the guest", files.len());
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(dir.join("usr").join(name))?;
        std::os::unix::fs::symlink(format!("usr/{name}"), dir.join(name))?;
    }
    files.iter().try_for_each(|file| apt::unpack(file, dir))
}

struct Tree {
    root: PathBuf,
}

impl Tree {
    fn select(&self, programs: &[String]) -> Result<Archive> {
        let mut archive = Archive::default();
        for name in ["bin", "sbin", "lib", "lib64"] {
            archive.dir(&format!("usr/{name}"));
            archive.link(name, &format!("usr/{name}"));
        }
        for name in [
            "dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/tmp", "var/lib",
        ] {
            archive.dir(name);
        }
        archive.link("var/run", "/run");
        archive.char_device("dev/console", 5, 1);
        archive.char_device("dev/null", 1, 3);
        let mut libraries = BTreeSet::new();
        for name in programs {
            let path = self.program(name)?;
            self.add(&mut archive, &path)?;
            libraries.extend(self.libraries(&path)?);
        }
        for library in &libraries {
            self.add(&mut archive, library)?;
        }
        // Not busybox's own: it would take its built-in mount and others for the real ones.
        archive.link("usr/bin/sh", "dash");
        self.busybox(&mut archive)?;
        etc(&mut archive);
        Ok(archive)
    }

    /// The path of a program below the root.
    fn program(&self, name: &str) -> Result<PathBuf> {
        let dirs = ["", "usr/bin", "usr/sbin"];
        let places = dirs
            .iter()
            .map(|dir| Path::new(dir).join(name.trim_start_matches('/')));
        let mut found = places.filter(|path| self.root.join(path).is_file());
        found
            .next()
            .with_context(|| format!("{name}: not in the packages of the userland"))
    }

    /// Adds a file, and what it points to if it is a symbolic link.
    fn add(&self, archive: &mut Archive, path: &Path) -> Result<()> {
        let name = path.to_str().context("a path in UTF-8")?;
        let full = self.root.join(path);
        if !full.is_symlink() {
            return archive.file(name, &full);
        }
        let to = fs::read_link(&full)?;
        ensure!(!to.is_absolute(), "{name}: an absolute link");
        archive.link(name, to.to_str().context("a path in UTF-8")?);
        let dir = path.parent().unwrap_or(Path::new(""));
        self.add(archive, &normal(&dir.join(to)))
    }

    /// The libraries a program is linked against, as its own dynamic linker sees them.
    fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let linker = Path::new("usr/lib64/ld-linux-x86-64.so.2");
        let bytes = fs::read(self.root.join(program))?;
        let script = !bytes.starts_with(b"\x7fELF");
        let is_static = !bytes
            .windows(20)
            .any(|window| window == b"ld-linux-x86-64.so.2");
        if script || is_static {
            return Ok(Vec::new());
        }
        let root = self.root.canonicalize()?;
        let mut list = Command::new(root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        let place = root.join("usr/lib/x86_64-linux-gnu");
        // The second is named by a RUNPATH, which is an absolute path.
        let places = [place.clone(), place.join("ceph")].map(|dir| dir.display().to_string());
        list.arg("--inhibit-cache").arg("--library-path");
        list.arg(places.join(":"))
            .arg("--list")
            .arg(root.join(program));
        let mut found = vec![linker.to_owned()];
        for line in host::stdout(&mut list)?.lines() {
            let Some((name, path)) = line.split_once("=>") else {
                continue;
            };
            let path = path.split_whitespace().next().unwrap_or_default();
            match Path::new(path).strip_prefix(&root) {
                Ok(path) => found.push(path.to_owned()),
                Err(_) if name.contains("ld-linux") => {}
                Err(_) => bail!("{}: {} not found", program.display(), name.trim()),
            }
        }
        Ok(found)
    }

    fn busybox(&self, archive: &mut Archive) -> Result<()> {
        let path = self.program("busybox")?;
        self.add(archive, &path)?;
        let list = host::stdout(Command::new(self.root.join(&path)).arg("--list"))?;
        for applet in list
            .lines()
            .filter(|applet| *applet != "busybox" && *applet != "init")
        {
            let dirs = ["usr/bin", "usr/sbin"];
            if !dirs
                .iter()
                .any(|dir| archive.contains(&format!("{dir}/{applet}")))
            {
                archive.link(&format!("usr/bin/{applet}"), "/usr/bin/busybox");
            }
        }
        Ok(())
    }
}

/// Resolves `.` and `..` without looking at the file system.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

fn etc(archive: &mut Archive) {
    let people = [
        "root:x:0:0:root:/root:/bin/sh",
        "nobody:x:65534:65534::/:/bin/sh",
    ];
    let users = ["one:x:1001:1001::/:/bin/sh", "two:x:1002:1002::/:/bin/sh"];
    let passwd: Vec<&str> = people.into_iter().chain(users).collect();
    archive.text("etc/passwd", passwd.join("\n") + "\n", 0o644);
    let group = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\none:x:1001:\ntwo:x:1002:\n";
    archive.text("etc/group", group, 0o644);
    archive.text("etc/hosts", "127.0.0.1 localhost lab\n", 0o644);
    archive.text(
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
        0o644,
    );
    archive.link("etc/mtab", "/proc/self/mounts");
    archive.text("etc/fstab", "", 0o644);
    archive.text("etc/profile", "export PS1='lab:\\w# '\n", 0o644);
}
