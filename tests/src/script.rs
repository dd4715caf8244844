// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Operations by path, for scripts of a few lines.

use crate::crash::resolve;
use crate::host::{Rng, TestHost};
use fs_core::{
    Error, Fallocate, Fs, Ino, NewInode, Region, RenameMode, SetAttr, XattrMode, ROOT_INO, S_IFDIR,
    S_IFREG,
};

type R0<T = ()> = Result<T, Error>;
type F<R> = Fs<R, TestHost>;

fn split<'p, R: Region>(fs: &F<R>, path: &'p str) -> R0<(Ino, &'p [u8])> {
    match path.rsplit_once('/') {
        Some((dir, name)) => Ok((resolve(fs, dir)?, name.as_bytes())),
        None => Ok((ROOT_INO, path.as_bytes())),
    }
}

/// A rename that leaves a whiteout of root's.
pub const WHITEOUT: RenameMode = RenameMode::Whiteout { uid: 0, gid: 0 };

/// A new inode of type and permissions `mode`, uid 1000, gid 100.
#[must_use]
pub fn new(mode: u32) -> NewInode {
    NewInode {
        mode,
        uid: 1000,
        gid: 100,
        rdev: 0x0103,
    }
}

/// mknod.
///
/// # Errors
/// What the core answers, as everywhere here.
pub fn mknod<R: Region>(fs: &F<R>, path: &str, mode: u32) -> R0<Ino> {
    let (dir, name) = split(fs, path)?;
    Ok(fs.create(dir, name, &new(mode))?.ino)
}

/// An empty file.
///
/// # Errors
/// See [`mknod`].
pub fn touch<R: Region>(fs: &F<R>, path: &str) -> R0<Ino> {
    mknod(fs, path, S_IFREG | 0o644)
}

/// A directory.
///
/// # Errors
/// See [`mknod`].
pub fn mkdir<R: Region>(fs: &F<R>, path: &str) -> R0<Ino> {
    mknod(fs, path, S_IFDIR | 0o755)
}

/// A file without a name.
///
/// # Errors
/// See [`mknod`].
pub fn tmpfile<R: Region>(fs: &F<R>, dir: &str) -> R0<Ino> {
    Ok(fs.tmpfile(resolve(fs, dir)?, &new(S_IFREG | 0o600))?.ino)
}

/// A symbolic link with a target of `len` bytes.
///
/// # Errors
/// See [`mknod`].
pub fn symlink<R: Region>(fs: &F<R>, path: &str, len: usize) -> R0 {
    let (dir, name) = split(fs, path)?;
    let target: Vec<u8> = (0..len).map(|i| b'a' + (i % 26) as u8).collect();
    fs.symlink(dir, name, &target, &new(0o777)).map(drop)
}

/// A hard link.
///
/// # Errors
/// See [`mknod`].
pub fn link<R: Region>(fs: &F<R>, old: &str, path: &str) -> R0 {
    let ino = resolve(fs, old)?;
    link_ino(fs, ino, path)
}

/// A hard link to an inode.
///
/// # Errors
/// See [`mknod`].
pub fn link_ino<R: Region>(fs: &F<R>, ino: Ino, path: &str) -> R0 {
    let (dir, name) = split(fs, path)?;
    fs.link(ino, dir, name).map(drop)
}

/// Takes a name away, and leaves the inode.
///
/// # Errors
/// See [`mknod`].
pub fn unlink<R: Region>(fs: &F<R>, path: &str) -> R0<Ino> {
    let (dir, name) = split(fs, path)?;
    Ok(fs.unlink(dir, name)?.ino)
}

/// Takes a directory's name away, and leaves the inode.
///
/// # Errors
/// See [`mknod`].
pub fn rmdir<R: Region>(fs: &F<R>, path: &str) -> R0<Ino> {
    let (dir, name) = split(fs, path)?;
    Ok(fs.rmdir(dir, name)?.ino)
}

/// Takes a name away, and the inode if it was the last.
///
/// # Errors
/// See [`mknod`].
pub fn remove<R: Region>(fs: &F<R>, path: &str) -> R0 {
    let ino = unlink(fs, path)?;
    fs.evict(ino)
}

/// rename.
///
/// # Errors
/// See [`mknod`].
pub fn rename<R: Region>(fs: &F<R>, old: &str, new: &str, mode: RenameMode) -> R0 {
    let (dir, name) = split(fs, old)?;
    let (new_dir, new_name) = split(fs, new)?;
    fs.rename(dir, name, new_dir, new_name, mode).map(drop)
}

/// Writes `len` bytes of noise.
///
/// # Errors
/// See [`mknod`]; `NoSpace` also where only a part was written.
pub fn write<R: Region>(fs: &F<R>, path: &str, offset: u64, len: usize, seed: u64) -> R0 {
    let ino = resolve(fs, path)?;
    write_ino(fs, ino, offset, len, seed)
}

/// Writes `len` bytes of noise to an inode.
///
/// # Errors
/// See [`write`].
pub fn write_ino<R: Region>(fs: &F<R>, ino: Ino, offset: u64, len: usize, seed: u64) -> R0 {
    let n = fs.write(ino, offset, &Rng(seed).bytes(len))?;
    if n == len {
        Ok(())
    } else {
        Err(Error::NoSpace)
    }
}

/// A file with noise in it.
///
/// # Errors
/// See [`write`].
pub fn file<R: Region>(fs: &F<R>, path: &str, len: usize) -> R0<Ino> {
    let ino = touch(fs, path)?;
    write_ino(fs, ino, 0, len, ino)?;
    Ok(ino)
}

/// A file of `n` extents of a page each, with holes between.
///
/// # Errors
/// See [`write`].
pub fn comb<R: Region>(fs: &F<R>, path: &str, n: u64) -> R0<Ino> {
    let ino = touch(fs, path)?;
    for i in 0..n {
        write_ino(fs, ino, i * 8192, 4096, i + 1)?;
    }
    Ok(ino)
}

/// Changes the size.
///
/// # Errors
/// See [`mknod`].
pub fn truncate<R: Region>(fs: &F<R>, path: &str, size: u64) -> R0 {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    fs.setattr(resolve(fs, path)?, &set).map(drop)
}

/// fallocate.
///
/// # Errors
/// See [`mknod`].
pub fn fallocate<R: Region>(fs: &F<R>, path: &str, what: Fallocate, offset: u64, len: u64) -> R0 {
    fs.fallocate(resolve(fs, path)?, what, offset, len)
}

/// Sets an attribute to `len` bytes of noise.
///
/// # Errors
/// See [`mknod`].
pub fn setxattr<R: Region>(fs: &F<R>, path: &str, name: &str, len: usize) -> R0 {
    let value = Rng(len as u64).bytes(len);
    let ino = resolve(fs, path)?;
    fs.setxattr(ino, name.as_bytes(), &value, XattrMode::Either)
}

/// Removes an attribute.
///
/// # Errors
/// See [`mknod`].
pub fn removexattr<R: Region>(fs: &F<R>, path: &str, name: &str) -> R0 {
    fs.removexattr(resolve(fs, path)?, name.as_bytes())
}

/// Fills all space with one file, and leaves it.
///
/// # Errors
/// See [`mknod`].
pub fn fill<R: Region>(fs: &F<R>, path: &str) -> R0 {
    let ino = touch(fs, path)?;
    let mut at = 0;
    for len in [1 << 20, 1 << 16, 4096] {
        let data = Rng(3).bytes(len);
        loop {
            match fs.write(ino, at, &data) {
                Ok(n) => at += n as u64,
                Err(Error::NoSpace) => break,
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// Makes out of space a success: for operations that may or may not find room.
///
/// # Errors
/// All others.
pub fn if_room<T>(done: R0<T>) -> R0 {
    match done {
        Ok(_) | Err(Error::NoSpace) => Ok(()),
        Err(e) => Err(e),
    }
}
