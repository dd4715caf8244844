// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The update: everything that can be done while the applications run, then stop, switch, restore. What
//! was done is in `update.json` beside the checkpoints, so that the next kernel knows.

use crate::checkpoint::restore::Restored;
use crate::checkpoint::{
    self, Checkpoint, Checkpoints, Complete, Left, Manifest, Memory, Request, State, Taking,
};
use crate::gate::Gate;
use crate::images::Images;
use crate::kexec::{self, Next};
use crate::links::Link;
use crate::network::{self, Held, Ports};
use crate::unit::Unit;
use crate::unlock::{self, unlock};
use crate::{criu, links, prepare, processes, system, unit};
use anyhow::{anyhow, bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NAME: &str = "update.json";

/// Applications have PIDs above this, and the processes that every system begins with lie below it.
const FIRST_PID: u32 = 100_000;

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
    /// Nobody waits for them any more.
    GivenUp,
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
    /// By which others had locked connections before the stop.
    #[serde(default)]
    pub criu_tables: Option<BTreeSet<String>>,
    pub events: Vec<Event>,
}

/// One application that is carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub root_pid: u32,
    pub unit: Option<Unit>,
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
            // In one piece: applications stand still meanwhile.
            let text = serde_json::to_string_pretty(self)? + "\n";
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok(fs::rename(&new, &path)?)
        };
        write().with_context(|| path.display().to_string())
    }

    fn hold(&self, checkpoints: &Checkpoints, given: Option<&Path>) -> Result<()> {
        // Each of them, whatever becomes of the others.
        let place = self.hold_place(checkpoints, given);
        let held = network::hold(&self.ports);
        place.and(held)
    }

    /// All but the network.
    fn hold_place(&self, checkpoints: &Checkpoints, given: Option<&Path>) -> Result<()> {
        let diverted = self
            .units(checkpoints)
            .and_then(|units| unit::divert(&units, given));
        let kept = keep_pids(self.last_pid.max(FIRST_PID));
        diverted.and(kept)
    }

    /// The services among the members that are not restored yet, each with its checkpoint. One that runs was started
    /// anew meanwhile.
    fn units(&self, checkpoints: &Checkpoints) -> Result<Vec<(String, String)>> {
        let mut units = Vec::new();
        for name in &self.members {
            let Ok(manifest) = checkpoints.at(name)?.manifest() else {
                continue;
            };
            // A restore that was cut off is not repeated, but the service does not start anew either.
            let waits = matches!(manifest.state, State::Ready | State::Restoring);
            if let Some(id) = manifest.unit.filter(|id| waits && !unit::is_active(id)) {
                units.push((id, name.clone()));
            }
        }
        Ok(units)
    }

    /// Is all in the region, and not resumed yet?
    fn waits(&self) -> bool {
        matches!(
            self.step(),
            // Stopped: the old kernel panicked before it was told to go.
            Some(Step::Stopped | Step::Switching | Step::Resuming | Step::Failed)
        )
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
        "nothing to carry over: name it by --pid or --cgroup"
    );
    if let Some(mut last) = Update::read(dir)? {
        let ended = matches!(last.step(), Some(Step::Continued | Step::Running) | None);
        if last.boot_id == system::boot_id()? && !ended {
            // It was killed; what it left is out of date.
            clear(checkpoints, &mut last, say)?;
        }
    }
    not_forgotten(checkpoints)?;
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
        criu_tables: None,
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
    let said = update.say(dir, Step::Continued, &why);
    say("the applications run on, under the old kernel");
    if let Err(e) = said {
        say(&format!("this could not be noted: {e:#}"));
    }
    Err(anyhow!(why))
}

/// What an earlier update could not restore must not be forgotten over a new one.
fn not_forgotten(checkpoints: &Checkpoints) -> Result<()> {
    let Some(update) = Update::read(checkpoints.dir())? else {
        return Ok(());
    };
    if !update.waits() || update.boot_id == system::boot_id()? {
        return Ok(());
    }
    for name in &update.members {
        let state = checkpoints
            .at(name)?
            .manifest()
            .map(|manifest| manifest.state);
        if let Ok(State::Ready | State::Restoring) = state {
            bail!(
                "{name} was carried here by the last update and is not restored yet: `kup resume` tries it, \
                 `kup remove --force {name}` gives it up"
            );
        }
    }
    Ok(())
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
        let manifest = at.manifest()?;
        if manifest.left == Left::Carried && manifest.boot_id == system::boot_id()? {
            // It was not carried anywhere, and went on, if its CRIU was not killed, too.
            unlock(&Images::new(&at.images()))?;
            at.remove()?;
            continue;
        }
        match manifest.state {
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
    let mut all = Vec::new();
    for member in &wish.members {
        all.extend(processes::tree(member.root_pid)?);
    }
    checkpoint::room(dir, "all of them together", &all)?;
    if let Some(low) = all.iter().find(|process| process.pid < processes::LOW) {
        say(&format!(
            "process {} ({}) has a PID that somebody else may have under the next kernel; then it cannot be restored \
             there. Start it behind `kup hold` before the next update",
            low.pid, low.command
        ));
    }
    let mut taking = Vec::new();
    for member in &wish.members {
        let at = checkpoints.at(&member.name)?;
        let request = Request {
            root_pid: member.root_pid,
            unit: member.unit.clone(),
            memory: Memory::Foam,
            sealed: wish.sealed,
            left: Left::Carried,
            rounds: wish.rounds,
            criu_options: wish.criu_options.clone(),
        };
        for link in links(member)? {
            say(&format!(
                "{}: {link} ends with the update, who it is with is not carried along with it",
                member.name
            ));
        }
        taking.push(Taking::begin(at, request)?);
    }
    // All in turns: what one has written while others were copied is little again in the end.
    let mut more = true;
    while more {
        more = false;
        for one in &mut taking {
            let name = one.name().to_owned();
            more |= one.round_ahead(&|text| say(&format!("{name}: {text}")))?;
        }
    }
    // What is not in the region must be on its disk, and had better not be written after the stop.
    nix::unistd::sync();
    let ready = each(&mut taking, Taking::get_ready);
    ready.into_iter().collect::<Result<()>>()?;
    let mut pids = Vec::new();
    for one in &taking {
        pids.extend(one.pids()?);
    }
    // The network is held by nft behind the switch, too: better to know now whether it is there.
    let tables = unlock::tables()?;
    update.criu_tables = Some(tables.clone());
    let gate = Gate::close(&pids, say);
    let mut gate = gate.context("new connections cannot be held back, and would be lost")?;
    update.say(dir, Step::Stopping, "")?;
    let mut stopped = each(&mut taking, Taking::last);
    let mut start = || -> Result<()> {
        for (one, stopped) in taking.iter().zip(&stopped) {
            if let Err(e) = stopped {
                bail!("{} cannot be checkpointed: {e:#}", one.name());
            }
            let images = one.images();
            update.ports.add(&Ports::of(&images)?);
            let last = images.thread_ids()?.into_iter().max();
            update.last_pid = update.last_pid.max(last.unwrap_or(0));
        }
        are_held(&taking, &mut stopped)?;
        update.say(dir, Step::Stopped, "")?;
        for one in &taking {
            let manifest = one.manifest();
            let last = manifest.rounds.last();
            say(&format!(
                "{} stands still, {} of {} in the last round",
                manifest.name,
                system::size(last.map_or(0, |round| round.bytes)),
                system::size(manifest.bytes())
            ));
        }
        update.say(dir, Step::Switching, "")?;
        // The last look.
        are_held(&taking, &mut stopped)?;
        ensure!(
            gate.holds(),
            "nft has ended: new connections are not held back any more, and would be lost"
        );
        kexec::start()
    };
    let failed = start();
    // CRIU still has them all, and lets them go on; then their checkpoints go.
    let is_killed = |one: &Result<Complete>| one.as_ref().err().is_some_and(criu::was_killed);
    let killed = stopped.iter().any(is_killed);
    Complete::go_on(stopped.into_iter().flatten());
    if killed {
        unlock::unlock_since(&pids, &tables);
    }
    failed
}

/// Does something with all of them at once.
fn each<T: Send>(
    taking: &mut [Taking],
    what: impl Fn(&mut Taking) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    let what = &what;
    std::thread::scope(|scope| {
        let threads: Vec<_> = taking
            .iter_mut()
            .map(|one| scope.spawn(move || what(one)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Who is not held any more has gone on, and would be restored from the past.
fn are_held(taking: &[Taking], stopped: &mut [Result<Complete>]) -> Result<()> {
    for (one, stopped) in taking.iter().zip(stopped) {
        let held = stopped.as_mut().is_ok_and(Complete::is_held);
        ensure!(held, "CRIU has let {} go", one.name());
    }
    Ok(())
}

/// What an application loses.
fn links(member: &Member) -> Result<Vec<Link>> {
    links::with_others(&processes::pids(member.root_pid)?)
}

/// Under the kernel that an update began in the applications run: CRIU let them go on when `kup` ended, if it
/// had come so far at all. What was written of them is out of date.
fn clear(checkpoints: &Checkpoints, update: &mut Update, say: &dyn Fn(&str)) -> Result<()> {
    for name in update.members.clone() {
        let at = checkpoints.at(&name)?;
        // CRIU's script takes the manifest away.
        let carried = match at.manifest() {
            Ok(manifest) => manifest.left == Left::Carried && manifest.boot_id == update.boot_id,
            Err(_) => at.dir.exists() && !at.has_manifest(),
        };
        if carried {
            // Its CRIU may have been killed, too,
            unlock(&Images::new(&at.images()))?;
            // in the midst of the last round perhaps. The manifest is there then.
            if let (Ok(manifest), Some(tables)) = (at.manifest(), &update.criu_tables) {
                let pids = processes::pids(manifest.root_pid).unwrap_or_default();
                unlock::unlock_since(&pids, tables);
            }
            at.remove()?;
            say(&format!(
                "{name} runs; its checkpoint was out of date and is removed"
            ));
        }
    }
    update.say(checkpoints.dir(), Step::Continued, "there was no switch")
}

/// Keeps the place of the applications, before the network is up and other programs take their PIDs. For
/// the initramfs, or a unit that runs early.
///
/// # Errors
/// What was in the way.
pub fn hold(checkpoints: &Checkpoints, given: Option<&Path>) -> Result<bool> {
    let waiting = Update::read(checkpoints.dir())?;
    // Under the kernel that an update began in the applications run, and want their packets.
    let boot_id = system::boot_id()?;
    let Some(update) = waiting.filter(|update| update.waits() && update.boot_id != boot_id) else {
        keep_pids(FIRST_PID)?;
        return Ok(false);
    };
    let held = update.hold(checkpoints, given);
    // Behind it: its processes take numbers.
    prepare::in_background();
    held.map(|()| true)
}

/// The next processes get PIDs above `last`.
fn keep_pids(last: u32) -> Result<()> {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    const MAX: &str = "/proc/sys/kernel/pid_max";
    // PID_MAX_LIMIT of linux/threads.h.
    const LARGEST: u32 = 4 << 20;
    let number = |path| -> Result<u32> {
        let text = fs::read_to_string(path).context(path)?;
        text.trim().parse().context(path)
    };
    if number(MAX)? / 2 < last {
        // As systemd has it, which may not have come to that yet.
        fs::write(MAX, LARGEST.to_string()).context(MAX)?;
    }
    if number(LAST)? < last {
        fs::write(LAST, last.to_string()).context(LAST)?;
    }
    Ok(())
}

/// Restores what an update carried over. `false`: there was nothing to do.
///
/// # Errors
/// An application could not be restored; its checkpoint is still there.
pub fn resume(checkpoints: &Checkpoints, given: Option<&Path>, say: &dyn Fn(&str)) -> Result<bool> {
    let dir = checkpoints.dir();
    let Some(mut update) = Update::read(dir)? else {
        return Ok(false);
    };
    let _lock = checkpoints.lock()?;
    match update.step() {
        Some(Step::Running | Step::Continued | Step::GivenUp) | None => return Ok(false),
        _ => {}
    }
    if update.boot_id == system::boot_id()? {
        clear(checkpoints, &mut update, say)?;
        return Ok(true);
    }
    if !update.waits() {
        say("the last update was cut off before it came to the switch; its applications ended with that kernel");
        return Ok(false);
    }
    let placed = update.hold_place(checkpoints, given);
    // Somebody may have loaded rules of their own since it was done first.
    let held = Held::begin(&update.ports)?;
    placed?;
    update.say(dir, Step::Resuming, "")?;
    let mut failed = Vec::new();
    for name in update.members.clone() {
        let at = checkpoints.at(&name)?;
        if !at.dir.exists() {
            say(&format!("{name} was removed"));
            continue;
        }
        let restored = match at.manifest() {
            Ok(manifest) if matches!(manifest.state, State::Draining | State::Restored) => {
                // Systemd, which starts units when it sees fit, may not be through with it.
                manifest.unit.iter().try_for_each(|id| unit::wait_for(id))?;
                continue;
            }
            Ok(Manifest { unit: Some(id), .. }) if unit::is_systemd() => restore_unit(&at, &id),
            Ok(_) => checkpoint::restore::restore(&at, None, say),
            Err(e) => Err(e),
        };
        if let Err(e) = restored {
            failed.push(format!("{name}: {e:#}"));
        }
    }
    if !failed.is_empty() {
        let why = failed.join("\n");
        update.say(dir, Step::Failed, &why)?;
        bail!(
            "{why}\nThe checkpoints of these are still there. `kup resume` tries them again{} (behind `kup restore --again` \
             of one whose restore was cut off). Packets to the applications are held back until then (`kup release` lets \
             them through)",
            if failed.len() == update.members.len() {
                let old = update.events.first().map_or("?", |event| &event.kernel);
                format!(", and so it does under the old kernel ({old}), booted with the same memmap=")
            } else {
                String::new()
            }
        );
    }
    held.release()?;
    give_back(checkpoints, &update)?;
    update.say(dir, Step::Running, "")?;
    Ok(true)
}

/// From now on the services among the members are started as they always were.
fn give_back(checkpoints: &Checkpoints, update: &Update) -> Result<()> {
    let mut units = Vec::new();
    for name in &update.members {
        if let Ok(Manifest { unit: Some(id), .. }) = checkpoints.at(name)?.manifest() {
            units.push((id, name.clone()));
        }
    }
    unit::give_back(&units)
}

/// Gives up what a resume could not restore: packets come through, services start anew, no later boot tries it again.
/// The checkpoints stay until they are removed.
///
/// # Errors
/// What was in the way.
pub fn release(checkpoints: &Checkpoints) -> Result<()> {
    network::release()?;
    let _lock = checkpoints.lock()?;
    if let Some(mut update) = Update::read(checkpoints.dir())? {
        give_back(checkpoints, &update)?;
        if update.waits() && update.boot_id != system::boot_id()? {
            update.say(checkpoints.dir(), Step::GivenUp, "")?;
        }
    }
    Ok(())
}

/// Has systemd restore a service that is diverted.
///
/// # Errors
/// It could not; the checkpoint is still there.
pub fn restore_unit(at: &Checkpoint, id: &str) -> Result<Restored> {
    let start = Instant::now();
    ensure!(
        !unit::is_active(id) || matches!(at.manifest()?.state, State::Draining | State::Restored),
        "{id} runs already, started anew: stop it, then `kup restore {0}`; or give its checkpoint up \
         (`kup remove --force {0}`)",
        at.name
    );
    unit::start(id)?;
    let manifest = at.manifest()?;
    ensure!(
        matches!(manifest.state, State::Draining | State::Restored),
        "{id} was started, but not from its checkpoint: another drop-in may have commands of its own \
         (`systemctl cat {id}`)"
    );
    Ok(Restored {
        name: at.name.clone(),
        seconds: start.elapsed().as_secs_f64(),
        lazy_bytes: manifest.lazy_bytes,
    })
}

/// A directory of checkpoints, and the update in it.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}
