// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Two operations at once: before each store of the first the second runs, and the machine stops
//! at each store from there on. What has returned is there; what has not is there or not.

use fs_core::{Error, Fallocate, Region, RenameMode};
use rpramfs_tests::baton::interleave;
use rpramfs_tests::crash::{apply, look, permits, quietly, resolve, Recording, Tally, Tape, World};
use rpramfs_tests::env::is_full;
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{Rng, TestHost};
use rpramfs_tests::record::{Recorder, Scratch};
use rpramfs_tests::script::*;
use rpramfs_tests::tree::{unnumbered, Tree};
use rpramfs_tests::workers;

type R0 = Result<(), Error>;

/// The same on either side: the two share nothing but the allocator, the journal, the inode table
/// and the pending sets.
fn base(w: &World<'_>) -> R0 {
    for side in ["a", "b"] {
        let at = |name: &str| format!("{side}/{name}");
        mkdir(w, side)?;
        mkdir(w, &at("d"))?;
        file(w, &at("f"), 10_000)?;
        touch(w, &at("empty"))?;
        comb(w, &at("c"), 10)?;
        symlink(w, &at("s"), 300)?;
        setxattr(w, &at("f"), "user.large", 9000)?;
        for i in 0..3 {
            touch(w, &at(&format!("{i:060}")))?;
        }
    }
    Ok(())
}

type Do = fn(&World<'_>, &str) -> R0;

const OPERATIONS: &[(&str, Do)] = &[
    ("create", |w, s| touch(w, &format!("{s}/new")).map(drop)),
    ("mkdir", |w, s| mkdir(w, &format!("{s}/new")).map(drop)),
    ("symlink", |w, s| symlink(w, &format!("{s}/new"), 200)),
    ("tmpfile", |w, s| tmpfile(w, s).map(drop)),
    ("unlink", |w, s| unlink(w, &format!("{s}/f")).map(drop)),
    ("remove", |w, s| remove(w, &format!("{s}/c"))),
    ("rmdir", |w, s| rmdir(w, &format!("{s}/d")).map(drop)),
    ("link", |w, s| {
        link(w, &format!("{s}/f"), &format!("{s}/d/hard"))
    }),
    ("rename", |w, s| {
        let (from, to) = (format!("{s}/f"), format!("{s}/d/f"));
        rename(w, &from, &to, RenameMode::Replace)
    }),
    ("rename over", |w, s| {
        let (from, to) = (format!("{s}/f"), format!("{s}/c"));
        rename(w, &from, &to, RenameMode::Replace)
    }),
    ("write a page", |w, s| {
        write(w, &format!("{s}/empty"), 0, 4096, 3)
    }),
    ("write a hole", |w, s| {
        write(w, &format!("{s}/c"), 4096, 4096, 3)
    }),
    ("truncate", |w, s| truncate(w, &format!("{s}/c"), 100)),
    ("punch", |w, s| {
        fallocate(w, &format!("{s}/f"), Fallocate::PunchHole, 4096, 4096)
    }),
    ("setxattr", |w, s| {
        setxattr(w, &format!("{s}/empty"), "user.x", 5000)
    }),
    ("seal", |w, s| w.seal(resolve(w, &format!("{s}/f"))?)),
];

/// A region with `base` in it, and the clock stopped.
fn world() -> (Tape, TestHost) {
    let host = TestHost::new(3);
    let tape = Recorder::new(Scratch::zeroed(2 << 20));
    format(&tape, &host);
    {
        let fs = mount(&tape, host.clone()).expect("mount");
        base(&fs).expect("base");
    }
    (tape, host)
}

struct Run {
    rec: Recording,
    /// Stores of the first operation.
    first: u64,
    /// How many stores had been recorded when the second began, and when it was done.
    second: (usize, usize),
}

/// Both operations, the second before store `at` of the first; without `at` only those wanted.
fn run(first: Option<Do>, second: Option<Do>, at: Option<u64>) -> Result<Run, String> {
    let (tape, host) = world();
    let fs = mount(&tape, host.clone()).map_err(|e| format!("mount: {e:?}"))?;
    for _ in 0..16 {
        host.tick();
    }
    let base = tape.inner().image();
    tape.start();
    let (a, (b, start, end), stores) = interleave(
        at,
        || first.map_or(Ok(()), |f| f(&fs, "a")),
        || {
            let start = tape.recorded();
            let b = second.map_or(Ok(()), |f| f(&fs, "b"));
            (b, start, tape.recorded())
        },
    );
    a.map_err(|e| format!("the first: {e:?}"))?;
    b.map_err(|e| format!("the second: {e:?}"))?;
    if !host.held().is_empty() {
        return Err(format!("locks {:?} are held at the end", host.held()));
    }
    let log = tape.stop();
    host.tick();
    Ok(Run {
        rec: Recording {
            base,
            log,
            host,
            sums: std::collections::BTreeSet::default(),
        },
        first: stores,
        second: (start, end),
    })
}

fn tree_of(run: &Run) -> Result<Tree, String> {
    let mut image = run.rec.base.clone();
    apply(&mut image, &run.rec.log.stores);
    Ok(look(&Scratch::new(&image), &run.rec.host, None, None)?.tree)
}

/// One pair: all interleavings of one hand-over, or a choice of them.
fn pair(a: Do, b: Do, one_in: u64, rng: &mut Rng, tally: &mut Tally) -> Result<(), String> {
    let alone_a = run(Some(a), None, None)?;
    let neither = look(
        &Scratch::new(&alone_a.rec.base),
        &alone_a.rec.host,
        None,
        None,
    )?
    .tree;
    let seen = |tree| unnumbered(tree, &neither);
    let only_a = seen(tree_of(&alone_a)?);
    let only_b = seen(tree_of(&run(None, Some(b), None)?)?);
    let both = seen(tree_of(&run(Some(a), Some(b), None)?)?);
    for at in 0..alone_a.first {
        if !rng.one_in(one_in) {
            continue;
        }
        let r = run(Some(a), Some(b), Some(at))?;
        tally.cases += 1;
        let stores = &r.rec.log.stores;
        tally.stores += stores.len() as u64;
        let rolling = r.rec.base.clone();
        let scratch = Scratch::new(&r.rec.base);
        let mut done = 0;
        for k in r.rec.log.points(1, at) {
            for s in &stores[done..k] {
                rolling.mem.store(s.off, s.new).expect("inside");
                scratch.touch(s.off, 8);
            }
            done = k;
            // Before the second begins it is the first alone, which other tests stop everywhere.
            if k < r.second.0 {
                continue;
            }
            scratch.reset(&rolling.mem);
            tally.states += 1;
            let allowed: &[&Tree] = match k {
                k if k == stores.len() => &[&both],
                k if k >= r.second.1 => &[&only_b, &both],
                _ => &[&neither, &only_a, &only_b, &both],
            };
            let fits = quietly(|| {
                let state = look(&scratch, &r.rec.host, None, None)?;
                permits(allowed, &seen(state.tree))
            });
            if let Err(e) = fits.and_then(|r| r) {
                tally.wrong += 1;
                if tally.violations.len() < 3 {
                    tally.violations.push(format!(
                        "handed over before store {at}, stopped after store {k} of {}: {e}",
                        stores.len()
                    ));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn crash_two_at_once() {
    let one_in = if is_full() { 4 } else { 160 };
    let pairs = OPERATIONS
        .iter()
        .flat_map(|a| OPERATIONS.iter().map(move |b| (a, b)));
    let one = |n, (a, first): (&str, Do), (b, second): (&str, Do)| {
        let mut rng = Rng(n);
        let mut tally = Tally::default();
        let done = quietly(|| pair(first, second, one_in, &mut rng, &mut tally)).and_then(|r| r);
        if let Err(e) = done {
            tally.wrong += 1;
            tally.violations.push(e);
        }
        for v in &mut tally.violations {
            *v = format!("{a} | {b}: {v}");
        }
        tally
    };
    let mut all = Tally::default();
    workers::share(
        (0..).zip(pairs),
        || (),
        |(), (n, (a, b))| one(n, *a, *b),
        |tally| all.add(tally),
    );
    all.conclude("crash: two operations at once");
}
