// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Sequences of operations out of numbers, each answer and the whole tree compared with the model.

use crate::checker;
use crate::env;
use crate::fixture::{audit, drain, empty, format, mount};
use crate::host::TestHost;
use crate::mem::MemRegion;
use crate::model::Model;
use crate::ops::{run, Data, Op, Out};
use crate::tree::walk;
use fs_core::{
    Fallocate, Fs, Ino, NewInode, RenameMode, Seek, SetAttr, XattrMode, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK,
};

const MIB: u64 = 1 << 20;

/// A step before it is known what there is: numbers that choose.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Chooses the operation.
    pub kind: u8,
    /// Chooses what it is done to.
    pub a: u16,
    /// Chooses another, or a name.
    pub b: u16,
    /// Chooses lengths.
    pub c: u32,
    /// Chooses the rest.
    pub d: u64,
}

/// What a test leans to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Lean {
    Everything,
    Names,
    Contents,
    Attributes,
}

/// What to do in a step.
enum Do {
    Op(Box<Op>),
    Crash,
    Unmount,
    Drain,
}

fn pick(from: &[Ino], n: u64) -> Ino {
    if from.is_empty() {
        99_999
    } else {
        from[n as usize % from.len()]
    }
}

/// Names from a small pool, so that they meet; some long, some impossible.
fn a_name(n: u64) -> Vec<u8> {
    match n % 64 {
        0 => vec![b'x'; 255],
        1 => {
            let mut v = vec![b'x'; 255];
            v[254] = b'y';
            v
        }
        2 => vec![b'z'; 256],
        3 => Vec::new(),
        4 => format!("{:0200}", n / 64 % 32).into_bytes(),
        5..=20 => format!("{:090}", n / 64 % 64).into_bytes(),
        21 => vec![0xff, 0xfe, b' ', b'\n'],
        k => format!("n{}", k % 14).into_bytes(),
    }
}

fn an_offset(n: u64, size: u64) -> u64 {
    let some = n >> 8;
    match n % 16 {
        0..=2 => some % (size + 1),
        3 => size,
        4 => size + some % 5000,
        5 | 6 => some % 40 * 4096,
        7 => some % 400 * 4096 + some % 3,
        8 => some % 20_000,
        9 => 4096 * (some % 30) + 4090,
        10 => 2 * MIB * (some % 4) + some % 2 * 4096,
        11 => size & !4095,
        12 => (1u64 << (12 + some % 50)).wrapping_sub(some % 3 * 4096),
        13 => (1 << 47) - 4096,
        14 => (1 << 63) - 1 - some % 10_000,
        _ => some % 100_000,
    }
}

fn a_length(n: u64) -> usize {
    let some = (n >> 8) as usize;
    match n % 16 {
        0 => 0,
        1..=3 => some % 64,
        4 | 5 => 4096,
        6 => 4096 * (some % 12),
        7..=9 => some % 9000,
        10 => some % 70_000,
        11 => 32_768 + some % 3,
        12 => some % 300_000,
        13 => 4096 * (some % 80),
        _ => 1 + some % 4096,
    }
}

fn an_xattr(n: u64) -> Vec<u8> {
    let prefix = [
        "user.",
        "trusted.",
        "security.",
        "system.",
        "user.",
        "user.",
        "nobody.",
    ][(n % 7) as usize];
    let some = n / 7;
    let mut name = prefix.as_bytes().to_vec();
    match some % 12 {
        0 => {}
        1 => name.resize(255, b'q'),
        2 => name.resize(256, b'q'),
        k => name.extend(format!("a{k}").bytes()),
    }
    name
}

fn an_xattr_length(n: u64) -> usize {
    let some = (n >> 8) as usize;
    match n % 10 {
        0 => 0,
        1..=4 => some % 100,
        5 => some % 5000,
        6 => 4096,
        7 => 65_536 - some % 2,
        8 => 65_536 + some % 2,
        _ => some % 65_536,
    }
}

fn a_mode(n: u64) -> u32 {
    (n % 4096) as u32 | if n % 5 == 0 { 0o2000 } else { 0 }
}

fn plan(step: &Step, m: &Model, lean: Lean, now: i64) -> Do {
    let (a, b) = (u64::from(step.a), u64::from(step.b));
    let c = u64::from(step.c);
    let d = step.d;
    let dirs = m.dirs();
    let files = m.files();
    let all = m.inos();
    let seed = if d % 7 == 0 { 0 } else { d | 1 };
    // Mostly what fits, now and then anything, seldom what is not there.
    let any_ino = |n: u64| match n % 40 {
        0 => [0, 7_777_777, u64::MAX, 1 << 63 | 2][(n / 40 % 4) as usize],
        _ => pick(&all, n / 40),
    };
    let dir = |n: u64| {
        if n % 29 == 0 {
            any_ino(n / 29)
        } else {
            pick(&dirs, n / 29)
        }
    };
    let file = |n: u64| {
        if n % 29 == 0 {
            any_ino(n / 29)
        } else {
            pick(&files, n / 29)
        }
    };
    // A name that exists, or one that may.
    let name_in = |dir: Ino, n: u64| {
        let there = m.names(dir);
        if n % 4 != 0 && !there.is_empty() {
            there[(n / 4) as usize % there.len()].0.clone()
        } else {
            a_name(n / 4)
        }
    };
    let new = |n: u64, kind: u32| NewInode {
        mode: kind | a_mode(n),
        uid: (n >> 12) as u32 % 4,
        gid: (n >> 14) as u32 % 4,
        rdev: n >> 3,
    };
    let kinds: &[u8] = match lean {
        Lean::Everything => &[
            0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 17, 18,
            18, 19, 20, 21, 22, 22, 23, 24, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
        ],
        Lean::Names => &[
            0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 9, 9, 9, 10, 11, 12, 31, 32, 33, 34,
        ],
        Lean::Contents => &[
            0, 2, 7, 13, 14, 15, 15, 16, 17, 17, 17, 17, 17, 18, 18, 18, 19, 19, 20, 21, 22, 22,
            23, 24, 24, 24, 31, 32, 33, 34, 28, 29,
        ],
        Lean::Attributes => &[
            0, 1, 7, 14, 25, 25, 25, 25, 26, 26, 27, 27, 31, 32, 33, 34, 8,
        ],
    };
    let kind = kinds[step.kind as usize % kinds.len()];
    let op = match kind {
        0 => {
            let dir = dir(a);
            let kinds = [
                S_IFREG, S_IFREG, S_IFREG, S_IFREG, S_IFREG, S_IFCHR, S_IFIFO, S_IFSOCK, S_IFBLK,
                S_IFLNK,
            ];
            Op::Create {
                dir,
                name: if b % 9 == 0 {
                    name_in(dir, b / 9)
                } else {
                    a_name(b)
                },
                new: new(c, kinds[(d % 10) as usize]),
            }
        }
        1 => Op::Create {
            dir: dir(a),
            name: a_name(b),
            new: new(c, S_IFDIR),
        },
        2 => Op::Tmpfile {
            dir: dir(a),
            new: new(c, if d % 9 == 0 { S_IFDIR } else { S_IFREG }),
        },
        3 => Op::Symlink {
            dir: dir(a),
            name: a_name(b),
            target: Data {
                seed: 5,
                len: [1, 20, 112, 113, 114, 4095, 4096, 0][(d % 8) as usize],
            }
            .bytes()
            .iter()
            .map(|x| b'a' + x % 20)
            .collect(),
            new: new(c, 0o777),
        },
        4 => Op::Readlink { ino: any_ino(a) },
        5 => Op::Link {
            ino: match d % 4 {
                0 => pick(&m.orphans(), b),
                _ => any_ino(a),
            },
            dir: dir(b),
            name: a_name(c),
        },
        6 => Op::Lookup {
            dir: dir(a),
            name: name_in(dir(a), b),
        },
        7 => {
            let dir = dir(a);
            Op::Unlink {
                dir,
                name: name_in(dir, b),
            }
        }
        8 => {
            let dir = dir(a);
            Op::Rmdir {
                dir,
                name: name_in(dir, b),
            }
        }
        9 => {
            let from = dir(a);
            let to = if d % 3 == 0 { from } else { dir(b) };
            let name = name_in(from, c);
            let new_name = match d % 5 {
                0 => name.clone(),
                1 | 2 => name_in(to, d >> 8),
                _ => a_name(d >> 8),
            };
            let mode = match (d >> 5) % 8 {
                0 | 1 => RenameMode::Exchange,
                2 => RenameMode::NoReplace,
                3 => RenameMode::Whiteout {
                    uid: (d >> 9) as u32 % 3,
                    gid: (d >> 11) as u32 % 3,
                },
                _ => RenameMode::Replace,
            };
            // What the caller has to prevent: a directory below itself.
            let ino_of = |dir: Ino, name: &[u8]| {
                m.names(dir)
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, i)| *i)
            };
            let (s, t) = (ino_of(from, &name), ino_of(to, &new_name));
            let loops = s.is_some_and(|s| m.is_dir(s) && m.below(to, s))
                || t.is_some_and(|t| m.is_dir(t) && m.below(from, t));
            if loops && !(from == to && s == t) {
                Op::Parent { dir: from }
            } else {
                Op::Rename {
                    dir: from,
                    name,
                    new_dir: to,
                    new_name,
                    mode,
                }
            }
        }
        10 => Op::Readdir {
            dir: dir(a),
            chunk: [1, 2, 7, 1000][(b % 4) as usize],
        },
        11 => Op::Parent { dir: dir(a) },
        12 => Op::Getattr { ino: any_ino(a) },
        13 => Op::Getattr { ino: file(a) },
        14 => {
            let mut set = SetAttr::default();
            if d & 1 != 0 {
                set.mode = Some(c as u32);
            }
            if d & 2 != 0 {
                set.uid = Some(b as u32);
            }
            if d & 4 != 0 {
                set.gid = Some(b as u32 / 2);
            }
            if d & 24 == 24 {
                set.atime = Some(now - c as i64);
            }
            if d & 96 == 96 {
                set.mtime = Some(c as i64 - 5);
            }
            if d & 0x380 == 0x380 {
                set.ctime = Some(c as i64);
            }
            Op::Setattr {
                ino: any_ino(a),
                set,
            }
        }
        15 => {
            let ino = file(a);
            Op::Setattr {
                ino,
                set: SetAttr {
                    size: Some(match d % 23 {
                        0 => 0,
                        1 => 1 << 63,
                        _ => an_offset(c << 8 | b, m.size(ino)),
                    }),
                    mtime: (d % 5 == 0).then_some(c as i64),
                    ..SetAttr::default()
                },
            }
        }
        16 => {
            let ino = file(a);
            Op::Read {
                ino,
                offset: an_offset(d, m.size(ino)),
                len: a_length(c << 8 | b),
            }
        }
        17 => {
            let ino = file(a);
            Op::Write {
                ino,
                offset: an_offset(d, m.size(ino)),
                data: Data {
                    seed,
                    len: a_length(c << 8 | b),
                },
            }
        }
        18 => {
            let ino = file(a);
            Op::Fallocate {
                ino,
                what: match b % 6 {
                    0 => Fallocate::Allocate { keep_size: false },
                    1 => Fallocate::Allocate { keep_size: true },
                    2 | 3 => Fallocate::PunchHole,
                    4 => Fallocate::ZeroRange { keep_size: false },
                    _ => Fallocate::ZeroRange { keep_size: true },
                },
                offset: an_offset(d, m.size(ino)),
                len: match c % 50 {
                    0 => 1 << 40,
                    1 => 1 << 62,
                    2 => u64::MAX,
                    _ => a_length(c << 4 | b) as u64,
                },
            }
        }
        19 => {
            let from = file(a);
            let to = file(b);
            Op::CopyRange {
                from,
                from_offset: an_offset(d, m.size(from)),
                to,
                to_offset: an_offset(d >> 3 ^ c, m.size(to)),
                len: match c % 37 {
                    0 => u64::MAX,
                    // Not further than a hole of this size can be written out as zeros.
                    _ => a_length(c >> 3 | b << 16) as u64,
                },
            }
        }
        20 | 21 => {
            let ino = file(a);
            Op::Seek {
                ino,
                offset: an_offset(d, m.size(ino)),
                what: if kind == 20 { Seek::Data } else { Seek::Hole },
            }
        }
        22 => {
            let ino = file(a);
            Op::Overwrite {
                ino,
                offset: an_offset(d, m.size(ino)),
                data: Data {
                    seed,
                    len: a_length(c << 8 | b),
                },
            }
        }
        23 => Op::TouchAtime {
            ino: any_ino(a),
            time: now - 1000 + (d % 2000) as i64,
        },
        24 => {
            // Close to what is there: edges of extents.
            let ino = file(a);
            let offset = (d % 40) * 4096;
            Op::Write {
                ino,
                offset,
                data: Data {
                    seed,
                    len: 4096 * (1 + b as usize % 2),
                },
            }
        }
        25 => Op::Setxattr {
            ino: any_ino(a),
            name: an_xattr(b),
            value: Data {
                seed,
                len: an_xattr_length(c << 8 | d & 255),
            },
            mode: match d % 7 {
                0 => XattrMode::Create,
                1 => XattrMode::Replace,
                _ => XattrMode::Either,
            },
        },
        26 => {
            let ino = any_ino(a);
            let there = m.xattrs(ino);
            let name = if there.is_empty() || b % 5 == 0 {
                an_xattr(b)
            } else {
                there[b as usize % there.len()].clone()
            };
            if c % 3 == 0 {
                Op::Removexattr { ino, name }
            } else {
                Op::Getxattr {
                    ino,
                    name,
                    room: [0, 1, 50, 100_000][(d % 4) as usize],
                }
            }
        }
        27 => Op::Listxattr {
            ino: any_ino(a),
            room: [0, 1, 50, 100_000][(d % 4) as usize],
        },
        28 => match d % 5 {
            0 | 1 => Op::Seal { ino: file(a) },
            2 => Op::Verify { ino: file(a) },
            _ => Op::Unseal { ino: file(a) },
        },
        29 => Op::Verify { ino: file(a) },
        30 => Op::Unseal { ino: file(a) },
        31 => Op::Evict {
            ino: match d % 3 {
                0 => any_ino(a),
                _ => pick(&m.orphans(), b),
            },
        },
        32 if d % 3 == 0 => return Do::Crash,
        33 if d % 3 == 0 => return Do::Unmount,
        34 => return Do::Drain,
        _ => Op::Getattr { ino: any_ino(a) },
    };
    Do::Op(Box::new(op))
}

/// How many pages an operation may want, at most.
fn wish(op: &Op) -> u64 {
    let bytes = match op {
        Op::Write { data, .. } | Op::Overwrite { data, .. } => data.len as u64,
        Op::Fallocate { len, .. } | Op::CopyRange { len, .. } => *len,
        Op::Setxattr { value, .. } => value.len as u64 + 4096,
        _ => 0,
    };
    let pages = bytes.min(1 << 50) / 4096;
    // Edges, nodes of trees on the way, an inode's page, some reserve.
    24 + pages + pages / 40
}

/// A filesystem and its model.
pub struct Run<'a> {
    fs: Option<Fs<&'a MemRegion, TestHost>>,
    model: Model,
    host: TestHost,
    mem: &'a MemRegion,
}

impl<'a> Run<'a> {
    /// Formats and mounts.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new(mem: &'a MemRegion) -> Self {
        let host = TestHost::new(77);
        format(mem, &host);
        let fs = mount(mem, host.clone()).expect("mount");
        let root = fs.getattr(1).expect("root");
        let model = Model::new(&root, fs_core::Region::len(mem));
        Run {
            fs: Some(fs),
            model,
            host,
            mem,
        }
    }

    fn fs(&self) -> &Fs<&'a MemRegion, TestHost> {
        self.fs.as_ref().expect("mounted")
    }

    /// Is the whole tree that of the model?
    ///
    /// # Errors
    /// What differs, as everywhere here.
    pub fn compare(&self) -> Result<(), String> {
        let orphans = self.model.orphans();
        let tree = walk(self.fs(), &orphans)?;
        self.model.compare(&tree).map_or(Ok(()), Err)?;
        audit(self.fs(), &tree)?;
        checker::clean(self.mem, &self.host)?;
        let bad = self.host.reports();
        if bad.is_empty() {
            Ok(())
        } else {
            Err(format!("corruption reported: {bad:?}"))
        }
    }

    fn remount(&mut self, unmount: bool) -> Result<(), String> {
        if unmount {
            self.fs().unmount().map_err(|e| format!("unmount: {e:?}"))?;
        }
        self.fs = None;
        self.model.remount();
        self.host.tick();
        checker::clean(self.mem, &self.host)?;
        let host = self.host.reborn();
        self.host = host.clone();
        self.fs = Some(mount(self.mem, host).map_err(|e| format!("mount: {e:?}"))?);
        Ok(())
    }

    /// Takes a step.
    ///
    /// # Errors
    /// See [`Run::compare`].
    ///
    /// # Panics
    /// Where the core does.
    pub fn step(&mut self, step: &Step, lean: Lean) -> Result<(), String> {
        // The clock does not move at every operation, as a coarse one does not.
        let now = if step.a % 3 == 0 {
            self.host.tick()
        } else {
            fs_core::Host::now(&self.host)
        };
        match plan(step, &self.model, lean, now) {
            Do::Crash => {
                self.remount(false)?;
                if step.d % 2 == 0 {
                    drain(self.fs())?;
                    self.compare()?;
                }
            }
            Do::Unmount => self.remount(true)?,
            Do::Drain => {
                // What is open is left alone, as a front end does it.
                let open = self.model.inos();
                for _ in 0..step.b % 8 {
                    self.fs()
                        .reclaim_step(&mut |ino, f| {
                            if open.contains(&ino) {
                                return Ok(false);
                            }
                            f().map(|()| true)
                        })
                        .map_err(|e| format!("reclaim: {e:?}"))?;
                }
            }
            Do::Op(op) => {
                // Orphans of an earlier mount may have numbers that the model thinks free.
                let before = self.fs().statfs();
                let tight = before.available < wish(&op);
                let got = run(self.fs(), &op);
                if env::is_verbose() {
                    println!("{op:?} -> {got:?}");
                }
                let held = self.host.held();
                if !held.is_empty() {
                    return Err(format!("{op:?}: locks {held:?} are still held"));
                }
                let fs = self.fs.as_ref().expect("mounted");
                self.model
                    .judge(&op, now, &got, tight, fs)
                    .map_err(|e| format!("{op:?}: {e}"))?;
                if got == Err(fs_core::Error::NoSpace) {
                    self.settled()?;
                    self.compare()
                        .map_err(|e| format!("after {op:?} found no space: {e}"))?;
                }
            }
        }
        Ok(())
    }

    /// Pages of earlier orphans are nobody's the audit knows: have them reclaimed.
    ///
    /// # Errors
    /// See [`Run::compare`].
    pub fn settled(&self) -> Result<(), String> {
        let open = self.model.inos();
        for _ in 0..100_000 {
            let mut refused = false;
            let more = self
                .fs()
                .reclaim_step(&mut |ino, f| {
                    if open.contains(&ino) {
                        refused = true;
                        return Ok(false);
                    }
                    f().map(|()| true)
                })
                .map_err(|e| format!("reclaim: {e:?}"))?;
            if !more {
                return Ok(());
            }
        }
        Err("reclaim does not come to an end".into())
    }

    /// Compares, crashes, compares, deletes everything.
    ///
    /// # Errors
    /// See [`Run::compare`].
    pub fn finish(mut self) -> Result<(), String> {
        self.settled()?;
        self.compare()?;
        self.remount(false)?;
        drain(self.fs())?;
        self.compare().map_err(|e| format!("after a crash: {e}"))?;
        for ino in self.model.files() {
            match run(self.fs(), &Op::Unseal { ino }) {
                Ok(Out::Unit) | Err(fs_core::Error::Invalid) => {}
                other => return Err(format!("unseal {ino}: {other:?}")),
            }
        }
        empty(self.fs()).map_err(|e| format!("deleting everything: {e}"))?;
        checker::clean(self.mem, &self.host).map(drop)
    }
}

/// A whole sequence in a region of `bytes`.
///
/// # Errors
/// See [`Run::compare`].
pub fn sequence(steps: &[Step], lean: Lean, bytes: u64) -> Result<(), String> {
    let mem = MemRegion::new(bytes);
    let mut run = Run::new(&mem);
    for (i, step) in steps.iter().enumerate() {
        run.step(step, lean).map_err(|e| format!("step {i}: {e}"))?;
        if i % 16 == 15 {
            run.settled()?;
            run.compare().map_err(|e| format!("at step {i}: {e}"))?;
        }
    }
    run.finish()
}
