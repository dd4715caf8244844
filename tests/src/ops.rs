// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every operation as a value, and how to run one.

use fs_core::{
    Attr, Error, Fallocate, Fs, Host, Ino, NewInode, Region, RenameMode, Seek, SetAttr, Unlinked,
    XattrMode,
};

/// A call of the core's API.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Lookup {
        dir: Ino,
        name: Vec<u8>,
    },
    Parent {
        dir: Ino,
    },
    Getattr {
        ino: Ino,
    },
    Setattr {
        ino: Ino,
        set: SetAttr,
    },
    Create {
        dir: Ino,
        name: Vec<u8>,
        new: NewInode,
    },
    Tmpfile {
        dir: Ino,
        new: NewInode,
    },
    Symlink {
        dir: Ino,
        name: Vec<u8>,
        target: Vec<u8>,
        new: NewInode,
    },
    Readlink {
        ino: Ino,
    },
    Link {
        ino: Ino,
        dir: Ino,
        name: Vec<u8>,
    },
    Unlink {
        dir: Ino,
        name: Vec<u8>,
    },
    Rmdir {
        dir: Ino,
        name: Vec<u8>,
    },
    Rename {
        dir: Ino,
        name: Vec<u8>,
        new_dir: Ino,
        new_name: Vec<u8>,
        mode: RenameMode,
    },
    Readdir {
        dir: Ino,
        chunk: usize,
    },
    Read {
        ino: Ino,
        offset: u64,
        len: usize,
    },
    Write {
        ino: Ino,
        offset: u64,
        data: Data,
    },
    Overwrite {
        ino: Ino,
        offset: u64,
        data: Data,
    },
    TouchAtime {
        ino: Ino,
        time: i64,
    },
    Fallocate {
        ino: Ino,
        what: Fallocate,
        offset: u64,
        len: u64,
    },
    Seek {
        ino: Ino,
        offset: u64,
        what: Seek,
    },
    CopyRange {
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    },
    Getxattr {
        ino: Ino,
        name: Vec<u8>,
        room: usize,
    },
    Listxattr {
        ino: Ino,
        room: usize,
    },
    Setxattr {
        ino: Ino,
        name: Vec<u8>,
        value: Data,
        mode: XattrMode,
    },
    Removexattr {
        ino: Ino,
        name: Vec<u8>,
    },
    Evict {
        ino: Ino,
    },
    Seal {
        ino: Ino,
    },
    Unseal {
        ino: Ino,
    },
    Verify {
        ino: Ino,
    },
}

/// Bytes to store, short in a log: repeatable noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// What noise; 0 is zeros.
    pub seed: u64,
    /// How many bytes.
    pub len: usize,
}

impl Data {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        if self.seed == 0 {
            vec![0; self.len]
        } else {
            crate::host::Rng(self.seed).bytes(self.len)
        }
    }
}

/// What an operation answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Out {
    Unit,
    Ino(Ino),
    Attr(Attr),
    Unlinked(Option<Unlinked>),
    Bytes(Vec<u8>),
    /// A length where no buffer was given.
    Len(usize),
    Number(u64),
    Flag(bool),
    Names(Vec<(Vec<u8>, Ino)>),
}

/// Runs an operation.
///
/// # Errors
/// What the core answers.
pub fn run<R: Region, H: Host>(fs: &Fs<R, H>, op: &Op) -> Result<Out, Error> {
    Ok(match op {
        Op::Lookup { dir, name } => Out::Ino(fs.lookup(*dir, name)?),
        Op::Parent { dir } => Out::Ino(fs.parent(*dir)?),
        Op::Getattr { ino } => Out::Attr(fs.getattr(*ino)?),
        Op::Setattr { ino, set } => Out::Attr(fs.setattr(*ino, set)?),
        Op::Create { dir, name, new } => Out::Attr(fs.create(*dir, name, new)?),
        Op::Tmpfile { dir, new } => Out::Attr(fs.tmpfile(*dir, new)?),
        Op::Symlink {
            dir,
            name,
            target,
            new,
        } => Out::Attr(fs.symlink(*dir, name, target, new)?),
        Op::Readlink { ino } => {
            let mut buf = vec![0; 4096];
            let n = fs.readlink(*ino, &mut buf)?;
            buf.truncate(n);
            Out::Bytes(buf)
        }
        Op::Link { ino, dir, name } => Out::Attr(fs.link(*ino, *dir, name)?),
        Op::Unlink { dir, name } => Out::Unlinked(Some(fs.unlink(*dir, name)?)),
        Op::Rmdir { dir, name } => Out::Unlinked(Some(fs.rmdir(*dir, name)?)),
        Op::Rename {
            dir,
            name,
            new_dir,
            new_name,
            mode,
        } => Out::Unlinked(fs.rename(*dir, name, *new_dir, new_name, *mode)?),
        Op::Readdir { dir, chunk } => {
            let mut all = Vec::new();
            let mut cookie = 0;
            loop {
                let mut n = 0;
                fs.readdir(*dir, cookie, &mut |e| {
                    if n == *chunk {
                        return false;
                    }
                    n += 1;
                    cookie = e.cookie;
                    all.push((e.name.to_vec(), e.ino));
                    true
                })?;
                if n < *chunk {
                    break Out::Names(all);
                }
            }
        }
        Op::Read { ino, offset, len } => {
            let mut buf = vec![0xa5; *len];
            let n = fs.read(*ino, *offset, &mut buf)?;
            buf.truncate(n);
            Out::Bytes(buf)
        }
        Op::Write { ino, offset, data } => {
            Out::Number(fs.write(*ino, *offset, &data.bytes())? as u64)
        }
        Op::Overwrite { ino, offset, data } => {
            Out::Flag(fs.overwrite(*ino, *offset, &data.bytes())?)
        }
        Op::TouchAtime { ino, time } => {
            fs.touch_atime(*ino, *time)?;
            Out::Unit
        }
        Op::Fallocate {
            ino,
            what,
            offset,
            len,
        } => {
            fs.fallocate(*ino, *what, *offset, *len)?;
            Out::Unit
        }
        Op::Seek { ino, offset, what } => Out::Number(fs.seek(*ino, *offset, *what)?),
        Op::CopyRange {
            from,
            from_offset,
            to,
            to_offset,
            len,
        } => Out::Number(fs.copy_range(*from, *from_offset, *to, *to_offset, *len)?),
        Op::Getxattr { ino, name, room } => {
            let mut buf = vec![0; *room];
            let n = fs.getxattr(*ino, name, &mut buf)?;
            bytes_or_len(buf, n)
        }
        Op::Listxattr { ino, room } => {
            let mut buf = vec![0; *room];
            let n = fs.listxattr(*ino, &mut buf)?;
            bytes_or_len(buf, n)
        }
        Op::Setxattr {
            ino,
            name,
            value,
            mode,
        } => {
            fs.setxattr(*ino, name, &value.bytes(), *mode)?;
            Out::Unit
        }
        Op::Removexattr { ino, name } => {
            fs.removexattr(*ino, name)?;
            Out::Unit
        }
        Op::Evict { ino } => {
            fs.evict(*ino)?;
            Out::Unit
        }
        Op::Seal { ino } => {
            fs.seal(*ino)?;
            Out::Unit
        }
        Op::Unseal { ino } => {
            fs.unseal(*ino)?;
            Out::Unit
        }
        Op::Verify { ino } => {
            let mut at = 0;
            let mut windows = 0;
            while let Some(next) = fs.verify(*ino, at)? {
                assert!(next > at, "verify does not go on: {at} -> {next}");
                at = next;
                windows += 1;
            }
            Out::Number(windows)
        }
    })
}

fn bytes_or_len(mut buf: Vec<u8>, n: usize) -> Out {
    if buf.is_empty() && n > 0 {
        Out::Len(n)
    } else {
        buf.truncate(n);
        Out::Bytes(buf)
    }
}
