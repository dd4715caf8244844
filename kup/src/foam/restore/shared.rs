// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The memory that the supervisor and its daemons share.
//!
//! Page 0 holds single words. Page 1 is the landing: the kernel writes the messages of a userfaultfd
//! there itself. Then come the inbox, in which the supervisor puts the descriptors that CRIU sent, and
//! the log, a ring of records that the daemon writes and the supervisor reads.
//!
//! An event that was read is gone from the kernel, and the thread that caused it goes on; if it were
//! lost, memory that a process gave back would come alive again. So it must not be lost when SIGKILL
//! hits between any two instructions of the daemon:
//!
//! * `land` empties the landing and notes the end of the log before it reads. read(2) itself does not
//!   heed SIGKILL: userfaultfd_read() takes an event off its queue only when it is about to copy it
//!   out, sleeps on nothing (the descriptor is non-blocking) and the page it copies to is present and
//!   locked, so the copy succeeds even while a signal is pending. A child's descriptor is in the
//!   shared table by then.
//! * Every event is pushed to the log in order, with nothing in between. A record counts when `HEAD`
//!   moves behind it.
//! * So when the daemon is dead, as many events as `HEAD` has moved since the note are in the log, and
//!   the rest are in the landing: `unlogged` gives these. If the landing was being emptied, the log
//!   has them all, and skipping as many as it has skips what is left.
//!
//! Faults need no such care: a thread whose fault was read and never answered still waits in the
//! kernel, and a new daemon wakes all that wait; they fault again and are read again.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::state::{Record, WORDS};
use super::uffd::{self, Event, MESSAGE_WORDS};

const PAGE_WORDS: usize = 512;

/// Messages that one read can bring.
pub const MESSAGES: usize = PAGE_WORDS / MESSAGE_WORDS;

/// Records that the log can hold: faults of some hundred milliseconds.
const RECORDS: u64 = 1 << 16;

/// What the words of page 0 are.
#[derive(Clone, Copy)]
enum Word {
    /// Records ever written, and read.
    Head,
    Tail,
    /// Whose messages land, and what `Head` was before.
    LandingOf,
    LandingHead,
    /// Descriptors in the inbox.
    Inbox,
    /// CRIU said that all are restored.
    Finished,
    /// The descriptor that is being closed, plus one.
    Closing,
    /// Whose descriptor CRIU has announced: the memory, plus one, and the pid as we see it.
    Expected,
    Counters,
}

/// What is counted.
#[derive(Clone, Copy)]
pub enum Counter {
    Copied,
    ZeroPages,
    Faults,
}

/// A mapping of zeros that is shared with children.
#[derive(Debug)]
pub struct Shared {
    base: NonNull<AtomicU64>,
    words: usize,
    log: usize,
}

impl Shared {
    /// Room for `arrivals` descriptors in the inbox.
    pub fn new(arrivals: usize) -> io::Result<Shared> {
        let log = 2 * PAGE_WORDS + (arrivals * 3).next_multiple_of(PAGE_WORDS);
        let words = log + RECORDS as usize * WORDS;
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), words * 8, prot, flags, -1, 0) };
        match NonNull::new(base) {
            Some(base) if base.as_ptr() != libc::MAP_FAILED => Ok(Shared {
                base: base.cast(),
                words,
                log,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is a mapping of so many words that lives as long as `self`. All bits are
        // valid words, and processes and the kernel change them only as atomics or in `land`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        &self.words()[word as usize]
    }

    fn get(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    fn set(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::Release);
    }

    fn landing(&self) -> &[AtomicU64] {
        &self.words()[PAGE_WORDS..2 * PAGE_WORDS]
    }

    /// For a daemon that begins: the page the kernel writes to is there and stays.
    pub fn pin(&self) -> io::Result<()> {
        let landing = self.landing();
        // A write brings the page; that of its own value changes nothing.
        landing[0].fetch_add(0, Ordering::AcqRel);
        // SAFETY: locking changes no contents.
        match unsafe { libc::mlock(landing.as_ptr().cast(), PAGE_WORDS * 8) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads messages of a process. The caller pushes the events among them before anything else.
    pub fn land(&self, process: usize, fd: i32) -> io::Result<Vec<Event>> {
        // The head of a message, its first word, is the last to go: a message whose tail is gone is
        // one that the log has, and it must still count as one.
        for message in self.landing().chunks_exact(MESSAGE_WORDS) {
            if message[0].load(Ordering::Acquire) == 0 {
                break;
            }
            message
                .iter()
                .rev()
                .for_each(|word| word.store(0, Ordering::Release));
        }
        self.set(Word::LandingOf, process as u64);
        self.set(Word::LandingHead, self.get(Word::Head));
        let landing = self.landing();
        // SAFETY: the landing is as long as the read is told, its words may take any value, and no
        // one else touches them while this daemon, which has one thread, reads.
        let got = unsafe { libc::read(fd, landing.as_ptr().cast_mut().cast(), PAGE_WORDS * 8) };
        match got {
            0.. => Ok(self
                .landed()
                .take(got as usize / MESSAGE_WORDS / 8)
                .collect()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn landed(&self) -> impl Iterator<Item = Event> + '_ {
        self.landing()
            .chunks_exact(MESSAGE_WORDS)
            .map_while(|message| {
                uffd::decode(std::array::from_fn(|word| {
                    message[word].load(Ordering::Acquire)
                }))
            })
    }

    /// For the supervisor, when the daemon is dead and the log is read: the events that the daemon
    /// read and did not log.
    pub fn unlogged(&self) -> Vec<Record> {
        let process = self.get(Word::LandingOf) as usize;
        let logged = self.get(Word::Head) - self.get(Word::LandingHead);
        let events = self.landed().filter_map(|event| record_of(process, event));
        let events = events
            .skip(usize::try_from(logged).unwrap_or(usize::MAX))
            .collect();
        self.landing()
            .iter()
            .for_each(|word| word.store(0, Ordering::Release));
        events
    }

    /// Records the log has room for.
    pub fn room(&self) -> u64 {
        RECORDS - (self.get(Word::Head) - self.get(Word::Tail))
    }

    /// Is the log so full that only what must be in it should be?
    pub fn is_half_full(&self) -> bool {
        self.room() < RECORDS / 2
    }

    fn record(&self, number: u64) -> &[AtomicU64] {
        let at = self.log + (number % RECORDS) as usize * WORDS;
        &self.words()[at..at + WORDS]
    }

    /// Adds a record; there must be room.
    pub fn push(&self, record: Record) {
        assert!(self.room() > 0, "no room in the log");
        let head = self.get(Word::Head);
        for (word, value) in self.record(head).iter().zip(record.encode()) {
            word.store(value, Ordering::Release);
        }
        self.set(Word::Head, head + 1);
    }

    /// Takes the oldest record.
    pub fn pop(&self) -> Option<Record> {
        let tail = self.get(Word::Tail);
        if tail == self.get(Word::Head) {
            return None;
        }
        let words = self.record(tail);
        let record = Record::decode(std::array::from_fn(|word| {
            words[word].load(Ordering::Acquire)
        }));
        self.set(Word::Tail, tail + 1);
        Some(record)
    }

    /// For a daemon whose supervisor is gone: no one will read the log.
    pub fn forget_log(&self) {
        self.set(Word::Tail, self.get(Word::Head));
    }

    /// Puts an arrival in the inbox.
    pub fn deliver(&self, record: Record) {
        let number = self.get(Word::Inbox) as usize;
        let at = 2 * PAGE_WORDS + number * 3;
        let [kind, fd, task, _] = record.encode();
        for (word, value) in self.words()[at..at + 3].iter().zip([kind, fd, task]) {
            word.store(value, Ordering::Release);
        }
        self.set(Word::Inbox, number as u64 + 1);
    }

    /// The arrivals behind the first `taken`.
    pub fn arrivals(&self, taken: usize) -> impl Iterator<Item = Record> + '_ {
        (taken..self.get(Word::Inbox) as usize).map(|number| {
            let words = &self.words()[2 * PAGE_WORDS + number * 3..];
            let [kind, fd, task] = std::array::from_fn(|word| words[word].load(Ordering::Acquire));
            Record::decode([kind, fd, task, 0])
        })
    }

    /// Has the descriptor of a memory's process come?
    pub fn has_arrived(&self, memory: usize) -> bool {
        let of = |record| matches!(record, Record::Arrived { memory: of, .. } if of == memory);
        self.arrivals(0).any(of)
    }

    /// Notes whose descriptor comes next.
    pub fn set_expected(&self, next: Option<(usize, i32)>) {
        let value = next.map_or(0, |(memory, task)| {
            (memory as u64 + 1) << 32 | u64::from(task as u32)
        });
        self.set(Word::Expected, value);
    }

    pub fn expected(&self) -> Option<(usize, i32)> {
        let value = self.get(Word::Expected);
        let memory = (value >> 32).checked_sub(1)?;
        Some((memory as usize, value as u32 as i32))
    }

    /// Tells the daemon that all are restored.
    pub fn finish(&self) {
        self.set(Word::Finished, 1);
    }

    pub fn finished(&self) -> bool {
        self.get(Word::Finished) != 0
    }

    /// Notes which descriptor is being closed.
    pub fn set_closing(&self, fd: Option<i32>) {
        self.set(Word::Closing, fd.map_or(0, |fd| fd as u64 + 1));
    }

    pub fn closing(&self) -> Option<i32> {
        self.get(Word::Closing).checked_sub(1).map(|fd| fd as i32)
    }

    pub fn count(&self, counter: Counter, more: u64) {
        let word = &self.words()[Word::Counters as usize + counter as usize];
        word.fetch_add(more, Ordering::AcqRel);
    }

    pub fn counted(&self, counter: Counter) -> u64 {
        self.words()[Word::Counters as usize + counter as usize].load(Ordering::Acquire)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the borrows of it ended with `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

/// The record of an event; faults have none.
pub fn record_of(process: usize, event: Event) -> Option<Record> {
    match event {
        Event::Fault { .. } => None,
        Event::Fork { fd } => Some(Record::Forked {
            parent: process,
            fd,
        }),
        Event::Remap { from, to, len } => Some(Record::Moved {
            process,
            from,
            to,
            len,
        }),
        Event::Drop { start, end } => Some(Record::Dropped {
            process,
            start,
            end,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    /// Messages as the kernel writes them: an event and three words.
    fn messages(list: &[(u8, [u64; 3])]) -> Vec<u8> {
        let words = |(event, rest): &(u8, [u64; 3])| {
            let head = u64::from_ne_bytes([*event, 0, 0, 0, 0, 0, 0, 0]);
            [[head].as_slice(), rest].concat()
        };
        list.iter()
            .flat_map(words)
            .flat_map(u64::to_ne_bytes)
            .collect()
    }

    #[test]
    fn no_event_is_lost_or_comes_twice() {
        let list = [
            (0x12, [0, 0x5000, 0]),
            (0x15, [0x1000, 0x2000, 0]),
            (0x13, [u64::from_ne_bytes([9, 0, 0, 0, 0, 0, 0, 0]), 0, 0]),
            (0x12, [0, 0x6000, 0]),
            (0x14, [0x3000, 0x7000, 0x1000]),
            (0x16, [0x8000, 0x9000, 0]),
        ];
        let all = [
            Record::Dropped {
                process: 5,
                start: 0x1000,
                end: 0x2000,
            },
            Record::Forked { parent: 5, fd: 9 },
            Record::Moved {
                process: 5,
                from: 0x3000,
                to: 0x7000,
                len: 0x1000,
            },
            Record::Dropped {
                process: 5,
                start: 0x8000,
                end: 0x9000,
            },
        ];
        for logged in 0..=all.len() + 1 {
            let shared = Shared::new(1).unwrap();
            shared.pin().unwrap();
            let (reader, mut writer) = UnixStream::pair().unwrap();
            // What an earlier read left there must not be taken for the new one's.
            for earlier in [&list[..], &list[..2]] {
                writer.write_all(&messages(earlier)).unwrap();
                let events = shared.land(4, reader.as_raw_fd()).unwrap();
                assert_eq!(events.len(), earlier.len());
                events
                    .into_iter()
                    .filter_map(|event| record_of(4, event))
                    .for_each(|r| shared.push(r));
                while shared.pop().is_some() {}
            }
            writer.write_all(&messages(&list)).unwrap();
            let events = shared.land(5, reader.as_raw_fd()).unwrap();
            assert_eq!(events[0], Event::Fault { addr: 0x5000 });
            let mut records: Vec<_> = events.into_iter().filter_map(|e| record_of(5, e)).collect();
            records.push(Record::Filled {
                process: 1,
                start: 0,
                end: 1,
            });
            records
                .iter()
                .take(logged)
                .for_each(|record| shared.push(*record));
            // Dead here.
            let mut known: Vec<_> = std::iter::from_fn(|| shared.pop()).collect();
            known.extend(shared.unlogged());
            known.truncate(all.len());
            assert_eq!(known, all);
            assert!(shared.unlogged().is_empty());
        }
    }

    #[test]
    fn the_log_goes_round() {
        let shared = Shared::new(0).unwrap();
        let record = |n: u64| Record::Filled {
            process: n as usize,
            start: n,
            end: n + 1,
        };
        let (mut written, mut read) = (0, 0);
        while read < 5 * RECORDS / 2 {
            while shared.room() > 0 {
                shared.push(record(written));
                written += 1;
            }
            assert!(shared.is_half_full());
            for _ in 0..RECORDS / 3 * 2 {
                assert_eq!(shared.pop(), Some(record(read)));
                read += 1;
            }
            assert!(!shared.is_half_full());
        }
        shared.forget_log();
        assert_eq!(shared.pop(), None);
    }

    #[test]
    fn the_inbox_holds_them_all() {
        let shared = Shared::new(600).unwrap();
        let record = |n: i32| Record::Arrived {
            memory: n as usize,
            fd: n + 1,
            task: n + 2,
        };
        (0..600).for_each(|n| shared.deliver(record(n)));
        assert_eq!(
            shared.arrivals(0).collect::<Vec<_>>(),
            (0..600).map(record).collect::<Vec<_>>()
        );
        assert_eq!(shared.arrivals(599).collect::<Vec<_>>(), [record(599)]);
        assert_eq!(shared.pop(), None);
    }
}
