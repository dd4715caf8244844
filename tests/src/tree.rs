// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The whole tree of a filesystem as plain values, and what is wrong with another one.

use fs_core::{Attr, Extent, Fs, Host, Ino, Region, ROOT_INO, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What an inode holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Names and the inodes behind them, and the parent.
    Dir {
        /// Inode of "..".
        parent: Ino,
        /// The entries.
        entries: BTreeMap<Vec<u8>, Ino>,
    },
    /// Pages that hold a byte other than zero.
    File(BTreeMap<u64, Vec<u8>>),
    /// The target.
    Link(Vec<u8>),
    /// Devices, FIFOs, sockets.
    Other,
}

/// Pages of a file that are allocated and lie behind one another in it: where in the region is its own
/// affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub page: u64,
    /// How many.
    pub len: u64,
    /// Do they read as zeros, whatever they hold?
    pub unwritten: bool,
}

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Tells it from others that had its number before.
    pub generation: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// atime, mtime, ctime, btime.
    pub times: [i64; 4],
    /// Sealed?
    pub sealed: bool,
    /// Pages the inode says it owns.
    pub pages: u64,
    /// The pages of a file.
    pub runs: Vec<Run>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The rest.
    pub body: Body,
}

impl Node {
    /// What `stat` tells of an inode, without what is in it.
    #[must_use]
    pub fn bare(a: &Attr) -> Self {
        Node {
            generation: a.generation,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            size: a.size,
            times: [a.atime, a.mtime, a.ctime, a.btime],
            sealed: a.sealed,
            pages: a.pages,
            runs: Vec::new(),
            xattrs: BTreeMap::new(),
            body: Body::Other,
        }
    }
}

/// All inodes that can be reached.
pub type Tree = BTreeMap<Ino, Node>;

/// Reads an inode whole.
///
/// # Errors
/// Says what failed, or contradicted itself.
pub fn node<R: Region, H: Host>(
    fs: &Fs<R, H>,
    ino: Ino,
    owned: &mut Vec<(u64, u64, Ino)>,
) -> Result<Node, String> {
    let ctx = |what: &'static str| move |e: fs_core::Error| format!("{what} of inode {ino}: {e:?}");
    let a = fs.getattr(ino).map_err(ctx("getattr"))?;
    if a.ino != ino {
        return Err(format!("getattr of inode {ino} answers for {}", a.ino));
    }
    let mut xattrs = BTreeMap::new();
    let n = fs.listxattr(ino, &mut []).map_err(ctx("listxattr"))?;
    let mut list = vec![0; n];
    if n > 0 {
        let m = fs.listxattr(ino, &mut list).map_err(ctx("listxattr"))?;
        if m != n {
            return Err(format!("listxattr of inode {ino}: {n} bytes, then {m}"));
        }
    }
    for name in list.split_inclusive(|&b| b == 0) {
        let Some((0, name)) = name.split_last() else {
            return Err(format!("listxattr of inode {ino}: no NUL at the end"));
        };
        let n = fs
            .getxattr(ino, name, &mut [])
            .map_err(ctx("getxattr (length)"))?;
        let mut value = vec![0; n];
        if n > 0 {
            fs.getxattr(ino, name, &mut value)
                .map_err(ctx("getxattr"))?;
        }
        if xattrs.insert(name.to_vec(), value).is_some() {
            return Err(format!("listxattr of inode {ino}: a name twice"));
        }
    }
    let mut runs = Vec::new();
    let body = match a.mode & S_IFMT {
        S_IFDIR => Body::Dir {
            parent: fs.parent(ino).map_err(ctx("parent"))?,
            entries: entries(fs, ino, usize::MAX)?,
        },
        S_IFLNK => {
            let mut buf = vec![0; 4096];
            let n = fs.readlink(ino, &mut buf).map_err(ctx("readlink"))?;
            buf.truncate(n);
            Body::Link(buf)
        }
        S_IFREG => {
            let extents = extents(fs, ino)?;
            owned.extend(extents.iter().map(|e| (e.page, e.len, ino)));
            runs = joined(&extents);
            Body::File(content(fs, ino, a.size, &extents)?)
        }
        _ => Body::Other,
    };
    Ok(Node {
        runs,
        xattrs,
        body,
        ..Node::bare(&a)
    })
}

/// Lists a directory, `chunk` entries at a time, each batch from the last cookie.
///
/// # Errors
/// A name twice, a cookie out of range, an entry that lookup does not find, a kind that is not
/// that of the inode.
pub fn entries<R: Region, H: Host>(
    fs: &Fs<R, H>,
    dir: Ino,
    chunk: usize,
) -> Result<BTreeMap<Vec<u8>, Ino>, String> {
    let mut all = BTreeMap::new();
    let mut cookie = 0;
    loop {
        let mut batch = Vec::new();
        fs.readdir(dir, cookie, &mut |e| {
            if batch.len() == chunk {
                return false;
            }
            batch.push((e.name.to_vec(), e.ino, e.kind, e.cookie));
            true
        })
        .map_err(|e| format!("readdir of {dir} behind {cookie}: {e:?}"))?;
        for (name, ino, kind, at) in &batch {
            if *at == 0 || *at > i64::MAX as u64 || *at == cookie {
                return Err(format!("readdir of {dir}: cookie {at:#x}"));
            }
            cookie = *at;
            if all.insert(name.clone(), *ino).is_some() {
                return Err(format!("readdir of {dir}: {} twice", show(name)));
            }
            match fs.lookup(dir, name) {
                Ok(found) if found == *ino => {}
                other => {
                    return Err(format!(
                        "readdir of {dir} gives {} = {ino}, lookup {other:?}",
                        show(name)
                    ));
                }
            }
            let mode = fs
                .getattr(*ino)
                .map_err(|e| format!("getattr of {ino} ({}): {e:?}", show(name)))?
                .mode;
            if mode & S_IFMT != *kind {
                return Err(format!(
                    "readdir of {dir}: {} is {kind:o}, mode {mode:o}",
                    show(name)
                ));
            }
        }
        if batch.len() < chunk {
            return Ok(all);
        }
    }
}

/// All extents of a file.
///
/// # Errors
/// Extents out of order, empty or outside of the region.
pub fn extents<R: Region, H: Host>(fs: &Fs<R, H>, ino: Ino) -> Result<Vec<Extent>, String> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = 0;
    while let Some(e) = fs
        .extent_at(ino, at)
        .map_err(|e| format!("extent of inode {ino} at page {at}: {e:?}"))?
    {
        let end = e.file_page.checked_add(e.len);
        let region_end = e.page.checked_add(e.len);
        let (Some(end), Some(region_end)) = (end, region_end) else {
            return Err(format!("inode {ino}: {e:?}"));
        };
        let after = all
            .last()
            .is_none_or(|p| p.file_page + p.len <= e.file_page);
        if e.len == 0 || end <= at || !after || region_end > fs.region().len() / 4096 {
            return Err(format!(
                "inode {ino}, from page {at}: {e:?} after {:?}",
                all.last()
            ));
        }
        at = end;
        all.push(e);
    }
    Ok(all)
}

/// Extents as one sees them from the file.
fn joined(extents: &[Extent]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for e in extents {
        match runs.last_mut() {
            Some(r) if r.page + r.len == e.file_page && r.unwritten == e.unwritten => {
                r.len += e.len;
            }
            _ => runs.push(Run {
                page: e.file_page,
                len: e.len,
                unwritten: e.unwritten,
            }),
        }
    }
    runs
}

fn content<R: Region, H: Host>(
    fs: &Fs<R, H>,
    ino: Ino,
    size: u64,
    extents: &[Extent],
) -> Result<BTreeMap<u64, Vec<u8>>, String> {
    let mut pages = BTreeMap::new();
    let mut buf = vec![0u8; size.min(16 * 4096) as usize];
    let mut take = |from: u64, to: u64, hole: bool| -> Result<(), String> {
        let mut at = from;
        while at < to {
            let len = (to - at).min(buf.len() as u64) as usize;
            let n = fs
                .read(ino, at, &mut buf[..len])
                .map_err(|e| format!("read of inode {ino} at {at}+{len}: {e:?}"))?;
            if n != len {
                return Err(format!("read of inode {ino} at {at}+{len} gives {n} bytes"));
            }
            for (i, page) in buf[..len].chunks(4096).enumerate() {
                if page.iter().any(|&b| b != 0) {
                    if hole {
                        return Err(format!(
                            "inode {ino}: a hole at {at} does not read as zeros"
                        ));
                    }
                    let mut page = page.to_vec();
                    page.resize(4096, 0);
                    pages.insert(at / 4096 + i as u64, page);
                }
            }
            at += len as u64;
        }
        Ok(())
    };
    let mut at = 0;
    for e in extents {
        let from = (e.file_page * 4096).min(size);
        let to = e
            .file_page
            .saturating_add(e.len)
            .saturating_mul(4096)
            .min(size);
        for hole in ends(at, from) {
            take(hole.0, hole.1, true)?;
        }
        if e.unwritten {
            for part in ends(from, to) {
                take(part.0, part.1, true)?;
            }
        } else {
            take(from, to, false)?;
        }
        at = to;
    }
    for hole in ends(at, size) {
        take(hole.0, hole.1, true)?;
    }
    // Behind the end there is nothing.
    let mut one = [1u8];
    match fs.read(ino, size, &mut one) {
        Ok(0) => Ok(pages),
        other => Err(format!("read of inode {ino} at its end {size}: {other:?}")),
    }
}

/// The first and the last pages of a run, or all of a short one.
fn ends(from: u64, to: u64) -> Vec<(u64, u64)> {
    const SOME: u64 = 8 * 4096;
    if to <= from {
        Vec::new()
    } else if to - from <= 2 * SOME {
        vec![(from, to)]
    } else {
        vec![(from, from + SOME), (to - SOME, to)]
    }
}

/// Reads the whole tree from the root, and the inodes in `held` that have no name.
///
/// # Errors
/// Whatever contradicts itself: see [`node`]; link counts that are not what names say; pages
/// that two files own.
pub fn walk<R: Region, H: Host>(fs: &Fs<R, H>, held: &[Ino]) -> Result<Tree, String> {
    let mut tree = Tree::new();
    let mut owned = Vec::new();
    let mut todo = vec![ROOT_INO];
    todo.extend(held);
    let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
    while let Some(ino) = todo.pop() {
        if tree.contains_key(&ino) {
            continue;
        }
        let node = node(fs, ino, &mut owned)?;
        if let Body::Dir { entries, .. } = &node.body {
            for &child in entries.values() {
                *names.entry(child).or_default() += 1;
                todo.push(child);
            }
        }
        tree.insert(ino, node);
    }
    for (&ino, node) in &tree {
        let named = names.get(&ino).copied().unwrap_or(0);
        let want = match &node.body {
            Body::Dir { entries, .. } => {
                let subdirs = entries
                    .values()
                    .filter(|i| matches!(tree[i].body, Body::Dir { .. }))
                    .count() as u32;
                for child in entries.values() {
                    if let Body::Dir { parent, .. } = tree[child].body {
                        if parent != ino {
                            return Err(format!("parent of {child} is {parent}, not {ino}"));
                        }
                    }
                }
                if ino == ROOT_INO || named == 1 {
                    2 + subdirs
                } else if named == 0 {
                    // Removed but held.
                    node.nlink
                } else {
                    return Err(format!("directory {ino} has {named} names"));
                }
            }
            _ => named,
        };
        if node.nlink != want {
            return Err(format!(
                "inode {ino}: nlink {}, but {want} by names",
                node.nlink
            ));
        }
    }
    owned.sort_unstable();
    for pair in owned.windows(2) {
        if pair[0].0 + pair[0].1 > pair[1].0 {
            return Err(format!(
                "pages with two owners: {:?} and {:?}",
                pair[0], pair[1]
            ));
        }
    }
    Ok(tree)
}

/// Without the generations of inodes that were not there before: where a number is used for the first time,
/// its generation is random, and who asks for randomness earlier has another.
#[must_use]
pub fn unnumbered(mut tree: Tree, before: &Tree) -> Tree {
    for (ino, node) in &mut tree {
        if !before.contains_key(ino) {
            node.generation = 0;
        }
    }
    tree
}

/// A name for people.
#[must_use]
pub fn show(name: &[u8]) -> String {
    let s = String::from_utf8_lossy(name);
    if s.len() > 24 {
        format!(
            "{:?}...({})",
            s.chars().take(12).collect::<String>(),
            name.len()
        )
    } else {
        format!("{s:?}")
    }
}

/// What two trees differ in, `None` if nothing.
#[must_use]
pub fn diff(want: &Tree, got: &Tree) -> Option<String> {
    let mut out = String::new();
    for (ino, w) in want {
        match got.get(ino) {
            None => {
                let _ = writeln!(out, "inode {ino} ({:o}) is missing", w.mode);
            }
            Some(g) if g != w => {
                let _ = writeln!(out, "inode {ino}: {}", diff_node(w, g));
            }
            Some(_) => {}
        }
    }
    for (ino, g) in got {
        if !want.contains_key(ino) {
            let _ = writeln!(out, "inode {ino} ({:o}) is too many", g.mode);
        }
    }
    (!out.is_empty()).then_some(out)
}

/// What two inodes differ in.
#[must_use]
pub fn diff_node(w: &Node, g: &Node) -> String {
    let mut out = String::new();
    macro_rules! field {
        ($($f:ident)*) => { $(if w.$f != g.$f {
            let _ = write!(out, "{} {:?}, wanted {:?}; ", stringify!($f), g.$f, w.$f);
        })* };
    }
    field!(generation mode nlink uid gid rdev size times sealed pages runs);
    if w.xattrs != g.xattrs {
        for (name, value) in &w.xattrs {
            match g.xattrs.get(name) {
                None => _ = write!(out, "xattr {} missing; ", show(name)),
                Some(v) if v != value => {
                    let _ = write!(out, "xattr {} differs; ", show(name));
                }
                Some(_) => {}
            }
        }
        for name in g.xattrs.keys().filter(|n| !w.xattrs.contains_key(*n)) {
            let _ = write!(out, "xattr {} too many; ", show(name));
        }
    }
    match (&w.body, &g.body) {
        (a, b) if a == b => {}
        (
            Body::Dir { parent, entries },
            Body::Dir {
                parent: gp,
                entries: ge,
            },
        ) => {
            if parent != gp {
                let _ = write!(out, "parent {gp}, wanted {parent}; ");
            }
            for (name, ino) in entries {
                if ge.get(name) != Some(ino) {
                    let _ = write!(out, "{} = {:?}, wanted {ino}; ", show(name), ge.get(name));
                }
            }
            for name in ge.keys().filter(|n| !entries.contains_key(*n)) {
                let _ = write!(out, "name {} too many; ", show(name));
            }
        }
        (Body::File(a), Body::File(b)) => {
            let zeros = vec![0u8; 4096];
            let mut pages: Vec<_> = a.keys().chain(b.keys()).collect();
            pages.sort_unstable();
            pages.dedup();
            let mut shown = 0;
            for page in pages {
                let (x, y) = (a.get(page).unwrap_or(&zeros), b.get(page).unwrap_or(&zeros));
                if let Some(i) = (0..4096).find(|&i| x[i] != y[i]) {
                    let last = (0..4096).rfind(|&i| x[i] != y[i]).unwrap_or(i);
                    if shown < 4 {
                        let _ = write!(
                            out,
                            "page {page} bytes {i}..={last} differ ({:#x}, wanted {:#x}); ",
                            y[i], x[i]
                        );
                    }
                    shown += 1;
                }
            }
            if shown > 4 {
                let _ = write!(out, "{shown} pages in all; ");
            }
        }
        (a, b) => {
            let _ = write!(out, "{b:?}, wanted {a:?}");
        }
    }
    out
}
