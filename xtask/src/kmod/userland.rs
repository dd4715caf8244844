// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The compilers that Debian builds its kernels with: a Debian 13 system, unpacked into the cache
//! and entered by chroot. Needs no root where the kernel lets users have namespaces.

use crate::host;
use crate::lab::{key, unpack, Apt, Cache};
use anyhow::{bail, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "trixie";

const PACKAGES: &[&str] = &[
    // What every Debian has and no package asks for.
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "mawk",
    "perl-base",
    "sed",
    "tar",
    // What the kernel is built with.
    "bc",
    "bindgen",
    "bison",
    "clang",
    "flex",
    "gcc",
    "kmod",
    "libelf-dev",
    "libssl-dev",
    "lld",
    "llvm",
    "make",
    "pahole",
    "python3",
    "rust-src",
    "rustc",
    "rustfmt",
    "xz-utils",
];

/// Where directories of the host appear.
const PLACES: &[&str] = &[
    "dev",
    "proc",
    "tmp",
    "usr/src/build",
    "usr/src/linux",
    "usr/src/rpramfs/fs-core",
    "usr/src/rpramfs/kmod",
];

/// Large, and nothing reads it.
const UNUSED: &[&str] = &[
    "usr/lib/llvm-19/include",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
];

/// To be changed with `make`, so that the old one is not taken any more.
const RECIPE: &[u8] = b"1";

pub struct Userland {
    pub root: PathBuf,
}

/// A directory of the host's that the userland sees at a place of its own.
pub struct Bind<'a> {
    from: &'a Path,
    place: &'a str,
    writable: bool,
}

impl<'a> Bind<'a> {
    pub fn read_only(from: &'a Path, place: &'a str) -> Bind<'a> {
        let writable = false;
        Bind {
            from,
            place,
            writable,
        }
    }

    pub fn writable(from: &'a Path, place: &'a str) -> Bind<'a> {
        let writable = true;
        Bind {
            from,
            place,
            writable,
        }
    }
}

impl Userland {
    pub fn open(cache: &Cache) -> Result<Userland> {
        crate::setup::kmod()?;
        let apt = Apt::open(cache, "kbuild", &[SUITE])?;
        let packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
        let files = apt.closure(&packages)?;
        let names = files.iter().map(|file| file.as_os_str().as_encoded_bytes());
        let names = names.chain([RECIPE]);
        let root = cache.get(&format!("kbuild/userland-{}", key(names)), |dir| {
            println!("kmod: unpacking {} packages to build with", files.len());
            make(&files, dir)
        })?;
        Ok(Userland { root })
    }

    /// Runs a shell script in it, which sees the host's directories as said. Returns all it wrote.
    pub fn run(&self, binds: &[Bind], script: &str) -> Result<String> {
        let mut command = Command::new("unshare");
        command.arg("--mount").stdin(std::process::Stdio::null());
        if !host::is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        // The arguments: the root, then from, place and options of each bind, then the script.
        command.args([
            "/bin/sh",
            "-ec",
            "root=$1; shift
             mount --rbind /dev $root/dev; mount --rbind /proc $root/proc
             mount -t tmpfs tmpfs $root/tmp
             while [ $# -gt 1 ]; do
                 mount --bind \"$1\" \"$root/$2\"
                 [ $3 = rw ] || mount -o remount,bind,ro \"$root/$2\"
                 shift 3
             done
             exec chroot $root /usr/bin/env -i LC_ALL=C HOME=/tmp KBUILD_BUILD_USER=rpramfs \
                 PATH=/usr/sbin:/usr/bin /bin/sh -ec \"$1\"",
            "kmod",
        ]);
        command.arg(&self.root);
        for bind in binds {
            command.arg(bind.from).arg(bind.place);
            command.arg(if bind.writable { "rw" } else { "ro" });
        }
        let output = command.arg(script).output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if !output.status.success() {
            bail!("{}\n{said}", output.status);
        }
        Ok(said)
    }
}

fn make(packages: &[PathBuf], dir: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(dir.join("usr").join(name))?;
        symlink(format!("usr/{name}"), dir.join(name))?;
    }
    packages.iter().try_for_each(|file| unpack(file, dir))?;
    // What the packages' scripts would do.
    for (name, to) in [("awk", "mawk"), ("cc", "gcc"), ("c++", "g++")] {
        symlink(to, dir.join("usr/bin").join(name))?;
    }
    for place in PLACES {
        fs::create_dir_all(dir.join(place))?;
    }
    for name in UNUSED {
        let _ = fs::remove_dir_all(dir.join(name));
    }
    // Of the compiler's sources the kernel takes the library.
    for entry in fs::read_dir(dir.join("usr/src"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("rustc-") {
            let _ = fs::remove_dir_all(entry.path().join("src"));
            let _ = fs::remove_dir_all(entry.path().join("compiler"));
        }
    }
    Ok(())
}
