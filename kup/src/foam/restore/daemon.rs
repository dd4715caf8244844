// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The daemon: reads what happens to the processes, answers their faults, and fills what is left.
//!
//! # The kernel's rules
//!
//! A fork, an mremap(2), an munmap(2) or an madvise(2) on registered memory makes the kernel count up
//! `mmap_changing` before it changes anything, queue an event, and stop the thread until the event is
//! read; then the thread counts down. As long as the count is not zero, every filling call is refused
//! with EAGAIN. So a call that succeeds saw the mappings as our spans have them, provided that every
//! event is applied before the next call is made; which is what the loop does.
//!
//! ENOENT is checked behind that count, so it may tell of a change whose event is still to come. Not
//! so when it comes twice in a row without an event read in between: a change seen by the first call
//! was counted before, and only reading its event lets it count down, so the second call would have
//! said EAGAIN. Only then is a page given up: no registered memory is there.
//!
//! # When a descriptor may be closed
//!
//! Closing one hands the memory back to the kernel: waiting threads go on, pages that are not there
//! become zeros, events that were not read are dropped. It is done once CRIU has said that all is
//! restored and the process has no spans.
//! * A waiting fault or a page that is not there: it is in no span, so zeros are right.
//! * An unread UNMAP, REMOVE or REMAP: there is no span it could change.
//! * An unread FORK: the child's tables were copied behind the count, and no page was filled since.
//!   Had a page been missing in the parent then, it would be missing now, and its span be there,
//!   unless an event took it: one that another thread caused in the same moment, so that the child may
//!   see either side of it. The kernel gives the child's memory back too.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use nix::unistd::{getppid, Pid};

use super::family;
use super::handover::Handover;
use super::shared::{record_of, Counter, Shared, MESSAGES};
use super::source::{Bytes, Source};
use super::state::{Record, State};
use super::uffd::{self, Event, Refusal};
use crate::foam::PAGE;

/// How much is filled between two looks for faults: little while there are some.
const PIECE_MIN: u64 = 64 << 10;
const PIECE_MAX: u64 = 2 << 20;

/// How long to wait for a thread whose event was read to go on.
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// Eventfds to wake one another with.
#[derive(Debug)]
pub struct Bells {
    pub supervisor: EventFd,
    pub daemon: EventFd,
}

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// So many bytes are settled.
    Done(u64),
    /// Not now.
    Blocked,
    /// No registered memory there.
    Absent,
    /// The process has no memory any more.
    Gone,
}

/// A daemon's own view. The state and the sources are its own copies of the supervisor's.
#[derive(Debug)]
pub struct Daemon<'a> {
    pub shared: &'a Shared,
    pub state: &'a mut State,
    pub sources: &'a mut [Source],
    pub bells: &'a Bells,
    pub supervisor: Pid,
    /// For the time in which there is no supervisor.
    pub handover: Option<&'a Handover>,
    /// Can the kernel mark pages as failed?
    pub poison: bool,
    faults: VecDeque<(usize, u64)>,
    /// The open processes.
    open: Vec<usize>,
    /// Where to fill next, and how much.
    cursor: (usize, u64),
    piece: u64,
    pause: Duration,
    orphan: bool,
    /// Do we receive from CRIU?
    receives: bool,
}

impl<'a> Daemon<'a> {
    pub fn new(
        shared: &'a Shared,
        state: &'a mut State,
        sources: &'a mut [Source],
        bells: &'a Bells,
        supervisor: Pid,
        poison: bool,
    ) -> Daemon<'a> {
        let open = state.open().map(|(process, _)| process).collect();
        Daemon {
            shared,
            state,
            sources,
            bells,
            supervisor,
            handover: None,
            poison,
            faults: VecDeque::new(),
            open,
            cursor: (0, 0),
            piece: PIECE_MIN,
            pause: PAUSE_MIN,
            orphan: false,
            receives: false,
        }
    }

    pub fn with_handover(mut self, handover: Option<&'a Handover>) -> Daemon<'a> {
        self.handover = handover;
        self
    }

    /// Returns when CRIU has said that all is restored and nothing is left to fill.
    pub fn run(&mut self) -> io::Result<()> {
        self.shared.pin()?;
        for &process in &self.open {
            let fd = self.state.processes[process].fd;
            uffd::nonblocking(fd);
            // Faults that a daemon before us read and did not answer.
            uffd::wake_all(fd);
        }
        let mut timeout = Duration::ZERO;
        loop {
            self.look_after()?;
            self.take_arrivals();
            self.read_events(timeout)?;
            let served = self.serve_faults();
            timeout = if self.shared.finished() {
                self.fill_some(served)
            } else if self.orphan {
                // A message may come, and tells of itself by nothing else.
                PAUSE_MAX
            } else if self.faults.is_empty() {
                Duration::from_secs(1)
            } else {
                self.pause()
            };
            if self.shared.finished() && self.open.is_empty() {
                self.take_arrivals();
                if self.open.is_empty() {
                    return Ok(());
                }
            }
        }
    }

    /// Is there still a supervisor? If it is gone, CRIU's next message is ours to take.
    fn look_after(&mut self) -> io::Result<()> {
        self.orphan = getppid() != self.supervisor;
        let Some(handover) = self
            .handover
            .filter(|_| self.orphan && !self.shared.finished())
        else {
            return Ok(());
        };
        // If this fails we end, and the restore does.
        if !self.receives {
            self.receives = true;
            self.take_arrivals();
            let all = self.state.processes.iter();
            let known: Vec<_> = all.map(|process| process.fd).collect();
            handover
                .resume(self.shared, &known)
                .map_err(io::Error::other)?;
        }
        if uffd::poll(&[handover.as_fd().as_raw_fd()], Duration::ZERO)?[0] {
            handover.receive(self.shared).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// How long to wait when the kernel wants us to: longer each time.
    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Writes to the log, then to our own state.
    fn log(&mut self, record: Record) {
        while self.shared.room() == 0 {
            self.wait_for_room();
        }
        self.shared.push(record);
        self.apply(record);
        if self.shared.is_half_full() {
            self.ring();
        }
    }

    /// Like [`log`](Self::log), of what the supervisor need not know: what it believes unfilled, a new
    /// daemon finds filled.
    fn log_filled(&mut self, process: usize, start: u64, end: u64) {
        let record = Record::Filled {
            process,
            start,
            end,
        };
        if self.shared.is_half_full() && self.piece == PIECE_MIN {
            self.ring();
            self.apply(record);
        } else {
            self.log(record);
        }
    }

    fn apply(&mut self, record: Record) {
        if matches!(record, Record::Arrived { .. } | Record::Forked { .. }) {
            self.open.push(self.state.processes.len());
        }
        self.state.apply(record);
    }

    fn ring(&self) {
        // A counter that is full wakes as well.
        let _ = self.bells.supervisor.write(1);
    }

    fn wait_for_room(&mut self) {
        self.orphan = getppid() != self.supervisor;
        if self.orphan {
            self.shared.forget_log();
        } else {
            self.ring();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn take_arrivals(&mut self) {
        let arrivals: Vec<_> = self.shared.arrivals(self.state.arrived).collect();
        for arrival in arrivals {
            self.log(arrival);
        }
    }

    /// Reads all there is to read. Waits for it up to `timeout`.
    fn read_events(&mut self, timeout: Duration) -> io::Result<()> {
        let mut fds: Vec<_> = self
            .open
            .iter()
            .map(|&process| self.state.processes[process].fd)
            .collect();
        fds.push(self.bells.daemon.as_raw_fd());
        let ready = uffd::poll(&fds, timeout)?;
        if ready[fds.len() - 1] {
            let _ = self.bells.daemon.read();
        }
        let ready = self
            .open
            .iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|(process, _)| *process);
        for process in ready.collect::<Vec<_>>() {
            while self.read_process(process) == MESSAGES {}
        }
        Ok(())
    }

    /// Reads once; returns how many messages came.
    fn read_process(&mut self, process: usize) -> usize {
        // The events of a read go to the log at once, with no wait in between.
        while self.shared.room() < MESSAGES as u64 {
            self.wait_for_room();
        }
        let events = match self.shared.land(process, self.state.processes[process].fd) {
            Ok(events) => events,
            Err(error) => {
                // A child's descriptor needs room in the table; others are closed meanwhile.
                if error.kind() != io::ErrorKind::WouldBlock {
                    std::thread::sleep(Duration::from_millis(1));
                }
                return 0;
            }
        };
        for record in events.iter().filter_map(|&event| record_of(process, event)) {
            self.log(record);
            if let Record::Forked { fd, .. } = record {
                uffd::nonblocking(fd);
            }
        }
        // Behind the events: a fault that came with an event is answered by what holds after it.
        for event in &events {
            if let Event::Fault { addr } = event {
                self.faults.push_back((process, addr - addr % PAGE));
            }
        }
        events.len()
    }

    /// Answers the faults; keeps those that cannot be answered yet. Tells whether there were any.
    fn serve_faults(&mut self) -> bool {
        let faults = std::mem::take(&mut self.faults);
        let mut served = 0;
        for (process, addr) in faults {
            match self.serve(process, addr) {
                Step::Blocked => self.faults.push_back((process, addr)),
                step => {
                    served += 1;
                    self.pause = PAUSE_MIN;
                    self.settle(process, step);
                    self.cursor = (process, addr);
                }
            }
        }
        self.shared.count(Counter::Faults, served);
        served > 0
    }

    /// Answers one fault. The thread tries again if it is woken without a page, and what became of its
    /// memory decides; so waking is right whenever there is no page to give.
    fn serve(&mut self, process: usize, addr: u64) -> Step {
        let task = &self.state.processes[process];
        let fd = task.fd;
        if task.spans.at(addr).is_some() {
            let step = self.fill(process, addr, PAGE);
            if matches!(step, Step::Done(_) | Step::Absent) {
                let _ = uffd::wake(fd, addr, PAGE);
            }
            return step;
        }
        if task.spoiled && !self.poison && self.state.bad.contains(&(task.pid, addr)) {
            // It did not die of SIGBUS, and must not see zeros.
            family::kill_all(task.task, &self.announced(), Signal::SIGKILL);
            return Step::Done(0);
        }
        match uffd::zero(fd, addr, PAGE) {
            Ok(_) => {
                self.shared.count(Counter::ZeroPages, 1);
                Step::Done(0)
            }
            Err(Refusal::Again | Refusal::NoMemory) => Step::Blocked,
            Err(Refusal::Gone) => Step::Gone,
            Err(_) => {
                let _ = uffd::wake(fd, addr, PAGE);
                Step::Done(0)
            }
        }
    }

    /// Notes the end of a process.
    fn settle(&mut self, process: usize, step: Step) {
        if step == Step::Gone {
            self.log(Record::Dropped {
                process,
                start: 0,
                end: u64::MAX,
            });
        }
    }

    /// Fills a piece, and closes what needs no more. Returns how long the next look for events may wait.
    fn fill_some(&mut self, served: bool) -> Duration {
        if served {
            self.piece = PIECE_MIN;
        }
        for process in self.open.clone() {
            if self.state.processes[process].spans.is_empty() {
                self.close(process);
            }
        }
        // From the last fault on: what is needed next is often near.
        let first = self
            .open
            .iter()
            .position(|&process| process == self.cursor.0)
            .unwrap_or(0);
        for turn in 0..self.open.len() {
            let process = self.open[(first + turn) % self.open.len()];
            let from = if turn == 0 && process == self.cursor.0 {
                self.cursor.1
            } else {
                0
            };
            let spans = &self.state.processes[process].spans;
            let Some(span) = spans.at_or_behind(from).or_else(|| spans.at_or_behind(0)) else {
                continue;
            };
            let step = match self.fill(process, span.start, self.piece.min(span.end - span.start)) {
                // Said twice: it is so.
                Step::Absent => match self.fill(process, span.start, PAGE) {
                    Step::Absent => {
                        self.log_filled(process, span.start, span.start + PAGE);
                        Step::Done(PAGE)
                    }
                    step => step,
                },
                step => step,
            };
            self.settle(process, step);
            if let Step::Done(bytes) = step {
                self.cursor = (process, span.start + bytes);
                self.piece = (self.piece * 2).min(PIECE_MAX);
            }
            if step != Step::Blocked {
                self.pause = PAUSE_MIN;
                return Duration::ZERO;
            }
        }
        if self.open.is_empty() {
            Duration::ZERO
        } else {
            self.pause()
        }
    }

    /// Fills what it can of `len` bytes at `start`, which lie in one span.
    fn fill(&mut self, process: usize, start: u64, len: u64) -> Step {
        let task = &self.state.processes[process];
        let (fd, memory) = (task.fd, task.memory);
        let Some(span) = task.spans.at(start) else {
            return Step::Absent;
        };
        let mut bytes = self.sources[memory].bytes(span.offset, len);
        let mut second = false;
        loop {
            let (src, len) = match bytes {
                Bytes::At { address, len } => (address, len),
                Bytes::Bad => return self.spoil(process, start),
            };
            match uffd::copy(fd, start, src, len) {
                Ok(done) => {
                    self.shared.count(Counter::Copied, done);
                    self.log_filled(process, start, start + done);
                    return Step::Done(done);
                }
                Err(Refusal::Exists) => {
                    self.log_filled(process, start, start + PAGE);
                    return Step::Done(PAGE);
                }
                Err(Refusal::Again | Refusal::NoMemory) => return Step::Blocked,
                Err(Refusal::Gone) => return Step::Gone,
                // Not in one mapping, perhaps.
                Err(Refusal::Absent) if len > PAGE => {
                    self.piece = (len / 2).next_multiple_of(PAGE);
                    bytes = Bytes::At {
                        address: src,
                        len: self.piece,
                    };
                }
                Err(Refusal::Absent) => return Step::Absent,
                // The kernel stops before the page that it cannot read, so it is the first. A mapping
                // may fail where read(2) does not.
                Err(Refusal::Unreadable) if !second => {
                    second = true;
                    bytes = self.sources[memory].read(span.offset);
                }
                Err(Refusal::Unreadable) => return self.spoil(process, start),
                Err(Refusal::Other(error)) => {
                    eprintln!(
                        "kup: process {} at {start:#x}: {error}",
                        self.state.processes[process].pid
                    );
                    return self.spoil(process, start);
                }
            }
        }
    }

    /// Sees to it that the process does not take this page, which cannot be had, for a good one.
    fn spoil(&mut self, process: usize, addr: u64) -> Step {
        let task = &self.state.processes[process];
        if !self.poison {
            // Children cannot be told from one another by their descriptors.
            family::kill_all(task.task, &self.announced(), Signal::SIGBUS);
        } else {
            match uffd::poison(task.fd, addr, PAGE) {
                // What is there is what we or a daemon before us put there.
                Ok(_) | Err(Refusal::Exists) => {}
                Err(Refusal::Again | Refusal::NoMemory) => return Step::Blocked,
                Err(Refusal::Gone) => return Step::Gone,
                Err(_) => return Step::Absent,
            }
        }
        self.log(Record::Bad { process, addr });
        Step::Done(PAGE)
    }

    /// The pids that CRIU announced.
    fn announced(&self) -> BTreeSet<i32> {
        self.state
            .processes
            .iter()
            .map(|process| process.task)
            .collect()
    }

    /// Lets go of a process. The log tells that it was done, and the word in the shared memory that it
    /// may not have been: see `Supervisor::take_over`.
    fn close(&mut self, process: usize) {
        let task = &self.state.processes[process];
        if task.spoiled && !self.poison {
            // What it must not see would be zeros from now on.
            family::kill_all(task.task, &self.announced(), Signal::SIGKILL);
        }
        let fd = task.fd;
        self.shared.set_closing(Some(fd));
        self.log(Record::Closed { process });
        uffd::close(fd);
        self.shared.set_closing(None);
        self.open.retain(|&other| other != process);
    }
}
