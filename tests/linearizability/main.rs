// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Threads on few names and few words of one file: whatever they were answered, there is an order, one
//! operation after the other and none moved out of the time it took, in which a plain directory, or a plain
//! file, answers the same.
//!
//! `RPRAMFS_ROUNDS` sets the number of histories, `RPRAMFS_SEED` chooses others.

mod checker;
mod directory;
mod words;

use checker::{Call, Model};
use rpramfs_tests::env::number;
use rpramfs_tests::host::{own_cpu, Rng};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Histories of each test.
fn rounds() -> u64 {
    number("RPRAMFS_ROUNDS", 3000)
}

fn seed() -> u64 {
    number("RPRAMFS_SEED", 1)
}

/// What threads did at the same time, each one's list in its order.
fn history<M: Model>(
    lists: Vec<Vec<M::Op>>,
    act: impl Fn(&M::Op) -> M::Answer + Sync,
) -> Vec<Call<M>>
where
    M::Op: Send,
    M::Answer: Send,
{
    let clock = AtomicU64::new(0);
    let ready = AtomicUsize::new(0);
    let threads = lists.len();
    std::thread::scope(|s| {
        let (clock, ready, act) = (&clock, &ready, &act);
        let start = |(thread, list): (usize, Vec<M::Op>)| {
            s.spawn(move || {
                own_cpu();
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < threads {
                    std::thread::yield_now();
                }
                let one = |op: M::Op| {
                    let begin = clock.fetch_add(1, Ordering::SeqCst);
                    let answer = act(&op);
                    let end = clock.fetch_add(1, Ordering::SeqCst);
                    Call {
                        thread,
                        begin,
                        end,
                        op,
                        answer,
                    }
                };
                list.into_iter().map(one).collect::<Vec<_>>()
            })
        };
        let running: Vec<_> = lists.into_iter().enumerate().map(start).collect();
        let done = running.into_iter().map(|t| t.join().expect("thread"));
        done.flatten().collect()
    })
}

/// Three or four threads, six operations each.
fn lists<T>(rng: &mut Rng, op: impl Fn(&mut Rng) -> T) -> Vec<Vec<T>> {
    let threads = 3 + rng.below(2);
    (0..threads)
        .map(|_| (0..6).map(|_| op(rng)).collect())
        .collect()
}

/// How much of it ran at the same time: a history without is no test.
fn overlaps<M: Model>(history: &[Call<M>]) -> usize {
    let overlap = |a: &Call<M>| {
        let beside = |b: &&Call<M>| a.begin < b.begin && b.begin < a.end;
        history.iter().filter(beside).count()
    };
    history.iter().map(overlap).sum()
}
