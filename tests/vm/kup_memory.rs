// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory of every kind over `kup checkpoint` and `kup restore`: equal byte for byte, and right while it drains.
//!
//! `/init remember` knows what its memory must hold and looks all the time: before the checkpoint, between its
//! rounds, while memory comes on demand, and in the end. `KUP_MEMORY_SEEDS` says how many of these there are,
//! `KUP_MEMORY_FIRST` which is the first.

use super::redis_guest;
use crate::lab::{Here, Lab, Shell};
use anyhow::{ensure, Context, Result};
use serde_json::Value;
use std::time::Instant;

const FIRST: u64 = 1;
const SEEDS: u64 = 6;
const NATIVE_SEEDS: u64 = 60;

/// What else happens to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing: it goes on from the first moment.
    Plain,
    /// It stands still, and all its memory is compared from outside.
    Still,
    /// The daemon that gives it memory is killed, several times.
    Killed,
}

pub fn run(lab: &Lab) -> Result<()> {
    let guest = lab.boot(&redis_guest::boot(lab)?)?;
    redis_guest::mount_new(&guest)?;
    on(&guest, SEEDS)
}

/// The same on this machine itself, into tmpfs: where nothing is emulated, other things happen at the same time.
pub fn native() -> Result<()> {
    on(
        &Here::start("/mnt", &[("KUP_DIR", "/mnt/kup")])?,
        NATIVE_SEEDS,
    )
}

fn on(shell: &dyn Shell, seeds: u64) -> Result<()> {
    let number = |name: &str, otherwise| match std::env::var(name) {
        Ok(text) => text.parse().context(name.to_owned()),
        Err(_) => Ok(otherwise),
    };
    let first = number("KUP_MEMORY_FIRST", FIRST)?;
    let mut killed = 0;
    for seed in first..first + number("KUP_MEMORY_SEEDS", seeds)? {
        let turn = [Turn::Plain, Turn::Still, Turn::Killed][seed as usize % 3];
        let restarts = one(shell, seed, turn).with_context(|| format!("seed {seed} ({turn:?})"))?;
        killed += restarts;
        shell.check()?;
    }
    refused(shell).context("a checkpoint while memory drains")?;
    println!("no checkpoint is taken while memory drains");
    noticed(shell).context("pages that were changed")?;
    println!("pages that were changed are noticed");
    println!("the daemon was killed {killed} times");
    shell.check()
}

/// The application of a seed.
struct App<'a> {
    shell: &'a dyn Shell,
    name: String,
    dir: String,
    root: String,
}

impl<'a> App<'a> {
    fn start(shell: &'a dyn Shell, seed: u64, mib: u64) -> Result<App<'a>> {
        let name = format!("seed-{seed}");
        let dir = format!("/run/{name}");
        let files = format!("/mnt/files/{name}");
        // rseq(2) would let the kernel write to memory of a process that stands still.
        let root = shell.run(&format!(
            "mkdir -p {dir} {files} && cd / && \
             GLIBC_TUNABLES=glibc.pthread.rseq=0 setsid /init remember {seed} {mib} {dir} {files} \
             </dev/null >{dir}/out 2>&1 & echo $!"
        ))?;
        let app = App {
            shell,
            name,
            dir,
            root: root.trim().to_owned(),
        };
        app.goes_on(3)?;
        Ok(app)
    }

    fn run(&self, script: &str) -> Result<String> {
        let done = self.shell.timed(script, 120);
        Ok(done.with_context(|| self.what_is_wrong())?.0)
    }

    /// What it says itself, and what those say that had it in their hands.
    fn what_is_wrong(&self) -> String {
        let App { name, dir, .. } = self;
        let said = self.shell.run(&format!(
            "cat {dir}/wrong {dir}/out 2>/dev/null; kup show {name}; tail -n 20 /mnt/kup/{name}/log/*; ps | tail -n 20"
        ));
        said.unwrap_or_else(|e| format!("{e:#}"))
    }

    /// Waits until every process has done so much more.
    fn goes_on(&self, beats: u64) -> Result<()> {
        let App { dir, .. } = self;
        self.run(&format!(
            "for n in 0 1 2; do old=$(cat {dir}/beat-$n 2>/dev/null || echo 0); left=600; \
             until [ $(cat {dir}/beat-$n 2>/dev/null || echo 0) -ge $((old + {beats})) ]; do \
             [ -e {dir}/wrong ] && exit 1; left=$((left - 1)); [ $left -gt 0 ] || exit 2; sleep 0.05; done; done; \
             [ ! -e {dir}/wrong ]"
        ))
        .map(drop)
    }

    fn checkpoint(&self, options: &str) -> Result<String> {
        let App { name, root, .. } = self;
        self.run(&format!(
            "kup checkpoint {name} --pid {root} {options} 2>&1"
        ))
    }

    /// Compares all, and takes everything away.
    fn end(self) -> Result<()> {
        let App { dir, name, .. } = &self;
        self.run(&format!(
            "printf end > {dir}/phase; left=1200; \
             until [ -e {dir}/good ]; do [ -e {dir}/wrong ] && exit 1; \
             left=$((left - 1)); [ $left -gt 0 ] || exit 2; sleep 0.05; done; [ ! -e {dir}/wrong ]"
        ))?;
        self.drained()?;
        self.run(&format!(
            "rm -r {dir} /mnt/files/{name} && kup remove -q {name}"
        ))?;
        Ok(())
    }

    /// Waits for the end of the drain; what it says of itself.
    fn drained(&self) -> Result<Value> {
        let App { name, .. } = self;
        let said = self.run(&format!(
            "left=600; until kup --json show {name} | grep -q '\"state\": \"restored\"'; do \
             left=$((left - 1)); [ $left -gt 0 ] || exit 2; sleep 0.05; done; cat /mnt/kup/{name}/drain.json"
        ))?;
        Ok(serde_json::from_str(&said)?)
    }

    /// All processes of it, the first first.
    fn processes(&self) -> Result<String> {
        let said = self.run(&format!("kup --json show {}", self.name))?;
        let said: Value = serde_json::from_str(&said)?;
        let all = said["processes"].as_array().context("processes")?;
        Ok(all.iter().map(|one| format!("{} ", one["pid"])).collect())
    }
}

fn one(shell: &dyn Shell, seed: u64, turn: Turn) -> Result<u64> {
    let start = Instant::now();
    let app = App::start(shell, seed, 4)?;
    let name = &app.name;
    let rounds = seed / 3 % 3;
    let sums = format!("/run/{name}.pages");
    let said = if turn == Turn::Still {
        // Stopped from the top: who is stopped makes no more processes.
        let tree = app.run(&format!(
            "all={0}; next={0}; while [ -n \"$next\" ]; do kill -STOP $next; sleep 0.02; more=; \
             for pid in $next; do more=\"$more $(cat /proc/$pid/task/*/children)\"; done; \
             next=$(echo $more); all=\"$all $next\"; done; \
             live=; for pid in $all; do grep -q '^State:.*zombie' /proc/$pid/status || live=\"$live $pid\"; done; \
             echo $live",
            app.root
        ))?;
        app.run(&format!("/init pages save {sums} {}", tree.trim()))?;
        let said = app.checkpoint(&format!("--rounds {rounds}"))?;
        app.run(&format!("kup restore --wait {name} 2>&1"))?;
        app.run(&format!("/init pages compare {sums} {}", tree.trim()))?;
        app.run(&format!("rm {sums}; kill -CONT {}", tree.trim()))?;
        said
    } else {
        let said = app.checkpoint(&format!("--rounds {rounds}"))?;
        let killer = match turn {
            Turn::Killed => format!("/init drain kill 4 >{}/killed & ", app.dir),
            _ => String::new(),
        };
        app.run(&format!(
            "{killer} kup restore {name} 2>&1; done=$?; wait; exit $done"
        ))?;
        said
    };
    app.goes_on(3)?;
    let drain = app.drained()?;
    let restarts = drain["restarts"].as_u64().context("restarts")?;
    ensure!(drain["bad_pages"] == serde_json::json!([]), "{drain}");
    ensure!(restarts == 0 || turn == Turn::Killed, "{drain}");
    app.goes_on(4)?;
    app.end()?;
    let last = said.lines().find(|line| line.contains("on demand"));
    println!(
        "seed {seed}: {turn:?}, rounds {rounds}, {:.1} s;{}; {} faults, {} forks, {restarts} restarts, drained in {:.3} s",
        start.elapsed().as_secs_f64(),
        last.unwrap_or("").trim_end(),
        drain["faults"],
        drain["forks"],
        drain["seconds"].as_f64().unwrap_or(0.0),
    );
    Ok(restarts)
}

/// No checkpoint is taken of what has not all its memory.
fn refused(shell: &dyn Shell) -> Result<()> {
    let app = App::start(shell, 1001, 16)?;
    app.checkpoint("")?;
    let App {
        name, dir, root, ..
    } = &app;
    let said = app.run(&format!(
        "kup restore {name} && /init drain stop 1 >/dev/null && \
         ! kup checkpoint again --pid {root} 2>&1 && [ ! -e /mnt/kup/again ] && \
         ! kup remove {name} 2>&1 && /init drain kill 3 && [ ! -e {dir}/wrong ]"
    ))?;
    ensure!(said.contains("still gets memory on demand"), "{said}");
    ensure!(said.contains("still get memory from it"), "{said}");
    app.goes_on(3)?;
    let drain = app.drained()?;
    ensure!(drain["restarts"].as_u64() >= Some(1), "{drain}");
    app.run(&format!(
        "kup checkpoint again --pid {root} 2>&1 && kup restore again 2>&1"
    ))?;
    app.goes_on(3)?;
    app.end()?;
    shell.run("kup remove -q again").map(drop)
}

/// Pages that were changed between checkpoint and restore: with sums the process has an error, without it sees
/// them; so would it see any other that is not as it was.
fn noticed(shell: &dyn Shell) -> Result<()> {
    for sealed in [true, false] {
        let app = App::start(shell, 2001 + u64::from(sealed), 2)?;
        app.checkpoint(if sealed { "" } else { "--no-seal" })?;
        let App {
            name, dir, root, ..
        } = &app;
        // From where the memory begins that the program keeps in mind.
        app.run(&format!(
            "/init change /mnt/kup/{name}/memory/process-{root} 0x200000000000 8 && printf end > {dir}/phase"
        ))?;
        app.run(&format!(
            "kup restore {name} 2>&1 && while [ -d /proc/{root} ]; do sleep 0.05; done; [ ! -e {dir}/good ]"
        ))?;
        let drain = app.drained()?;
        let wrong = shell.run(&format!("cat {dir}/wrong 2>/dev/null; :"))?;
        let bad = drain["bad_pages"].as_array().context("bad pages")?.len();
        let seen = wrong.contains(" words wrong");
        ensure!(
            (bad > 0) == sealed && seen != sealed,
            "sealed: {sealed}: {drain}\n{wrong}"
        );
        shell.run(&format!(
            "for pid in {}; do kill -KILL $pid 2>/dev/null; done; rm -r {dir}; kup remove -q {name}",
            app.processes()?
        ))?;
    }
    Ok(())
}
