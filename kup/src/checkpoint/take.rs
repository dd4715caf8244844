// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A checkpoint is taken: rounds while the processes run, until another would not send less, then the last
//! one, for which they stand still.

use super::manifest::{self, Left, Manifest, Memory, Process, State, VERSION};
use super::{make, Checkpoint};
use crate::criu::{self, Criu, Guarded, Running};
use crate::foam::collect::collect;
use crate::foam::cure::cure;
use crate::foam::server::{self, Round};
use crate::foam::store::{self, Store};
use crate::foreign::Foreign;
use crate::gate::Gate;
use crate::guard::{Asked, Guard};
use crate::images::Images;
use crate::inherited::set_apart;
use crate::sockets::Cut;
use crate::unit::Unit;
use crate::unlock::{self, unlock};
use crate::{foreign, lock, namespaces, processes, sockets, system};
use anyhow::{bail, ensure, Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to checkpoint, and how.
#[derive(Clone, Debug)]
pub struct Request {
    pub root_pid: u32,
    pub unit: Option<Unit>,
    pub memory: Memory,
    pub sealed: bool,
    pub left: Left,
    /// At most so many rounds before the last.
    pub rounds: u32,
    pub criu_options: Vec<String>,
}

/// Bytes that are kept for logs and for what else a restore writes.
const RESERVE: u64 = 2 << 20;
/// A round that sends less than this is not worth another.
const LITTLE: u64 = 8 << 20;

/// Takes a checkpoint, at once. The processes run on if this fails.
///
/// # Errors
/// Something is in the way of it; nothing is left behind.
pub fn take(at: &Checkpoint, request: &Request, say: &dyn Fn(&str)) -> Result<Manifest> {
    let mut taking = Taking::begin(at.clone(), request.clone())?;
    while taking.round_ahead(say)? {}
    taking.get_ready()?;
    let pids = taking.pids()?;
    let tables = unlock::tables();
    let gate = Gate::close(&pids, say);
    let _gate = gate.map_err(|e| say(&format!("new connections are not held back: {e:#}")));
    let complete = taking.last().inspect_err(|e| {
        if let (true, Ok(tables)) = (criu::was_killed(e), &tables) {
            unlock::unlock_since(&pids, tables);
        }
    });
    taking.settle(complete?, say)
}

fn keep_log(at: &Checkpoint) -> Option<PathBuf> {
    let to = std::env::temp_dir().join(format!("kup-{}-{}.log", at.name, std::process::id()));
    let mut all = String::new();
    for entry in fs::read_dir(at.log()).ok()? {
        let path = entry.ok()?.path();
        all.push_str(&format!("==> {} <==\n", path.display()));
        all.push_str(&String::from_utf8_lossy(&fs::read(&path).ok()?));
    }
    let mut file = File::options();
    // Somebody may have put a link there.
    let mut file = file
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&to)
        .ok()?;
    file.write_all(all.as_bytes()).ok()?;
    Some(to)
}

/// Bytes that the processes hold now.
fn needs(processes: &[Process]) -> u64 {
    let needs = |process: &Process| processes::needs(process.pid);
    processes.iter().map(needs).sum()
}

/// Is there room for it in a directory?
///
/// # Errors
/// There is not, or it cannot be told.
pub fn room(dir: &Path, what: &str, processes: &[Process]) -> Result<()> {
    let need = needs(processes);
    // Trees of pages, images, sums, and some growth meanwhile.
    let need = need + need / 20 + (4 << 20);
    let space = nix::sys::statvfs::statvfs(dir).with_context(|| dir.display().to_string())?;
    let free = space.blocks_available() * space.fragment_size();
    ensure!(
        need <= free,
        "{what} needs about {}, and {} has {} free: `kup list` names old checkpoints that could be removed",
        system::size(need),
        dir.display(),
        system::size(free)
    );
    Ok(())
}

/// A checkpoint that is complete, while CRIU waits to be told how its processes go on. Dropped, they run.
pub struct Complete {
    asked: Asked,
    running: Running,
    images: PathBuf,
}

/// A CRIU that was killed has unlocked nothing.
fn unlocked(images: &Path) {
    if let Err(e) = unlock(&Images::new(images)) {
        eprintln!("kup: connections may be locked still: {e:#}");
    }
}

impl Complete {
    /// Does CRIU wait, and with it its script?
    pub fn is_held(&mut self) -> bool {
        self.running.is_alive() && self.asked.waits()
    }

    /// All the processes go on where they stand.
    pub fn go_on(all: impl IntoIterator<Item = Complete>) {
        // The answers first: dropping them is a no.
        let told = all.into_iter().map(|one| (one.running, one.images));
        for (running, images) in told.collect::<Vec<_>>() {
            // For CRIU a no is a failure.
            let _ = running.finish();
            unlocked(&images);
        }
    }
}

/// A CRIU that has only to be told to begin, and the socket to which it sends pages, if it does.
struct Ready {
    criu: Guarded,
    pages: Option<OwnedFd>,
}

/// A checkpoint that is being taken. Dropped before it is kept, it leaves nothing but CRIU's logs.
pub struct Taking {
    at: Checkpoint,
    request: Request,
    store: Store,
    manifest: Manifest,
    /// What the last round left.
    before: Round,
    /// Whose namespaces systemd makes again.
    within: Option<u32>,
    kept: bool,
    /// Bytes that the last round sent.
    sent: u64,
    /// What is started already of the last round.
    ready: Option<Ready>,
}

impl Drop for Taking {
    fn drop(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.criu.end();
        }
        if self.kept {
            return;
        }
        if let Some(log) = keep_log(&self.at) {
            eprintln!("kup: CRIU's logs are in {}", log.display());
        }
        if let Err(e) = self.at.remove() {
            eprintln!("kup: what is left of checkpoint {}: {e:#}", self.at.name);
        }
    }
}

impl Taking {
    /// Looks whether it can be done, and makes a place for it.
    ///
    /// # Errors
    /// It cannot.
    pub fn begin(at: Checkpoint, request: Request) -> Result<Taking> {
        ensure!(
            !at.dir.exists(),
            "there is a checkpoint {} already; `kup remove {}` removes it",
            at.name,
            at.name
        );
        let processes = processes::tree(request.root_pid)?;
        for process in &processes {
            if processes::is_filled_on_demand(process.pid)? {
                bail!(
                    "process {} ({}) still gets memory on demand, from a restore or from a program of its own: \
                     a checkpoint of it would lack what has not come yet. `kup list` shows a restore that drains; \
                     wait for its end",
                    process.pid,
                    process.command
                );
            }
        }
        if let Some(process) = processes.iter().find(|one| namespaces::own_pids(one.pid)) {
            bail!(
                "process {} ({}) has process numbers of its own (a PID namespace: PrivatePIDs=, a container), which \
                 kup cannot give back; a container is for its runtime to checkpoint",
                process.pid,
                process.command
            );
        }
        if let Some(Unit { id, .. }) = &request.unit {
            ensure!(
                !namespaces::own_users(request.root_pid),
                "{id} has a user namespace of its own (PrivateUsers=), into which CRIU cannot restore it: \
                 `systemctl edit {id}`, PrivateUsers=no below [Service], and restart it before the first update"
            );
        }
        room(
            at.dir.parent().context("no directory")?,
            &at.name,
            &processes,
        )?;
        let manifest = Manifest {
            version: VERSION,
            name: at.name.clone(),
            state: State::Writing,
            memory: request.memory,
            sealed: request.sealed,
            left: request.left,
            unit: request.unit.as_ref().map(|unit| unit.id.clone()),
            pid_file: request.unit.as_ref().and_then(|unit| unit.pid_file.clone()),
            created: system::now(),
            kernel: system::release(),
            boot_id: system::boot_id()?,
            criu: criu::version()?,
            root_pid: request.root_pid,
            processes,
            rounds: Vec::new(),
            cut: Vec::new(),
            foreign: Vec::new(),
            lazy_bytes: 0,
            eager_bytes: 0,
            criu_options: request.criu_options.clone(),
            empty_table: false,
            images: Vec::new(),
        };
        make(&at.dir)?;
        for dir in [at.images(), at.memory(), at.log()] {
            make(&dir)?;
        }
        manifest.write(&at.dir)?;
        // Systemd makes a service's namespaces again. Who else has some of their own, CRIU brings them back.
        let sandboxed = request.unit.is_some() && namespaces::own(request.root_pid);
        let within = sandboxed.then_some(request.root_pid);
        let reserve = File::create(at.reserve()).context("the reserve")?;
        store::room(&reserve, RESERVE).context("the reserve")?;
        Ok(Taking {
            store: Store::new(&at.memory()),
            at,
            request,
            manifest,
            before: Round::new(),
            within,
            kept: false,
            sent: u64::MAX,
            ready: None,
        })
    }

    /// The processes, as they are now.
    ///
    /// # Errors
    /// They have ended.
    pub fn pids(&self) -> Result<Vec<u32>> {
        processes::pids(self.request.root_pid)
    }

    /// The name of the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.at.name
    }

    /// A round while the processes run. Tells whether another would send less; if there is to be none, nothing is done.
    ///
    /// # Errors
    /// It failed; the processes run.
    pub fn round_ahead(&mut self, say: &dyn Fn(&str)) -> Result<bool> {
        let number = self.manifest.rounds.len() as u32 + 1;
        if self.request.memory == Memory::Images || number > self.request.rounds {
            return Ok(false);
        }
        if number == 1 && !criu::tracks_memory() {
            say("this kernel does not tell which pages are written: no rounds before the last");
            self.request.rounds = 0;
            return Ok(false);
        }
        let dir = self.at.rounds().join(number.to_string());
        make(&dir)?;
        let older = self.before.clone();
        let all = match number {
            1 => format!(
                " of about {}",
                system::size(needs(&self.manifest.processes))
            ),
            _ => " so far".to_owned(),
        };
        let progress = |bytes| say(&format!("round {number}: {}{all}", system::size(bytes)));
        self.round(&dir, number, &progress)?;
        self.punch(&older)?;
        let round = self.manifest.rounds.last().context("a round")?;
        say(&format!(
            "round {number}: {} in {:.2} s",
            system::size(round.bytes),
            round.seconds
        ));
        let (last, sent) = (self.sent, round.bytes);
        self.sent = sent;
        // Less than a quarter off: it will not become less by more of this.
        Ok(number < self.request.rounds && sent > LITTLE && sent <= last - last / 4)
    }

    /// Starts what the last round needs: all that is left is to do it.
    ///
    /// # Errors
    /// It cannot be started; the processes run.
    pub fn get_ready(&mut self) -> Result<()> {
        let number = self.manifest.rounds.len() as u32 + 1;
        let (mut criu, pages) = self.criu("dump", &self.at.images(), number)?;
        if self.request.left == Left::Running {
            criu = criu.arg("--leave-running");
        }
        let criu = criu.get_ready()?.guarded(&self.at.dir)?;
        self.ready = Some(Ready { criu, pages });
        Ok(())
    }

    /// The last round, for which all is ready. When this returns the checkpoint is complete, and the processes stand still until it is
    /// said how they go on.
    ///
    /// # Errors
    /// It failed; the processes run.
    pub fn last(&mut self) -> Result<Complete> {
        let start = Instant::now();
        let images = self.at.images();
        let dumped = self.dump().inspect_err(|e| {
            if criu::was_killed(e) {
                // At once: it runs, and connections that fail it closes.
                unlock::leave_repair(&self.pids().unwrap_or_default());
            }
        });
        let (running, guard) = dumped?;
        let asked = match guard.asked() {
            Ok(asked) => asked,
            // Its log says why.
            Err(e) => {
                let said = running.finish().err();
                unlocked(&images);
                return Err(said.unwrap_or(e));
            }
        };
        if let Some(round) = self.manifest.rounds.last_mut() {
            round.seconds = start.elapsed().as_secs_f64();
        }
        let finished = self.finish(&images).and_then(|()| {
            // Whoever noticed the end of CRIU has taken the manifest away, perhaps before there was this one.
            ensure!(asked.waits(), "CRIU has let the processes go");
            Ok(())
        });
        if let Err(e) = finished {
            // A no: CRIU lets the processes go on, and calls that a failure.
            drop(asked);
            let _ = running.finish();
            unlocked(&images);
            return Err(e);
        }
        Ok(Complete {
            asked,
            running,
            images,
        })
    }

    /// The processes go on as the request has it: killed, or running. The checkpoint stays whatever becomes of
    /// them.
    ///
    /// # Errors
    /// CRIU did not come to its end.
    pub fn settle(&mut self, complete: Complete, say: &dyn Fn(&str)) -> Result<Manifest> {
        if let Err(e) = complete.asked.yes() {
            let _ = complete.running.finish();
            unlocked(&complete.images);
            return Err(e);
        }
        // From here on it may be the only copy.
        self.kept = true;
        if let Err(e) = complete.running.finish() {
            if self.request.left == Left::Running {
                unlocked(&complete.images);
            }
            let mut all = self.manifest.processes.iter();
            if self.request.left == Left::Killed && all.all(|one| processes::lives(one.pid)) {
                self.kept = false;
                unlocked(&complete.images);
                return Err(e);
            }
            return Err(e.context(format!(
                "checkpoint {0} is complete, but CRIU did not end well: see which of its processes still run \
                 (`kup show {0}` names them)",
                self.at.name
            )));
        }
        // Figures, no more.
        let noted = self.note(&self.at.images());
        if let Err(e) = noted.and_then(|()| self.manifest.write(&self.at.dir)) {
            say(&format!("CRIU's figures could not be noted: {e:#}"));
        }
        Ok(self.manifest.clone())
    }

    /// CRIU's images of it.
    #[must_use]
    pub fn images(&self) -> Images {
        Images::new(&self.at.images())
    }

    /// The checkpoint as it is described now.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Makes a checkpoint of what the last round left.
    fn finish(&mut self, images: &Path) -> Result<()> {
        set_apart(&Images::new(images))?;
        // It is worth some time of the restore, and no failure.
        self.manifest.empty_table = !namespaces::own_network(self.request.root_pid)
            && lock::forget(&Images::new(images)).unwrap_or(false);
        if self.request.memory == Memory::Foam {
            let images = Images::new(images);
            cure(&images, &self.store, &self.before)?;
            let collected = collect(&images, &self.store, &self.before)?;
            self.manifest.lazy_bytes = collected.lazy;
            self.manifest.eager_bytes = collected.eager;
        } else {
            // CRIU has not said how many yet.
            self.manifest.eager_bytes = 0;
        }
        // Some may have ended since the begin, or been born.
        let dumped = Images::new(images).processes()?;
        let named = dumped.iter().map(|process| Process {
            pid: process.pid,
            command: processes::command(process.pid),
        });
        self.manifest.processes = named.collect();
        self.manifest.images = manifest::seal(images, self.request.memory)?;
        let ready = Manifest {
            state: State::Ready,
            ..self.manifest.clone()
        };
        ready.write(&self.at.dir)?;
        self.manifest = ready;
        Ok(())
    }

    /// One round while the processes run.
    fn round(&mut self, images: &Path, number: u32, progress: &dyn Fn(u64)) -> Result<()> {
        let start = Instant::now();
        let (criu, pages) = self.criu("pre-dump", images, number)?;
        let criu = criu.args(["--tree", &self.request.root_pid.to_string()]);
        let (running, ()) = self.receive(pages, criu.start()?, (), progress)?;
        running.finish()?;
        self.note(images)?;
        if let Some(round) = self.manifest.rounds.last_mut() {
            round.seconds = start.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// The last round, which ends when the guard is told so.
    fn dump(&mut self) -> Result<(Running, Guard)> {
        let pids = self.pids()?;
        self.manifest.cut = sockets::cut(&pids)?;
        if self.within.is_some() {
            self.manifest.foreign = foreign::of(&pids)?;
        }
        let cut = self.manifest.cut.iter().map(Cut::left_out);
        let foreign = self.manifest.foreign.iter().map(Foreign::left_out);
        let external = cut.chain(foreign).collect();
        let Ready { criu, pages } = self.ready.take().context("CRIU is not ready")?;
        let (running, guard) = criu.dump(self.request.root_pid, external)?;
        self.receive(pages, running, guard, &|_| {})
    }

    /// CRIU for a round, and the socket to which it sends pages, if it does.
    fn criu(
        &self,
        what: &'static str,
        images: &Path,
        number: u32,
    ) -> Result<(Criu, Option<OwnedFd>)> {
        let log = self.at.log().join(format!("{what}-{number}.log"));
        let mut criu =
            Criu::new(what, images, &log, self.within)?.chosen(&self.manifest.criu_options);
        if self.request.memory == Memory::Images {
            return Ok((criu, None));
        }
        if what == "pre-dump" || number > 1 {
            criu = criu.arg("--track-mem");
        }
        if number > 1 {
            let before = self.at.rounds().join((number - 1).to_string());
            criu = criu.arg("--prev-images-dir").arg(from(images, &before)?);
        }
        let (ours, theirs) = server::sockets()?;
        Ok((criu.page_server(theirs), Some(ours)))
    }

    /// Takes over what CRIU tells of the round behind it.
    fn note(&mut self, images: &Path) -> Result<()> {
        let stats = criu::dump_stats(images)?;
        let round = self.manifest.rounds.last_mut().context("a round")?;
        round.frozen_seconds = f64::from(stats.frozen_time) / 1e6;
        if self.request.memory == Memory::Images {
            let pages = stats.pages_written + stats.shpages_written.unwrap_or(0);
            round.bytes = pages * crate::foam::PAGE;
            self.manifest.eager_bytes = round.bytes;
        }
        Ok(())
    }

    /// Receives all pages that CRIU sends. What more belongs to it is given back, or dropped before its end is waited
    /// for.
    fn receive<T>(
        &mut self,
        pages: Option<OwnedFd>,
        running: Running,
        more: T,
        progress: &dyn Fn(u64),
    ) -> Result<(Running, T)> {
        if let Some(socket) = pages {
            let sealed = self.request.sealed;
            let served = server::serve(&socket, &self.store, &self.before, sealed, progress);
            // CRIU must not wait for an answer that does not come.
            drop(socket);
            match served {
                Ok(round) => self.before = round,
                // What went wrong there is why nothing came, or what went wrong here is why it failed.
                Err(ours) => {
                    drop(more);
                    return Err(criu::with(ours, running.finish()));
                }
            }
        }
        self.manifest.rounds.push(manifest::Round {
            bytes: self.before.values().map(|held| held.received).sum(),
            seconds: 0.0,
            frozen_seconds: 0.0,
        });
        Ok((running, more))
    }

    /// Gives back the room of pages that the last round does not name any more.
    fn punch(&self, older: &Round) -> Result<()> {
        // Who ended since the round before has no memory to keep.
        for owner in older
            .keys()
            .filter(|owner| !self.before.contains_key(owner))
        {
            self.store.remove(*owner)?;
        }
        for (owner, held) in &self.before {
            let Some(old) = older.get(owner) else {
                continue;
            };
            let gone = old.pages.without(&held.pages);
            if !gone.is_empty() {
                store::punch(&self.store.create(*owner)?, &gone)?;
            }
        }
        Ok(())
    }
}

/// The way from one directory to another, as CRIU writes it into a link.
fn from(dir: &Path, to: &Path) -> Result<PathBuf> {
    let common = dir
        .ancestors()
        .find(|above| to.starts_with(above))
        .context("no common directory")?;
    let up = dir.strip_prefix(common)?.components().map(|_| "..");
    Ok(up.collect::<PathBuf>().join(to.strip_prefix(common)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways() {
        let way = |dir, to| from(Path::new(dir), Path::new(to)).unwrap();
        assert_eq!(
            way("/m/a/images", "/m/a/rounds/1"),
            Path::new("../rounds/1")
        );
        assert_eq!(way("/m/a/rounds/2", "/m/a/rounds/1"), Path::new("../1"));
    }
}
