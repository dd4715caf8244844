// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A region with one of everything in it, and what it should hold.

#![allow(dead_code)]

use fs_core::check::{self, CheckOptions, Decision, Event, Report};
use fs_core::{
    Fallocate, FormatOptions, Fs, Ino, MountOptions, NewInode, Owner, OwnerKind, Region, XattrMode,
    ROOT_INO, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG,
};
use host::{UserHost, UserRegion};
use std::collections::BTreeMap;

pub const LEN: u64 = 24 << 20;

pub fn owner(kind: OwnerKind) -> Owner {
    Owner {
        boot_id: [7; 16],
        kind,
        pid: std::process::id(),
        start: 1,
    }
}

pub fn mount(region: &UserRegion) -> Fs<&UserRegion, UserHost> {
    try_mount(region).expect("mount")
}

pub fn try_mount(region: &UserRegion) -> fs_core::Result<Fs<&UserRegion, UserHost>> {
    Fs::mount(
        region,
        UserHost::new(),
        &MountOptions {
            read_only: false,
            owner: owner(OwnerKind::Fuse),
            alive: &|_| false,
        },
    )
}

pub fn format(len: u64) -> UserRegion {
    let region = UserRegion::anonymous(len).expect("memory");
    fs_core::format(
        &region,
        &UserHost::new(),
        &FormatOptions {
            uuid: [3; 16],
            label: *b"a label\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            uid: 0,
            gid: 0,
            mode: 0o755,
            struct_pages: false,
        },
    )
    .expect("format");
    region
}

pub fn new(mode: u32) -> NewInode {
    NewInode {
        mode,
        uid: 1,
        gid: 2,
        rdev: 0x105,
    }
}

/// Bytes that differ from file to file and from page to page.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

fn file(fs: &Fs<&UserRegion, UserHost>, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let a = fs
        .create(dir, name.as_bytes(), &new(S_IFREG | 0o644))
        .expect(name);
    assert_eq!(fs.write(a.ino, 0, data).expect(name), data.len());
    a.ino
}

/// One of everything.
pub fn populate(region: &UserRegion) {
    let fs = mount(region);
    let dir = |parent, name: &str| {
        fs.create(parent, name.as_bytes(), &new(S_IFDIR | 0o755))
            .expect(name)
            .ino
    };
    file(&fs, ROOT_INO, "small", b"hello");
    file(&fs, ROOT_INO, "three pages", &bytes(1, 12_000));
    let a = dir(ROOT_INO, "a");
    let b = dir(a, "b");
    let c = dir(b, "c");
    file(&fs, c, "deep", &bytes(2, 100_000));
    let linked = file(&fs, a, "linked", &bytes(3, 5000));
    fs.link(linked, b, b"also linked").expect("link");
    let many = dir(ROOT_INO, "many");
    for i in 0..400 {
        file(&fs, many, &format!("file number {i:04}"), &bytes(i, 100));
    }
    // Deep tree of extents: every other page.
    let sparse = fs
        .create(ROOT_INO, b"sparse", &new(S_IFREG | 0o600))
        .expect("sparse")
        .ino;
    for i in 0..400u64 {
        let page = bytes(i + 1000, 4096);
        fs.write(sparse, i * 8192, &page).expect("write");
    }
    let scattered = fs
        .create(ROOT_INO, b"some extents", &new(S_IFREG | 0o600))
        .expect("scattered")
        .ino;
    for i in 0..20u64 {
        fs.write(scattered, i * 3 * 4096, &bytes(i + 7000, 4096))
            .expect("write");
    }
    fs.symlink(
        ROOT_INO,
        b"short link",
        b"a/b/c/deep",
        &new(S_IFLNK | 0o777),
    )
    .expect("symlink");
    fs.symlink(ROOT_INO, b"long link", &[b'x'; 1000], &new(S_IFLNK | 0o777))
        .expect("symlink");
    fs.create(ROOT_INO, b"device", &new(S_IFCHR | 0o600))
        .expect("mknod");
    let x = file(&fs, ROOT_INO, "attributes", b"with attributes");
    fs.setxattr(x, b"user.small", b"value", XattrMode::Either)
        .expect("setxattr");
    fs.setxattr(x, b"user.large", &bytes(5, 20_000), XattrMode::Either)
        .expect("setxattr");
    fs.setxattr(x, b"trusted.other", b"", XattrMode::Either)
        .expect("setxattr");
    let sealed = file(&fs, ROOT_INO, "sealed", &bytes(6, 5 << 20));
    fs.write(sealed, 11 << 20, b"behind a hole").expect("write");
    fs.seal(sealed).expect("seal");
    let reserved = file(&fs, ROOT_INO, "reserved", b"x");
    fs.fallocate(
        reserved,
        Fallocate::Allocate { keep_size: true },
        0,
        1 << 20,
    )
    .expect("fallocate");
    // Free inodes, an orphan, a file without a name.
    for i in 0..10 {
        let name = format!("gone {i}");
        let ino = file(&fs, ROOT_INO, &name, b"gone");
        fs.unlink(ROOT_INO, name.as_bytes()).expect("unlink");
        if i != 3 {
            fs.evict(ino).expect("evict");
        }
    }
    let tmp = fs
        .tmpfile(ROOT_INO, &new(S_IFREG | 0o600))
        .expect("tmpfile");
    fs.write(tmp.ino, 0, b"no name").expect("write");
    fs.unmount().expect("unmount");
}

/// Everything about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub ino: Ino,
    pub mode: u32,
    pub nlink: u32,
    pub data: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sealed: bool,
}

pub type Tree = BTreeMap<String, Node>;

/// Reads the whole tree through a mount.
pub fn read_tree(region: &UserRegion) -> fs_core::Result<Tree> {
    let fs = try_mount(region)?;
    let mut tree = Tree::new();
    let mut todo = vec![(ROOT_INO, String::new())];
    while let Some((dir, path)) = todo.pop() {
        let mut names = Vec::new();
        fs.readdir(dir, 0, &mut |e| {
            names.push((e.name.to_vec(), e.ino));
            true
        })?;
        for (name, ino) in names {
            assert_eq!(fs.lookup(dir, &name)?, ino);
            let a = fs.getattr(ino)?;
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            let data = match a.mode & S_IFMT {
                S_IFREG => {
                    // Damage can make a file look huge.
                    let mut data = vec![0; a.size.min(32 << 20) as usize];
                    assert_eq!(fs.read(ino, 0, &mut data)?, data.len());
                    data
                }
                S_IFLNK => {
                    let mut data = vec![0; 4096];
                    let n = fs.readlink(ino, &mut data)?;
                    data.truncate(n);
                    data
                }
                S_IFDIR => {
                    todo.push((ino, path.clone()));
                    assert_eq!(fs.parent(ino)?, dir);
                    Vec::new()
                }
                _ => Vec::new(),
            };
            let mut list = vec![0; 4096];
            let n = fs.listxattr(ino, &mut list)?;
            let mut xattrs = BTreeMap::new();
            for name in list[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
                let mut value = vec![0; 65536];
                let n = match fs.getxattr(ino, name, &mut value) {
                    // A namespace that damage made up.
                    Err(fs_core::Error::NotSupported) => 0,
                    n => n?,
                };
                value.truncate(n);
                xattrs.insert(name.to_vec(), value);
            }
            tree.insert(
                path,
                Node {
                    ino,
                    mode: a.mode,
                    nlink: a.nlink,
                    data,
                    xattrs,
                    sealed: a.sealed,
                },
            );
        }
    }
    assert!(!fs.is_read_only(), "corruption was met while reading");
    fs.unmount()?;
    Ok(tree)
}

pub fn snapshot(region: &UserRegion) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region.read(0, &mut bytes).expect("read");
    bytes
}

pub fn restore(region: &UserRegion, bytes: &[u8]) {
    region.write(0, bytes).expect("write");
}

pub struct Outcome {
    pub report: Report,
    pub findings: Vec<String>,
    pub notes: Vec<String>,
}

pub fn run(region: &dyn Region, repair: bool, data: bool) -> fs_core::Result<Outcome> {
    run_until(region, repair, data, u64::MAX)
}

/// Stops at the n-th event.
pub fn run_until(
    region: &dyn Region,
    repair: bool,
    data: bool,
    stop: u64,
) -> fs_core::Result<Outcome> {
    let mut findings = Vec::new();
    let mut notes = Vec::new();
    let mut n = 0;
    let report = check::check(
        region,
        &UserHost::new(),
        &CheckOptions {
            repair,
            data,
            quick: false,
            owner: Some(owner(OwnerKind::Tool)),
            alive: &|_| false,
        },
        &mut |e| {
            n += 1;
            if n > stop {
                return Decision::Stop;
            }
            match e {
                Event::Finding(f) => findings.push(format!(
                    "{f} -> {}",
                    f.repair.as_deref().unwrap_or("NOTHING")
                )),
                Event::Note(t) => notes.push(t.to_string()),
                _ => {}
            }
            Decision::Repair
        },
    )?;
    Ok(Outcome {
        report,
        findings,
        notes,
    })
}

/// A read-only check of a sound region finds nothing.
#[track_caller]
pub fn assert_clean(region: &UserRegion, what: &str) -> Report {
    let out = run(region, false, true).expect(what);
    assert!(
        out.findings.is_empty(),
        "{what}: {:#?}\n{:#?}",
        out.findings,
        out.notes
    );
    out.report
}
