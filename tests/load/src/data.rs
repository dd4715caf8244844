// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Data of files: what was written is what is read. Of a write that was under way, each word of 8 bytes is
//! the old or the new one, and a file never grew over what was not stored yet (LAYOUT.md, section 14).

use crate::{dead, Fate, Load, Rng};
use nix::fcntl::{fallocate, FallocateFlags};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Most bytes of a file.
const MOST: u64 = 1 << 20;

#[derive(Clone)]
enum Op {
    Read,
    Write { at: u64, data: Vec<u8> },
    Truncate(u64),
    Punch { at: u64, len: u64 },
    Zero { at: u64, len: u64, keep: bool },
    Allocate { at: u64, len: u64, keep: bool },
    Copy { from: u64, to: u64, len: u64 },
}

/// How much of an operation may be seen when it was cut short.
pub(crate) enum Steps {
    /// All or nothing.
    One,
    /// Words are old or new; the size stays.
    Words,
    /// Words are old or new; the size is the old one until all are new.
    SizeLast,
    /// Words are old or new; the size grows behind them.
    SizeFollows { at: u64 },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keep = |keep: &bool| if *keep { ", keeping the size" } else { "" };
        match self {
            Op::Read => write!(f, "read"),
            Op::Write { at, data } => write!(f, "write {} at {at}", data.len()),
            Op::Truncate(size) => write!(f, "truncate to {size}"),
            Op::Punch { at, len } => write!(f, "punch {len} at {at}"),
            Op::Zero { at, len, keep: k } => write!(f, "zero {len} at {at}{}", keep(k)),
            Op::Allocate { at, len, keep: k } => write!(f, "allocate {len} at {at}{}", keep(k)),
            Op::Copy { from, to, len } => write!(f, "copy {len} from {from} to {to}"),
        }
    }
}

impl Op {
    fn steps(&self) -> Steps {
        match self {
            Op::Read | Op::Truncate(_) => Steps::One,
            Op::Punch { .. } | Op::Zero { .. } | Op::Allocate { .. } => Steps::SizeLast,
            Op::Write { at, .. } => Steps::SizeFollows { at: *at },
            Op::Copy { to, .. } => Steps::SizeFollows { at: *to },
        }
    }

    /// What is left to do of a write of which `done` was acknowledged.
    fn behind(&self, done: &Op) -> Option<Op> {
        match (self, done) {
            (Op::Write { at, data }, Op::Write { data: done, .. }) if done.len() < data.len() => {
                Some(Op::Write {
                    at: at + done.len() as u64,
                    data: data[done.len()..].to_vec(),
                })
            }
            _ => None,
        }
    }

    /// The contents afterwards.
    fn apply(&self, old: &[u8]) -> Vec<u8> {
        let mut new = old.to_vec();
        let mut reach = |end: u64| {
            if new.len() < end as usize {
                new.resize(end as usize, 0);
            }
        };
        match self {
            Op::Read => {}
            Op::Write { at, data } => {
                reach(at + data.len() as u64);
                new[*at as usize..][..data.len()].copy_from_slice(data);
            }
            Op::Truncate(size) => new.resize(*size as usize, 0),
            Op::Punch { at, len } => {
                let end = new.len().min((at + len) as usize);
                if (*at as usize) < end {
                    new[*at as usize..end].fill(0);
                }
            }
            Op::Zero { at, len, keep } => {
                if !keep {
                    reach(at + len);
                }
                let end = new.len().min((at + len) as usize);
                if (*at as usize) < end {
                    new[*at as usize..end].fill(0);
                }
            }
            Op::Allocate { at, len, keep } => {
                if !keep {
                    reach(at + len);
                }
            }
            Op::Copy { from, to, len } => {
                let end = old.len().min((from + len) as usize);
                if (*from as usize) < end {
                    let data = &old[*from as usize..end];
                    reach(to + data.len() as u64);
                    new[*to as usize..][..data.len()].copy_from_slice(data);
                }
            }
        }
        new
    }
}

/// The word at `at`, with zeros behind the end.
fn word(data: &[u8], at: usize) -> [u8; 8] {
    let mut word = [0; 8];
    if let Some(rest) = data.get(at..) {
        let n = rest.len().min(8);
        word[..n].copy_from_slice(&rest[..n]);
    }
    word
}

/// What of an operation that makes `new` of `old` is there.
pub(crate) fn judge(steps: &Steps, old: &[u8], new: &[u8], found: &[u8]) -> Result<Fate, String> {
    if found == old {
        Ok(Fate::Before)
    } else if found == new {
        Ok(Fate::After)
    } else {
        cut_short(steps, old, new, found).map(|()| Fate::Part)
    }
}

/// Where two contents differ first, and how.
fn differ(expected: &[u8], found: &[u8]) -> String {
    let (left, right) = (expected.len(), found.len());
    let differs = |at: &usize| expected.get(*at) != found.get(*at);
    let at = (0..left.max(right)).find(differs).unwrap_or(0);
    let last = (0..left.max(right)).rfind(differs).unwrap_or(0);
    let piece = |all: &[u8]| all[at.min(all.len())..all.len().min(at + 16)].to_vec();
    format!(
        "{right} bytes instead of {left}, {at} to {last} differ: {:x?} instead of {:x?}",
        piece(found),
        piece(expected)
    )
}

/// Could `found` be what is left of an operation that makes `new` of `old`?
fn cut_short(steps: &Steps, old: &[u8], new: &[u8], found: &[u8]) -> Result<(), String> {
    let size = found.len();
    let sized = match steps {
        Steps::One => return Err("all or nothing was to be there".into()),
        Steps::Words => size == old.len() && size == new.len(),
        Steps::SizeLast => {
            if size == new.len() && new.len() > old.len() {
                return Err("the size was there before the rest".into());
            }
            size == old.len()
        }
        Steps::SizeFollows { at } => {
            let at = (*at as usize).min(size);
            if size > old.len() && found[at..] != new[at..size] {
                return Err(format!("{size} bytes long, and not all of it stored"));
            }
            (old.len()..=new.len()).contains(&size)
        }
    };
    if !sized {
        return Err(format!("{size} bytes long"));
    }
    for at in (0..size).step_by(8) {
        let mut words = [word(old, at), word(new, at)];
        // Behind the end there is nothing to be seen.
        for w in &mut words {
            w[8.min(size - at)..].fill(0);
        }
        if !words.contains(&word(found, at)) {
            return Err(format!(
                "the word at {at} is neither the old nor the new one"
            ));
        }
    }
    Ok(())
}

struct Writer {
    name: String,
    random: Rng,
    file: Option<File>,
    content: Vec<u8>,
    flight: Option<Op>,
}

#[must_use]
pub fn start(threads: u64, random: &mut Rng) -> Vec<Box<dyn Load>> {
    let one = |n| -> Box<dyn Load> {
        Box::new(Writer {
            name: format!("data{n}"),
            random: Rng(random.word()),
            file: None,
            content: Vec::new(),
            flight: None,
        })
    };
    (0..threads).map(one).collect()
}

impl Writer {
    fn choose(&mut self) -> Op {
        let random = &mut self.random;
        // Small ones within a page, ones of some pages, and ones that take several transactions.
        let most = *random.pick(&[600, 20_000, 20_000, 300_000]);
        let len = 1 + random.below(most);
        let mut at = random.below(MOST - len);
        if random.one_in(3) {
            at -= at % 4096;
        }
        if random.one_in(4) {
            at = (self.content.len() as u64).min(MOST - len);
        }
        let keep = random.one_in(2);
        match random.below(16) {
            0..=7 => Op::Write {
                at,
                data: random.bytes(len as usize),
            },
            8..=9 => Op::Truncate(random.below(MOST)),
            10 => Op::Punch { at, len },
            11 => Op::Zero { at, len, keep },
            12 => Op::Allocate { at, len, keep },
            13..=14 => {
                let from = random.below(MOST - len);
                if from.abs_diff(at) < len {
                    // Ranges of one file must not overlap.
                    return Op::Read;
                }
                Op::Copy { from, to: at, len }
            }
            _ => Op::Read,
        }
    }

    /// Does it; copying may do less than it was asked for, and says so.
    fn act(&self, file: &File, op: &Op) -> io::Result<Op> {
        let allocate = |flags, at: u64, len: u64| {
            fallocate(file.as_fd(), flags, at as libc::off_t, len as libc::off_t)
                .map_err(io::Error::from)
        };
        let size = |keep: bool| {
            if keep {
                FallocateFlags::FALLOC_FL_KEEP_SIZE
            } else {
                FallocateFlags::empty()
            }
        };
        match op {
            Op::Read => {
                let mut data = vec![0; MOST as usize + 1];
                let mut n = 0;
                while n < data.len() {
                    match file.read_at(&mut data[n..], n as u64)? {
                        0 => break,
                        more => n += more,
                    }
                }
                if data[..n] != self.content[..] {
                    return Err(io::Error::other(differ(&self.content, &data[..n])));
                }
            }
            Op::Write { at, data } => {
                // The kernel may make more than one request of it.
                return Ok(Op::Write {
                    at: *at,
                    data: data[..file.write_at(data, *at)?].to_vec(),
                });
            }
            Op::Truncate(size) => file.set_len(*size)?,
            Op::Punch { at, len } => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | size(true);
                allocate(flags, *at, *len)?;
            }
            Op::Zero { at, len, keep } => {
                allocate(
                    FallocateFlags::FALLOC_FL_ZERO_RANGE | size(*keep),
                    *at,
                    *len,
                )?;
            }
            Op::Allocate { at, len, keep } => allocate(size(*keep), *at, *len)?,
            Op::Copy { from, to, len } => {
                let (mut source, mut target) = (*from as i64, *to as i64);
                // To the end of the file as it is now; it may do less than it was asked for.
                let all = (self.content.len() as u64).saturating_sub(*from).min(*len);
                let mut done = 0;
                while done < all {
                    let left = (all - done) as usize;
                    match nix::fcntl::copy_file_range(
                        file,
                        Some(&mut source),
                        file,
                        Some(&mut target),
                        left,
                    )? {
                        0 => break,
                        n => done += n as u64,
                    }
                }
                return Ok(Op::Copy {
                    from: *from,
                    to: *to,
                    len: done,
                });
            }
        }
        Ok(op.clone())
    }
}

impl Load for Writer {
    fn prepare(&self, root: &Path) {
        fs::write(root.join(&self.name), []).expect("create");
    }

    fn follow(&mut self) {
        let op = self.choose();
        self.content = op.apply(&self.content);
    }

    fn follow_under_way(&mut self) {
        self.flight = Some(self.choose());
    }

    fn step(&mut self, root: &Path) -> bool {
        let op = self.choose();
        let file = match self.file.take() {
            Some(file) => file,
            None => match File::options()
                .read(true)
                .write(true)
                .open(root.join(&self.name))
            {
                Ok(file) => file,
                Err(e) if dead(&e, root) => return false,
                Err(e) => panic!("{}: open: {e}", self.name),
            },
        };
        self.flight = Some(op.clone());
        match self.act(&file, &op) {
            Ok(done) => {
                self.content = done.apply(&self.content);
                if let Some(rest) = op.behind(&done) {
                    // Nothing but a death cuts it short.
                    self.flight = Some(rest.clone());
                    match self.act(&file, &rest) {
                        Err(e) if dead(&e, root) => return false,
                        other => panic!("{}: {op:?}: only {done:?}, then {other:?}", self.name),
                    }
                }
            }
            Err(e) if dead(&e, root) => return false,
            Err(e) => panic!("{}: {op:?}: {e}", self.name),
        }
        self.flight = None;
        self.file = Some(file);
        true
    }

    fn check(&mut self, root: &Path) -> Result<Fate, String> {
        self.file = None;
        let found = fs::read(root.join(&self.name)).map_err(|e| format!("{}: {e}", self.name))?;
        let old = std::mem::replace(&mut self.content, found);
        let found = &self.content;
        let Some(op) = self.flight.take() else {
            return if *found == old {
                Ok(Fate::None)
            } else {
                Err(format!("{}: not what was acknowledged", self.name))
            };
        };
        let new = op.apply(&old);
        judge(&op.steps(), &old, &new, found)
            .map_err(|e| format!("{}: {op:?}, of {} bytes: {e}", self.name, old.len()))
    }
}

#[test]
fn what_no_write_leaves_is_found() {
    let (old, new) = (vec![1; 64], vec![2; 96]);
    let follows = Steps::SizeFollows { at: 0 };
    let judge = |steps: &Steps, found: &[u8]| cut_short(steps, &old, &new, found).is_ok();
    let mut mixed = old.clone();
    mixed[8..16].fill(2);
    assert!(judge(&follows, &mixed), "a word is new");
    mixed[20] = 2;
    assert!(!judge(&follows, &mixed), "a word is torn");
    let mut longer = new[..80].to_vec();
    assert!(judge(&follows, &longer), "a piece is there");
    longer[3] = 1;
    assert!(!judge(&follows, &longer), "longer, but not all stored");
    assert!(!judge(&follows, &old[..60]), "shorter");
    assert!(!judge(&Steps::SizeLast, &new[..80]), "the size came first");
    assert!(!judge(&Steps::One, &[&new[..8], &old[8..]].concat()));
}
