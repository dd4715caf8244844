// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A filesystem as a few maps: what the core must answer to every operation.
//!
//! It shares no code with the core. Where several errors apply, any of them is right; where the
//! documentation leaves something open, the model takes over what the core did if it is among
//! what is allowed.

use crate::ops::{Op, Out};
use crate::tree::{diff_node, show, Body, Node, Tree};
use fs_core::{
    Attr, Error, Fallocate, Fs, Host, Ino, NewInode, Region, RenameMode, Seek, Unlinked, XattrMode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const PAGE: u64 = 4096;
const MAX: u64 = (1 << 63) - 1;
const FMT: u32 = 0o170_000;
const REG: u32 = 0o100_000;
const DIR: u32 = 0o040_000;
const LNK: u32 = 0o120_000;
const SETGID: u32 = 0o2000;
const ROOT: Ino = 1;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const E2BIG: i32 = 7;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const ERANGE: i32 = 34;
const ENAMETOOLONG: i32 = 36;
const ENOTEMPTY: i32 = 39;
const ENODATA: i32 = 61;
const EOPNOTSUPP: i32 = 95;
const ESTALE: i32 = 116;

/// How SEEK_DATA sees a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Data,
    /// Allocated, never written.
    Unwritten,
    /// All zeros, and either of the two, or a hole, is right.
    Maybe,
}

#[derive(Clone, Debug)]
struct Page {
    /// `None`: zeros.
    bytes: Option<Box<[u8; 4096]>>,
    seen: Seen,
}

#[derive(Clone, Debug)]
enum Kind {
    File {
        size: u64,
        pages: BTreeMap<u64, Page>,
    },
    Dir {
        parent: Ino,
        entries: BTreeMap<Vec<u8>, Ino>,
    },
    Link(Vec<u8>),
    Other,
}

#[derive(Clone, Debug)]
struct Inode {
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    times: [i64; 4],
    sealed: bool,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    kind: Kind,
    /// Made without a name and never linked.
    tmpfile: bool,
    /// Allocated pages are not known (out of space midway).
    loose_pages: bool,
}

const A: usize = 0;
const M: usize = 1;
const C: usize = 2;

/// The reference.
#[derive(Clone, Debug)]
pub struct Model {
    inodes: BTreeMap<Ino, Inode>,
    /// Numbers that named something once.
    gone: BTreeSet<Ino>,
    region_pages: u64,
}

/// What the core says now, for what its documentation leaves open.
pub trait View {
    /// Attributes of an inode.
    fn attr(&self, ino: Ino) -> Option<Attr>;
    /// The inode behind a name.
    fn lookup(&self, dir: Ino, name: &[u8]) -> Option<Ino>;
}

type After<'a> = &'a dyn View;

impl<R: Region, H: Host> View for Fs<R, H> {
    fn attr(&self, ino: Ino) -> Option<Attr> {
        self.getattr(ino).ok()
    }
    fn lookup(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        Fs::lookup(self, dir, name).ok()
    }
}

/// Errors of which one must, or may, be the answer.
#[derive(Default)]
struct Rules {
    must: Vec<i32>,
    may: Vec<i32>,
}

impl Rules {
    fn must(&mut self, cond: bool, errs: &[i32]) {
        if cond {
            self.must.extend(errs);
        }
    }
    fn may(&mut self, cond: bool, errs: &[i32]) {
        if cond {
            self.may.extend(errs);
        }
    }
    /// The answer, if the operation was right to succeed; `None` if it was right to fail.
    fn settle(self, got: &Result<Out, Error>) -> Result<Option<Out>, String> {
        match got {
            Err(e) if self.must.contains(&e.errno()) || self.may.contains(&e.errno()) => Ok(None),
            Err(e) if self.must.is_empty() => Err(format!("failed: {e:?}")),
            Err(e) => Err(format!("failed with {e:?}, wanted errno {:?}", self.must)),
            Ok(_) if !self.must.is_empty() => {
                Err(format!("succeeded, wanted errno {:?}", self.must))
            }
            Ok(out) => Ok(Some(out.clone())),
        }
    }
}

fn name_rules(name: &[u8], r: &mut Rules) {
    r.must(name.is_empty(), &[ENOENT, EINVAL]);
    r.must(name.len() > 255, &[ENAMETOOLONG]);
    let odd = name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
    r.must(odd, &[EINVAL, EEXIST, ENOENT, EISDIR, ENOTEMPTY]);
}

impl Model {
    /// An empty filesystem.
    #[must_use]
    pub fn new(root: &Attr, region_len: u64) -> Self {
        let inode = Inode {
            mode: root.mode,
            nlink: 2,
            uid: root.uid,
            gid: root.gid,
            rdev: 0,
            times: [root.atime, root.mtime, root.ctime, root.btime],
            sealed: false,
            xattrs: BTreeMap::new(),
            kind: Kind::Dir {
                parent: ROOT,
                entries: BTreeMap::new(),
            },
            tmpfile: false,
            loose_pages: false,
        };
        Model {
            inodes: BTreeMap::from([(ROOT, inode)]),
            gone: BTreeSet::new(),
            region_pages: region_len / PAGE,
        }
    }

    /// All inodes that exist, with and without names.
    #[must_use]
    pub fn inos(&self) -> Vec<Ino> {
        self.inodes.keys().copied().collect()
    }

    /// All directories that exist.
    #[must_use]
    pub fn dirs(&self) -> Vec<Ino> {
        let is_dir = |i: &&Ino| matches!(self.inodes[i].kind, Kind::Dir { .. });
        self.inodes.keys().filter(is_dir).copied().collect()
    }

    /// All regular files that exist.
    #[must_use]
    pub fn files(&self) -> Vec<Ino> {
        let is_file = |i: &&Ino| matches!(self.inodes[i].kind, Kind::File { .. });
        self.inodes.keys().filter(is_file).copied().collect()
    }

    /// Inodes without a name.
    #[must_use]
    pub fn orphans(&self) -> Vec<Ino> {
        let orphan = |i: &&Ino| self.inodes[i].nlink == 0;
        self.inodes.keys().filter(orphan).copied().collect()
    }

    /// Names of a directory, in order.
    #[must_use]
    pub fn names(&self, dir: Ino) -> Vec<(Vec<u8>, Ino)> {
        match self.inodes.get(&dir).map(|i| &i.kind) {
            Some(Kind::Dir { entries, .. }) => {
                entries.iter().map(|(n, i)| (n.clone(), *i)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Names of an inode's attributes.
    #[must_use]
    pub fn xattrs(&self, ino: Ino) -> Vec<Vec<u8>> {
        self.inodes
            .get(&ino)
            .map(|i| i.xattrs.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Size of a file.
    #[must_use]
    pub fn size(&self, ino: Ino) -> u64 {
        match self.inodes.get(&ino).map(|i| &i.kind) {
            Some(Kind::File { size, .. }) => *size,
            _ => 0,
        }
    }

    /// Is this a directory?
    #[must_use]
    pub fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inodes.get(&ino), Some(i) if matches!(i.kind, Kind::Dir { .. }))
    }

    /// Is `dir` the inode `top`, or below it?
    #[must_use]
    pub fn below(&self, mut dir: Ino, top: Ino) -> bool {
        loop {
            if dir == top {
                return true;
            }
            match self.inodes.get(&dir).map(|i| &i.kind) {
                Some(Kind::Dir { parent, .. }) if *parent != dir => dir = *parent,
                _ => return false,
            }
        }
    }

    /// Nobody holds anything any more: what has no name is gone.
    pub fn remount(&mut self) {
        for ino in self.orphans() {
            self.inodes.remove(&ino);
            self.gone.insert(ino);
        }
    }

    fn find(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        match &self.inodes.get(&dir)?.kind {
            Kind::Dir { entries, .. } => entries.get(name).copied(),
            _ => None,
        }
    }

    fn entries(&mut self, dir: Ino) -> &mut BTreeMap<Vec<u8>, Ino> {
        match &mut self.inodes.get_mut(&dir).expect("exists").kind {
            Kind::Dir { entries, .. } => entries,
            _ => panic!("not a directory"),
        }
    }

    fn get(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("exists")
    }

    fn alive(&self, ino: Ino, r: &mut Rules) {
        r.must(!self.inodes.contains_key(&ino), &[ESTALE]);
    }

    fn need_dir(&self, dir: Ino, r: &mut Rules) {
        match self.inodes.get(&dir) {
            None => r.must(true, &[ESTALE]),
            Some(i) => r.must(!matches!(i.kind, Kind::Dir { .. }), &[ENOTDIR]),
        }
    }

    /// For operations that add a name.
    fn need_live_dir(&self, dir: Ino, r: &mut Rules) {
        self.need_dir(dir, r);
        if self.is_dir(dir) {
            r.must(self.inodes[&dir].nlink == 0, &[ENOENT, ESTALE]);
        }
    }

    fn need_file(&self, ino: Ino, r: &mut Rules) {
        match self.inodes.get(&ino).map(|i| &i.kind) {
            None => r.must(true, &[ESTALE]),
            Some(Kind::File { .. }) => {}
            Some(Kind::Dir { .. }) => {
                r.must(true, &[EISDIR, EINVAL, EOPNOTSUPP]);
            }
            Some(_) => r.must(true, &[EINVAL, EOPNOTSUPP, EPERM]),
        }
    }

    fn sealed(&self, ino: Ino) -> bool {
        self.inodes.get(&ino).is_some_and(|i| i.sealed)
    }

    fn attr_matches(&self, ino: Ino, got: &Attr) -> Result<(), String> {
        let w = &self.inodes[&ino];
        let size = match &w.kind {
            Kind::File { size, .. } => *size,
            Kind::Link(t) => t.len() as u64,
            Kind::Dir { .. } => got.size,
            Kind::Other => 0,
        };
        let mut out = String::new();
        macro_rules! field {
            ($name:ident, $want:expr) => {
                if got.$name != $want {
                    let _ = write!(
                        out,
                        "{} {:?}, wanted {:?}; ",
                        stringify!($name),
                        got.$name,
                        $want
                    );
                }
            };
        }
        field!(ino, ino);
        field!(mode, w.mode);
        field!(nlink, w.nlink);
        field!(uid, w.uid);
        field!(gid, w.gid);
        field!(rdev, w.rdev);
        field!(size, size);
        field!(atime, w.times[0]);
        field!(mtime, w.times[1]);
        field!(ctime, w.times[2]);
        field!(btime, w.times[3]);
        field!(sealed, w.sealed);
        let (low, high) = page_bounds(w);
        if got.pages < low || got.pages > high {
            let _ = write!(out, "{} pages, wanted {low}..={high}; ", got.pages);
        }
        if out.is_empty() {
            Ok(())
        } else {
            Err(format!("attributes of inode {ino}: {out}"))
        }
    }

    /// The core may give the inode any of these values where the documentation leaves it open.
    fn adopt_times(&mut self, ino: Ino, now: i64, which: &[usize], after: After<'_>) {
        if let (Some(i), Some(a)) = (self.inodes.get_mut(&ino), after.attr(ino)) {
            let got = [a.atime, a.mtime, a.ctime, a.btime];
            for &t in which {
                if got[t] == now {
                    i.times[t] = now;
                }
            }
        }
    }

    /// A change of the contents, owner or size may take SUID and SGID away.
    fn adopt_suid(&mut self, ino: Ino, after: After<'_>) {
        if let (Some(i), Some(a)) = (self.inodes.get_mut(&ino), after.attr(ino)) {
            let lost = i.mode & !a.mode;
            if a.mode & !i.mode == 0 && lost & !0o6000 == 0 {
                i.mode = a.mode;
            }
        }
    }

    fn add(&mut self, dir: Ino, new: &NewInode, kind: Kind, a: &Attr, now: i64, nlink: u32) {
        let parent = &self.inodes[&dir];
        let is_dir = matches!(kind, Kind::Dir { .. });
        let inherit = parent.mode & SETGID != 0;
        let mut mode = new.mode;
        if inherit && is_dir {
            mode |= SETGID;
        }
        let inode = Inode {
            mode,
            nlink,
            uid: new.uid,
            gid: if inherit { parent.gid } else { new.gid },
            rdev: new.rdev,
            times: [now; 4],
            sealed: false,
            xattrs: BTreeMap::new(),
            kind,
            tmpfile: nlink == 0,
            loose_pages: false,
        };
        self.inodes.insert(a.ino, inode);
        self.gone.remove(&a.ino);
    }

    fn new_ino(&self, a: &Attr) -> Result<(), String> {
        if a.ino == 0 || self.inodes.contains_key(&a.ino) {
            return Err(format!("inode number {} is in use", a.ino));
        }
        Ok(())
    }

    fn dir_changed(&mut self, dir: Ino, now: i64) {
        let d = self.get(dir);
        d.times[M] = now;
        d.times[C] = now;
    }

    /// Takes one link off an inode.
    fn drop_link(&mut self, ino: Ino, now: i64) -> u32 {
        let i = self.get(ino);
        i.times[C] = now;
        if matches!(i.kind, Kind::Dir { .. }) {
            i.nlink = 0;
        } else {
            i.nlink -= 1;
        }
        i.nlink
    }

    /// Checks an answer, and does the same if it was a success. `tight`: out of space is an
    /// acceptable answer. `after`: attributes the core reports now.
    ///
    /// # Errors
    /// Says what is wrong.
    #[allow(clippy::too_many_lines)]
    pub fn judge(
        &mut self,
        op: &Op,
        now: i64,
        got: &Result<Out, Error>,
        tight: bool,
        after: After<'_>,
    ) -> Result<(), String> {
        let mut r = Rules::default();
        let space: &[i32] = &[ENOSPC];
        match op {
            Op::Lookup { dir, name } => {
                self.need_dir(*dir, &mut r);
                let found = self.find(*dir, name);
                if name.len() > 255 {
                    r.must(true, &[ENAMETOOLONG, ENOENT]);
                } else {
                    r.must(found.is_none(), &[ENOENT]);
                    let odd = matches!(&name[..], b"" | b"." | b"..")
                        || name.contains(&b'/')
                        || name.contains(&0);
                    r.may(odd, &[EINVAL]);
                }
                if let Some(out) = r.settle(got)? {
                    same(&out, &Out::Ino(found.unwrap_or(0)))?;
                }
            }
            Op::Parent { dir } => {
                self.need_dir(*dir, &mut r);
                // Of a removed directory there is nothing to say.
                let dead = self.is_dir(*dir) && self.inodes[dir].nlink == 0;
                r.may(dead, &[ENOENT, ESTALE]);
                if let Some(out) = r.settle(got)? {
                    if let Kind::Dir { parent, .. } = &self.inodes[dir].kind {
                        if !dead {
                            same(&out, &Out::Ino(*parent))?;
                        }
                    }
                }
            }
            Op::Getattr { ino } => {
                self.alive(*ino, &mut r);
                if let Some(Out::Attr(a)) = r.settle(got)? {
                    self.attr_matches(*ino, &a)?;
                }
            }
            Op::Setattr { ino, set } => {
                self.alive(*ino, &mut r);
                if let (Some(size), Some(i)) = (set.size, self.inodes.get(ino)) {
                    match &i.kind {
                        Kind::File { size: old, .. } => {
                            r.must(size > MAX, &[EFBIG, EINVAL]);
                            r.must(i.sealed, &[EPERM]);
                            // Cutting a page in two may need nothing; a longer file neither.
                            let _ = old;
                            r.may(tight && size % PAGE != 0, space);
                        }
                        Kind::Dir { .. } => r.must(true, &[EISDIR, EINVAL]),
                        _ => r.must(true, &[EINVAL, EPERM]),
                    }
                }
                r.may(self.sealed(*ino), &[EPERM]);
                if let Some(Out::Attr(a)) = r.settle(got)? {
                    let i = self.get(*ino);
                    if let Some(mode) = set.mode {
                        i.mode = (i.mode & FMT) | (mode & 0o7777);
                    }
                    i.uid = set.uid.unwrap_or(i.uid);
                    i.gid = set.gid.unwrap_or(i.gid);
                    i.times[A] = set.atime.unwrap_or(i.times[A]);
                    i.times[M] = set.mtime.unwrap_or(i.times[M]);
                    i.times[C] = set.ctime.unwrap_or(now);
                    if let Some(size) = set.size {
                        i.times[M] = set.mtime.unwrap_or(now);
                        i.truncate(size);
                    }
                    if set.size.is_some() || set.uid.is_some() || set.gid.is_some() {
                        self.adopt_suid(*ino, after);
                    }
                    self.attr_matches(*ino, &a)?;
                }
            }
            Op::Create { dir, name, new } => {
                self.need_live_dir(*dir, &mut r);
                name_rules(name, &mut r);
                r.must(self.find(*dir, name).is_some(), &[EEXIST]);
                let kind = new.mode & FMT;
                let ok = [REG, DIR, 0o010_000, 0o020_000, 0o060_000, 0o140_000].contains(&kind);
                r.must(!ok, &[EINVAL]);
                r.may(tight, space);
                if let Some(Out::Attr(a)) = r.settle(got)? {
                    self.new_ino(&a)?;
                    let body = match kind {
                        REG => file(),
                        DIR => Kind::Dir {
                            parent: *dir,
                            entries: BTreeMap::new(),
                        },
                        _ => Kind::Other,
                    };
                    let mut new = *new;
                    if kind != 0o020_000 && kind != 0o060_000 {
                        new.rdev = 0;
                    }
                    self.add(*dir, &new, body, &a, now, if kind == DIR { 2 } else { 1 });
                    self.entries(*dir).insert(name.clone(), a.ino);
                    self.dir_changed(*dir, now);
                    if kind == DIR {
                        self.get(*dir).nlink += 1;
                    }
                    self.attr_matches(a.ino, &a)?;
                }
            }
            Op::Tmpfile { dir, new } => {
                self.need_dir(*dir, &mut r);
                r.may(
                    self.is_dir(*dir) && self.inodes[dir].nlink == 0,
                    &[ENOENT, ESTALE],
                );
                r.must(new.mode & FMT != REG && new.mode & FMT != 0, &[EINVAL]);
                r.may(tight, space);
                if let Some(Out::Attr(a)) = r.settle(got)? {
                    self.new_ino(&a)?;
                    let mut new = *new;
                    new.mode = REG | (new.mode & 0o7777);
                    new.rdev = 0;
                    self.add(*dir, &new, file(), &a, now, 0);
                    self.attr_matches(a.ino, &a)?;
                }
            }
            Op::Symlink {
                dir,
                name,
                target,
                new,
            } => {
                self.need_live_dir(*dir, &mut r);
                name_rules(name, &mut r);
                r.must(self.find(*dir, name).is_some(), &[EEXIST]);
                r.must(target.is_empty(), &[ENOENT, EINVAL]);
                r.must(target.len() > 4095, &[ENAMETOOLONG]);
                r.may(tight, space);
                if let Some(Out::Attr(a)) = r.settle(got)? {
                    self.new_ino(&a)?;
                    let mut new = *new;
                    new.mode = LNK | (a.mode & 0o7777);
                    new.rdev = 0;
                    self.add(*dir, &new, Kind::Link(target.clone()), &a, now, 1);
                    self.entries(*dir).insert(name.clone(), a.ino);
                    self.dir_changed(*dir, now);
                    self.attr_matches(a.ino, &a)?;
                }
            }
            Op::Readlink { ino } => {
                self.alive(*ino, &mut r);
                let target = match self.inodes.get(ino).map(|i| &i.kind) {
                    Some(Kind::Link(t)) => Some(t.clone()),
                    _ => None,
                };
                r.must(target.is_none(), &[EINVAL]);
                if let Some(out) = r.settle(got)? {
                    same(&out, &Out::Bytes(target.unwrap_or_default()))?;
                }
            }
            Op::Link { ino, dir, name } => {
                self.alive(*ino, &mut r);
                self.need_live_dir(*dir, &mut r);
                name_rules(name, &mut r);
                r.must(self.find(*dir, name).is_some(), &[EEXIST]);
                r.must(self.is_dir(*ino), &[EPERM]);
                let dead = |i: &Inode| i.nlink == 0 && !i.tmpfile;
                r.may(self.inodes.get(ino).is_some_and(dead), &[ENOENT]);
                r.may(tight, space);
                if let Some(Out::Attr(a)) = r.settle(got)? {
                    self.entries(*dir).insert(name.clone(), *ino);
                    self.dir_changed(*dir, now);
                    let i = self.get(*ino);
                    i.nlink += 1;
                    i.tmpfile = false;
                    i.times[C] = now;
                    self.attr_matches(*ino, &a)?;
                }
            }
            Op::Unlink { dir, name } => {
                self.need_dir(*dir, &mut r);
                name_rules(name, &mut r);
                let found = self.find(*dir, name);
                r.must(found.is_none(), &[ENOENT]);
                r.must(found.is_some_and(|i| self.is_dir(i)), &[EISDIR]);
                if let (Some(out), Some(ino)) = (r.settle(got)?, found) {
                    self.entries(*dir).remove(name);
                    self.dir_changed(*dir, now);
                    let nlink = self.drop_link(ino, now);
                    same(&out, &Out::Unlinked(Some(Unlinked { ino, nlink })))?;
                }
            }
            Op::Rmdir { dir, name } => {
                self.need_dir(*dir, &mut r);
                name_rules(name, &mut r);
                let found = self.find(*dir, name);
                r.must(found.is_none(), &[ENOENT]);
                if let Some(ino) = found {
                    r.must(!self.is_dir(ino), &[ENOTDIR]);
                    r.must(!self.names(ino).is_empty(), &[ENOTEMPTY]);
                }
                if let (Some(out), Some(ino)) = (r.settle(got)?, found) {
                    self.entries(*dir).remove(name);
                    self.dir_changed(*dir, now);
                    self.get(*dir).nlink -= 1;
                    let nlink = self.drop_link(ino, now);
                    same(&out, &Out::Unlinked(Some(Unlinked { ino, nlink })))?;
                }
            }
            Op::Rename {
                dir,
                name,
                new_dir,
                new_name,
                mode,
            } => {
                self.need_dir(*dir, &mut r);
                self.need_live_dir(*new_dir, &mut r);
                name_rules(name, &mut r);
                name_rules(new_name, &mut r);
                let source = self.find(*dir, name);
                let target = self.find(*new_dir, new_name);
                r.must(source.is_none(), &[ENOENT]);
                match mode {
                    RenameMode::NoReplace => r.must(target.is_some(), &[EEXIST]),
                    RenameMode::Exchange => r.must(target.is_none(), &[ENOENT]),
                    RenameMode::Replace | RenameMode::Whiteout { .. } => {
                        if let (Some(s), Some(t)) = (source, target) {
                            if s != t {
                                match (self.is_dir(s), self.is_dir(t)) {
                                    (true, false) => r.must(true, &[ENOTDIR]),
                                    (false, true) => r.must(true, &[EISDIR]),
                                    (true, true) => {
                                        r.must(!self.names(t).is_empty(), &[ENOTEMPTY]);
                                    }
                                    (false, false) => {}
                                }
                            }
                        }
                    }
                }
                r.may(tight, space);
                if let (Some(out), Some(s)) = (r.settle(got)?, source) {
                    self.rename(
                        (*dir, name, s),
                        (*new_dir, new_name, target),
                        *mode,
                        now,
                        &out,
                        after,
                    )?;
                }
            }
            Op::Readdir { dir, .. } => {
                self.need_dir(*dir, &mut r);
                if let Some(out) = r.settle(got)? {
                    let Out::Names(mut names) = out else {
                        return Err(format!("answered {out:?}"));
                    };
                    names.sort_unstable();
                    let want = self.names(*dir);
                    if names != want {
                        let list = |v: &[(Vec<u8>, Ino)]| {
                            v.iter()
                                .map(|(n, i)| format!("{}={i}", show(n)))
                                .collect::<Vec<_>>()
                                .join(" ")
                        };
                        return Err(format!("gave {}; wanted {}", list(&names), list(&want)));
                    }
                }
            }
            Op::Read { ino, offset, len } => {
                self.need_file(*ino, &mut r);
                r.may(*offset > MAX, &[EINVAL, EFBIG]);
                if let Some(out) = r.settle(got)? {
                    let want = self.inodes[ino].read(*offset, *len as u64);
                    let Out::Bytes(got) = out else {
                        return Err(format!("answered {out:?}"));
                    };
                    same_bytes(&got, &want)?;
                }
            }
            Op::Write { ino, offset, data } => {
                self.need_file(*ino, &mut r);
                let bytes = data.bytes();
                let past = offset
                    .checked_add(bytes.len() as u64)
                    .is_none_or(|e| e > MAX);
                // Up to the limit it may be written in part.
                r.must(!bytes.is_empty() && past && *offset >= MAX, &[EFBIG]);
                r.may(past, &[EFBIG, EINVAL]);
                r.must(self.sealed(*ino) && !bytes.is_empty(), &[EPERM]);
                r.may(self.sealed(*ino), &[EPERM]);
                r.may(tight, space);
                if let Some(Out::Number(n)) = r.settle(got)? {
                    let whole = n == bytes.len() as u64;
                    if !whole && !(n > 0 && n < bytes.len() as u64 && (tight || past)) {
                        return Err(format!("wrote {n} of {}", bytes.len()));
                    }
                    let i = self.get(*ino);
                    i.loose_pages |= !whole;
                    i.write(*offset, &bytes[..n as usize]);
                    if n > 0 {
                        i.times[M] = now;
                        i.times[C] = now;
                        self.adopt_suid(*ino, after);
                    } else {
                        self.adopt_times(*ino, now, &[M, C], after);
                    }
                } else if got == &Err(Error::NoSpace) {
                    self.get(*ino).loose_pages = true;
                }
            }
            Op::Overwrite { ino, offset, data } => {
                self.need_file(*ino, &mut r);
                r.may(self.sealed(*ino), &[EPERM]);
                r.may(*offset > MAX, &[EFBIG, EINVAL]);
                if let Some(out) = r.settle(got)? {
                    let i = self.get(*ino);
                    let Kind::File { size, pages } = &i.kind else {
                        return Err("not a file".into());
                    };
                    let end = offset.checked_add(data.len as u64);
                    let inside = end.is_some_and(|e| e <= *size) && !i.sealed;
                    let kinds: Vec<Option<Seen>> = match end {
                        Some(end) if inside && data.len > 0 => (*offset / PAGE..=(end - 1) / PAGE)
                            .map(|p| pages.get(&p).map(|p| p.seen))
                            .collect(),
                        _ => Vec::new(),
                    };
                    let all = kinds.iter().all(|k| *k == Some(Seen::Data));
                    let none = kinds
                        .iter()
                        .any(|k| matches!(k, None | Some(Seen::Unwritten)));
                    match out {
                        Out::Flag(true) if inside && !none => {
                            i.write(*offset, &data.bytes());
                            if data.len > 0 {
                                i.times[M] = now;
                                i.times[C] = now;
                            }
                            self.adopt_suid(*ino, after);
                            self.adopt_times(*ino, now, &[M, C], after);
                        }
                        // A time to be changed makes it no overwrite either.
                        Out::Flag(false)
                            if !inside
                                || !all
                                || data.len == 0
                                || i.times[M] != now
                                || i.times[C] != now => {}
                        other => return Err(format!("answered {other:?}")),
                    }
                }
            }
            Op::TouchAtime { ino, time } => {
                self.alive(*ino, &mut r);
                if r.settle(got)?.is_some() {
                    let i = self.get(*ino);
                    i.times[A] = i.times[A].max(*time);
                }
            }
            Op::Fallocate {
                ino,
                what,
                offset,
                len,
            } => {
                self.need_file(*ino, &mut r);
                r.must(self.sealed(*ino), &[EPERM]);
                r.must(*len == 0, &[EINVAL]);
                let end = offset.checked_add(*len).filter(|e| *e <= MAX);
                if *what == Fallocate::PunchHole {
                    r.may(end.is_none(), &[EFBIG, EINVAL]);
                    r.may(tight, space);
                } else {
                    r.must(end.is_none(), &[EFBIG, EINVAL]);
                    r.may(tight, space);
                    let pages = len.div_ceil(PAGE);
                    // What cannot fit must be refused.
                    r.must(pages > self.region_pages && end.is_some(), space);
                }
                if r.settle(got)?.is_some() {
                    let end = end.unwrap_or(MAX);
                    let i = self.get(*ino);
                    i.fallocate(*what, *offset, end);
                    let grew = matches!(what, Fallocate::Allocate { .. });
                    if grew {
                        self.adopt_times(*ino, now, &[M, C], after);
                    } else {
                        i.times[M] = now;
                        i.times[C] = now;
                    }
                    self.adopt_suid(*ino, after);
                } else if got == &Err(Error::NoSpace) && self.inodes.contains_key(ino) {
                    self.get(*ino).loose_pages = true;
                }
            }
            Op::Seek { ino, offset, what } => {
                self.need_file(*ino, &mut r);
                let size = self.size(*ino);
                r.must(*offset >= size, &[ENXIO]);
                let no_data = self
                    .inodes
                    .get(ino)
                    .is_some_and(|i| !i.has_data(*offset, true));
                let maybe_no_data = self
                    .inodes
                    .get(ino)
                    .is_some_and(|i| !i.has_data(*offset, false));
                if *what == Seek::Data && *offset < size {
                    r.must(no_data, &[ENXIO, ENODATA]);
                    r.may(maybe_no_data, &[ENXIO, ENODATA]);
                }
                if let Some(Out::Number(at)) = r.settle(got)? {
                    self.inodes[ino].seek_ok(*offset, *what, at)?;
                }
            }
            Op::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                self.need_file(*from, &mut r);
                self.need_file(*to, &mut r);
                r.must(self.sealed(*to) && *len > 0, &[EPERM]);
                r.may(self.sealed(*to), &[EPERM]);
                let size = self.size(*from);
                let n = size.saturating_sub(*from_offset).min(*len);
                let past = to_offset.checked_add(n).is_none_or(|e| e > MAX);
                r.may(
                    to_offset.checked_add(*len).is_none_or(|e| e > MAX),
                    &[EFBIG, EINVAL],
                );
                r.may(from_offset.checked_add(*len).is_none(), &[EFBIG, EINVAL]);
                let overlap = from == to && from_offset.abs_diff(*to_offset) < *len;
                r.must(
                    overlap && from_offset.abs_diff(*to_offset) < n && n > 0,
                    &[EINVAL],
                );
                r.may(overlap, &[EINVAL]);
                r.must(n > 0 && past && *to_offset >= MAX, &[EFBIG]);
                r.may(tight, space);
                if let Some(Out::Number(done)) = r.settle(got)? {
                    if done != n && !(done > 0 && done < n && (tight || past)) {
                        return Err(format!("copied {done} of {n}"));
                    }
                    self.copy(*from, *from_offset, *to, *to_offset, done);
                    let i = self.get(*to);
                    i.loose_pages |= done < n;
                    if done > 0 {
                        i.times[M] = now;
                        i.times[C] = now;
                        self.adopt_suid(*to, after);
                    } else {
                        self.adopt_times(*to, now, &[M, C], after);
                    }
                } else if got == &Err(Error::NoSpace) {
                    self.get(*to).loose_pages = true;
                }
            }
            Op::Getxattr { ino, name, room } => {
                self.alive(*ino, &mut r);
                let value = self
                    .inodes
                    .get(ino)
                    .and_then(|i| i.xattrs.get(name))
                    .cloned();
                xattr_name_rules(name, &mut r);
                r.must(value.is_none(), &[ENODATA]);
                let value = value.unwrap_or_default();
                r.must(*room > 0 && *room < value.len(), &[ERANGE]);
                if let Some(out) = r.settle(got)? {
                    if *room == 0 && !value.is_empty() {
                        same(&out, &Out::Len(value.len()))?;
                    } else {
                        same(&out, &Out::Bytes(value))?;
                    }
                }
            }
            Op::Listxattr { ino, room } => {
                self.alive(*ino, &mut r);
                let names = self.xattrs(*ino);
                let total: usize = names.iter().map(|n| n.len() + 1).sum();
                r.must(*room > 0 && *room < total, &[ERANGE]);
                if let Some(out) = r.settle(got)? {
                    match out {
                        Out::Len(n) if *room == 0 && n == total => {}
                        Out::Bytes(list) if list.len() == total => {
                            let mut got: Vec<&[u8]> = list.split_inclusive(|b| *b == 0).collect();
                            got.sort_unstable();
                            let want: Vec<Vec<u8>> = names
                                .into_iter()
                                .map(|mut n| {
                                    n.push(0);
                                    n
                                })
                                .collect();
                            if got != want {
                                return Err(format!("gave {got:?}"));
                            }
                        }
                        other => return Err(format!("answered {other:?}, {total} bytes wanted")),
                    }
                }
            }
            Op::Setxattr {
                ino,
                name,
                value,
                mode,
            } => {
                self.alive(*ino, &mut r);
                xattr_name_rules(name, &mut r);
                r.must(value.len > 65536, &[E2BIG]);
                let there = self
                    .inodes
                    .get(ino)
                    .is_some_and(|i| i.xattrs.contains_key(name));
                r.must(there && *mode == XattrMode::Create, &[EEXIST]);
                r.must(!there && *mode == XattrMode::Replace, &[ENODATA]);
                r.may(self.sealed(*ino), &[EPERM]);
                r.may(tight, space);
                // All names and what stands beside them must fit one page of attributes.
                let mut all = self
                    .inodes
                    .get(ino)
                    .map(|i| i.xattrs.clone())
                    .unwrap_or_default();
                all.insert(name.clone(), vec![0; value.len]);
                let room = |inline: fn(usize) -> usize| -> usize {
                    all.iter()
                        .map(|(n, v)| (8 + n.len() + inline(v.len())).div_ceil(8) * 8)
                        .sum()
                };
                r.must(room(|n| n.min(16)) > 4096 - 64, space);
                r.may(room(|n| n.max(16)) > 4096 - 64, space);
                if r.settle(got)?.is_some() {
                    let i = self.get(*ino);
                    i.xattrs.insert(name.clone(), value.bytes());
                    i.times[C] = now;
                }
            }
            Op::Removexattr { ino, name } => {
                self.alive(*ino, &mut r);
                xattr_name_rules(name, &mut r);
                let there = self
                    .inodes
                    .get(ino)
                    .is_some_and(|i| i.xattrs.contains_key(name));
                r.must(!there, &[ENODATA]);
                r.may(self.sealed(*ino), &[EPERM]);
                if r.settle(got)?.is_some() {
                    let i = self.get(*ino);
                    i.xattrs.remove(name);
                    i.times[C] = now;
                }
            }
            Op::Evict { ino } => {
                self.alive(*ino, &mut r);
                if r.settle(got)?.is_some() && self.inodes[ino].nlink == 0 {
                    self.inodes.remove(ino);
                    self.gone.insert(*ino);
                }
            }
            Op::Seal { ino } => {
                self.need_file(*ino, &mut r);
                r.may(self.sealed(*ino), &[EPERM, EINVAL, EEXIST]);
                r.may(tight, space);
                if r.settle(got)?.is_some() {
                    self.get(*ino).sealed = true;
                    self.adopt_times(*ino, now, &[C], after);
                }
            }
            Op::Unseal { ino } => {
                self.need_file(*ino, &mut r);
                let file = self.inodes.contains_key(ino);
                r.may(file && !self.sealed(*ino), &[EINVAL]);
                if r.settle(got)?.is_some() {
                    self.get(*ino).sealed = false;
                    self.adopt_times(*ino, now, &[C], after);
                }
            }
            Op::Verify { ino } => {
                self.need_file(*ino, &mut r);
                r.may(!self.sealed(*ino), &[EINVAL, ENODATA]);
                r.settle(got)?;
            }
        }
        Ok(())
    }

    fn rename(
        &mut self,
        (dir, name, source): (Ino, &[u8], Ino),
        (new_dir, new_name, target): (Ino, &[u8], Option<Ino>),
        mode: RenameMode,
        now: i64,
        out: &Out,
        after: After<'_>,
    ) -> Result<(), String> {
        if target == Some(source) {
            // Two names of one inode, or one name: nothing happens.
            return same(out, &Out::Unlinked(None));
        }
        let dir_moves = self.is_dir(source);
        if mode == RenameMode::Exchange {
            let other = target.ok_or("no target")?;
            same(out, &Out::Unlinked(None))?;
            let other_moves = self.is_dir(other);
            self.entries(dir).insert(name.to_vec(), other);
            self.entries(new_dir).insert(new_name.to_vec(), source);
            if dir != new_dir {
                if dir_moves {
                    self.get(dir).nlink -= 1;
                    self.get(new_dir).nlink += 1;
                }
                if other_moves {
                    self.get(new_dir).nlink -= 1;
                    self.get(dir).nlink += 1;
                }
            }
            self.set_parent(source, new_dir);
            self.set_parent(other, dir);
            self.get(source).times[C] = now;
            self.get(other).times[C] = now;
        } else {
            let mut replaced = None;
            if let Some(ino) = target {
                if self.is_dir(ino) {
                    self.get(new_dir).nlink -= 1;
                }
                let nlink = self.drop_link(ino, now);
                replaced = Some(Unlinked { ino, nlink });
            }
            same(out, &Out::Unlinked(replaced))?;
            self.entries(dir).remove(name);
            self.entries(new_dir).insert(new_name.to_vec(), source);
            if dir_moves && dir != new_dir {
                self.get(dir).nlink -= 1;
                self.get(new_dir).nlink += 1;
            }
            self.set_parent(source, new_dir);
            self.get(source).times[C] = now;
        }
        self.dir_changed(dir, now);
        self.dir_changed(new_dir, now);
        if let RenameMode::Whiteout { uid, gid } = mode {
            // The core chose its inode; which one, the directory says.
            let white = after
                .lookup(dir, name)
                .ok_or("no whiteout at the old name")?;
            let a = after.attr(white).ok_or("the whiteout has no attributes")?;
            if a.mode & FMT != 0o020_000 || a.rdev != 0 {
                return Err(format!("the whiteout is {a:?}"));
            }
            self.new_ino(&a)?;
            let new = NewInode {
                mode: a.mode,
                uid,
                gid,
                rdev: 0,
            };
            self.add(dir, &new, Kind::Other, &a, now, 1);
            self.entries(dir).insert(name.to_vec(), a.ino);
        }
        Ok(())
    }

    fn set_parent(&mut self, ino: Ino, dir: Ino) {
        if let Kind::Dir { parent, .. } = &mut self.get(ino).kind {
            *parent = dir;
        }
    }
}

impl Model {
    fn copy(&mut self, from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        // Copied ranges are as large as the source has data, or holes: go by pages of the target.
        let source = self.inodes[&from].clone();
        let end = to_offset + len;
        let target = self.get(to);
        let mut stops: Vec<u64> = vec![to_offset, end];
        let shift = |p: u64| {
            (p * PAGE)
                .checked_sub(from_offset)
                .map(|d| d + to_offset)
                .filter(|o| *o > to_offset && *o < end)
        };
        // Only where there is something on either side is there anything to do.
        if let Kind::File { pages, .. } = &source.kind {
            let range = from_offset / PAGE..=(from_offset + len - 1) / PAGE;
            for p in pages.range(range).map(|(p, _)| *p) {
                stops.extend(shift(p));
                stops.extend(shift(p + 1));
            }
        }
        if let Kind::File { pages, .. } = &target.kind {
            let range = to_offset / PAGE..=(end - 1) / PAGE;
            for p in pages.range(range).map(|(p, _)| *p) {
                stops.extend(
                    [p * PAGE, (p + 1) * PAGE]
                        .iter()
                        .filter(|o| **o > to_offset && **o < end),
                );
            }
        }
        stops.sort_unstable();
        stops.dedup();
        for pair in stops.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let from_page = (a - to_offset + from_offset) / PAGE;
            let hole = match &source.kind {
                Kind::File { pages, .. } => match pages.get(&from_page) {
                    Some(p) if p.seen == Seen::Data => false,
                    Some(_) | None => true,
                },
                _ => false,
            };
            if hole {
                target.clear(a, b, Clear::Copied);
            } else {
                let bytes = source.read(a - to_offset + from_offset, b - a);
                target.write(a, &bytes);
            }
        }
        if let Kind::File { size, .. } = &mut target.kind {
            *size = (*size).max(end);
        }
    }

    /// What differs in a tree read from the core, `None` if nothing. `full`: the tree is everything
    /// that exists, else a part of it.
    #[must_use]
    pub fn compare(&self, tree: &Tree) -> Option<String> {
        let mut out = String::new();
        for (ino, i) in &self.inodes {
            let Some(got) = tree.get(ino) else {
                let _ = writeln!(out, "inode {ino} ({:o}) is missing", i.mode);
                continue;
            };
            let want = i.node(got);
            if want != *got {
                let _ = writeln!(out, "inode {ino}: {}", diff_node(&want, got));
            }
        }
        for (ino, got) in tree {
            if !self.inodes.contains_key(ino) {
                let _ = writeln!(out, "inode {ino} ({:o}) is too many", got.mode);
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

/// What becomes of the pages of a range that is to read as zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    Punched,
    Unwritten,
    Copied,
}

impl Inode {
    /// The inode as the walk shows it; what the model cannot know is taken from there.
    fn node(&self, got: &Node) -> Node {
        let (low, high) = page_bounds(self);
        let (size, body) = match &self.kind {
            Kind::File { size, pages } => {
                let data = pages
                    .iter()
                    .filter_map(|(p, page)| Some((*p, page.bytes.as_ref()?)))
                    .filter(|(_, b)| b.iter().any(|x| *x != 0))
                    .map(|(p, b)| (p, b.to_vec()))
                    .collect();
                (*size, Body::File(data))
            }
            Kind::Dir { parent, entries } => {
                let parent = match got.body {
                    // Of a removed directory there is nothing to say.
                    Body::Dir { parent, .. } if self.nlink == 0 => parent,
                    _ => *parent,
                };
                let entries = entries.clone();
                (got.size, Body::Dir { parent, entries })
            }
            Kind::Link(t) => (t.len() as u64, Body::Link(t.clone())),
            Kind::Other => (0, Body::Other),
        };
        Node {
            generation: got.generation,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size,
            times: self.times,
            sealed: self.sealed,
            pages: got.pages.clamp(low, high),
            runs: got.runs.clone(),
            xattrs: self.xattrs.clone(),
            body,
        }
    }

    fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let Kind::File { size, pages } = &self.kind else {
            return Vec::new();
        };
        let len = len.min(size.saturating_sub(offset)) as usize;
        let mut out = vec![0u8; len];
        let mut at = 0;
        while at < len {
            let pos = offset + at as u64;
            let inside = (pos % PAGE) as usize;
            let n = (4096 - inside).min(len - at);
            if let Some(Page { bytes: Some(b), .. }) = pages.get(&(pos / PAGE)) {
                out[at..at + n].copy_from_slice(&b[inside..inside + n]);
            }
            at += n;
        }
        out
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Kind::File { size, pages } = &mut self.kind else {
            return;
        };
        let mut at = 0;
        while at < data.len() {
            let pos = offset + at as u64;
            let inside = (pos % PAGE) as usize;
            let n = (4096 - inside).min(data.len() - at);
            let page = pages.entry(pos / PAGE).or_insert(Page {
                bytes: None,
                seen: Seen::Data,
            });
            page.seen = Seen::Data;
            let bytes = page.bytes.get_or_insert_with(|| Box::new([0; 4096]));
            bytes[inside..inside + n].copy_from_slice(&data[at..at + n]);
            at += n;
        }
        if !data.is_empty() {
            *size = (*size).max(offset + data.len() as u64);
        }
    }

    fn truncate(&mut self, to: u64) {
        let Kind::File { size, pages } = &mut self.kind else {
            return;
        };
        if to < *size {
            pages.split_off(&to.div_ceil(PAGE));
            if to % PAGE != 0 {
                if let Some(Page { bytes: Some(b), .. }) = pages.get_mut(&(to / PAGE)) {
                    b[(to % PAGE) as usize..].fill(0);
                }
            }
        }
        *size = to;
    }

    /// Makes `from..to` read as zeros; the size stays.
    fn clear(&mut self, from: u64, to: u64, how: Clear) {
        let Kind::File { pages, size } = &mut self.kind else {
            return;
        };
        if from >= to {
            return;
        }
        // What there is first; what there is not, below.
        let touched: Vec<u64> = pages
            .range(from / PAGE..=(to - 1) / PAGE)
            .map(|(p, _)| *p)
            .collect();
        for p in touched {
            let start = from.max(p * PAGE) - p * PAGE;
            let end = (to - p * PAGE).min(PAGE);
            let page = pages.get_mut(&p).expect("just seen");
            if start == 0 && end == PAGE {
                match how {
                    Clear::Punched => {
                        pages.remove(&p);
                    }
                    Clear::Unwritten => {
                        page.bytes = None;
                        page.seen = Seen::Unwritten;
                    }
                    Clear::Copied => {
                        page.bytes = None;
                        page.seen = Seen::Maybe;
                    }
                }
            } else if start == 0 && to >= *size {
                // All that can be seen of the last page: it may go, as far as it goes for others.
                page.bytes = None;
                page.seen = Seen::Maybe;
            } else if let Some(b) = &mut page.bytes {
                b[start as usize..end as usize].fill(0);
            } else if page.seen == Seen::Unwritten && how == Clear::Copied {
                page.seen = Seen::Maybe;
            }
        }
        let all = from / PAGE..=(to - 1) / PAGE;
        match how {
            Clear::Punched => {}
            // As large as the region at most, or it had failed.
            Clear::Unwritten => {
                for p in all {
                    pages.entry(p).or_insert(Page {
                        bytes: None,
                        seen: Seen::Unwritten,
                    });
                }
            }
            Clear::Copied => {
                // A hole copied onto a hole: writing zeros there would be allowed, but only as
                // far as there is room.
                if to - from < 1 << 30 {
                    for p in all {
                        pages.entry(p).or_insert(Page {
                            bytes: None,
                            seen: Seen::Maybe,
                        });
                    }
                }
            }
        }
    }

    fn fallocate(&mut self, what: Fallocate, from: u64, to: u64) {
        match what {
            Fallocate::Allocate { .. } => {
                let Kind::File { pages, .. } = &mut self.kind else {
                    return;
                };
                for p in from / PAGE..=(to - 1) / PAGE {
                    pages.entry(p).or_insert(Page {
                        bytes: None,
                        seen: Seen::Unwritten,
                    });
                }
            }
            Fallocate::PunchHole => self.clear(from, to, Clear::Punched),
            Fallocate::ZeroRange { .. } => self.clear(from, to, Clear::Unwritten),
        }
        if let Fallocate::Allocate { keep_size: false }
        | Fallocate::ZeroRange { keep_size: false } = what
        {
            if let Kind::File { size, .. } = &mut self.kind {
                *size = (*size).max(to);
            }
        }
    }

    /// Is there data at or behind `offset`?
    fn has_data(&self, offset: u64, or_maybe: bool) -> bool {
        let Kind::File { size, pages } = &self.kind else {
            return false;
        };
        offset < *size
            && pages
                .range(offset / PAGE..size.div_ceil(PAGE))
                .any(|(_, p)| p.seen == Seen::Data || (or_maybe && p.seen == Seen::Maybe))
    }

    fn seek_ok(&self, offset: u64, what: Seek, at: u64) -> Result<(), String> {
        let Kind::File { size, pages } = &self.kind else {
            return Err("not a file".into());
        };
        let wrong = |why: &str| Err(format!("seek {what:?} from {offset} gives {at}: {why}"));
        if at < offset || at > *size || (at == *size && what == Seek::Data) {
            return wrong("out of range");
        }
        let start = at == offset || at % PAGE == 0 || at == *size;
        if !start {
            return wrong("not where a page begins");
        }
        let seen = |p: u64| pages.get(&p).map(|p| p.seen);
        let (first, behind) = (offset / PAGE, at.div_ceil(PAGE));
        // At `offset` itself nothing was passed over; else `at` is where a page begins, or the end.
        let behind = if at == offset { first } else { behind };
        let mut passed = pages.range(first..behind);
        match what {
            Seek::Data => {
                if passed.any(|(_, p)| p.seen == Seen::Data) {
                    return wrong("data was passed over");
                }
                if !matches!(seen(at / PAGE), Some(Seen::Data | Seen::Maybe)) {
                    return wrong("no data there");
                }
            }
            Seek::Hole => {
                if at > offset {
                    let n = passed.filter(|(_, p)| p.seen != Seen::Unwritten).count() as u64;
                    if n != (at - 1) / PAGE - first + 1 {
                        return wrong("a hole was passed over");
                    }
                }
                if at < *size && seen(at / PAGE) == Some(Seen::Data) {
                    return wrong("data there");
                }
            }
        }
        Ok(())
    }
}

fn file() -> Kind {
    Kind::File {
        size: 0,
        pages: BTreeMap::new(),
    }
}

fn xattr_name_rules(name: &[u8], r: &mut Rules) {
    let known = ["user.", "trusted.", "security.", "system."];
    let prefix = known.iter().find(|p| name.starts_with(p.as_bytes()));
    r.must(name.len() > 255, &[ERANGE, ENAMETOOLONG]);
    match prefix {
        None => r.must(true, &[EOPNOTSUPP, EINVAL]),
        Some(p) => r.must(name.len() == p.len(), &[EINVAL, EOPNOTSUPP]),
    }
    r.must(name.contains(&0), &[EINVAL]);
}

/// Least and greatest number of pages the inode may own.
fn page_bounds(i: &Inode) -> (u64, u64) {
    let values: u64 = i
        .xattrs
        .values()
        .map(|v| v.len().div_ceil(4096) as u64)
        .sum();
    let block = u64::from(!i.xattrs.is_empty());
    let (low, high) = match &i.kind {
        Kind::File { size, pages } => {
            let end = size.div_ceil(PAGE);
            let sure = pages
                .iter()
                .filter(|(p, page)| **p < end && page.seen != Seen::Maybe)
                .count() as u64;
            let all = pages.len() as u64;
            let high = if i.loose_pages {
                u64::MAX / 4
            } else {
                // Every page an extent of its own, half-full nodes; a tree stays one until it is
                // empty.
                all + if all > 0 { 2 + all / 40 } else { 0 }
            };
            (sure, high)
        }
        Kind::Dir { entries, .. } => {
            let n = entries.len() as u64;
            (u64::from(n > 0), if n == 0 { 0 } else { 3 + n / 4 })
        }
        Kind::Link(t) => (u64::from(t.len() > 112), u64::from(t.len() > 112)),
        Kind::Other => (0, 0),
    };
    (low + block, high + block + values)
}

fn same(got: &Out, want: &Out) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    match (got, want) {
        (Out::Bytes(g), Out::Bytes(w)) => same_bytes(g, w),
        _ => Err(format!("answered {got:?}, wanted {want:?}")),
    }
}

fn same_bytes(got: &[u8], want: &[u8]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} bytes, wanted {}", got.len(), want.len()));
    }
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => {
            let n = got.iter().zip(want).filter(|(a, b)| a != b).count();
            Err(format!(
                "{n} of {} bytes differ, the first at {i}: {:#x}, wanted {:#x}",
                got.len(),
                got[i],
                want[i]
            ))
        }
    }
}
