// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The update: everything that can be done while the applications run, then stop, switch, restore. What
//! was done is in `update.json` beside the checkpoints, so that the next kernel knows.

use crate::checkpoint::{self, Checkpoint, Checkpoints, Left, Manifest, Memory, Request, State};
use crate::images::Images;
use crate::kexec::{self, Next};
use crate::network::{self, Ports};
use crate::system;
use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NAME: &str = "update.json";

/// What happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The next kernel is loaded; the rounds begin.
    Copying,
    /// The applications are about to stand still.
    Stopping,
    /// They stand still, and all of them is in the region.
    Stopped,
    /// The next kernel is started.
    Switching,
    /// It runs, and has begun to restore.
    Resuming,
    /// All applications run.
    Running,
    /// They went on where they stood: there was no switch.
    Continued,
    /// Something failed; they can still be restored.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub step: Step,
    /// Seconds since 1970, by the kernel that was running. The clock may be a second off behind the switch.
    pub at: f64,
    /// Seconds since that kernel began.
    pub uptime: f64,
    pub kernel: String,
    pub note: String,
}

/// An update, from its begin to its end, over both kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    pub version: u32,
    /// The boot that it began in.
    pub boot_id: String,
    pub next_kernel: String,
    /// The checkpoints, in the order in which they are restored.
    pub members: Vec<String>,
    /// What the network is held for.
    pub ports: Ports,
    /// The next kernel's processes get PIDs above this.
    pub last_pid: u32,
    pub events: Vec<Event>,
}

/// One application that is carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub root_pid: u32,
    pub unit: Option<String>,
}

/// What `kup update` is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub members: Vec<Member>,
    pub next: Next,
    pub rounds: u32,
    pub sealed: bool,
    pub criu_options: Vec<String>,
}

impl Update {
    /// # Errors
    /// There is none, or one that this version does not know.
    pub fn read(dir: &Path) -> Result<Option<Update>> {
        let path = dir.join(NAME);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| path.display().to_string())?,
        };
        let update: Update =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(
            update.version == checkpoint::VERSION,
            "{}: version {}, which this kup does not know",
            path.display(),
            update.version
        );
        Ok(Some(update))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let (path, new) = (dir.join(NAME), dir.join(".update.json.new"));
        let write = || -> Result<()> {
            let mut file = File::create(&new)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            Ok(fs::rename(&new, &path)?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// What happened last.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        self.events.last().map(|event| event.step)
    }

    fn say(&mut self, dir: &Path, step: Step, note: &str) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.events.push(Event {
            step,
            at: now.map_or(0.0, |now| now.as_secs_f64()),
            uptime: uptime(),
            kernel: system::release(),
            note: note.to_owned(),
        });
        self.write(dir)
    }
}

fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(0.0)
}

/// Updates the kernel. Returns only if it did not come to that: then the applications run.
///
/// # Errors
/// What was in the way.
pub fn update(checkpoints: &Checkpoints, wish: &Wish, say: &dyn Fn(&str)) -> Result<()> {
    let _lock = checkpoints.lock()?;
    let dir = checkpoints.dir();
    ensure!(
        !wish.members.is_empty(),
        "nothing to carry over: name it by --unit, --pid or --cgroup"
    );
    make_room(checkpoints, wish, say)?;
    let next_kernel = kexec::release(&wish.next.kernel)?;
    kexec::load(&wish.next)?;
    say(&format!("{next_kernel} is loaded; the applications run on"));
    let mut update = Update {
        version: checkpoint::VERSION,
        boot_id: system::boot_id()?,
        next_kernel,
        members: wish
            .members
            .iter()
            .map(|member| member.name.clone())
            .collect(),
        ports: Ports::default(),
        last_pid: 0,
        events: Vec::new(),
    };
    update.say(dir, Step::Copying, "")?;
    let switched = switch(checkpoints, wish, &mut update, say);
    // Whatever it was, it was no switch.
    kexec::unload();
    let why = match switched {
        Ok(()) => "the next kernel did not start".to_owned(),
        Err(e) => format!("{e:#}"),
    };
    let back = go_on(checkpoints, &mut update, &why, say);
    match back {
        Ok(()) => bail!("{why}\nThe applications run on, under the old kernel"),
        Err(e) => bail!("{why}\nThe applications do not run ({e:#}); `kup resume` tries again"),
    }
}

/// Removes what earlier updates left of checkpoints with these names. One that drains is waited for.
fn make_room(checkpoints: &Checkpoints, wish: &Wish, say: &dyn Fn(&str)) -> Result<()> {
    for member in &wish.members {
        let at = checkpoints.at(&member.name)?;
        if !at.dir.exists() {
            continue;
        }
        if !at.has_manifest() {
            // It ended before it began.
            at.remove()?;
            continue;
        }
        if at.drains()? {
            say(&format!(
                "{}: its memory is still coming; waiting",
                member.name
            ));
            while at.drains()? {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        match at.manifest()?.state {
            State::Restored | State::Draining | State::Writing => at.remove()?,
            State::Ready | State::Restoring => bail!(
                "there is a checkpoint {} that can still be restored (`kup show {}`); \
                 `kup remove --force {}` removes it",
                member.name,
                member.name,
                member.name
            ),
        }
    }
    Ok(())
}

fn switch(
    checkpoints: &Checkpoints,
    wish: &Wish,
    update: &mut Update,
    say: &dyn Fn(&str),
) -> Result<()> {
    let dir = checkpoints.dir();
    let mut taking = Vec::new();
    for member in &wish.members {
        let at = checkpoints.at(&member.name)?;
        let request = Request {
            root_pid: member.root_pid,
            unit: member.unit.clone(),
            memory: Memory::Foam,
            sealed: wish.sealed,
            left: Left::Stopped,
            rounds: wish.rounds,
            criu_options: wish.criu_options.clone(),
        };
        taking.push(checkpoint::Taking::begin(at, request)?);
    }
    for one in &mut taking {
        let name = one.name().to_owned();
        one.rounds(&|text| say(&format!("{name}: {text}")))?;
    }
    // What is not in the region must be on its disk, and had better not be written after the stop.
    nix::unistd::sync();
    update.say(dir, Step::Stopping, "")?;
    let taken: Vec<Result<Manifest>> = std::thread::scope(|scope| {
        let threads: Vec<_> = taking
            .iter_mut()
            .map(|one| scope.spawn(|| one.last()))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut manifests = Vec::new();
    for (one, manifest) in taking.iter().zip(taken) {
        manifests.push(manifest.with_context(|| format!("{} cannot be checkpointed", one.name()))?);
    }
    for one in taking {
        let images = Images::new(&one.keep().images());
        update.ports.add(&Ports::of(&images)?);
        let last = images.thread_ids()?.into_iter().max();
        update.last_pid = update.last_pid.max(last.unwrap_or(0));
    }
    update.say(dir, Step::Stopped, "")?;
    for manifest in &manifests {
        let last = manifest.rounds.last();
        say(&format!(
            "{} stands still, {} of {} in the last round",
            manifest.name,
            system::size(last.map_or(0, |round| round.bytes)),
            system::size(manifest.bytes())
        ));
    }
    update.say(dir, Step::Switching, "")?;
    nix::unistd::sync();
    kexec::start()
}

/// Lets the applications go on under the kernel they were stopped by.
fn go_on(
    checkpoints: &Checkpoints,
    update: &mut Update,
    why: &str,
    say: &dyn Fn(&str),
) -> Result<()> {
    let mut failed = Vec::new();
    for name in update.members.clone() {
        let at = checkpoints.at(&name)?;
        let Ok(manifest) = at.manifest() else {
            // It did not come to that; what had been begun is taken away.
            continue;
        };
        match continue_one(&at, &manifest) {
            Ok(()) => say(&format!("{name} goes on")),
            Err(e) => failed.push(format!("{name}: {e:#}")),
        }
    }
    if !failed.is_empty() {
        update.say(checkpoints.dir(), Step::Failed, why)?;
        bail!("{}", failed.join("; "));
    }
    update.say(checkpoints.dir(), Step::Continued, why)
}

fn continue_one(at: &Checkpoint, manifest: &Manifest) -> Result<()> {
    if manifest.state == State::Ready && manifest.left == Left::Stopped {
        at.let_go(manifest)?;
    }
    // From now on it is out of date.
    at.remove()
}

/// Keeps the place of the applications, before the network is up and other programs take their PIDs. For
/// the initramfs, or a unit that runs early.
///
/// # Errors
/// What was in the way.
pub fn hold(dir: &Path) -> Result<bool> {
    let Some(update) = Update::read(dir)? else {
        return Ok(false);
    };
    if update.step() != Some(Step::Switching) && update.step() != Some(Step::Failed) {
        return Ok(false);
    }
    network::hold(&update.ports)?;
    keep_pids(update.last_pid)?;
    Ok(true)
}

/// The next processes get PIDs above `last`.
fn keep_pids(last: u32) -> Result<()> {
    const PATH: &str = "/proc/sys/kernel/ns_last_pid";
    let now: u32 = fs::read_to_string(PATH).context(PATH)?.trim().parse()?;
    if now < last {
        fs::write(PATH, last.to_string()).context(PATH)?;
    }
    Ok(())
}

/// Restores what an update carried over. `false`: there was nothing to do.
///
/// # Errors
/// An application could not be restored; its checkpoint is still there.
pub fn resume(checkpoints: &Checkpoints, say: &dyn Fn(&str)) -> Result<bool> {
    let dir = checkpoints.dir();
    let Some(mut update) = Update::read(dir)? else {
        return Ok(false);
    };
    let _lock = checkpoints.lock()?;
    match update.step() {
        Some(Step::Running | Step::Continued) | None => return Ok(false),
        _ => {}
    }
    if update.boot_id == system::boot_id()? {
        go_on(checkpoints, &mut update, "resumed without a switch", say)?;
        return Ok(true);
    }
    hold(dir)?;
    update.say(dir, Step::Resuming, "")?;
    let mut failed = Vec::new();
    for name in update.members.clone() {
        let at = checkpoints.at(&name)?;
        let state = at.manifest().map(|manifest| manifest.state);
        if let Ok(State::Draining | State::Restored) = state {
            continue;
        }
        if let Err(e) = checkpoint::restore::restore(&at, say) {
            failed.push(format!("{name}: {e:#}"));
        }
    }
    if !failed.is_empty() {
        let why = failed.join("\n");
        update.say(dir, Step::Failed, &why)?;
        bail!(
            "{why}\nThe checkpoints are still there. `kup resume` tries again; so does the old kernel ({}) if you \
             boot it with the same memmap=. Packets to the applications are held back until then \
             (`kup release` lets them through)",
            update.events.first().map_or("?", |event| &event.kernel)
        );
    }
    network::release()?;
    update.say(dir, Step::Running, "")?;
    Ok(true)
}

/// A directory of checkpoints, and the update in it.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}
