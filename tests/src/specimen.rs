// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Small filesystems with every kind of structure in them, to be damaged.

use crate::anatomy::Anatomy;
use crate::crash::resolve;
use crate::fixture::{format, mount};
use crate::host::TestHost;
use crate::record::{Image, Recorder, Scratch};
use crate::script::*;
use crate::tree::{walk, Body, Tree};
use fs_core::{Error, Fs, Ino, Region, RenameMode, SetAttr, ROOT_INO};
use std::collections::BTreeSet;

type F<R> = Fs<R, TestHost>;

/// Every kind of structure at least once. Answers what has no name.
///
/// # Errors
/// What the core answers, as everywhere here.
pub fn flat<R: Region>(fs: &F<R>) -> Result<Vec<Ino>, Error> {
    mkdir(fs, "d")?;
    mkdir(fs, "d/sub")?;
    mkdir(fs, "many")?;
    for i in 0..120 {
        touch(fs, &format!("many/{i:060}"))?;
    }
    file(fs, "f", 10_000)?;
    link(fs, "f", "d/hard")?;
    file(fs, "d/g", 4096)?;
    file(fs, "d/sub/deep", 100)?;
    symlink(fs, "short", 20)?;
    symlink(fs, "long", 3000)?;
    comb(fs, "four", 4)?;
    comb(fs, "tree", 30)?;
    touch(fs, "unwritten")?;
    fallocate(
        fs,
        "unwritten",
        fs_core::Fallocate::Allocate { keep_size: false },
        0,
        40_960,
    )?;
    setxattr(fs, "f", "user.small", 30)?;
    setxattr(fs, "d", "user.large", 9000)?;
    setxattr(fs, "", "trusted.root", 9)?;
    file(fs, "sealed", 30_000)?;
    fs.seal(resolve(fs, "sealed")?)?;
    mknod(fs, "fifo", fs_core::S_IFIFO | 0o600)?;
    let orphan = comb(fs, "orphan", 6)?;
    unlink(fs, "orphan")?;
    let bare = tmpfile(fs, "d")?;
    Ok(vec![orphan, bare])
}

/// Every structure as a tree of its own, some of more than one level.
///
/// # Errors
/// See [`flat`].
pub fn levels<R: Region>(fs: &F<R>) -> Result<(), Error> {
    mkdir(fs, "d")?;
    mkdir(fs, "d/sub")?;
    mkdir(fs, "many")?;
    // The inode table grows by pieces that do not lie side by side.
    for i in 0..420 {
        touch(fs, &format!("many/{i:030}"))?;
        if i % 24 == 0 {
            file(fs, &format!("d/{i}"), 100)?;
            setxattr(fs, &format!("d/{i}"), "user.small", 30)?;
        }
    }
    file(fs, "f", 10_000)?;
    link(fs, "f", "d/hard")?;
    symlink(fs, "short", 20)?;
    symlink(fs, "long", 3000)?;
    comb(fs, "inline", 3)?;
    comb(fs, "leaf", 30)?;
    comb(fs, "levels", 170)?;
    setxattr(fs, "f", "user.inside", 300)?;
    setxattr(fs, "d", "user.large", 9000)?;
    setxattr(fs, "d", "trusted.largest", 65_536)?;
    for window in 0..6 {
        write(fs, "sealed", window << 21, 100, window + 1).or_else(|_| {
            touch(fs, "sealed")?;
            write(fs, "sealed", window << 21, 100, window + 1)
        })?;
    }
    fs.seal(resolve(fs, "sealed")?)?;
    mknod(fs, "fifo", fs_core::S_IFIFO | 0o600)?;
    // Free inodes, and pending sets with more than fits their inodes.
    for i in 100..140 {
        remove(fs, &format!("many/{i:030}"))?;
    }
    for _ in 0..48 {
        tmpfile(fs, "d")?;
    }
    Ok(())
}

/// Changes something in everything, so that what was there before is a stale copy.
///
/// # Errors
/// See [`flat`].
pub fn age<R: Region>(fs: &F<R>) -> Result<(), Error> {
    let tree = walk(fs, &[]).map_err(|_| Error::Invalid)?;
    for (ino, node) in &tree {
        let set = SetAttr {
            uid: Some(77),
            ..SetAttr::default()
        };
        fs.setattr(*ino, &set)?;
        match &node.body {
            Body::Dir { .. } => {
                for i in 0..4u32 {
                    let name = format!("later-{i}");
                    fs.create(*ino, name.as_bytes(), &new(fs_core::S_IFREG | 0o640))?;
                }
                fs.rename(*ino, b"later-0", *ino, b"later-1", RenameMode::Replace)?;
            }
            Body::File(pages) if !node.sealed && !pages.is_empty() => {
                write_ino(fs, *ino, node.size + 8192, 300, *ino)?;
            }
            _ => {}
        }
        let names: Vec<Vec<u8>> = node.xattrs.keys().cloned().collect();
        for name in names {
            let value = crate::host::Rng(*ino).bytes(node.xattrs[&name].len() / 2 + 1);
            fs.setxattr(*ino, &name, &value, fs_core::XattrMode::Either)?;
        }
    }
    let sealed = resolve(fs, "sealed")?;
    fs.unseal(sealed)?;
    write_ino(fs, sealed, 50, 500, 5)?;
    fs.seal(sealed)?;
    for _ in 0..6 {
        tmpfile(fs, "d")?;
    }
    Ok(())
}

/// A filesystem to be damaged.
#[derive(Debug)]
pub struct Specimen {
    /// Its name.
    pub name: &'static str,
    /// The bytes.
    pub image: Image,
    /// All that has a name.
    pub tree: Tree,
    /// The same as it would be without what is staged in the journal.
    pub unstaged: Option<Tree>,
    /// Its structures.
    pub anatomy: Anatomy,
    /// The bytes as they were before, oldest first.
    pub earlier: Vec<Image>,
    /// Every name: directory, name, inode.
    pub names: Vec<(Ino, Vec<u8>, Ino)>,
    /// Inodes that are directories.
    pub dirs: BTreeSet<Ino>,
}

fn tree_of(image: &Image) -> Tree {
    let scratch = Scratch::new(image);
    let fs = mount(&scratch, TestHost::new(5)).expect("mount");
    walk(&fs, &[]).expect("walk")
}

fn specimen(
    name: &'static str,
    image: Image,
    staged: Option<&Image>,
    earlier: Vec<Image>,
) -> Specimen {
    let tree = tree_of(staged.unwrap_or(&image));
    let unstaged = staged.map(|s| {
        // Without the commit words nothing is staged.
        let scratch = Scratch::new(s);
        for slot in commits(&image.mem) {
            scratch.store(slot, 0).expect("inside");
        }
        let fs = mount(&scratch, TestHost::new(5)).expect("mount");
        walk(&fs, &[]).expect("walk")
    });
    let mut names = Vec::new();
    let mut dirs = BTreeSet::new();
    for (dir, node) in &tree {
        if let Body::Dir { entries, .. } = &node.body {
            dirs.insert(*dir);
            names.extend(entries.iter().map(|(n, i)| (*dir, n.clone(), *i)));
        }
    }
    Specimen {
        name,
        anatomy: Anatomy::of(&image.mem),
        image,
        tree,
        unstaged,
        earlier,
        names,
        dirs,
    }
}

/// Offsets of the commit words.
fn commits<R: Region>(region: &R) -> Vec<u64> {
    let word = |at: u64| region.load(at).expect("inside");
    let slots = word(136) & 0xffff_ffff;
    (0..slots)
        .map(|s| (word(184) + 15 * s) * 4096 + 16)
        .collect()
}

/// Damage is done to these.
///
/// # Panics
/// When the core does not do its work.
#[must_use]
pub fn specimens() -> Vec<Specimen> {
    let mut all = Vec::new();
    for (name, bytes, deep) in [("flat", 1u64 << 20, false), ("levels", 2 << 20, true)] {
        let host = TestHost::new(3);
        let tape = Recorder::new(Scratch::zeroed(bytes));
        format(&tape, &host);
        let mut earlier = vec![tape.inner().image()];
        let fs = mount(&tape, host).expect("mount");
        if deep {
            levels(&fs).expect("populate");
        } else {
            flat(&fs).expect("populate");
        }
        earlier.push(tape.inner().image());
        age(&fs).expect("age");
        let image = tape.inner().image();
        if !deep {
            // A crash right behind a commit: the journal has what the region has not.
            tape.start();
            fs.rename(ROOT_INO, b"f", ROOT_INO, b"four", RenameMode::Replace)
                .expect("rename");
            let log = tape.stop();
            let words = commits(&image.mem);
            let at = log
                .stores
                .iter()
                .position(|s| words.contains(&s.off) && s.new != 0)
                .expect("a commit");
            let scratch = Scratch::zeroed(bytes);
            for &page in &image.pages {
                scratch.touch(page * 4096, 4096);
                scratch.mem().copy_page_from(&image.mem, page * 4096);
            }
            for s in &log.stores[..=at] {
                scratch.store(s.off, s.new).expect("inside");
            }
            let staged = scratch.image();
            let before = earlier.iter().chain([&image]).cloned().collect();
            all.push(specimen(
                "a transaction",
                staged.clone(),
                Some(&staged),
                before,
            ));
        }
        all.push(specimen(name, image, None, earlier));
        drop(fs);
    }
    all
}
