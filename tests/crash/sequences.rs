// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Sequences: every operation behind every other, and a choice of those of length 3, on one small
//! tree.

use fs_core::Error;
use rpramfs_tests::alphabet::{base, ALPHABET};
use rpramfs_tests::crash::{run, Case, Effort};
use rpramfs_tests::env::is_full;
use rpramfs_tests::host::Rng;

/// In a sequence an earlier operation may have made a later one impossible: that is fine, as long
/// as nothing is out of order.
fn possible(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::Corrupt(c)) => Err(Error::Corrupt(c)),
        _ => Ok(()),
    }
}

/// Whose bytes the last operation may leave mixed: what it says itself; and where an earlier one has
/// filled holes or unwritten pages, a write there is an overwrite in place.
fn mixed(earlier: &[&str], last: &str, loose: &[&'static str]) -> Vec<&'static str> {
    let fills = ["append", "write", "overwrite", "copy", "allocate", "zero"];
    let mut all = loose.to_vec();
    let filled = earlier
        .iter()
        .any(|name| fills.iter().any(|fill| name.starts_with(fill)));
    if filled && last.starts_with("write") {
        all.extend(["c", "f", "u"]);
    }
    all
}

#[test]
fn crash_pairs() {
    let mut effort = Effort::from_env();
    let full = is_full();
    if full {
        // Recovery at each of its stores is for single operations; a choice of them here.
        effort.orders.truncate(2);
        effort.recovery_one_in = 16;
        effort.empty_one_in = 4;
    }
    let mut rng = Rng(20);
    let mut cases = Vec::new();
    for (first, do_first, _) in ALPHABET {
        for (second, do_second, loose) in ALPHABET {
            // All of them take minutes: a repeatable choice for daily work.
            if !full && !rng.one_in(5) {
                continue;
            }
            cases.push(
                Case::new(
                    format!("{first}; {second}"),
                    move |w| {
                        base(w)?;
                        possible(do_first(w))
                    },
                    move |w| possible(do_second(w)),
                )
                .loose(&mixed(&[first], second, loose)),
            );
        }
    }
    run(&cases, &effort).conclude("crash: sequences of length 2");
}

#[test]
fn crash_triples() {
    let mut effort = Effort::from_env();
    let full = is_full();
    effort.orders.truncate(1);
    effort.recovery_one_in = 32;
    effort.recovery_stops = 20;
    effort.empty_one_in = 16;
    let mut rng = Rng(21);
    let mut any = || rng.pick(ALPHABET);
    let cases: Vec<_> = (0..if full { 4000 } else { 60 })
        .map(|_| {
            let (a, do_a, _) = any();
            let (b, do_b, _) = any();
            let (c, do_c, loose) = any();
            Case::new(
                format!("{a}; {b}; {c}"),
                move |w| {
                    base(w)?;
                    possible(do_a(w))?;
                    possible(do_b(w))
                },
                move |w| possible(do_c(w)),
            )
            .loose(&mixed(&[a, b], c, loose))
        })
        .collect();
    run(&cases, &effort).conclude("crash: sequences of length 3");
}
