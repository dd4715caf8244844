// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Names: what they name, and whether the root reaches every directory.

use super::checker::{Checker, Res, CONNECTED, HAS_ENTRIES, LEFT, NO_TARGET, ON_WAY};
use super::node::{DirList, Entry};
use super::report::{Finding, Phase, Structure};
use super::tree;
use crate::layout::{self, iflag};
use crate::types::{self, Ino, NAME_MAX, ROOT_INO};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// A name as people can read it.
pub(super) fn readable(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}

const fn is_dir(mode: u32) -> bool {
    mode & types::S_IFMT == types::S_IFDIR
}

impl Checker<'_, '_> {
    pub(super) fn check_directories(&mut self) -> Res<()> {
        let dirs: Vec<Ino> = self
            .inodes
            .iter()
            .filter(|i| is_dir(i.mode))
            .map(|i| i.ino)
            .collect();
        let total = dirs.len() as u64;
        for (n, ino) in dirs.iter().enumerate() {
            if n % 64 == 0 {
                self.progress(Phase::Directories, n as u64, total)?;
            }
            self.check_directory(*ino)?;
        }
        for ino in dirs {
            self.connect(ino)?;
        }
        self.reconnect_files()
    }

    fn check_directory(&mut self, dir: Ino) -> Res<()> {
        let Some(inode) = self.inode(dir)? else {
            return Ok(());
        };
        let left = self.info(dir).is_some_and(|i| i.marks & LEFT != 0);
        let damaged = self.damaged.contains_key(&dir);
        let mut list = if damaged {
            core::mem::take(&mut self.damaged_mut(dir)?.entries)
        } else {
            tree::entries(&self.store, &self.geo, &inode)?.0
        };
        if damaged || left {
            list.entries.sort_by_key(|e| e.key);
        }
        // Keys taken, and where in `out` their entries are.
        let mut keys: BTreeMap<u64, usize> = BTreeMap::new();
        let mut out: Vec<Entry> = Vec::with_capacity(list.entries.len());
        let mut changed = damaged;
        // Entries under the right key first: they keep it.
        let hash = self.sb.hash_key();
        let right = |list: &DirList, e: &Entry| {
            layout::name_key(hash, list.name(e)) & !0xff == e.key & !0xff
        };
        let misfiled: Vec<Entry> = list
            .entries
            .iter()
            .filter(|e| !right(&list, e))
            .copied()
            .collect();
        if !misfiled.is_empty() {
            list.entries = {
                let all = core::mem::take(&mut list.entries);
                all.into_iter().filter(|e| right(&list, e)).collect()
            };
        }
        let sound = list.entries.len();
        list.entries.extend(misfiled);
        for (n, e) in list.entries.clone().into_iter().enumerate() {
            let mut e = e;
            let name = list.name(&e);
            let mut drop = None;
            if n >= sound {
                let base = layout::name_key(hash, name) & !0xff;
                let f = Finding::new(
                    Structure::Entry,
                    e.offset,
                    format!("{} lies under a key that is not its hash", readable(name)),
                )
                .of(dir)
                .fix("moved to where it is looked for")
                .harmless();
                if !self.find(&f)? {
                    out.push(e);
                    continue;
                }
                changed = true;
                match (base..base | 0x100)
                    .take(256)
                    .find(|k| !keys.contains_key(k))
                {
                    Some(k) => e.key = k,
                    None => drop = Some(String::from("has too many equals")),
                }
            }
            let twin = keys
                .range(e.key & !0xff..=e.key | 0xff)
                .filter_map(|(_, i)| out.get(*i))
                .any(|o| list.name(o) == name);
            if drop.is_none() {
                let equal = keys.get(&e.key).and_then(|i| out.get(*i));
                drop = if equal.is_some() || twin {
                    // In what was put together again, leaves can be there twice.
                    if damaged && equal.is_some_and(|o| o.ino == e.ino) {
                        continue;
                    }
                    Some("is there twice".into())
                } else {
                    self.bad_entry(dir, &e, name)
                };
            }
            if let Some(why) = drop {
                let f = Finding::new(
                    Structure::Entry,
                    e.offset,
                    format!("{} {why}", readable(name)),
                )
                .of(dir)
                .fix("entry removed");
                if self.find(&f)? {
                    changed = true;
                } else {
                    keys.entry(e.key).or_insert(out.len());
                    out.push(e);
                }
                continue;
            }
            let (kind, was, link) = match self.info(e.ino) {
                Some(i) => ((i.mode >> 12) as u8, i.parent, i.link),
                None => continue,
            };
            if e.kind != kind {
                let f = Finding::new(
                    Structure::Entry,
                    e.offset,
                    format!(
                        "{} says inode {} is of type {:o}; it is of type {kind:o}",
                        readable(name),
                        e.ino,
                        e.kind
                    ),
                )
                .of(dir)
                .fix("type corrected")
                .harmless();
                if self.find(&f)? {
                    e.kind = kind;
                    changed = true;
                }
            }
            let names_dir = u32::from(kind) << 12 == types::S_IFDIR;
            if names_dir && was != 0 {
                // Two parents: the one that the directory itself names stays.
                let keep_new = link == dir && was != dir;
                let other = if keep_new { was } else { dir };
                let f = Finding::new(
                    Structure::Entry,
                    e.offset,
                    format!(
                        "{} names directory {}, which is in directory {was} already",
                        readable(name),
                        e.ino
                    ),
                )
                .of(dir)
                .fix(format!("entry in directory {other} removed"));
                if self.find(&f)? {
                    if keep_new {
                        self.remove_entry(was, e.ino)?;
                        self.count_entry(e.ino, dir, true);
                        keys.entry(e.key).or_insert(out.len());
                        out.push(e);
                    } else {
                        changed = true;
                    }
                } else {
                    keys.entry(e.key).or_insert(out.len());
                    out.push(e);
                }
                continue;
            }
            self.count_entry(e.ino, dir, names_dir);
            keys.entry(e.key).or_insert(out.len());
            out.push(e);
        }
        if !out.is_empty() {
            if let Some(i) = self.info_mut(dir) {
                i.marks |= HAS_ENTRIES;
            }
        }
        if changed && !left {
            out.sort_by_key(|e| e.key);
            list.entries = out;
            self.dirs.insert(dir, list);
        }
        Ok(())
    }

    /// An entry of `dir` names `ino`.
    fn count_entry(&mut self, ino: Ino, dir: Ino, names_dir: bool) {
        if let Some(i) = self.info_mut(ino) {
            i.named = i.named.saturating_add(1);
            if names_dir {
                i.parent = dir;
            }
        }
        if names_dir {
            if let Some(d) = self.info_mut(dir) {
                d.subdirs = d.subdirs.saturating_add(1);
            }
        }
    }

    /// Why an entry cannot stay.
    fn bad_entry(&self, dir: Ino, e: &Entry, name: &[u8]) -> Option<String> {
        if name.is_empty()
            || name.len() > NAME_MAX
            || name == b"."
            || name == b".."
            || name.iter().any(|b| matches!(b, 0 | b'/'))
        {
            return Some("is no name".into());
        }
        let Some(info) = self.info(e.ino) else {
            return Some(format!("names inode {}, which is not in use", e.ino));
        };
        if info.flags & iflag::SEAL != 0 {
            return Some(format!("names inode {}, which is a seal", e.ino));
        }
        if info.marks & NO_TARGET != 0 {
            return Some(format!("names symbolic link {}, which was removed", e.ino));
        }
        if e.ino == ROOT_INO || e.ino == dir {
            return Some(format!("names directory {}, above it", e.ino));
        }
        None
    }

    /// The entries of a directory, to be changed.
    pub(super) fn edit(&mut self, dir: Ino) -> Res<&mut DirList> {
        if !self.dirs.contains_key(&dir) {
            let list = match self.inode(dir)? {
                Some(inode) => tree::entries(&self.store, &self.geo, &inode)?.0,
                None => DirList::default(),
            };
            self.dirs.insert(dir, list);
        }
        Ok(self.dirs.entry(dir).or_default())
    }

    /// Removes the entry of `dir` that names directory `ino`, when `dir` is rebuilt.
    fn remove_entry(&mut self, dir: Ino, ino: Ino) -> Res<()> {
        self.edit(dir)?;
        self.removed.entry(dir).or_default().insert(ino);
        if let Some(d) = self.info_mut(dir) {
            d.subdirs = d.subdirs.saturating_sub(1);
        }
        if let Some(i) = self.info_mut(ino) {
            i.parent = 0;
            i.named = i.named.saturating_sub(1);
        }
        Ok(())
    }

    /// Makes sure that the root reaches this directory.
    fn connect(&mut self, ino: Ino) -> Res<()> {
        let mut way: Vec<Ino> = Vec::new();
        let mut at = ino;
        while let Some(info) = self.info_mut(at) {
            if at == ROOT_INO || info.marks & CONNECTED != 0 {
                info.marks |= CONNECTED;
                break;
            }
            if info.marks & ON_WAY != 0 {
                let parent = info.parent;
                let f = Finding::new(
                    Structure::Entry,
                    self.inode_offset(at).unwrap_or(0),
                    format!("directory {at} lies below itself"),
                )
                .of(parent)
                .fix(format!(
                    "entry removed; the directory goes to lost+found as #{at}"
                ));
                if self.find(&f)? {
                    self.remove_entry(parent, at)?;
                    self.reconnect(at)?;
                }
                break;
            }
            info.marks |= ON_WAY;
            let (parent, nlink, marks) = (info.parent, info.nlink, info.marks);
            way.push(at);
            if parent == 0 {
                // A removed directory that somebody still held is empty and waits to be reclaimed.
                if nlink > 0 || marks & HAS_ENTRIES != 0 {
                    let f = Finding::new(
                        Structure::Directory,
                        self.inode_offset(at).unwrap_or(0),
                        "no directory names it",
                    )
                    .of(at)
                    .fix(format!("to lost+found as #{at}"))
                    .harmless();
                    if self.find(&f)? {
                        self.reconnect(at)?;
                    }
                }
                break;
            }
            at = parent;
        }
        for ino in way {
            if let Some(i) = self.info_mut(ino) {
                i.marks = i.marks & !ON_WAY | CONNECTED;
            }
        }
        Ok(())
    }

    /// Everything else that has links but no name.
    fn reconnect_files(&mut self) -> Res<()> {
        let lost: Vec<Ino> = self
            .inodes
            .iter()
            .filter(|i| {
                !is_dir(i.mode) && i.flags & iflag::SEAL == 0 && i.named == 0 && i.nlink > 0
            })
            .map(|i| i.ino)
            .collect();
        for ino in lost {
            let f = Finding::new(
                Structure::Inode,
                self.inode_offset(ino).unwrap_or(0),
                "no directory names it",
            )
            .of(ino)
            .fix(format!("to lost+found as #{ino}"))
            .harmless();
            if self.find(&f)? {
                self.reconnect(ino)?;
            }
        }
        Ok(())
    }

    /// Names an inode in lost+found.
    fn reconnect(&mut self, ino: Ino) -> Res<()> {
        let Some(dir) = self.lost_and_found()? else {
            return Ok(());
        };
        let Some(kind) = self.info(ino).map(|i| (i.mode >> 12) as u8) else {
            return Ok(());
        };
        let mut name = format!("#{ino}");
        let mut n = 1u32;
        while !self.add_entry(dir, name.as_bytes(), ino, kind)? {
            n = n.saturating_add(1);
            if n > 1000 {
                return Ok(());
            }
            name = format!("#{ino}.{n}");
        }
        self.report.reconnected = self.report.reconnected.saturating_add(1);
        self.count_entry(ino, dir, u32::from(kind) << 12 == types::S_IFDIR);
        Ok(())
    }

    /// Adds an entry, when the directory is rebuilt; `false` if the name is there already. Counts
    /// nothing.
    pub(super) fn add_entry(&mut self, dir: Ino, name: &[u8], ino: Ino, kind: u8) -> Res<bool> {
        if self.find_name(dir, name)?.is_some() {
            return Ok(false);
        }
        let range = self.equal_keys(name);
        let list = self.edit(dir)?;
        let from = list.entries.partition_point(|e| e.key < *range.start());
        let to = list.entries.partition_point(|e| e.key <= *range.end());
        let mut taken: BTreeSet<u64> = list
            .entries
            .get(from..to)
            .unwrap_or(&[])
            .iter()
            .map(|e| e.key)
            .collect();
        let added = self.added.entry(dir).or_default();
        taken.extend(added.range(range.clone()).map(|(k, _)| *k));
        let Some(key) = range.into_iter().find(|k| !taken.contains(k)) else {
            return Ok(false);
        };
        added.insert(key, (ino, kind, name.to_vec()));
        if let Some(d) = self.info_mut(dir) {
            d.marks |= HAS_ENTRIES;
        }
        Ok(true)
    }

    /// Keys that a name can have.
    fn equal_keys(&self, name: &[u8]) -> RangeInclusive<u64> {
        let base = layout::name_key(self.sb.hash_key(), name) & !0xff;
        base..=base | 0xff
    }

    /// What a name of a directory names, additions included.
    pub(super) fn find_name(&mut self, dir: Ino, name: &[u8]) -> Res<Option<Ino>> {
        let range = self.equal_keys(name);
        let list = self.edit(dir)?;
        let from = list.entries.partition_point(|e| e.key < *range.start());
        let to = list.entries.partition_point(|e| e.key <= *range.end());
        let equal = list.entries.get(from..to).unwrap_or(&[]);
        if let Some(e) = equal.iter().find(|e| list.name(e) == name) {
            return Ok(Some(e.ino));
        }
        let added = self.added.get(&dir).into_iter();
        Ok(added
            .flat_map(|a| a.range(range.clone()))
            .find(|(_, (_, _, n))| n == name)
            .map(|(_, (ino, _, _))| *ino))
    }

    /// Carries additions and removals into the lists.
    pub(super) fn settle(&mut self) -> Res<()> {
        for (dir, gone) in core::mem::take(&mut self.removed) {
            self.edit(dir)?.entries.retain(|e| !gone.contains(&e.ino));
        }
        for (dir, added) in core::mem::take(&mut self.added) {
            let list = self.edit(dir)?;
            for (key, (ino, kind, name)) in added {
                list.push(key, ino, kind, &name, 0);
            }
            list.entries.sort_by_key(|e| e.key);
        }
        Ok(())
    }
}
