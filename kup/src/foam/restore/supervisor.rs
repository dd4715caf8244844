// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The process that holds all that must not be lost, and does next to nothing: it receives from CRIU,
//! reads the log, and starts a daemon when there is none.
//!
//! Daemons share its table of descriptors, so the descriptors outlive them. Should the supervisor die,
//! its daemon goes on by itself, and receives from CRIU what is still to come.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::signal::{kill, Signal};
use nix::unistd::{getpid, Pid};

use super::clone::{self, Child};
use super::daemon::{Bells, Daemon};
use super::handover::{is_userfaultfd, Handover};
use super::listener::Listener;
use super::shared::{Counter, Shared};
use super::source::Source;
use super::state::{Record, State};
use super::{uffd, Area, Memory, Outcome, Progress};
use crate::foam::PAGE;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// Daemons that may die before the next has to wait.
const RESTARTS: u64 = 100;

/// How long it has to wait then. To give up would turn all that is not filled into zeros.
const LAST_RESORT: Duration = Duration::from_secs(1);

/// All of a restore but its connection.
#[derive(Debug)]
pub struct Supervisor {
    shared: Shared,
    state: State,
    sources: Vec<Source>,
    bells: Bells,
    poison: bool,
    pids: Vec<i32>,
    /// CRIU's connection, once there is one.
    handover: Option<Handover>,
    daemon: Option<Child>,
    restarts: u64,
}

impl Supervisor {
    pub fn new(memories: Vec<Memory>, poison: bool) -> Result<Supervisor> {
        for memory in &memories {
            check(&memory.areas).with_context(|| format!("the areas of process {}", memory.pid))?;
        }
        let pids: Vec<_> = memories.iter().map(|memory| memory.pid).collect();
        let distinct: BTreeSet<_> = pids.iter().collect();
        ensure!(distinct.len() == pids.len(), "two memories for one process");

        let areas = memories
            .iter()
            .map(|memory| (memory.pid, memory.areas.clone()))
            .collect();
        let bell = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let supervisor = Supervisor {
            shared: Shared::new(memories.len()).context("map memory to share")?,
            state: State::new(areas),
            bells: Bells {
                supervisor: bell()?,
                daemon: bell()?,
            },
            poison,
            pids,
            handover: None,
            daemon: None,
            restarts: 0,
            sources: memories
                .into_iter()
                .map(|memory| {
                    let end = memory.areas.last().map_or(0, |area| area.end);
                    Source::new(memory.file, memory.sums, end)
                })
                .collect(),
        };
        // A descriptor for each process and for each child that it has meanwhile.
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            if soft < hard {
                let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
            }
        }
        Ok(supervisor)
    }

    pub fn run(
        mut self,
        listener: Listener,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Outcome> {
        let result = self.serve(listener, &mut progress);
        if result.is_err() {
            self.stop();
        }
        result
    }

    fn serve(
        &mut self,
        listener: Listener,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<Outcome> {
        let mut told = Instant::now();
        let mut tell = |supervisor: &Supervisor| {
            if told.elapsed() >= TICK {
                progress(&supervisor.progress());
                told = Instant::now();
            }
        };

        while !uffd::poll(&[listener.as_fd().as_raw_fd()], TICK)?[0] {
            tell(self);
        }
        let start = Instant::now();
        self.handover = Some(Handover::new(listener.accept()?, self.pids.clone()));
        drop(listener);

        self.start_daemon()?;
        let mut retry = None;
        loop {
            // A number below 0 is passed by.
            let fd = |fd: Option<&dyn AsFd>| fd.map_or(-1, |fd| fd.as_fd().as_raw_fd());
            // Kept to the end, for a daemon that was started in between; what comes behind the last word is nothing.
            let awaited = self.handover.as_ref().filter(|_| !self.shared.finished());
            let from_criu = fd(awaited.map(|it| it as _));
            let daemon = fd(self.daemon.as_ref().map(|it| &it.pidfd as _));
            let ready = uffd::poll(
                &[from_criu, self.bells.supervisor.as_raw_fd(), daemon],
                TICK,
            )?;
            if ready[1] {
                let _ = self.bells.supervisor.read();
            }
            self.read_log();
            if ready[2] {
                if self.daemon_ended()? {
                    break;
                }
                self.restarts += 1;
                retry = Some(Instant::now());
                if self.restarts >= RESTARTS {
                    eprintln!(
                        "kup: the restore daemon died for the {}th time; the restored processes depend on it. \
                         It is started again once a second.",
                        self.restarts
                    );
                    retry = Some(Instant::now() + LAST_RESORT);
                }
            }
            if retry.is_some_and(|at| at <= Instant::now()) {
                retry = None;
                // No memory for a child, perhaps: later there may be.
                if let Err(error) = self.start_daemon() {
                    eprintln!("kup: cannot start the restore daemon again: {error:#}");
                    retry = Some(Instant::now() + LAST_RESORT);
                }
            }
            if ready[0] {
                self.receive()?;
            }
            tell(self);
        }
        progress(&self.progress());
        Ok(self.outcome(start.elapsed()))
    }

    /// Takes a message of CRIU's, and tells the daemon.
    fn receive(&mut self) -> Result<()> {
        if let Some(handover) = &self.handover {
            handover.receive(&self.shared)?;
            let _ = self.bells.daemon.write(1);
        }
        Ok(())
    }

    fn start_daemon(&mut self) -> Result<()> {
        let supervisor = getpid();
        let Supervisor {
            shared,
            state,
            sources,
            bells,
            poison,
            handover,
            ..
        } = self;
        let handover = handover.as_ref();
        let child = clone::spawn(|| {
            let daemon = Daemon::new(shared, state, sources, bells, supervisor, *poison);
            match daemon.with_handover(handover).run() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("kup: the restore daemon: {error}");
                    1
                }
            }
        });
        self.daemon = Some(child.context("start the restore daemon")?);
        Ok(())
    }

    fn read_log(&mut self) {
        while let Some(record) = self.shared.pop() {
            self.state.apply(record);
        }
    }

    /// The daemon is dead: did it do all there was to do?
    fn daemon_ended(&mut self) -> Result<bool> {
        let Some(child) = self.daemon.take() else {
            return Ok(false);
        };
        let status = clone::reap(child.pid).context("wait for the restore daemon")?;
        drop(child);
        self.take_over();
        let done = self.shared.finished()
            && self.shared.arrivals(self.state.arrived).next().is_none()
            && self.state.open().next().is_none();
        if status.is_some_and(|status| status != 0) {
            eprintln!("kup: the restore daemon failed; another goes on");
        }
        Ok(status == Some(0) && done)
    }

    /// Learns what a dead daemon knew.
    fn take_over(&mut self) {
        self.read_log();
        for record in self.shared.unlogged() {
            self.state.apply(record);
        }
        // It died while it closed a descriptor. If it had logged that, no one knows of the descriptor
        // any more; but the number may be anything by now, except a userfaultfd: the daemon opens
        // none before it clears the note, and we receive none once descriptors are closed.
        if let Some(fd) = self.shared.closing() {
            let ours = self.state.open().any(|(_, process)| process.fd == fd);
            if !ours && is_userfaultfd(fd) {
                uffd::close(fd);
            }
            self.shared.set_closing(None);
        }
    }

    /// Ends the daemon and lets go of all processes.
    fn stop(&mut self) {
        if let Some(child) = self.daemon.take() {
            let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
            let _ = clone::reap(child.pid);
        }
        self.take_over();
        for (_, process) in self.state.open() {
            uffd::close(process.fd);
        }
        for arrival in self.shared.arrivals(self.state.arrived) {
            if let Record::Arrived { fd, .. } = arrival {
                uffd::close(fd);
            }
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            bytes_total: self.state.total,
            bytes_done: self.state.total - self.state.left,
            faults: self.shared.counted(Counter::Faults),
            processes: self.shared.arrivals(0).count() as u64,
            restarts: self.restarts,
        }
    }

    fn outcome(&self, elapsed: Duration) -> Outcome {
        Outcome {
            bytes_copied: self.shared.counted(Counter::Copied),
            zero_pages: self.shared.counted(Counter::ZeroPages),
            faults: self.shared.counted(Counter::Faults),
            bad_pages: self.state.bad.iter().copied().collect(),
            processes: self.shared.arrivals(0).count() as u64,
            forks: self.state.forks,
            restarts: self.restarts,
            seconds: elapsed.as_secs_f64(),
        }
    }
}

fn check(areas: &[Area]) -> Result<()> {
    let mut end = 0;
    for area in areas {
        ensure!(
            area.start % PAGE == 0 && area.end % PAGE == 0 && area.start < area.end,
            "{:#x} to {:#x} are no pages",
            area.start,
            area.end
        );
        ensure!(
            end <= area.start,
            "{:#x} lies before the end of the one before",
            area.start
        );
        end = area.end;
    }
    Ok(())
}
