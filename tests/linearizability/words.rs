// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Words of 8 bytes of one file, and its size.

use crate::checker::{linearizable, Call, Model};
use crate::{history, lists, overlaps, rounds, seed};
use fs_core::{SetAttr, ROOT_INO, S_IFREG};
use host::Volume;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::record::Polite;
use rpramfs_tests::script::new;

#[derive(Clone, Debug)]
pub enum Op {
    Read(u64),
    Write(u64, u64),
    /// Size, in words.
    Truncate(u64),
    Size,
}

/// What was read: a word, none behind the end, or the size.
type Answer = Option<u64>;

#[derive(Debug)]
pub struct Words;

impl Model for Words {
    type State = Vec<u64>;
    type Op = Op;
    type Answer = Answer;

    fn step(state: &Vec<u64>, op: &Op, answer: &Answer) -> Option<Vec<u64>> {
        let mut next = state.clone();
        let expected = match op {
            Op::Read(at) => state.get(*at as usize).copied(),
            Op::Write(at, word) => {
                let at = *at as usize;
                if next.len() <= at {
                    next.resize(at + 1, 0);
                }
                next[at] = *word;
                None
            }
            Op::Truncate(size) => {
                next.resize(*size as usize, 0);
                None
            }
            Op::Size => Some(state.len() as u64),
        };
        (expected == *answer).then_some(next)
    }
}

#[test]
fn linearizability_of_words() {
    let seed = seed();
    println!("linearizability: words: seed {seed}");
    let mut rng = Rng(seed);
    let mem = Polite::new(MemRegion::new(8 << 20), 3);
    let host = TestHost::new(seed);
    format(&mem, &host);
    let v = Volume::new(mount(&mem, host.clone()).expect("mount"));
    let new = new(S_IFREG | 0o644);
    let ino = v.create(ROOT_INO, b"f", &new).expect("create").ino;
    let size = |words: u64| {
        let set = SetAttr {
            size: Some(words * 8),
            ..SetAttr::default()
        };
        v.setattr(ino, &set).expect("setattr");
    };
    // Some on one page, some on both sides of a border between pages.
    let act = |base: u64, op: &Op| -> Answer {
        match op {
            Op::Read(at) => {
                let mut word = [0; 8];
                let n = v.read(ino, (base + at) * 8, &mut word).expect("read");
                assert!(n == 0 || n == 8, "read gave {n} bytes");
                (n == 8).then_some(u64::from_le_bytes(word))
            }
            Op::Write(at, word) => {
                let n = v.write(ino, (base + at) * 8, &word.to_le_bytes());
                assert_eq!(n, Ok(8));
                None
            }
            Op::Truncate(words) => {
                size(base + words);
                None
            }
            Op::Size => Some(v.getattr(ino).expect("getattr").size / 8 - base),
        }
    };
    let mut meetings = 0;
    for round in 0..rounds() {
        let base = *[0, 510, 511]
            .get(rng.below(3) as usize)
            .expect("one of them");
        size(0);
        let start: Vec<u64> = (0..rng.below(4)).map(|_| rng.word()).collect();
        size(base);
        for (at, word) in (0..).zip(&start) {
            act(base, &Op::Write(at, *word));
        }
        let todo = lists(&mut rng, |rng| match rng.below(10) {
            0..=3 => Op::Read(rng.below(3)),
            4..=7 => Op::Write(rng.below(3), rng.word()),
            8 => Op::Truncate(rng.below(4)),
            _ => Op::Size,
        });
        let calls: Vec<Call<Words>> = history(todo, |op| act(base, op));
        meetings += overlaps(&calls);
        if let Err(e) = linearizable(&start, &calls) {
            panic!("seed {seed}, round {round}: {e}");
        }
        host.tick();
    }
    println!("linearizability: words: {meetings} times two operations ran at once");
    assert!(meetings > 0, "nothing ran at the same time");
}

fn call(thread: usize, begin: u64, end: u64, op: Op, answer: Answer) -> Call<Words> {
    Call {
        thread,
        begin,
        end,
        op,
        answer,
    }
}

#[test]
fn what_overlaps_may_be_seen_in_either_order() {
    let calls = [
        call(0, 0, 9, Op::Write(0, 5), None),
        call(1, 1, 2, Op::Read(0), Some(1)),
        call(1, 3, 4, Op::Read(0), Some(5)),
    ];
    linearizable(&vec![1], &calls).expect("the write came between the reads");
}

#[test]
fn a_history_without_an_order_is_found() {
    // New, then old again: no write explains that.
    let calls = [
        call(0, 0, 9, Op::Write(0, 5), None),
        call(1, 1, 2, Op::Read(0), Some(5)),
        call(2, 3, 4, Op::Read(0), Some(1)),
        call(2, 5, 6, Op::Size, Some(1)),
        call(2, 7, 8, Op::Write(1, 7), None),
    ];
    let e = linearizable(&vec![1], &calls).expect_err("no order");
    assert!(e.contains("thread 2: Read(0) -> Some(1)"), "{e}");
    // The least of it: neither what came later nor what only looked at something else.
    assert!(!e.contains("Size") && !e.contains("Write(1"), "{e}");
    // The same answers one after the other: a read of what was overwritten before.
    let calls = [
        call(0, 0, 1, Op::Write(0, 5), None),
        call(1, 2, 3, Op::Read(0), Some(1)),
    ];
    linearizable(&vec![1], &calls).expect_err("a stale read");
}
