// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every allocation of every operation fails once: exactly k pages are to be had, for k = 0, 1, 2 and so on
//! until the operation succeeds. Each time it answers NoSpace and changes nothing (or, where it works piece
//! by piece, does a part from the front), and when there is space it succeeds.

use fs_core::layout::INODE_MAGIC;
use fs_core::{Error, Fallocate, Ino, Region, RenameMode, PAGE_SIZE, S_IFREG};
use rpramfs_tests::alphabet::{base, orphan, ALPHABET};
use rpramfs_tests::checker;
use rpramfs_tests::crash::{resolve, Allowed, Tape, World};
use rpramfs_tests::fixture::{audit, drain, format, inode, mount};
use rpramfs_tests::host::TestHost;
use rpramfs_tests::record::{Recorder, Scratch};
use rpramfs_tests::script::*;
use rpramfs_tests::tree::{unnumbered, walk, Tree};
use std::collections::BTreeSet;

type R0 = Result<(), Error>;
type Step = Box<dyn Fn(&World<'_>) -> R0>;

const REGION: u64 = 6 << 20;
const ALLOCATE: Fallocate = Fallocate::Allocate { keep_size: true };

struct Op {
    name: String,
    setup: Step,
    op: Step,
    /// Files of which a part may have been done.
    loose: Vec<&'static str>,
}

fn op(
    name: impl Into<String>,
    setup: impl Fn(&World<'_>) -> R0 + 'static,
    op: impl Fn(&World<'_>) -> R0 + 'static,
    loose: &[&'static str],
) -> Op {
    Op {
        name: name.into(),
        setup: Box::new(setup),
        op: Box::new(op),
        loose: loose.to_vec(),
    }
}

/// A name that takes a lot of room in a leaf.
fn long(i: u64) -> String {
    format!("{i:0>250}")
}

fn copy(w: &World<'_>, from: &str, to: &str, at: u64, len: u64) -> R0 {
    let (from, to) = (resolve(w, from)?, resolve(w, to)?);
    match w.copy_range(from, at, to, at + 5000, len)? {
        n if n == len => Ok(()),
        _ => Err(Error::NoSpace),
    }
}

fn ops() -> Vec<Op> {
    let mut all: Vec<Op> = ALPHABET
        .iter()
        // A short copy is no error to it: see below.
        .filter(|(name, ..)| *name != "copy")
        .map(|(name, act, loose)| op(*name, |_| Ok(()), act, loose))
        .collect();
    all.push(op(
        "copy into what was allocated and beyond",
        |_| Ok(()),
        |w| copy(w, "c", "u", 4096, 30_000),
        &["u"],
    ));
    // Among so many one finds the inode table full.
    for n in 0..36 {
        all.push(op(
            format!("create behind {n} files"),
            move |w| (0..n).try_for_each(|i| touch(w, &format!("d/{i}")).map(drop)),
            |w| touch(w, "d/new").map(drop),
            &[],
        ));
    }
    // Leaves of 13 such names: one finds its leaf full, another one both leaves below the root.
    for n in [0, 12, 13, 14, 26, 27, 40] {
        let names = move |w: &World<'_>| -> R0 {
            touch(w, "target")?;
            mkdir(w, "from")?;
            touch(w, "from/moves")?;
            mkdir(w, "names")?;
            (0..n).try_for_each(|i| link(w, "target", &format!("names/{}", long(i))))
        };
        let new = format!("names/{}", long(1000));
        let at = new.clone();
        all.push(op(
            format!("mknod beside {n} names"),
            names,
            move |w| mknod(w, &at, S_IFREG | 0o600).map(drop),
            &[],
        ));
        let at = new.clone();
        all.push(op(
            format!("link beside {n} names"),
            names,
            move |w| link(w, "target", &at),
            &[],
        ));
        let at = new.clone();
        all.push(op(
            format!("symlink beside {n} names"),
            names,
            move |w| symlink(w, &at, 1000),
            &[],
        ));
        for mode in [RenameMode::Replace, WHITEOUT] {
            let at = new.clone();
            all.push(op(
                format!("rename beside {n} names, {mode:?}"),
                names,
                move |w| rename(w, "from/moves", &at, mode),
                &[],
            ));
        }
    }
    // Four extents fit an inode, 160 a leaf.
    for n in [3, 4, 5, 159, 160, 161] {
        let extents = move |w: &World<'_>| comb(w, "comb", n).map(drop);
        all.push(op(
            format!("write behind {n} extents"),
            extents,
            move |w| write(w, "comb", (n + 5) * 8192, 100, 3),
            &[],
        ));
        all.push(op(
            format!("write among {n} extents"),
            extents,
            move |w| write(w, "comb", (n - 2) * 8192 + 4096 * 3, 8192, 3),
            &["comb"],
        ));
        all.push(op(
            format!("allocate behind {n} extents"),
            extents,
            move |w| fallocate(w, "comb", ALLOCATE, (n + 5) * 8192, 4096),
            &[],
        ));
        // Unwritten pages were promised: they can be written, although an extent becomes three.
        let unwritten = move |w: &World<'_>| -> R0 {
            comb(w, "comb", n - 1)?;
            fallocate(w, "comb", ALLOCATE, 1 << 24, 9 * PAGE_SIZE)
        };
        all.push(op(
            format!("write unwritten among {n} extents"),
            unwritten,
            |w| write(w, "comb", (1 << 24) + 4 * PAGE_SIZE, 100, 3),
            &[],
        ));
        all.push(op(
            format!("punch among {n} extents"),
            unwritten,
            |w| {
                fallocate(
                    w,
                    "comb",
                    Fallocate::PunchHole,
                    (1 << 24) + 4 * PAGE_SIZE,
                    PAGE_SIZE,
                )
            },
            &[],
        ));
    }
    // Four inodes fit a pending set.
    for n in [0, 30, 31, 32, 40] {
        let held = move |w: &World<'_>| (0..n).try_for_each(|_| tmpfile(w, "").map(drop));
        all.push(op(
            format!("tmpfile beside {n} others"),
            held,
            |w| tmpfile(w, "d").map(drop),
            &[],
        ));
        all.push(op(
            format!("unlink beside {n} others"),
            held,
            |w| unlink(w, "c").map(drop),
            &[],
        ));
        all.push(op(
            format!("seal beside {n} others"),
            held,
            |w| w.seal(resolve(w, "f")?),
            &[],
        ));
    }
    // Windows of a seal: four in the inode, then a tree.
    for windows in [1, 4, 5, 200] {
        all.push(op(
            format!("seal {windows} windows"),
            move |w| {
                file(w, "wide", 5000)?;
                truncate(w, "wide", windows << 21)
            },
            |w| w.seal(resolve(w, "wide")?),
            &[],
        ));
    }
    for len in [3000, 4096, 20_000, 65_536] {
        all.push(op(
            format!("setxattr of {len} bytes"),
            |w| setxattr(w, "d/g", "user.other", 10),
            move |w| setxattr(w, "d/g", "user.new", len),
            &[],
        ));
        all.push(op(
            format!("setxattr of {len} bytes for another value"),
            |w| setxattr(w, "d/g", "user.other", 30_000),
            move |w| setxattr(w, "d/g", "user.other", len),
            &[],
        ));
    }
    for len in [4096, 32_768, 36_864, 200_000] {
        all.push(op(
            format!("write {len} new bytes"),
            |w| touch(w, "new").map(drop),
            move |w| write(w, "new", 1000, len, 7),
            &["new"],
        ));
        all.push(op(
            format!("copy {len} bytes"),
            move |w| {
                file(w, "from", len)?;
                touch(w, "new").map(drop)
            },
            move |w| copy(w, "from", "new", 0, len as u64),
            &["new"],
        ));
        for what in [ALLOCATE, Fallocate::ZeroRange { keep_size: false }] {
            all.push(op(
                format!("{what:?} of {len} bytes"),
                |w| touch(w, "new").map(drop),
                move |w| fallocate(w, "new", what, 1000, len as u64),
                &["new"],
            ));
        }
    }
    all
}

/// Those for which pages are kept back, or were promised before.
const WITHOUT_SPACE: &[&str] = &[
    "chmod",
    "evict",
    "exchange d",
    "overwrite",
    "punch",
    "remove",
    "rmdir",
    "truncate",
    "unlink",
    "unseal",
    "write unwritten",
];

/// How the pages lie that are to be had.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Room {
    Together,
    OneByOne,
}

/// Takes all that is available: `fill`, and in turns with it `other` where pages shall lie one by one.
fn fill(w: &World<'_>, room: Room) -> Result<(Ino, Ino), Error> {
    let (a, b) = (touch(w, "fill")?, touch(w, "other")?);
    let (mut at, mut all) = (0, true);
    if room == Room::OneByOne {
        for n in 0..100 {
            w.fallocate(a, ALLOCATE, (1 << 30) + n * 2 * PAGE_SIZE, PAGE_SIZE)?;
            w.fallocate(b, ALLOCATE, n * 2 * PAGE_SIZE, PAGE_SIZE)?;
        }
    }
    while all {
        all = false;
        for step in [1 << 18, 1 << 14, PAGE_SIZE] {
            while w.fallocate(a, ALLOCATE, at, step).is_ok() {
                at += step;
                all = true;
            }
        }
    }
    assert_eq!(w.statfs().available, 0, "meant to be full");
    Ok((a, b))
}

/// Gives pages of the fill back until `k` are available.
fn leave(w: &World<'_>, (a, b): (Ino, Ino), room: Room, k: u64) -> Result<(), String> {
    let mut page = match room {
        Room::Together => 2,
        Room::OneByOne => 0,
    };
    for _ in 0..1000 {
        let available = w.statfs().available;
        if available == k {
            return Ok(());
        }
        if available > k {
            // A node was given back as well.
            let _ = w.fallocate(a, ALLOCATE, 1 << 40, (available - k) * PAGE_SIZE);
            if w.statfs().available > k {
                return Err(format!("{} pages, not {k}", w.statfs().available));
            }
            continue;
        }
        let (ino, at) = match room {
            Room::Together => (a, page),
            Room::OneByOne => (b, 2 * page),
        };
        page += 1;
        w.fallocate(ino, Fallocate::PunchHole, at * PAGE_SIZE, PAGE_SIZE)
            .map_err(|e| format!("punch: {e}"))?;
    }
    Err("no pages are given back".into())
}

struct Run {
    tape: Tape,
    host: TestHost,
}

/// Was the inode written at least once? Nobody may ask for one that was not.
fn ever_used(w: &World<'_>, ino: Ino) -> bool {
    let magic = |at| w.region().load(at).expect("inside") as u32;
    inode(w, ino).is_some_and(|at| magic(at) == INODE_MAGIC)
}

fn tree(w: &World<'_>, fill: (Ino, Ino)) -> Result<(Tree, Tree), String> {
    // Files without a name, which somebody holds. Seals that no file names are nobody's.
    let last = w.statfs().inodes + 64;
    let held: Vec<Ino> = (2..last)
        .filter(|i| ever_used(w, *i))
        .filter(|i| w.getattr(*i).is_ok_and(|a| a.nlink == 0 && a.mode != 0))
        .collect();
    let free = |ino: Ino| !held.contains(&ino);
    while w
        .reclaim_step(&mut |ino, work| {
            if free(ino) {
                work().map(|()| true)
            } else {
                Ok(false)
            }
        })
        .map_err(|e| format!("reclaim: {e}"))?
    {}
    let all = walk(w, &held)?;
    audit(w, &all)?;
    let mut rest = all.clone();
    rest.remove(&fill.0);
    rest.remove(&fill.1);
    Ok((all, rest))
}

fn sound(w: &World<'_>) -> Result<(), String> {
    if w.is_read_only() || !w.host().reports().is_empty() {
        return Err(format!("corruption: {:?}", w.host().reports()));
    }
    checker::clean(w.region(), w.host()).map(drop)
}

impl Run {
    fn new() -> Self {
        let host = TestHost::new(31);
        let tape = Recorder::new(Scratch::zeroed(REGION));
        format(&tape, &host);
        Run { tape, host }
    }

    /// Runs the operation with `k` pages; whether it succeeded. `after`: the tree if it does.
    fn with(&self, op: &Op, room: Room, k: u64, after: &Tree) -> Result<bool, String> {
        let (w, fill) = self.prepared(op, room)?;
        leave(&w, fill, room, k)?;
        let all = tree(&w, fill)?.0;
        let done = (op.op)(&w);
        sound(&w)?;
        let (now, rest) = tree(&w, fill)?;
        let mut loose = BTreeSet::new();
        if op.name == "write the orphan" {
            loose.insert(orphan());
        }
        for path in &op.loose {
            loose.insert(resolve(&w, path).map_err(|e| format!("{path}: {e}"))?);
        }
        let before = all.clone();
        let same = |name: &str, want: &Tree, got: &Tree| {
            // How many nodes a tree of pieces has depends on the order in which they came.
            let mut want = unnumbered(want.clone(), &before);
            let got = unnumbered(got.clone(), &before);
            for ino in &loose {
                let want = want.get_mut(ino).expect(name);
                want.pages = got[ino].pages;
                want.runs.clone_from(&got[ino].runs);
            }
            rpramfs_tests::tree::diff(&want, &got).map_or(Ok(()), |d| Err(format!("{name}: {d}")))
        };
        match done {
            Ok(()) => same("it succeeded", after, &rest)?,
            Err(Error::NoSpace) => {
                let mut part = all.clone();
                for ino in &loose {
                    part.insert(*ino, after[ino].clone());
                }
                let allowed = Allowed {
                    before: all,
                    after: part,
                    loose: loose.clone(),
                };
                allowed.permits(&now, false)?;
                // What failed for want of space is done when there is space.
                for ino in [fill.0, fill.1] {
                    w.fallocate(ino, Fallocate::PunchHole, 0, 1 << 50)
                        .map_err(|e| format!("punch: {e}"))?;
                }
                (op.op)(&w).map_err(|e| format!("with space: {e}"))?;
                sound(&w)?;
                let (_, rest) = tree(&w, fill)?;
                same("with space", after, &rest)?;
            }
            Err(e) => return Err(format!("{e}")),
        }
        drop(w);
        let fs = mount(&self.tape, self.host.reborn()).map_err(|e| e.to_string())?;
        drain(&fs)?;
        audit(&fs, &walk(&fs, &[])?)?;
        checker::clean(&self.tape, fs.host())?;
        Ok(done.is_ok())
    }

    fn prepared<'r>(&'r self, op: &Op, room: Room) -> Result<(World<'r>, (Ino, Ino)), String> {
        let w = mount(&self.tape, self.host.clone()).map_err(|e| e.to_string())?;
        let made = base(&w).and_then(|()| (op.setup)(&w));
        made.map_err(|e| format!("set-up: {e}"))?;
        for _ in 0..16 {
            self.host.tick();
        }
        let fill = fill(&w, room).map_err(|e| format!("fill: {e}"))?;
        for _ in 0..16 {
            self.host.tick();
        }
        Ok((w, fill))
    }

    /// The tree after the operation, with all the space it wants.
    fn at_ease(op: &Op, room: Room) -> Result<Tree, String> {
        let run = Run::new();
        let (w, fill) = run.prepared(op, room)?;
        for ino in [fill.0, fill.1] {
            w.fallocate(ino, Fallocate::PunchHole, 0, 1 << 50)
                .map_err(|e| format!("punch: {e}"))?;
        }
        (op.op)(&w).map_err(|e| format!("with space: {e}"))?;
        Ok(tree(&w, fill)?.1)
    }
}

#[test]
fn space_every_allocation_fails_once() {
    let mut wrong = Vec::new();
    let (mut runs, mut failed, mut most) = (0, 0, 0);
    for op in ops() {
        for room in [Room::Together, Room::OneByOne] {
            let after = match Run::at_ease(&op, room) {
                Ok(after) => after,
                Err(e) => {
                    wrong.push(format!("{} at ease: {e}", op.name));
                    continue;
                }
            };
            for k in 0.. {
                runs += 1;
                match Run::new().with(&op, room, k, &after) {
                    Ok(true) => {
                        most = most.max(k);
                        break;
                    }
                    Ok(false) if WITHOUT_SPACE.iter().any(|w| op.name.starts_with(w)) => {
                        wrong.push(format!("{}: no space {room:?}", op.name));
                        break;
                    }
                    Ok(false) if k < 100 => failed += 1,
                    Ok(false) => {
                        // Values of attributes lie in one run: it may be nowhere.
                        let one_run = room == Room::OneByOne && op.name.contains("setxattr");
                        if !one_run {
                            wrong.push(format!("{}: no space in {k} pages {room:?}", op.name));
                        }
                        break;
                    }
                    Err(e) => {
                        wrong.push(format!("{} with {k} pages {room:?}: {e}", op.name));
                        break;
                    }
                }
            }
        }
    }
    println!("space: {runs} runs, {failed} without space, {most} pages wanted at most");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(failed > 500, "only {failed} failures: they are not met");
}
