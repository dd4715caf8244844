// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Names and attributes: each operation has happened wholly or not at all, but for an append, which may have come to the
//! end of a page.

use crate::tree::{self, Entry, Kind, Tree};
use crate::{dead, xattr, Fate, Load, Rng};
use nix::fcntl::{renameat2, RenameFlags, AT_FDCWD};
use nix::sys::stat::Mode;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{symlink, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// A directory in which all threads have names, each its own ones.
const SHARED: &str = "shared";
const PAGE: usize = 4096;
/// Most unlinked files that are kept open.
const HELD: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Create(String),
    Mkdir(String),
    Symlink(String, String),
    Fifo(String),
    Link(String, String),
    Unlink(String),
    /// Unlinked while it is open: an orphan, until the daemon dies or it is closed.
    UnlinkOpen(String),
    Rmdir(String),
    Rename(String, String),
    NoReplace(String, String),
    Exchange(String, String),
    Chmod(String, u32),
    SetXattr(String, String, Vec<u8>),
    RemoveXattr(String, String),
    Append(String, Vec<u8>),
    Truncate(String, usize),
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    mode: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
}

/// What has to be there.
#[derive(Clone, Debug, Default)]
struct Model {
    names: BTreeMap<String, usize>,
    nodes: Vec<Arc<Node>>,
}

/// Is `path` below the directory `dir`?
fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|r| r.starts_with('/'))
}

impl Model {
    fn node(&self, path: &str) -> Option<&Node> {
        self.names.get(path).map(|n| &*self.nodes[*n])
    }

    fn is_dir(&self, path: &str) -> bool {
        self.node(path).is_some_and(|n| n.kind == Kind::Dir)
    }

    fn has_children(&self, dir: &str) -> bool {
        self.names.keys().any(|path| below(path, dir))
    }

    fn add(&mut self, path: &str, kind: Kind, mode: u32) -> Option<()> {
        if self.names.contains_key(path) {
            return None;
        }
        self.names.insert(path.into(), self.nodes.len());
        self.nodes.push(Arc::new(Node {
            kind,
            mode,
            xattrs: BTreeMap::new(),
        }));
        Some(())
    }

    /// Takes a name, and what is below it, out.
    fn take(&mut self, path: &str) -> Vec<(String, usize)> {
        let all: Vec<_> = self
            .names
            .iter()
            .filter(|(name, _)| *name == path || below(name, path))
            .map(|(name, node)| (name[path.len()..].to_string(), *node))
            .collect();
        for (rest, _) in &all {
            self.names.remove(&format!("{path}{rest}"));
        }
        all
    }

    fn put(&mut self, path: &str, all: Vec<(String, usize)>) {
        for (rest, node) in all {
            self.names.insert(format!("{path}{rest}"), node);
        }
    }

    fn file(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        let node = *self.names.get(path)?;
        match &mut Arc::make_mut(&mut self.nodes[node]).kind {
            Kind::File(data) => Some(data),
            _ => None,
        }
    }

    fn unlink(&mut self, path: &str) -> Option<()> {
        if self.is_dir(path) {
            return None;
        }
        self.names.remove(path).map(|_| ())
    }

    /// What the operation makes of it; `None` where it has to fail.
    /// What an operation that was cut short may have come to: a write goes piece by piece from the front, and the last
    /// page of the file is a piece of its own (LAYOUT.md, section 14).
    fn parts(&self, op: &Op) -> Vec<Model> {
        let Op::Append(path, data) = op else {
            return Vec::new();
        };
        let length = self.clone().file(path).map_or(0, |file| file.len());
        let to_page = length.next_multiple_of(PAGE) - length;
        let cuts = (to_page..data.len()).step_by(PAGE).filter(|&cut| cut > 0);
        cuts.filter_map(|cut| self.apply(&Op::Append(path.clone(), data[..cut].to_vec())))
            .collect()
    }

    fn apply(&self, op: &Op) -> Option<Model> {
        let mut m = self.clone();
        match op {
            Op::Create(path) => m.add(path, Kind::File(Vec::new()), 0o640)?,
            Op::Mkdir(path) => m.add(path, Kind::Dir, 0o750)?,
            Op::Symlink(path, target) => m.add(path, Kind::Symlink(target.clone()), 0o777)?,
            Op::Fifo(path) => m.add(path, Kind::Fifo, 0o600)?,
            Op::Link(from, to) => {
                let node = *m.names.get(from)?;
                if m.is_dir(from) || m.names.contains_key(to) {
                    return None;
                }
                m.names.insert(to.clone(), node);
            }
            Op::Unlink(path) => m.unlink(path)?,
            Op::UnlinkOpen(path) => {
                m.file(path)?;
                m.unlink(path)?;
            }
            Op::Rmdir(path) => {
                if !m.is_dir(path) || m.has_children(path) {
                    return None;
                }
                m.names.remove(path);
            }
            Op::Rename(from, to) | Op::NoReplace(from, to) => {
                let node = *m.names.get(from)?;
                if let Some(old) = m.names.get(to) {
                    if matches!(op, Op::NoReplace(..)) {
                        return None;
                    }
                    // Two names of one inode: nothing is done.
                    if *old == node {
                        return Some(m);
                    }
                    if m.is_dir(from) != m.is_dir(to) || m.has_children(to) {
                        return None;
                    }
                }
                if below(to, from) {
                    return None;
                }
                let moved = m.take(from);
                m.names.remove(to);
                m.put(to, moved);
            }
            Op::Exchange(from, to) => {
                if m.names.get(from)? == m.names.get(to)? {
                    return Some(m);
                }
                if below(to, from) || below(from, to) {
                    return None;
                }
                let (one, other) = (m.take(from), m.take(to));
                m.put(to, one);
                m.put(from, other);
            }
            Op::Chmod(path, mode) => {
                let node = *m.names.get(path)?;
                // chmod(2) follows a symbolic link, and these lead nowhere.
                if matches!(m.nodes[node].kind, Kind::Symlink(_)) {
                    return None;
                }
                Arc::make_mut(&mut m.nodes[node]).mode = *mode;
            }
            Op::SetXattr(path, name, value) => {
                let node = *m.names.get(path)?;
                // user.* is for files and directories only.
                if !matches!(m.nodes[node].kind, Kind::File(_) | Kind::Dir) {
                    return None;
                }
                let xattrs = &mut Arc::make_mut(&mut m.nodes[node]).xattrs;
                xattrs.insert(name.clone(), value.clone());
            }
            Op::RemoveXattr(path, name) => {
                let node = *m.names.get(path)?;
                if !matches!(m.nodes[node].kind, Kind::File(_) | Kind::Dir) {
                    return None;
                }
                Arc::make_mut(&mut m.nodes[node]).xattrs.remove(name)?;
            }
            Op::Append(path, data) => m.file(path)?.extend(data),
            Op::Truncate(path, size) => m.file(path)?.resize(*size, 0),
        }
        Some(m)
    }

    /// As [`tree::read`] would find it.
    fn tree(&self) -> Tree {
        let mut first = BTreeMap::new();
        for (name, node) in &self.names {
            first.entry(*node).or_insert(name);
        }
        let entry = |(name, n): (&String, &usize)| {
            let node = &self.nodes[*n];
            let links = if node.kind == Kind::Dir {
                let child = |d: &String| below(d, name) && !d[name.len() + 1..].contains('/');
                let dirs = self.names.keys().filter(|d| child(d) && self.is_dir(d));
                2 + dirs.count()
            } else {
                self.names.values().filter(|other| *other == n).count()
            };
            let entry = Entry {
                kind: node.kind.clone(),
                mode: node.mode,
                links: links as u64,
                same_as: first[n].clone(),
                xattrs: node.xattrs.clone(),
                rest: None,
            };
            (name.clone(), entry)
        };
        self.names.iter().map(entry).collect()
    }

    /// Forgets the nodes without a name.
    fn compact(&mut self) {
        let mut renumbered = BTreeMap::new();
        let mut nodes = Vec::new();
        for node in self.names.values_mut() {
            *node = *renumbered.entry(*node).or_insert_with(|| {
                nodes.push(self.nodes[*node].clone());
                nodes.len() - 1
            });
        }
        self.nodes = nodes;
    }
}

struct Churn {
    /// A directory of its own, and the beginning of its names in the shared one.
    own: String,
    mine: String,
    random: Rng,
    model: Model,
    flight: Option<Op>,
    held: VecDeque<File>,
}

#[must_use]
pub fn start(threads: u64, random: &mut Rng) -> Vec<Box<dyn Load>> {
    let one = |n| -> Box<dyn Load> {
        let own = format!("own{n}");
        let mut model = Model::default();
        model.add(&own, Kind::Dir, 0o750).expect("the first");
        Box::new(Churn {
            own,
            mine: format!("{SHARED}/t{n}-"),
            random: Rng(random.word()),
            model,
            flight: None,
            held: VecDeque::new(),
        })
    };
    (0..threads).map(one).collect()
}

impl Churn {
    /// A name that may or may not be there.
    fn name(&mut self) -> String {
        let model = &self.model;
        let dirs: Vec<&String> = model
            .names
            .keys()
            .filter(|d| model.is_dir(d) && d.matches('/').count() < 4)
            .collect();
        let n = self.random.below(7);
        // Some are long: entries of a node differ in size.
        let long = "-and-it-is-a-long-name".repeat(n as usize % 3);
        if self.random.one_in(3) {
            format!("{}{n}{long}", self.mine)
        } else {
            format!("{}/n{n}{long}", self.random.pick(&dirs))
        }
    }

    /// A name that is there, more often than not; never that of the own directory, which stays.
    fn old(&mut self) -> String {
        let names: Vec<&String> = self
            .model
            .names
            .keys()
            .filter(|n| **n != self.own)
            .collect();
        if names.is_empty() || self.random.one_in(8) {
            self.name()
        } else {
            (*self.random.pick(&names)).clone()
        }
    }

    fn choose(&mut self) -> Op {
        let xattr = |random: &mut Rng| format!("user.{}", random.below(4));
        // As many as there may be, for the directories to have nodes that split and vanish.
        let full = self.model.names.len() > 60;
        match self.random.below(if full { 26 } else { 32 }) {
            0..=4 => Op::Unlink(self.old()),
            5 => Op::UnlinkOpen(self.old()),
            6..=8 => Op::Rmdir(self.old()),
            9..=12 => Op::Rename(self.old(), self.name()),
            13 => Op::Rename(self.old(), self.old()),
            14 => Op::NoReplace(self.old(), self.name()),
            15..=16 => Op::Exchange(self.old(), self.old()),
            17 => {
                let mode = self.random.below(0o1000) as u32 | 0o600;
                Op::Chmod(self.old(), mode)
            }
            18..=19 => {
                let (path, name) = (self.old(), xattr(&mut self.random));
                // Most lie beside the others, some in pages of their own.
                let len = if self.random.one_in(4) { 9000 } else { 300 };
                let len = self.random.below(len) as usize;
                Op::SetXattr(path, name, self.random.bytes(len))
            }
            20 => {
                let (path, name) = (self.old(), xattr(&mut self.random));
                Op::RemoveXattr(path, name)
            }
            21..=23 => {
                let path = self.old();
                let len = 1 + self.random.below(4000) as usize;
                Op::Append(path, self.random.bytes(len))
            }
            24..=25 => Op::Truncate(self.old(), self.random.below(12_000) as usize),
            26..=27 => Op::Create(self.name()),
            28 => Op::Mkdir(self.name()),
            29 => {
                let len = 1 + self.random.below(400) as usize;
                Op::Symlink(self.name(), "x".repeat(len))
            }
            30 => Op::Fifo(self.name()),
            _ => Op::Link(self.old(), self.name()),
        }
    }

    /// What is done next, and what it makes of the model; `None` where it has to fail.
    fn next(&mut self) -> (Op, Option<Model>) {
        loop {
            let op = self.choose();
            let expected = self.model.apply(&op);
            // Some that have to fail are asked for all the same.
            if expected.is_some() || self.random.one_in(8) {
                return (op, expected);
            }
        }
    }

    fn learn(&mut self, next: Model) {
        self.model = next;
        if self.model.nodes.len() > 200 {
            self.model.compact();
        }
    }

    fn act(&mut self, root: &Path, op: &Op) -> io::Result<()> {
        let at = |path: &String| root.join(path);
        let rename =
            |from, to, flags| Ok(renameat2(AT_FDCWD, &at(from), AT_FDCWD, &at(to), flags)?);
        match op {
            Op::Create(path) => OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o640)
                .open(at(path))
                .map(|_| ()),
            Op::Mkdir(path) => Ok(nix::unistd::mkdir(
                &at(path),
                Mode::from_bits_truncate(0o750),
            )?),
            Op::Symlink(path, target) => symlink(target, at(path)),
            Op::Fifo(path) => Ok(nix::unistd::mkfifo(
                &at(path),
                Mode::from_bits_truncate(0o600),
            )?),
            Op::Link(from, to) => fs::hard_link(at(from), at(to)),
            Op::Unlink(path) => fs::remove_file(at(path)),
            Op::UnlinkOpen(path) => {
                // A FIFO without a reader would be waited for.
                if !matches!(self.model.node(path).map(|n| &n.kind), Some(Kind::File(_))) {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                let file = File::open(at(path))?;
                fs::remove_file(at(path))?;
                self.held.push_back(file);
                if self.held.len() > HELD {
                    self.held.pop_front();
                }
                Ok(())
            }
            Op::Rmdir(path) => fs::remove_dir(at(path)),
            Op::Rename(from, to) => fs::rename(at(from), at(to)),
            Op::NoReplace(from, to) => rename(from, to, RenameFlags::RENAME_NOREPLACE),
            Op::Exchange(from, to) => rename(from, to, RenameFlags::RENAME_EXCHANGE),
            Op::Chmod(path, mode) => fs::set_permissions(at(path), Permissions::from_mode(*mode)),
            Op::SetXattr(path, name, value) => Ok(xattr::set(&at(path), name, value, 0)?),
            Op::RemoveXattr(path, name) => Ok(xattr::remove(&at(path), name)?),
            Op::Append(path, data) => {
                let Some(Kind::File(old)) = self.model.node(path).map(|n| &n.kind) else {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                };
                let end = old.len() as u64;
                let file = OpenOptions::new().write(true).open(at(path))?;
                file.write_all_at(data, end)
            }
            Op::Truncate(path, size) => Ok(nix::unistd::truncate(&at(path), *size as libc::off_t)?),
        }
    }
}

impl Load for Churn {
    fn prepare(&self, root: &Path) {
        // Modes are those asked for.
        nix::sys::stat::umask(Mode::empty());
        match fs::create_dir(root.join(SHARED)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.expect("mkdir"),
        }
        let own = root.join(&self.own);
        fs::create_dir(&own).expect("mkdir");
        fs::set_permissions(&own, Permissions::from_mode(0o750)).expect("chmod");
    }

    fn step(&mut self, root: &Path) -> bool {
        let (op, expected) = self.next();
        self.flight = Some(op.clone());
        match (self.act(root, &op), expected) {
            (Ok(()), Some(next)) => self.learn(next),
            (Err(e), _) if dead(&e, root) => return false,
            (Err(_), None) => {}
            (Ok(()), None) => panic!("{op:?} was done, and cannot be"),
            (Err(e), Some(_)) => panic!("{op:?}: {e}"),
        }
        self.flight = None;
        true
    }

    fn follow(&mut self) {
        if let (_, Some(next)) = self.next() {
            self.learn(next);
        }
    }

    fn follow_under_way(&mut self) {
        self.flight = Some(self.next().0);
    }

    fn check(&mut self, root: &Path) -> Result<Fate, String> {
        self.held.clear();
        let mut tops = vec![self.own.clone()];
        for name in fs::read_dir(root.join(SHARED)).map_err(|e| format!("{SHARED}: {e}"))? {
            let name = name.map_err(|e| format!("{SHARED}: {e}"))?.file_name();
            let path = format!("{SHARED}/{}", name.to_string_lossy());
            if path.starts_with(&self.mine) {
                tops.push(path);
            }
        }
        let found = tree::read(root, &tops, false)?;
        let flight = self.flight.take();
        let before = self.model.tree();
        let Err(e) = tree::same(&before, &found) else {
            return Ok(if flight.is_some() {
                Fate::Before
            } else {
                Fate::None
            });
        };
        let Some(next) = flight.as_ref().and_then(|op| self.model.apply(op)) else {
            return Err(format!("{e}; under way: {flight:?}"));
        };
        let cut = flight.iter().flat_map(|op| self.model.parts(op));
        if let Some(part) = cut
            .into_iter()
            .find(|part| tree::same(&part.tree(), &found).is_ok())
        {
            self.model = part;
            return Ok(Fate::Part);
        }
        tree::same(&next.tree(), &found)
            .map_err(|after| format!("neither before ({e}) nor after ({after}) {flight:?}"))?;
        self.model = next;
        Ok(Fate::After)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_is_cut_at_pages() {
        let mut model = Model::default();
        model = model.apply(&Op::Create("f".to_owned())).unwrap();
        let lengths = |model: &Model, bytes| -> Vec<usize> {
            let parts = model.parts(&Op::Append("f".to_owned(), vec![7; bytes]));
            let length = |mut part: Model| part.file("f").unwrap().len();
            parts.into_iter().map(length).collect()
        };
        assert_eq!(lengths(&model, 3 * PAGE), [PAGE, 2 * PAGE]);
        model = model
            .apply(&Op::Append("f".to_owned(), vec![7; 10_928]))
            .unwrap();
        assert_eq!(lengths(&model, 2598), [3 * PAGE]);
        assert_eq!(lengths(&model, 100), []);
    }
}
