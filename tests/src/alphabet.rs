// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every operation on one small tree, for tests that go through all of them.

use crate::crash::{resolve, World};
use crate::script::*;
use fs_core::{Error, Fallocate, RenameMode, SetAttr};

type R0 = Result<(), Error>;

/// The tree: one of everything, and an inode without a name.
///
/// # Errors
/// What the core answers.
pub fn base(w: &World<'_>) -> R0 {
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

/// The inode without a name that [`base`] of this thread left.
#[must_use]
pub fn orphan() -> u64 {
    ORPHAN.with(std::cell::Cell::get)
}

/// An operation.
pub type Do = fn(&World<'_>) -> R0;

/// The alphabet: what it is called, what it does, whose bytes it may leave mixed.
pub const ALPHABET: &[(&str, Do, &[&str])] = &[
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
    ("whiteout", |w| rename(w, "f", "d/w", WHITEOUT), &[]),
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
