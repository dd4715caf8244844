// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! How long an application stands still: while it is checkpointed, until it runs again, and over a whole
//! update. It is the application itself that says so (`/init hold … gaps`): what the tools tell of themselves
//! leaves out how long they take to begin and to end.

mod downtime;
mod machine;
mod native;
mod phases;
mod plot;
mod servers;

use super::criu::{self, Setup, EXT4DAX, OURS};
use super::{others, Measure, Pairs, Settings};
use crate::host;
use crate::lab::{Lab, Shell};
use anyhow::{bail, ensure, Context, Result};
use std::fs;
use std::time::{Duration, Instant};

/// A round takes minutes.
const MOST: usize = 3;
const GAPS: &str = "/run/gaps";
/// Name of the checkpoint that `kup` takes.
const NAME: &str = "held";

/// A process to be checkpointed.
struct Process {
    name: &'static str,
    mib: u64,
    /// Percent of its memory that it writes each second, and that are zeros.
    writes: u64,
    zeros: u64,
    ways: &'static [usize],
}

const fn idle(name: &'static str, mib: u64) -> Process {
    Process {
        name,
        mib,
        writes: 0,
        zeros: 0,
        ways: &[SIMPLE, EXT4, INCREMENTAL, FOAM],
    }
}

const PROCESSES: &[Process] = &[
    idle("64m", 64),
    idle("128m", 128),
    idle("256m", 256),
    idle("512m", 512),
    idle("1g", 1024),
    Process {
        ways: &[SIMPLE, FOAM],
        ..idle("2g", 2048)
    },
    Process {
        writes: 10,
        ways: &[SIMPLE, FOAM],
        ..idle("1g_write10", 1024)
    },
    Process {
        writes: 50,
        ways: &[SIMPLE, FOAM],
        ..idle("1g_write50", 1024)
    },
    Process {
        zeros: 50,
        ways: &[SIMPLE, FOAM],
        ..idle("256m_half_zeros", 256)
    },
];

/// How it is checkpointed and restored.
#[derive(Clone, Copy)]
enum Way {
    /// One `criu dump`, into this directory.
    Simple(&'static str),
    /// `criu pre-dump` while it runs, then `criu dump` of what has changed.
    Incremental,
    /// By `kup`: rounds into FOAM, memory on demand.
    Foam,
}

const SIMPLE: usize = 0;
const EXT4: usize = 1;
const INCREMENTAL: usize = 2;
const FOAM: usize = 3;
const WAYS: [Way; 4] = [
    Way::Simple(OURS),
    Way::Simple(EXT4DAX.1),
    Way::Incremental,
    Way::Foam,
];

/// Seconds, but for `space` and `before`: bytes of the region ÷ bytes of the process.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// The application stood still for the checkpoint.
    stop: f64,
    /// What `kup` says of that.
    reported: f64,
    /// The longest stop in the rounds before.
    round: f64,
    /// From the begin of the restore to the application's next step.
    restore: f64,
    /// To the end of the restore, with all memory.
    whole: f64,
    /// All of the checkpoint.
    space: f64,
    /// CRIU's images of the rounds before the last.
    before: f64,
}

pub fn run(settings: &Settings) -> Result<Vec<Measure>> {
    let lab = Lab::open("bench-update")?;
    let rounds = settings.rounds.min(MOST);
    let mut measures = stops(&lab, rounds)?;
    let path = host::target().join("bench/update.svg");
    fs::write(&path, plot::draw(&measures)?).with_context(|| path.display().to_string())?;
    println!("drawn: {}", path.display());
    measures.extend(servers::run(&lab, rounds)?);
    measures.extend(downtime::run(&lab, rounds)?);
    Ok(measures)
}

/// What can be seen without a guest.
pub fn native(settings: &Settings) -> Result<Vec<Measure>> {
    native::run(settings)
}

/// What a whole update consists of.
pub fn phases(settings: &Settings) -> Result<Vec<Measure>> {
    phases::run(&Lab::open("bench-phases")?, settings.rounds.min(MOST))
}

fn stops(lab: &Lab, rounds: usize) -> Result<Vec<Measure>> {
    let setup = Setup {
        name: "update",
        holds: 2048,
        ..criu::KMOD
    };
    let (guest, _) = criu::prepare(lab, &setup)?;
    guest.high_pids()?;
    let taken = others::rounds(&guest, setup.name, rounds, |round| {
        PROCESSES
            .iter()
            .map(|process| all_ways(&guest, process, round).context(process.name))
            .collect::<Result<Vec<_>>>()
    })?;
    guest.check()?;
    Ok(measures(&taken))
}

/// Each way in its turn, with a process of its own.
fn all_ways(shell: &dyn Shell, process: &Process, round: usize) -> Result<Turns> {
    let mut taken = [Taken::default(); WAYS.len()];
    for turn in 0..process.ways.len() {
        let which = process.ways[(round + turn) % process.ways.len()];
        let options = format!(
            "gaps {GAPS} write {} zeros {}",
            process.writes, process.zeros
        );
        let pid = criu::hold(shell, process.mib << 20, &options)?;
        taken[which] = one(shell, WAYS[which], &pid)?;
        shell.run(&end(&pid))?;
    }
    let list = |pick: fn(&Taken) -> f64| {
        let each = process.ways.iter();
        let each = each.map(|&way| format!("{:.3}", pick(&taken[way])));
        each.collect::<Vec<_>>().join(" ")
    };
    println!(
        "{:16} round {round}: still {} s, restored {} s",
        process.name,
        list(|taken| taken.stop),
        list(|taken| taken.restore)
    );
    Ok(taken)
}

/// The shell's words to end a process and to wait until it is gone.
fn end(pid: &str) -> String {
    format!("kill -9 {pid}; while [ -e /proc/{pid} ]; do sleep 0.02; done; rm -f {GAPS}")
}

fn one(shell: &dyn Shell, way: Way, pid: &str) -> Result<Taken> {
    let resident = criu::resident(shell, pid)?;
    let mut taken = Taken::default();
    let dir = match way {
        Way::Simple(place) => format!("{place}/images"),
        Way::Incremental | Way::Foam => format!("{OURS}/kup/{NAME}"),
    };
    let images = match way {
        Way::Simple(_) => dir.clone(),
        Way::Incremental | Way::Foam => format!("{dir}/images"),
    };
    // Some time of its own before each, so that a process that writes has written.
    shell.run(&format!("sleep 1; rm -f {GAPS}"))?;
    let used = used(shell, OURS)?;
    // It is left running, so that it can say how long it stood still; and it need not be freed then.
    match way {
        Way::Simple(_) => {
            criu::criu(
                shell,
                &images,
                &format!("criu dump --leave-running -t {pid}"),
            )?;
        }
        Way::Incremental => {
            let before = format!("{dir}/rounds");
            let track = format!("--track-mem -t {pid}");
            criu::criu(shell, &before, &format!("criu pre-dump {track}"))?;
            let dump = format!("criu dump --leave-running --prev-images-dir ../rounds {track}");
            criu::criu(shell, &images, &dump)?;
        }
        Way::Foam => {
            let text = kup(
                shell,
                &format!("checkpoint {NAME} --leave-running --pid {pid}"),
            )?;
            taken.reported = reported(&text)?;
            taken.space = (self::used(shell, OURS)? - used) / resident as f64;
            // A kernel that does not track what is written has no rounds.
            let du = format!("if [ -d {dir}/rounds ]; then du -sk {dir}/rounds; else echo 0; fi");
            let before = shell.run(&format!("{du} | cut -f 1"))?;
            taken.before = before.trim().parse::<f64>()? * 1024.0 / resident as f64;
        }
    }
    // This was written while it stood still.
    let dumped = shell.run(&format!("/init mtime {images}/core-{pid}.img"))?;
    let mut gaps = self::gaps(shell, pid, dumped.trim().parse()?)?;
    let length = |gap: (f64, f64)| gap.1 - gap.0;
    taken.stop = gaps.pop().map_or(0.0, length);
    taken.round = gaps.into_iter().map(length).fold(0.0, f64::max);
    shell.run(&end(pid))?;

    let (restore, begun) = match way {
        Way::Foam => begun(shell, &format!("kup -q restore --wait {NAME}"))?,
        _ => begun(
            shell,
            &format!(
                "criu restore -d --images-dir {images} -o restore.log --manage-cgroups=ignore"
            ),
        )?,
    };
    let gap = self::gaps(shell, pid, begun)?.pop();
    taken.restore = gap.map_or(0.0, |gap| gap.1 - begun);
    taken.whole = restore;
    let held = criu::resident(shell, pid)?;
    ensure!(
        held + (1 << 20) >= resident,
        "only {held} bytes were restored"
    );
    shell.run(&format!("rm -r {dir}"))?;
    Ok(taken)
}

fn kup(shell: &dyn Shell, command: &str) -> Result<String> {
    let command = format!("kup --quiet --json {command}");
    Ok(shell.timed(&command, 180)?.0)
}

/// The stop in the last round, by a manifest.
fn reported(manifest: &str) -> Result<f64> {
    let manifest: serde_json::Value = serde_json::from_str(manifest)?;
    let rounds = manifest["rounds"].as_array().context("no rounds")?;
    let last = rounds.last().context("no round")?;
    last["frozen_seconds"].as_f64().context("no time")
}

/// Runs a command. Returns its seconds, and when it began.
fn begun(shell: &dyn Shell, command: &str) -> Result<(f64, f64)> {
    // No other program in between.
    let script = format!("bash -c 'echo $EPOCHREALTIME; exec {command}'");
    let (stdout, seconds) = shell.timed(&script, 180)?;
    let first = stdout.lines().next().context("no time")?;
    Ok((seconds, first.parse()?))
}

/// When the process did not run, up to the gap that holds a moment, which is the last.
fn gaps(shell: &dyn Shell, pid: &str, moment: f64) -> Result<Vec<(f64, f64)>> {
    let gap = |line: &str| -> Result<(f64, f64)> {
        let (from, to) = line.split_once(' ').context("no gap")?;
        Ok((from.parse()?, to.parse()?))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = shell.run(&format!("cat {GAPS} 2>/dev/null || true"))?;
        let mut gaps: Vec<_> = text.lines().map(gap).collect::<Result<_>>()?;
        let holds = |gap: &(f64, f64)| gap.0 <= moment && moment <= gap.1;
        if let Some(at) = gaps.iter().position(holds) {
            gaps.truncate(at + 1);
            return Ok(gaps);
        }
        if Instant::now() > deadline {
            let state = shell.run(&format!("grep State: /proc/{pid}/status || true"))?;
            bail!("it did not stand still at {moment}: {gaps:?} {state}");
        }
    }
}

/// Bytes in use.
fn used(shell: &dyn Shell, dir: &str) -> Result<f64> {
    let kib = shell.run(&format!("df -k {dir} | awk 'END {{ print $3 }}'"))?;
    Ok(kib.trim().parse::<f64>()? * 1024.0)
}

/// Of one process, each way.
type Turns = [Taken; WAYS.len()];

fn measures(taken: &[Vec<Turns>]) -> Vec<Measure> {
    let mut all = Vec::new();
    let place = |name: &str| {
        let found = PROCESSES.iter().position(|process| process.name == name);
        found.expect("a process of that name")
    };
    let (small, large) = (place("64m"), place("1g"));
    let mut add = |name: &str, unit, pick: &dyn Fn(&[Turns]) -> (f64, f64)| {
        let pairs: Pairs = taken.iter().map(|round| pick(round)).collect();
        all.push(pairs.measure(name, unit));
    };
    // What there are goals for.
    add("foam.restore_1g_vs_plain", "s", &|round| {
        (round[large][FOAM].restore, round[large][SIMPLE].restore)
    });
    add("foam.restore_1g_vs_64m", "s", &|round| {
        (round[large][FOAM].restore, round[small][FOAM].restore)
    });
    for (name, process) in [
        ("foam.stop_vs_simple", large),
        ("foam.stop_write10_vs_simple", place("1g_write10")),
        ("foam.stop_write50_vs_simple", place("1g_write50")),
    ] {
        add(name, "s", &|round| {
            (round[process][FOAM].stop, round[process][SIMPLE].stop)
        });
    }
    for (n, process) in PROCESSES.iter().enumerate() {
        for (way, which, place) in [
            ("foam", FOAM, ""),
            ("incremental", INCREMENTAL, ""),
            ("simple", EXT4, "_ext4dax"),
        ] {
            if !process.ways.contains(&which) {
                continue;
            }
            let name = format!("{way}.stop_{}{place}", process.name);
            add(&name, "s", &|round| {
                (round[n][which].stop, round[n][SIMPLE].stop)
            });
            let name = format!("{way}.restore_{}{place}", process.name);
            add(&name, "s", &|round| {
                (round[n][which].restore, round[n][SIMPLE].restore)
            });
        }
        let name = format!("foam.stop_in_rounds_{}", process.name);
        add(&name, "s", &|round| {
            (round[n][FOAM].round, round[n][SIMPLE].stop)
        });
        let name = format!("foam.stop_{}_vs_reported", process.name);
        add(&name, "s", &|round| {
            (round[n][FOAM].stop, round[n][FOAM].reported)
        });
        let name = format!("foam.restore_{}_and_drain", process.name);
        add(&name, "s", &|round| {
            (round[n][FOAM].whole, round[n][SIMPLE].whole)
        });
    }
    for (name, process) in [
        ("foam.space_vs_resident", large),
        ("foam.space_write50_vs_resident", place("1g_write50")),
        (
            "foam.space_half_zeros_vs_resident",
            place("256m_half_zeros"),
        ),
    ] {
        add(name, "part", &|round| (round[process][FOAM].space, 1.0));
    }
    add("foam.space_rounds_vs_resident", "part", &|round| {
        (round[large][FOAM].before, 1.0)
    });
    all
}
