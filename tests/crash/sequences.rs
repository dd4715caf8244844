// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Sequences: every operation behind every other, and a choice of those of length 3, on one small
//! tree.

use fs_core::{Error, Fallocate, RenameMode, SetAttr};
use rpramfs_tests::crash::{resolve, run, Case, Effort, World};
use rpramfs_tests::host::Rng;
use rpramfs_tests::script::*;

type R0 = Result<(), Error>;

fn base(w: &World<'_>) -> R0 {
    mkdir(w, "d")?;
    mkdir(w, "e")?;
    file(w, "f", 10_000)?;
    link(w, "f", "d/hard")?;
    file(w, "d/g", 4096)?;
    symlink(w, "s", 200)?;
    comb(w, "c", 10)?;
    touch(w, "u")?;
    fallocate(w, "u", Fallocate::Allocate { keep_size: false }, 0, 20_000)?;
    setxattr(w, "f", "user.small", 30)?;
    setxattr(w, "d/g", "user.large", 9000)?;
    file(w, "sealed", 5000)?;
    w.seal(resolve(w, "sealed")?)?;
    let gone = file(w, "gone", 5000)?;
    unlink(w, "gone")?;
    // The one orphan: later operations find it by its number.
    ORPHAN.with(|o| o.set(gone));
    Ok(())
}

thread_local! {
    static ORPHAN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn orphan() -> u64 {
    ORPHAN.with(std::cell::Cell::get)
}

type Do = fn(&World<'_>) -> R0;

/// The alphabet: what it is called, what it does, whose bytes it may leave mixed.
const ALPHABET: &[(&str, Do, &[&str])] = &[
    ("create", |w| touch(w, "d/new").map(drop), &[]),
    ("mkdir", |w| mkdir(w, "d/newdir").map(drop), &[]),
    ("symlink", |w| symlink(w, "d/newlink", 300), &[]),
    ("tmpfile", |w| tmpfile(w, "d").map(drop), &[]),
    ("link", |w| link(w, "f", "e/f2"), &[]),
    ("link the orphan", |w| link_ino(w, orphan(), "e/back"), &[]),
    ("unlink f", |w| unlink(w, "f").map(drop), &[]),
    ("unlink d/hard", |w| unlink(w, "d/hard").map(drop), &[]),
    ("remove d/g", |w| remove(w, "d/g"), &[]),
    ("remove c", |w| remove(w, "c"), &[]),
    ("remove the symlink", |w| remove(w, "s"), &[]),
    ("remove the sealed file", |w| remove(w, "sealed"), &[]),
    ("rmdir", |w| rmdir(w, "e").map(drop), &[]),
    (
        "rename f",
        |w| rename(w, "f", "e/f", RenameMode::Replace),
        &[],
    ),
    (
        "rename over",
        |w| rename(w, "d/g", "f", RenameMode::Replace),
        &[],
    ),
    (
        "rename a directory",
        |w| rename(w, "d", "e/d", RenameMode::Replace),
        &[],
    ),
    (
        "rename over a directory",
        |w| rename(w, "d", "e", RenameMode::Replace),
        &[],
    ),
    (
        "exchange",
        |w| rename(w, "d/g", "c", RenameMode::Exchange),
        &[],
    ),
    (
        "exchange directories",
        |w| rename(w, "d", "e", RenameMode::Exchange),
        &[],
    ),
    (
        "whiteout",
        |w| rename(w, "f", "d/w", RenameMode::Whiteout),
        &[],
    ),
    (
        "chmod",
        |w| {
            let set = SetAttr {
                mode: Some(0o700),
                ..SetAttr::default()
            };
            w.setattr(resolve(w, "f")?, &set).map(drop)
        },
        &[],
    ),
    ("truncate f", |w| truncate(w, "f", 5000), &[]),
    ("truncate f up", |w| truncate(w, "f", 50_000), &[]),
    ("truncate c", |w| truncate(w, "c", 100), &[]),
    ("append", |w| write(w, "f", 10_000, 3000, 9), &["f"]),
    ("write a hole", |w| write(w, "c", 4096, 4096, 9), &[]),
    (
        "write over all of c",
        |w| write(w, "c", 1000, 60_000, 9),
        &["c"],
    ),
    ("overwrite", |w| write(w, "f", 1000, 5000, 9), &["f"]),
    ("write unwritten", |w| write(w, "u", 5000, 3000, 9), &[]),
    ("write far", |w| write(w, "u", 1 << 40, 3000, 9), &[]),
    (
        "write the orphan",
        |w| write_ino(w, orphan(), 10_000, 3000, 9),
        &[],
    ),
    (
        "allocate",
        |w| fallocate(w, "c", Fallocate::Allocate { keep_size: true }, 0, 100_000),
        &["c"],
    ),
    (
        "punch",
        |w| fallocate(w, "c", Fallocate::PunchHole, 4096, 70_000),
        &["c"],
    ),
    (
        "punch f",
        |w| fallocate(w, "f", Fallocate::PunchHole, 4096, 4096),
        &[],
    ),
    (
        "zero",
        |w| {
            fallocate(
                w,
                "f",
                Fallocate::ZeroRange { keep_size: false },
                4096,
                20_480,
            )
        },
        &["f"],
    ),
    (
        "copy",
        |w| {
            w.copy_range(resolve(w, "c")?, 4096, resolve(w, "u")?, 4096, 30_000)
                .map(drop)
        },
        &["u"],
    ),
    ("setxattr", |w| setxattr(w, "f", "user.more", 100), &[]),
    (
        "setxattr large",
        |w| setxattr(w, "f", "user.small", 20_000),
        &[],
    ),
    ("removexattr", |w| removexattr(w, "f", "user.small"), &[]),
    (
        "removexattr large",
        |w| removexattr(w, "d/g", "user.large"),
        &[],
    ),
    ("seal", |w| w.seal(resolve(w, "f")?), &[]),
    ("seal c", |w| w.seal(resolve(w, "c")?), &[]),
    ("unseal", |w| w.unseal(resolve(w, "sealed")?), &[]),
    ("evict the orphan", |w| w.evict(orphan()), &[]),
];

/// In a sequence an earlier operation may have made a later one impossible: that is fine, as long
/// as nothing is out of order.
fn possible(done: R0) -> R0 {
    match done {
        Err(Error::Corrupt(c)) => Err(Error::Corrupt(c)),
        _ => Ok(()),
    }
}

#[test]
fn crash_pairs() {
    let mut effort = Effort::from_env();
    let full = effort.empty_one_in == 1;
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
                .loose(loose),
            );
        }
    }
    run(&cases, &effort).conclude("crash: sequences of length 2");
}

#[test]
fn crash_triples() {
    let mut effort = Effort::from_env();
    let full = effort.empty_one_in == 1;
    effort.orders.truncate(1);
    effort.recovery_one_in = 32;
    effort.recovery_stops = 20;
    effort.empty_one_in = 16;
    let mut rng = Rng(21);
    let mut any = || &ALPHABET[rng.below(ALPHABET.len() as u64) as usize];
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
            .loose(loose)
        })
        .collect();
    run(&cases, &effort).conclude("crash: sequences of length 3");
}
