// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A checkpoint is restored: once, because what the processes do afterwards cannot be taken back.

use super::manifest::{verify, Left, Manifest, Memory, State};
use super::{make, Checkpoint};
use crate::criu::{self, seen, Criu, Worker};
use crate::foam::restore::Listener;
use crate::images::Images;
use crate::system::Uninterrupted;
use crate::{overcommit, prepare, processes, system, unlock};
use anyhow::{bail, ensure, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// How a restore went.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Restored {
    pub name: String,
    /// From the begin to the processes running.
    pub seconds: f64,
    /// Bytes that come on demand.
    pub lazy_bytes: u64,
}

/// Restores a checkpoint. When this returns the processes run; memory that is restored on demand goes on
/// coming from a process in the background. They see the files that process `within` sees.
///
/// # Errors
/// Something is in the way of it; nothing runs, and it can be tried again.
pub fn restore(at: &Checkpoint, within: Option<u32>, say: &dyn Fn(&str)) -> Result<Restored> {
    let start = Instant::now();
    let mut manifest = at.manifest()?;
    may_restore(at, &manifest)?;
    // Room for what follows, in a region that the checkpoint may have filled.
    let _ = std::fs::remove_file(at.reserve());
    make(&at.work())?;
    // Both get ready while the images are looked at.
    let drain = match manifest.memory {
        Memory::Foam => Some(Drain::start(at)?),
        Memory::Images => None,
    };
    prepare::wait();
    let criu = criu(at, &manifest, within)?;
    verify(&at.images(), &manifest.images)?;
    for id in Images::new(&at.images()).thread_ids()? {
        if let Some(other) = processes::who(id) {
            bail!(
                "number {id} is taken by {other}, and {} needs it for a process or thread of its own: end that one, or \
                 restore where it does not run; and start its processes behind `kup hold` before the next update",
                at.name
            );
        }
    }
    // From here on it comes to its end, whatever we are told, and what has become of it is written down.
    let _uninterrupted = Uninterrupted::begin();
    manifest.state = State::Restoring;
    manifest.write(&at.dir)?;
    match run(at, &manifest, criu, drain) {
        Ok(drain) => {
            manifest.state = match drain {
                Some(_) => State::Draining,
                None => State::Restored,
            };
            manifest.write(&at.dir)?;
            // Now the drain may say how it ended.
            drop(drain);
        }
        Err(e) if !left(&manifest).is_empty() => {
            return Err(e.context(format!(
                "CRIU failed, but left processes of {0} (`kup show {0}` names them). If they run, it ended too \
                 soon to say so; if they do not, kill them, and `kup restore --again {0}`",
                at.name
            )));
        }
        Err(e) => {
            manifest.state = State::Ready;
            if let Err(e) = manifest.write(&at.dir) {
                say(&format!(
                    "the checkpoint is still good, but could not be told so: {e:#}"
                ));
            }
            return Err(e);
        }
    }
    let restored = Restored {
        name: at.name.clone(),
        seconds: start.elapsed().as_secs_f64(),
        lazy_bytes: manifest.lazy_bytes,
    };
    // Nobody waits for it now.
    let same_kernel = system::boot_id().is_ok_and(|boot| boot == manifest.boot_id);
    if manifest.empty_table && manifest.left == Left::Killed && same_kernel {
        if let Err(e) = unlock::delete_table(&Images::new(&at.images())) {
            say(&format!(
                "CRIU's table in the packet filter, which is empty, stays: {e:#}"
            ));
        }
    }
    say(&format!(
        "{} runs after {:.3} s; {} come on demand",
        at.name,
        restored.seconds,
        system::size(restored.lazy_bytes)
    ));
    Ok(restored)
}

fn may_restore(at: &Checkpoint, manifest: &Manifest) -> Result<()> {
    let name = &at.name;
    match manifest.state {
        State::Ready => {}
        State::Writing => bail!(
            "checkpoint {name} was never finished: there is nothing to restore. `kup remove {name}` removes it"
        ),
        State::Restoring => bail!(
            "a restore of {name} began and was cut off. If none of its processes runs (`kup show {name}` names \
             them), `kup restore --again {name}` tries again"
        ),
        State::Draining | State::Restored => bail!(
            "checkpoint {name} was restored already. Its processes went on from it; a second copy would know \
             nothing of what the first has done since"
        ),
    }
    ensure!(
        manifest.left != Left::Carried || manifest.boot_id != system::boot_id()?,
        "{name} was to be carried into another kernel, which was not started: its processes went on here, and \
         this is out of date. `kup remove --force {name}` removes it"
    );
    Ok(())
}

/// CRIU, ready to begin, with something in the place of each connection that was cut, and of each file that was open
/// from elsewhere.
fn criu(at: &Checkpoint, manifest: &Manifest, within: Option<u32>) -> Result<Worker> {
    let log = at.log().join("restore.log");
    let mut criu = Criu::new("restore", &at.images(), &log, within)?
        .arg("--work-dir")
        .arg(seen(&at.work(), within))
        .chosen(&manifest.criu_options);
    if manifest.memory == Memory::Foam {
        criu = criu.arg("--lazy-pages");
    }
    let command = manifest.processes.first().map_or("", |root| &root.command);
    let program = command.split(' ').next().unwrap_or_default();
    let identifier = program.rsplit('/').next().unwrap_or_default();
    let unit = manifest.unit.as_deref().unwrap_or_default();
    let mut inherited = Vec::new();
    for cut in &manifest.cut {
        let fd = cut.replacement(identifier, unit)?;
        criu = criu.arg("--inherit-fd").arg(cut.replaced_by(&fd));
        inherited.push(fd);
    }
    for file in &manifest.foreign {
        let fd = file.replacement()?;
        criu = criu.arg("--inherit-fd").arg(file.replaced_by(&fd));
        inherited.push(fd);
    }
    criu.get_ready()
}

/// Has CRIU begin. Returns the end of a pipe for which the drain waits, if there is a drain.
fn run(
    at: &Checkpoint,
    manifest: &Manifest,
    criu: Worker,
    drain: Option<Drain<'_>>,
) -> Result<Option<ChildStdin>> {
    let program = criu.program();
    let Some(drain) = drain else {
        begin(at, criu).map_err(|e| clear_away(at, manifest, &program, e))?;
        return Ok(None);
    };
    let (mut drain, stdin) = drain.ready()?;
    if let Err(e) = begin(at, criu) {
        drop(stdin);
        let e = clear_away(at, manifest, &program, e);
        // If some are there they may need it.
        if left(manifest).is_empty() {
            abandon(at, &mut drain);
        }
        return Err(e);
    }
    // It becomes init's child when we end.
    Ok(Some(stdin))
}

fn begin(at: &Checkpoint, criu: Worker) -> Result<()> {
    let _allowed = match overcommit::wanted(&Images::new(&at.images()))? {
        true => Some(overcommit::allow()?),
        false => None,
    };
    criu.restore().finish()
}

/// Processes of the checkpoint that are there.
fn left(manifest: &Manifest) -> Vec<u32> {
    which(manifest, processes::lives)
}

fn which(manifest: &Manifest, is: fn(u32) -> bool) -> Vec<u32> {
    let pids = manifest.processes.iter().map(|one| one.pid);
    pids.filter(|pid| is(*pid)).collect()
}

/// Waits until nothing is there of a restore that failed, and sees to it if CRIU was killed, so that it can be tried
/// again. Returns what there is to say.
///
/// As long as one process runs CRIU's own program none of them has taken a step of its own: CRIU's processes wait for each
/// other behind that. Later nobody can tell whether they were just let go, and what they have done since.
fn clear_away(
    at: &Checkpoint,
    manifest: &Manifest,
    program: &Path,
    error: anyhow::Error,
) -> anyhow::Error {
    let was_killed = criu::was_killed(&error);
    let mut there = left(manifest);
    let half_made = there.iter().any(|pid| processes::runs(*pid, program));
    // If it is the program of one of them, it tells nothing.
    let of_its_own = |paths: Vec<PathBuf>| {
        let mut names = paths.iter().map(|path| path.file_name());
        names.any(|name| name == program.file_name())
    };
    let executables = Images::new(&at.images()).executables();
    if was_killed && (!half_made || executables.map_or(true, of_its_own)) {
        return error;
    }
    let found = !there.is_empty();
    let deadline = Instant::now() + GONE;
    while !there.is_empty() && Instant::now() < deadline {
        if was_killed {
            // Those that CRIU itself makes for a while too. They may go on making others meanwhile.
            let trees = there.iter().flat_map(|root| processes::pids(*root));
            for pid in trees.flatten() {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
        }
        // CRIU itself does not wait for those that it has killed.
        std::thread::sleep(Duration::from_millis(10));
        there = which(manifest, processes::exists);
    }
    match was_killed && found && there.is_empty() {
        true => error.context(
            "CRIU was killed; what it had begun to restore was ended, and it can be tried again",
        ),
        false => error,
    }
}

/// Ends the drain of a restore that failed, of whose processes none is left. It ends when it loses its connection, if
/// it came to one.
fn abandon(at: &Checkpoint, drain: &mut Child) {
    let _ = Listener::abandon(&at.work());
    for _ in 0..100 {
        if !matches!(drain.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = drain.kill();
    let _ = drain.wait();
}

/// The process that gives memory on demand, as long as CRIU has not heard of it: until then nobody misses it.
struct Drain<'a> {
    at: &'a Checkpoint,
    child: Option<Child>,
}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            abandon(self.at, child);
        }
    }
}

impl Drain<'_> {
    fn start(at: &Checkpoint) -> Result<Drain<'_>> {
        let log = at.log().join("drain.log");
        let log = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("/proc/self/exe");
        // systemd spares processes with such a name when it changes the root or shuts down.
        command.arg0("@kup").arg("drain").arg(&at.dir);
        command.process_group(0).stderr(log);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().context("starting the drain")?;
        Ok(Drain {
            at,
            child: Some(child),
        })
    }

    /// Waits until CRIU can reach it.
    fn ready(mut self) -> Result<(Child, ChildStdin)> {
        let at = self.at;
        let child = self.child.as_mut().context("no drain")?;
        let stdout = child.stdout.take().context("no pipe")?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        if said.trim_end() != READY {
            drop(self);
            let said = std::fs::read_to_string(at.log().join("drain.log")).unwrap_or_default();
            bail!("the drain does not start: {}", said.trim_end());
        }
        let stdin = child.stdin.take().context("no pipe")?;
        let child = self.child.take().context("no drain")?;
        Ok((child, stdin))
    }
}

/// What the drain says when CRIU can reach it.
pub(super) const READY: &str = "ready";
