// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! All that is known of the processes, as a function of the records in the log.
//!
//! The daemon writes a record, then applies it to its own state; the supervisor applies the same
//! records to its state. So a daemon that dies leaves a supervisor that knows what it knew.

use std::collections::BTreeSet;

use super::spans::{Span, Spans};
use super::Area;
use crate::foam::PAGE;

/// Something that happened, in the order in which it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A process that CRIU announced; it gets the next number. `task` is its pid as this process sees it.
    Arrived { memory: usize, fd: i32, task: i32 },
    /// A child, which gets the next number.
    Forked { parent: usize, fd: i32 },
    /// Memory moved.
    Moved {
        process: usize,
        from: u64,
        to: u64,
        len: u64,
    },
    /// Memory is gone, or reads as zeros from now on.
    Dropped {
        process: usize,
        start: u64,
        end: u64,
    },
    /// Memory is there.
    Filled {
        process: usize,
        start: u64,
        end: u64,
    },
    /// A page that cannot be had.
    Bad { process: usize, addr: u64 },
    /// Nothing is left to do for this process.
    Closed { process: usize },
}

/// Words of an encoded record.
pub const WORDS: usize = 4;

impl Record {
    pub fn encode(self) -> [u64; WORDS] {
        let word = |kind: u64, number: usize| kind | (number as u64) << 8;
        match self {
            Record::Arrived { memory, fd, task } => [word(1, memory), fd as u64, task as u64, 0],
            Record::Forked { parent, fd } => [word(2, parent), fd as u64, 0, 0],
            Record::Moved {
                process,
                from,
                to,
                len,
            } => [word(3, process), from, to, len],
            Record::Dropped {
                process,
                start,
                end,
            } => [word(4, process), start, end, 0],
            Record::Filled {
                process,
                start,
                end,
            } => [word(5, process), start, end, 0],
            Record::Bad { process, addr } => [word(6, process), addr, 0, 0],
            Record::Closed { process } => [word(7, process), 0, 0, 0],
        }
    }

    pub fn decode(words: [u64; WORDS]) -> Record {
        let [word, a, b, c] = words;
        let number = (word >> 8) as usize;
        match word & 0xff {
            1 => Record::Arrived {
                memory: number,
                fd: a as i32,
                task: b as i32,
            },
            2 => Record::Forked {
                parent: number,
                fd: a as i32,
            },
            3 => Record::Moved {
                process: number,
                from: a,
                to: b,
                len: c,
            },
            4 => Record::Dropped {
                process: number,
                start: a,
                end: b,
            },
            5 => Record::Filled {
                process: number,
                start: a,
                end: b,
            },
            6 => Record::Bad {
                process: number,
                addr: a,
            },
            7 => Record::Closed { process: number },
            kind => unreachable!("a record of kind {kind}: only `encode` writes them"),
        }
    }
}

/// One process: announced by CRIU, or a child of such a one.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its userfaultfd; ours as long as the process is open.
    pub fd: i32,
    pub open: bool,
    /// Which of the memories it was restored from.
    pub memory: usize,
    /// The pid by CRIU's images; of a child, its ancestor's.
    pub pid: i32,
    /// The pid to send signals to, if the kernel told it; of a child, its ancestor's.
    pub task: i32,
    /// What has not been filled.
    pub spans: Spans,
    /// It, or an ancestor of it, has a page that cannot be had.
    pub spoiled: bool,
}

/// The processes, by number.
#[derive(Clone, Debug)]
pub struct State {
    memories: Vec<(i32, Vec<Area>)>,
    pub processes: Vec<Process>,
    pub bad: BTreeSet<(i32, u64)>,
    pub arrived: usize,
    pub forks: u64,
    /// Bytes there were to fill, with those of children.
    pub total: u64,
    /// Bytes still to fill.
    pub left: u64,
}

impl State {
    pub fn new(memories: Vec<(i32, Vec<Area>)>) -> State {
        State {
            memories,
            processes: Vec::new(),
            bad: BTreeSet::new(),
            arrived: 0,
            forks: 0,
            total: 0,
            left: 0,
        }
    }

    /// The processes that have a descriptor.
    pub fn open(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.processes
            .iter()
            .enumerate()
            .filter(|(_, process)| process.open)
    }

    fn add(&mut self, process: Process) {
        self.total += process.spans.bytes();
        self.left += process.spans.bytes();
        self.processes.push(process);
    }

    /// Changes the spans of one process and keeps the sum right.
    fn spans(&mut self, process: usize, change: impl FnOnce(&mut Spans)) {
        let spans = &mut self.processes[process].spans;
        self.left -= spans.bytes();
        change(spans);
        self.left += spans.bytes();
    }

    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Arrived { memory, fd, task } => {
                let (pid, areas) = &self.memories[memory];
                let mut spans = Spans::default();
                for area in areas {
                    spans.insert(Span {
                        start: area.start,
                        end: area.end,
                        offset: area.start,
                    });
                }
                self.arrived += 1;
                let pid = *pid;
                self.add(Process {
                    fd,
                    open: true,
                    memory,
                    pid,
                    task,
                    spans,
                    spoiled: false,
                });
            }
            Record::Forked { parent, fd } => {
                self.forks += 1;
                let child = Process {
                    fd,
                    open: true,
                    ..self.processes[parent].clone()
                };
                self.add(child);
            }
            Record::Moved {
                process,
                from,
                to,
                len,
            } => {
                self.spans(process, |spans| spans.shift(from, to, len));
            }
            Record::Dropped {
                process,
                start,
                end,
            }
            | Record::Filled {
                process,
                start,
                end,
            } => {
                self.spans(process, |spans| drop(spans.cut(start, end)));
            }
            Record::Bad { process, addr } => {
                self.bad.insert((self.processes[process].pid, addr));
                self.processes[process].spoiled = true;
                self.spans(process, |spans| drop(spans.cut(addr, addr + PAGE)));
            }
            Record::Closed { process } => {
                self.processes[process].open = false;
                self.spans(process, |spans| *spans = Spans::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        for record in [
            Record::Arrived {
                memory: 70_000,
                fd: 9,
                task: 4_194_303,
            },
            Record::Forked {
                parent: 1 << 40,
                fd: 1 << 20,
            },
            Record::Moved {
                process: 3,
                from: 1 << 46,
                to: 5,
                len: u64::MAX,
            },
            Record::Dropped {
                process: 0,
                start: 0,
                end: u64::MAX,
            },
            Record::Filled {
                process: 5,
                start: 1,
                end: 2,
            },
            Record::Bad {
                process: 6,
                addr: 1 << 63,
            },
            Record::Closed { process: 7 },
        ] {
            assert_eq!(Record::decode(record.encode()), record);
        }
    }

    #[test]
    fn a_child_has_what_its_parent_still_lacks() {
        let area = Area {
            start: 0x10_000,
            end: 0x20_000,
        };
        let mut state = State::new(vec![(7, vec![area])]);
        state.apply(Record::Arrived {
            memory: 0,
            fd: 3,
            task: 70,
        });
        state.apply(Record::Filled {
            process: 0,
            start: 0x10_000,
            end: 0x18_000,
        });
        state.apply(Record::Forked { parent: 0, fd: 4 });
        state.apply(Record::Moved {
            process: 1,
            from: 0x1f_000,
            to: 0x8f_000,
            len: 0x1000,
        });
        state.apply(Record::Dropped {
            process: 0,
            start: 0,
            end: u64::MAX,
        });
        assert_eq!((state.total, state.left), (0x18_000, 0x8000));
        assert_eq!(
            state.processes[1].spans.at(0x8f_000).unwrap().offset,
            0x1f_000
        );
        state.apply(Record::Bad {
            process: 1,
            addr: 0x8f_000,
        });
        state.apply(Record::Closed { process: 0 });
        state.apply(Record::Closed { process: 1 });
        assert_eq!((state.left, state.open().count()), (0, 0));
        assert_eq!(state.bad.into_iter().collect::<Vec<_>>(), [(7, 0x8f_000)]);
    }
}
