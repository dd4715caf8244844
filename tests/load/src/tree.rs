// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What is below a directory, as a value.

use crate::xattr;
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Dir,
    Symlink(String),
    Fifo,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Permissions, without the type.
    pub mode: u32,
    pub links: u64,
    /// The first of the names that name the same inode.
    pub same_as: String,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Owner, times and inode number, where they are asked for.
    pub rest: Option<[i64; 7]>,
}

/// By path below the mount point.
pub type Tree = BTreeMap<String, Entry>;

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let names = xattr::list(path)?.into_iter();
    let one = |name: String| xattr::get(path, &name, 65536).map(|value| (name, value));
    Ok(names.map(one).collect::<Result<_, _>>()?)
}

fn kind(path: &Path, meta: &Metadata) -> io::Result<Kind> {
    let is = meta.file_type();
    Ok(if is.is_file() {
        let data = fs::read(path)?;
        if data.len() as u64 != meta.len() {
            return Err(io::Error::other("read is not as long as the size"));
        }
        Kind::File(data)
    } else if is.is_dir() {
        Kind::Dir
    } else if is.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.to_string_lossy().into_owned())
    } else if is.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Other
    })
}

/// Everything from each of `tops` down; with `rest` also what changes by itself when something is done.
pub fn read(root: &Path, tops: &[String], rest: bool) -> Result<Tree, String> {
    let mut tree = Tree::new();
    // The inode of each name, and the first name of each inode.
    let (mut inodes, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut todo = tops.to_vec();
    while let Some(name) = todo.pop() {
        let path = root.join(&name);
        let entry = || -> io::Result<(Metadata, Entry)> {
            let meta = fs::symlink_metadata(&path)?;
            let seconds = |s: i64, ns: i64| s * 1_000_000_000 + ns;
            let entry = Entry {
                // Reading sets the time of access: the figures are those of before.
                rest: rest.then(|| {
                    [
                        i64::from(meta.uid()),
                        i64::from(meta.gid()),
                        meta.ino() as i64,
                        meta.blocks() as i64,
                        seconds(meta.mtime(), meta.mtime_nsec()),
                        seconds(meta.ctime(), meta.ctime_nsec()),
                        meta.rdev() as i64,
                    ]
                }),
                kind: kind(&path, &meta)?,
                mode: meta.mode() & 0o7777,
                links: meta.nlink(),
                same_as: String::new(),
                xattrs: xattrs(&path)?,
            };
            Ok((meta, entry))
        };
        let (meta, entry) = entry().map_err(|e| format!("{name}: {e}"))?;
        if meta.is_dir() {
            for below in fs::read_dir(&path).map_err(|e| format!("{name}: {e}"))? {
                let below = below.map_err(|e| format!("{name}: {e}"))?;
                todo.push(format!("{name}/{}", below.file_name().to_string_lossy()));
            }
        }
        let same = first.entry(meta.ino()).or_insert_with(|| name.clone());
        if name < *same {
            same.clone_from(&name);
        }
        inodes.insert(name.clone(), meta.ino());
        if tree.insert(name.clone(), entry).is_some() {
            return Err(format!("{name}: listed twice"));
        }
    }
    for (name, entry) in &mut tree {
        entry.same_as.clone_from(&first[&inodes[name]]);
    }
    Ok(tree)
}

/// The first difference, if there is one.
pub fn same(expected: &Tree, found: &Tree) -> Result<(), String> {
    for name in expected.keys().chain(found.keys()) {
        match (expected.get(name), found.get(name)) {
            (Some(e), Some(f)) if e == f => {}
            (Some(e), Some(f)) => {
                return Err(format!("{name}: expected {}, found {}", brief(e), brief(f)))
            }
            (Some(e), None) => return Err(format!("{name}: lost: {}", brief(e))),
            (None, Some(f)) => return Err(format!("{name}: nobody made it: {}", brief(f))),
            (None, None) => unreachable!("the name is from one of them"),
        }
    }
    Ok(())
}

fn brief(e: &Entry) -> String {
    let kind = match &e.kind {
        Kind::File(data) => format!(
            "file of {} bytes that begins {:?}",
            data.len(),
            &data[..data.len().min(8)]
        ),
        other => format!("{other:?}"),
    };
    let xattrs: Vec<_> = e
        .xattrs
        .iter()
        .map(|(n, v)| format!("{n}={}", v.len()))
        .collect();
    format!(
        "{kind}, mode {:o}, {} links, as {}, {xattrs:?}, {:?}",
        e.mode, e.links, e.same_as, e.rest
    )
}
