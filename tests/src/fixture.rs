// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A filesystem to test on: made, mounted, filled, drained, emptied, its accounts audited.

use crate::host::TestHost;
use crate::tree::{self, Tree};
use fs_core::{
    Error, FormatOptions, Fs, Host, Ino, MountOptions, NewInode, Owner, OwnerKind, Region, Result,
    ROOT_INO, S_IFDIR, S_IFMT, S_IFREG,
};

/// How the test filesystems are made.
#[must_use]
pub fn options() -> FormatOptions {
    let mut label = [0; 32];
    label[..5].copy_from_slice(b"tests");
    FormatOptions {
        uuid: *b"rpramfs-test-fs!",
        label,
        uid: 0,
        gid: 0,
        mode: 0o755,
        struct_pages: false,
    }
}

/// Formats a region.
///
/// # Panics
/// When that fails.
pub fn format<R: Region>(region: &R, host: &TestHost) {
    fs_core::format(region, host, &options()).expect("format");
}

/// Mounts, whoever left the marker behind: he is dead.
///
/// # Errors
/// What the core answers.
pub fn mount<R: Region, H: Host>(region: R, host: H) -> Result<Fs<R, H>> {
    mount_as(region, host, *b"boot-id-of-tests")
}

/// As [`mount`], in another boot of the machine.
///
/// # Errors
/// What the core answers.
pub fn mount_as<R: Region, H: Host>(region: R, host: H, boot_id: [u8; 16]) -> Result<Fs<R, H>> {
    let options = MountOptions {
        read_only: false,
        owner: Owner {
            boot_id,
            kind: OwnerKind::Fuse,
            pid: 42,
            start: 4242,
        },
        alive: &|_| false,
    };
    Fs::mount(region, host, &options)
}

/// Does all pending reclaim.
///
/// # Errors
/// What the core answers; or that it does not come to an end.
pub fn drain<R: Region, H: Host>(fs: &Fs<R, H>) -> std::result::Result<u64, String> {
    for step in 0..1_000_000 {
        let more = fs
            .reclaim_step(&mut |_, f| f().map(|()| true))
            .map_err(|e| format!("reclaim: {e:?}"))?;
        if !more {
            let pending = fs.stats().pending;
            if pending != 0 {
                return Err(format!("reclaim is done, but {pending} are pending"));
            }
            return Ok(step);
        }
    }
    Err("reclaim does not come to an end".into())
}

fn word<R: Region>(fs: &Fs<R, impl Host>, off: u64) -> u64 {
    fs.region().load(off).expect("inside the region")
}

const SYSTEM: u64 = 4096;

/// Region offset of a system inode: 0 the inode table, 1..=8 the pending sets.
fn system_inode(n: u64) -> u64 {
    SYSTEM + 256 * (2 + n)
}

/// Region offset of an inode, by the inode table as docs/LAYOUT.md describes it.
pub fn inode<R: Region>(fs: &Fs<R, impl Host>, ino: Ino) -> Option<u64> {
    let table = system_inode(0);
    let body = word(fs, table + 136);
    let want = ino / 16;
    let in_record = |at: u64| {
        let (key, page, len) = (word(fs, at), word(fs, at + 8), word(fs, at + 16) << 1 >> 1);
        let p = want.checked_sub(key)?;
        (p < len).then(|| (page + p) * 4096 + ino % 16 * 256)
    };
    if body & 0xff == 0 {
        return (0..body >> 16 & 0xffff).find_map(|i| in_record(table + 144 + 24 * i));
    }
    let mut node = word(fs, table + 144) * 4096;
    loop {
        let (level, count) = (
            word(fs, node + 24) >> 8 & 0xff,
            word(fs, node + 24) >> 16 & 0xffff,
        );
        if level == 0 {
            return (0..count).find_map(|i| in_record(node + 256 + 24 * i));
        }
        // The last child whose lower bound is not above; the first one's bound does not count.
        let child = (1..count)
            .take_while(|i| word(fs, node + 256 + 16 * i) <= want)
            .last()
            .unwrap_or(0);
        node = word(fs, node + 256 + 16 * child + 8) * 4096;
    }
}

/// Pages as docs/LAYOUT.md counts them.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Free or not.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Of files, directories, links and seals.
    pub files: u64,
    /// Of the inode table and the pending sets.
    pub system: u64,
    /// Inodes in use, seals included.
    pub inodes: u64,
}

impl Pages {
    /// Pages that are nobody's; negative: pages that are counted twice.
    #[must_use]
    pub fn leaked(&self) -> i64 {
        self.total as i64 - (self.free + self.files + self.system) as i64
    }
}

/// Counts the pages of a filesystem: `tree` is all there is.
///
/// # Errors
/// A sealed file without a seal.
pub fn pages<R: Region>(fs: &Fs<R, impl Host>, tree: &Tree) -> std::result::Result<Pages, String> {
    // The backup counts while there is no other.
    let primary = word(fs, 0) == u64::from_le_bytes(*b"RPRAMFS\0");
    let sb = if primary { 0 } else { fs.region().len() - 4096 };
    let (data_start, data_end) = (word(fs, sb + 144), word(fs, sb + 152));
    let stat = fs.statfs();
    let mut inodes = tree.len() as u64;
    let mut pages: u64 = tree.values().map(|n| n.pages).sum();
    let system: u64 = (0..9).map(|n| word(fs, system_inode(n) + 48)).sum();
    for (ino, _) in tree.iter().filter(|(_, n)| n.sealed) {
        let at = inode(fs, *ino).ok_or("an inode outside the inode table")?;
        let seal = word(fs, at + 128);
        if seal == 0 {
            return Err(format!("inode {ino} is sealed, without a seal"));
        }
        inodes += 1;
        pages += word(
            fs,
            inode(fs, seal).ok_or("a seal outside the inode table")? + 48,
        );
    }
    Ok(Pages {
        total: data_end - data_start,
        free: stat.free,
        files: pages,
        system,
        inodes,
    })
}

/// Every page is free or somebody's: `tree` is all there is.
///
/// # Errors
/// Says which sum is wrong.
pub fn audit<R: Region>(fs: &Fs<R, impl Host>, tree: &Tree) -> std::result::Result<(), String> {
    let sum = pages(fs, tree)?;
    let stat = fs.statfs();
    match sum.leaked() {
        0 => {}
        n @ 1.. => return Err(format!("{n} pages leaked: {sum:?}")),
        n => return Err(format!("{} pages counted twice: {sum:?}", -n)),
    }
    let inodes = sum.inodes;
    if stat.inodes != inodes {
        return Err(format!("{} inodes in use, but {inodes} exist", stat.inodes));
    }
    if stat.available > stat.free {
        return Err(format!("{} of {} available", stat.available, stat.free));
    }
    Ok(())
}

/// Removes every name, evicts every inode, takes the root's attributes away.
///
/// # Errors
/// What went wrong; what is left.
pub fn empty<R: Region, H: Host>(fs: &Fs<R, H>) -> std::result::Result<(), String> {
    let fail = |what: &'static str, ino: Ino| move |e: Error| format!("{what} {ino}: {e:?}");
    // Depth first, without recursion: a directory comes back when it is empty.
    let mut stack = vec![(ROOT_INO, ROOT_INO, Vec::new())];
    while let Some((dir, parent, name)) = stack.pop() {
        let mut below = Vec::new();
        for (n, ino) in tree::entries(fs, dir, 64)? {
            let mode = fs.getattr(ino).map_err(fail("getattr", ino))?.mode;
            if mode & S_IFMT == S_IFDIR {
                below.push((ino, dir, n));
            } else {
                let gone = fs.unlink(dir, &n).map_err(fail("unlink from", dir))?;
                if gone.nlink == 0 {
                    fs.evict(ino).map_err(fail("evict", ino))?;
                }
            }
        }
        if !below.is_empty() {
            stack.push((dir, parent, name));
            stack.extend(below);
        } else if dir != ROOT_INO {
            fs.rmdir(parent, &name)
                .map_err(fail("rmdir from", parent))?;
            fs.evict(dir).map_err(fail("evict", dir))?;
        }
    }
    let mut list = vec![0; 65536];
    let n = fs
        .listxattr(ROOT_INO, &mut list)
        .map_err(fail("listxattr", ROOT_INO))?;
    for name in list[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        fs.removexattr(ROOT_INO, name)
            .map_err(fail("removexattr", ROOT_INO))?;
    }
    drain(fs)?;
    let tree = tree::walk(fs, &[])?;
    if tree.len() != 1 {
        return Err(format!("{} inodes are left", tree.len()));
    }
    if tree[&ROOT_INO].pages != 0 {
        return Err(format!(
            "the empty root keeps {} pages",
            tree[&ROOT_INO].pages
        ));
    }
    let sets: u64 = (1..9).map(|n| word(fs, system_inode(n) + 48)).sum();
    if sets != 0 {
        return Err(format!("the empty pending sets keep {sets} pages"));
    }
    audit(fs, &tree)
}

/// A little of everything, as far as there is room for it: is the filesystem good for work?
///
/// # Errors
/// What went wrong.
pub fn churn<R: Region, H: Host>(fs: &Fs<R, H>, salt: u64) -> std::result::Result<(), String> {
    let err = |what: &'static str| move |e: Error| format!("{what} after recovery: {e:?}");
    let new = NewInode {
        mode: S_IFREG | 0o644,
        ..NewInode::default()
    };
    let dir = NewInode {
        mode: S_IFDIR | 0o755,
        ..NewInode::default()
    };
    let full = |e: &Error| *e == Error::NoSpace;
    let top = match fs.create(ROOT_INO, format!("churn-{salt}").as_bytes(), &dir) {
        Err(e) if full(&e) => return Ok(()),
        other => other.map_err(err("mkdir"))?.ino,
    };
    for i in 0..3u64 {
        let name = format!("file-{i}");
        let ino = match fs.create(top, name.as_bytes(), &new) {
            Err(e) if full(&e) => return Ok(()),
            other => other.map_err(err("create"))?.ino,
        };
        let data = crate::host::Rng(salt + i).bytes(5000 + 4096 * i as usize);
        match fs.write(ino, i * 10_000, &data) {
            Err(e) if full(&e) => return Ok(()),
            Ok(n) if n < data.len() => return Ok(()),
            other => other.map_err(err("write"))?,
        };
        let mut back = vec![0; data.len()];
        let n = fs.read(ino, i * 10_000, &mut back).map_err(err("read"))?;
        if n != data.len() || back != data {
            return Err("what was written is not what is read".into());
        }
        match fs.rename(
            top,
            name.as_bytes(),
            ROOT_INO,
            format!("moved-{salt}-{i}").as_bytes(),
            fs_core::RenameMode::Replace,
        ) {
            Err(e) if full(&e) => return Ok(()),
            other => other.map_err(err("rename"))?,
        };
    }
    Ok(())
}
