// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Two directories with few names.

use crate::checker::{linearizable, Call, Model};
use crate::{history, lists, overlaps, rounds, seed};
use fs_core::{Error, Ino, Region, RenameMode, ROOT_INO, S_IFDIR, S_IFREG};
use host::Volume;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::Polite;
use rpramfs_tests::script::new;
use std::collections::BTreeMap;

/// Directory and name, by number.
type Name = (usize, usize);
const NAMES: [&[u8]; 3] = [b"x", b"y", b"z"];

#[derive(Clone, Debug)]
pub enum Op {
    Create(Name),
    Unlink(Name),
    /// One of the files that have a name elsewhere, too.
    Link(Ino, Name),
    Rename(Name, Name, RenameMode),
    Lookup(Name),
    List(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Error(Error),
    /// The inode that was made or found.
    Ino(Ino),
    /// The inode that lost or got a name, and the links it has.
    Links(Ino, u32),
    /// Renamed, and nothing was replaced.
    Renamed,
    List(Vec<(usize, Ino)>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    names: BTreeMap<Name, Ino>,
    /// Files with a name elsewhere.
    kept: Vec<Ino>,
}

impl State {
    fn links(&self, ino: Ino) -> u32 {
        let here = self.names.values().filter(|i| **i == ino).count();
        here as u32 + u32::from(self.kept.contains(&ino))
    }

    /// Takes a name away.
    fn unlink(&mut self, name: &Name) -> Option<Answer> {
        let ino = self.names.remove(name)?;
        Some(Answer::Links(ino, self.links(ino)))
    }
}

#[derive(Debug)]
pub struct Directory;

impl Model for Directory {
    type State = State;
    type Op = Op;
    type Answer = Answer;

    fn step(state: &State, op: &Op, answer: &Answer) -> Option<State> {
        let mut next = state.clone();
        let expected = match op {
            Op::Create(name) => {
                if let Answer::Ino(new) = answer {
                    // Any number will do that is nobody's.
                    let free = !state.names.contains_key(name) && state.links(*new) == 0;
                    next.names.insert(*name, *new);
                    return free.then_some(next);
                }
                match state.names.contains_key(name) {
                    true => Answer::Error(Error::Exists),
                    false => return None,
                }
            }
            Op::Unlink(name) => next.unlink(name).unwrap_or(Answer::Error(Error::NotFound)),
            Op::Link(ino, name) => {
                if state.names.contains_key(name) {
                    Answer::Error(Error::Exists)
                } else {
                    next.names.insert(*name, *ino);
                    Answer::Links(*ino, next.links(*ino))
                }
            }
            Op::Rename(from, to, mode) => {
                let target = state.names.get(to);
                match (state.names.get(from), mode) {
                    (None, _) => Answer::Error(Error::NotFound),
                    (Some(_), RenameMode::NoReplace) if target.is_some() => {
                        Answer::Error(Error::Exists)
                    }
                    (Some(_), RenameMode::Exchange) if target.is_none() => {
                        Answer::Error(Error::NotFound)
                    }
                    // Two names of one inode: nothing is done.
                    (Some(moved), _) if Some(moved) == target => Answer::Renamed,
                    (Some(moved), RenameMode::Exchange) => {
                        next.names.insert(*from, *target.expect("checked above"));
                        next.names.insert(*to, *moved);
                        Answer::Renamed
                    }
                    (Some(moved), _) => {
                        let gone = next.unlink(to);
                        next.names.remove(from);
                        next.names.insert(*to, *moved);
                        gone.unwrap_or(Answer::Renamed)
                    }
                }
            }
            Op::Lookup(name) => match state.names.get(name) {
                Some(ino) => Answer::Ino(*ino),
                None => Answer::Error(Error::NotFound),
            },
            Op::List(dir) => {
                let here = state.names.iter().filter(|((d, _), _)| d == dir);
                Answer::List(here.map(|((_, name), ino)| (*name, *ino)).collect())
            }
        };
        (expected == *answer).then_some(next)
    }
}

fn act<R: Region>(v: &Volume<R, TestHost>, dirs: &[Ino; 2], op: &Op) -> Answer {
    let new = new(S_IFREG | 0o644);
    let at = |name: &Name| (dirs[name.0], NAMES[name.1]);
    let done = match op {
        Op::Create(name) => {
            let (dir, name) = at(name);
            v.create(dir, name, &new).map(|a| Answer::Ino(a.ino))
        }
        Op::Unlink(name) => {
            let (dir, name) = at(name);
            v.unlink(dir, name).map(|u| Answer::Links(u.ino, u.nlink))
        }
        Op::Link(ino, name) => {
            let (dir, name) = at(name);
            v.link(*ino, dir, name)
                .map(|a| Answer::Links(a.ino, a.nlink))
        }
        Op::Rename(from, to, mode) => {
            let ((dir, name), (to_dir, to)) = (at(from), at(to));
            v.rename(dir, name, to_dir, to, *mode)
                .map(|gone| gone.map_or(Answer::Renamed, |u| Answer::Links(u.ino, u.nlink)))
        }
        Op::Lookup(name) => {
            let (dir, name) = at(name);
            v.lookup(dir, name).map(Answer::Ino)
        }
        Op::List(dir) => {
            let mut all = Vec::new();
            v.readdir(dirs[*dir], 0, &mut |e| {
                let name = NAMES.iter().position(|n| *n == e.name);
                all.push((name.expect("one of the names"), e.ino));
                true
            })
            .map(|()| {
                all.sort_unstable();
                Answer::List(all)
            })
        }
    };
    done.unwrap_or_else(Answer::Error)
}

fn any_name(rng: &mut Rng) -> Name {
    (
        rng.below(2) as usize,
        rng.below(NAMES.len() as u64) as usize,
    )
}

fn any_op(rng: &mut Rng, kept: &[Ino]) -> Op {
    let name = any_name(rng);
    match rng.below(12) {
        0..=1 => Op::Create(name),
        2..=3 => Op::Unlink(name),
        4 => Op::Link(*rng.pick(kept), name),
        5..=8 => {
            let mode = match rng.below(4) {
                0 => RenameMode::NoReplace,
                1 => RenameMode::Exchange,
                _ => RenameMode::Replace,
            };
            Op::Rename(name, any_name(rng), mode)
        }
        9..=10 => Op::Lookup(name),
        _ => Op::List(name.0),
    }
}

/// Runs histories; each is shown to `judge` with the state it began from.
fn run(rounds: u64, mut judge: impl FnMut(u64, &State, Vec<Call<Directory>>)) {
    let seed = seed();
    let mut rng = Rng(seed);
    let mem = Polite::new(MemRegion::new(8 << 20), 3);
    let host = TestHost::new(seed);
    format(&mem, &host);
    let v = Volume::new(mount(&mem, host.clone()).expect("mount"));
    let make = |name: &[u8], mode: u32| v.create(ROOT_INO, name, &new(mode)).expect("create").ino;
    let dirs = [b"a", b"b"].map(|name| make(name, S_IFDIR | 0o755));
    let kept = [b"k", b"l"]
        .map(|name| make(name, S_IFREG | 0o644))
        .to_vec();
    for round in 0..rounds {
        // What the last round left.
        let mut start = State {
            names: BTreeMap::new(),
            kept: kept.clone(),
        };
        for dir in 0..2 {
            if let Answer::List(list) = act(&v, &dirs, &Op::List(dir)) {
                let named = list.into_iter().map(|(name, ino)| ((dir, name), ino));
                start.names.extend(named);
            }
        }
        let todo = lists(&mut rng, |rng| any_op(rng, &kept));
        judge(round, &start, history(todo, |op| act(&v, &dirs, op)));
    }
    assert_eq!(host.reports(), []);
}

#[test]
fn linearizability_of_directories() {
    let seed = seed();
    println!("linearizability: directories: seed {seed}");
    let mut meetings = 0;
    run(rounds(), |round, start, calls| {
        meetings += overlaps(&calls);
        if let Err(e) = linearizable(start, &calls) {
            panic!("seed {seed}, round {round}: {e}");
        }
    });
    println!("linearizability: directories: {meetings} times two operations ran at once");
    assert!(meetings > 0, "nothing ran at the same time");
}

/// One wrong answer in a history that happened.
#[test]
fn a_wrong_answer_is_found() {
    let mut planted = 0;
    run(200, |round, start, mut calls| {
        // The last lookup of all is answered as if somebody had made a file.
        let last = calls.iter_mut().max_by_key(|c| c.end).expect("calls");
        let (op, answer) = (last.op.clone(), last.answer.clone());
        last.answer = match (&op, &answer) {
            (Op::Lookup(_), _) => Answer::Ino(987_654),
            (Op::Unlink(_), Answer::Links(ino, links)) => Answer::Links(*ino, links + 1),
            (Op::Rename(..), Answer::Renamed) => Answer::Links(start.kept[0], 40),
            (Op::Create(_), Answer::Error(_)) => Answer::Ino(start.kept[0]),
            _ => return,
        };
        planted += 1;
        assert!(
            linearizable(start, &calls).is_err(),
            "round {round}: {op:?} was not answered {answer:?}"
        );
    });
    assert!(planted > 20, "{planted} wrong answers were planted");
}
