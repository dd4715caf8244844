// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! This machine itself, not emulated: the guests' programs in namespaces of their own (mounts, PIDs, network),
//! which end with this process. The kernel is the machine's, so no module of ours is there.

use super::cache::Cache;
use super::tools;
use super::userland::{self, Extra};
use crate::host;
use anyhow::{bail, ensure, Context, Result};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Its arguments: a directory, the userland's, our programs, and what is mounted.
const BEGIN: &str = r#"
mount -t tmpfs -o mode=755 root "$1"
cd "$1"
mkdir -p usr proc sys dev run tmp mnt old
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
mount --bind "$2/usr" usr
cp "$3" init
mkdir tools
cp "$4" tools/kup
mkdir -p ".$5"
mount -t proc proc proc
mount -t sysfs sys sys
mount --rbind /dev dev
mount -t tmpfs -o size=80% store ".$5"
pivot_root . old
exec /usr/bin/busybox sh -c '
    busybox --install -s /tools
    PATH=/tools
    umount -l /old && ip link set lo up && echo ready
    exec >/dev/null
    while :; do sleep 0.05; done'
"#;

/// Closes what whoever started us has open: CRIU cannot dump a process with a file from another mount namespace.
const ENTRY: &str =
    r#"for fd in {3..31}; do eval "exec $fd>&-"; done; exec /usr/bin/busybox sh -c "$1""#;

/// Where they are, and what is mounted.
pub struct Here {
    namespaces: Child,
    /// PID 1 of them.
    init: u32,
    variables: Vec<(String, String)>,
}

impl Here {
    /// Makes them, with a tmpfs at `place`. `variables` are those that every command has.
    pub fn start(place: &str, variables: &[(&str, &str)]) -> Result<Here> {
        ensure!(
            host::is_root(),
            "CRIU has to be run by root, and on this machine itself: `sudo -E cargo xtask …`"
        );
        crate::setup::lab()?;
        let cache = Cache::open()?;
        let tree = userland::tree(&cache, &Extra::default())?;
        let agent = tools::program("lab-agent", "lab-agent")?;
        let kup = tools::program("kup", "kup")?;
        let dir = host::target().join("vm/here");
        fs::create_dir_all(&dir)?;
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "--pid", "--net", "--fork", "--kill-child"])
            .args(["--propagation", "private", "/bin/sh", "-ec", BEGIN, "here"])
            .args([&dir, &tree, &agent, &kup, Path::new(place)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut namespaces = unshare.spawn().context("unshare")?;
        let mut line = String::new();
        let stdout = namespaces.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let id = namespaces.id();
        let mut here = Here {
            namespaces,
            init: 0,
            variables: Vec::new(),
        };
        ensure!(line.trim() == "ready", "namespaces cannot be made");
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        here.init = children.trim().parse().context("no PID 1")?;
        let own = variables.iter();
        here.variables = own
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(here)
    }

    /// Runs a shell command that has to succeed within so many seconds. Returns what it wrote to its standard
    /// output, and the seconds it took.
    pub fn timed(&self, script: &str, limit: u64) -> Result<(String, f64)> {
        let mut enter = Command::new("nsenter");
        enter
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net", "--root", "--wd"])
            .args(["/usr/bin/busybox", "timeout", "-s", "KILL"])
            .args([
                &limit.to_string(),
                "/usr/bin/bash",
                "-c",
                ENTRY,
                "here",
                script,
            ])
            .env_clear()
            .env("PATH", "/tools:/usr/sbin:/usr/bin")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        let start = Instant::now();
        let output = enter.output().context("nsenter")?;
        let seconds = start.elapsed();
        if !output.status.success() {
            let late = seconds >= Duration::from_secs(limit);
            bail!(
                "`{script}`: {}{}\n{}{}",
                output.status,
                if late { ", at its time limit" } else { "" },
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((stdout, seconds.as_secs_f64()))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = self.namespaces.kill();
        let _ = self.namespaces.wait();
    }
}
