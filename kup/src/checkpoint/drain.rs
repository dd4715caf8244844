// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The process in the background of a restore: gives the restored processes their memory.

use super::manifest::State;
use super::restore::READY;
use super::Checkpoint;
use crate::foam::collect::on_demand;
use crate::foam::restore::{hard_to_kill, Area, Listener, Memory};
use crate::foam::store::Store;
use crate::foam::Owner;
use crate::images::Images;
use anyhow::{Context, Result};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// CRIU takes well below a second to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the processes of a checkpoint their memory, and says in the end that they have all of it.
///
/// # Errors
/// CRIU did not restore them, or memory could not be given.
pub fn drain(at: &Checkpoint) -> Result<()> {
    let images = Images::new(&at.images());
    let store = Store::new(&at.memory());
    let begin = at.manifest()?;
    let sealed = begin.sealed;
    let mut memories = Vec::new();
    for process in images.processes()? {
        let owner = Owner::Process(process.pid);
        if !images
            .path(&format!("pagemap-{}.img", process.pid))
            .exists()
        {
            // A zombie has no memory, though it may have had some in an earlier round.
            continue;
        }
        let areas = on_demand(&images, process.pid)?;
        let area = |range: std::ops::Range<u64>| Area {
            start: range.start,
            end: range.end,
        };
        memories.push(Memory {
            pid: i32::try_from(process.pid)?,
            file: store.open(owner)?,
            sums: match sealed {
                true => Some(
                    store
                        .open_sums(owner)?
                        .context("the sums of its pages are gone")?,
                ),
                false => None,
            },
            areas: areas.into_iter().map(area).collect(),
        });
    }
    if let Err(e) = hard_to_kill() {
        eprintln!(
            "kup: memory pressure may kill the drain, and corrupt the processes by it: {e:#}"
        );
    }
    let listener = Listener::bind(&at.work())?;
    println!("{READY}");
    let mut left = None;
    let outcome = listener.supervise(memories, |progress| {
        if progress.processes == 0 {
            end_if_nobody_comes(at, &mut left);
        }
    })?;
    let report = at.dir.join("drain.json");
    if let Err(e) = fs::write(&report, serde_json::to_vec_pretty(&outcome)?) {
        eprintln!("kup: {}: {e}", report.display());
    }
    // The end of standard input: whoever restored has written what it had to.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mut manifest = at.manifest()?;
    // Somebody may have removed it meanwhile, and taken another of this name.
    if manifest.state == State::Draining && manifest.created == begin.created {
        manifest.state = State::Restored;
        manifest.write(&at.dir)?;
    }
    Ok(())
}

/// CRIU connects at once. As long as it has not, whoever restores may have been killed, and CRIU with it: the end of
/// standard input says so.
fn end_if_nobody_comes(at: &Checkpoint, left: &mut Option<Instant>) {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO) != Ok(1) {
        return;
    }
    let left = left.get_or_insert_with(Instant::now);
    let nobody = match at.manifest().map(|manifest| manifest.state) {
        // CRIU is told to begin when the manifest says so.
        Ok(State::Restoring) => left.elapsed() > PATIENCE,
        // It was there; there was nothing for us to do.
        Ok(State::Draining | State::Restored) => false,
        Ok(State::Writing | State::Ready) | Err(_) => true,
    };
    if nobody {
        eprintln!("kup: nobody restores");
        std::process::exit(1);
    }
}
