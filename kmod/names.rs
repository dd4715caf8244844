// SPDX-License-Identifier: GPL-2.0
//! Names: found, made, taken away, moved.
//!
//! The VFS holds the inode locks of all directories involved, and of what is unlinked, replaced or moved.

use crate::acl;
use crate::errno::{Errno, Result};
use crate::nodes;
use crate::vfs::fill::Label;
use crate::vfs::inode::Got;
use crate::vfs::{Dentry, Idmap, Inode, InodeRef};
use fs_core::{Error, NewInode, RenameMode, S_IFDIR, S_IFLNK, S_IFMT};
use kernel::prelude::*;

/// What a name names.
pub(crate) fn lookup(dir: &Inode, dentry: &Dentry) -> Result<Option<InodeRef>> {
    let found = {
        let _meta = dir.meta_shared();
        dir.mount().fs().lookup(dir.ino(), dentry.name())
    };
    match found {
        // The directory is locked: the name stands, and so the inode has a link.
        Ok(ino) => nodes::named(dir.super_block(), ino).map(Some),
        Err(Error::NotFound) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The directory above.
pub(crate) fn parent(dir: &Inode) -> Result<InodeRef> {
    let ino = {
        let _meta = dir.meta_shared();
        dir.mount().fs().parent(dir.ino())?
    };
    nodes::named(dir.super_block(), ino)
}

/// What is to be made.
pub(crate) enum Make<'a> {
    /// A file, directory, device, FIFO or socket: mode and device number.
    Node(u32, u64),
    /// A symbolic link and where it leads.
    Link(&'a [u8]),
}

/// A new inode as its directory has it, and the lists it inherits.
fn plan(idmap: Idmap, dir: &Inode, mode: u32, rdev: u64) -> Result<(NewInode, acl::Inherited)> {
    let (uid, gid) = idmap.new_owner(dir);
    let inherited = acl::Inherited::new(dir, mode)?;
    let new = NewInode {
        mode: inherited.mode(),
        uid,
        gid,
        rdev,
    };
    Ok((new, inherited))
}

/// Makes something under a new name.
pub(crate) fn make(idmap: Idmap, dir: &Inode, dentry: &Dentry, make: Make<'_>) -> Result<Got> {
    let fs = dir.mount().fs();
    let (mode, rdev) = match make {
        Make::Node(mode, rdev) => (mode, rdev),
        Make::Link(_) => (S_IFLNK | 0o777, 0),
    };
    let (new, inherited) = plan(idmap, dir, mode, rdev)?;
    let attr = {
        let _meta = dir.meta(0);
        let attr = match make {
            Make::Node(..) => fs.create(dir.ino(), dentry.name(), &new)?,
            Make::Link(target) => fs.symlink(dir.ino(), dentry.name(), target, &new)?,
        };
        nodes::refresh(dir)?;
        attr
    };
    // Half made is not made. If that fails too, the first error is the one to tell.
    let take_back = || match attr.mode & S_IFMT {
        S_IFDIR => fs.rmdir(dir.ino(), dentry.name()),
        _ => fs.unlink(dir.ino(), dentry.name()),
    };
    let born = nodes::born(dir.super_block(), &attr).inspect_err(|_| {
        let _dir = dir.meta(0);
        // Nobody has it.
        let _ = take_back().and_then(|gone| fs.evict(gone.ino));
        let _ = nodes::refresh(dir);
    })?;
    let dressed = dress(&born, dir, Some(dentry), &inherited);
    dressed.inspect_err(|_| {
        let _dir = dir.meta(0);
        let _born = born.meta(2);
        // Somebody may have it by a file handle: its end takes it back.
        let _ = take_back();
        let _ = nodes::refresh(&born);
        let _ = nodes::refresh(dir);
    })?;
    Ok(born)
}

/// What else a new inode has from its directory: access control lists, a label.
fn dress(born: &Inode, dir: &Inode, dentry: Option<&Dentry>, inherited: &acl::Inherited) -> Result {
    inherited.apply(born)?;
    Label::apply(born, dir, dentry)
}

/// Makes a file without a name.
pub(crate) fn make_nameless(idmap: Idmap, dir: &Inode, mode: u32) -> Result<Got> {
    let (new, inherited) = plan(idmap, dir, mode, 0)?;
    let fs = dir.mount().fs();
    let attr = {
        let _meta = dir.meta_shared();
        fs.tmpfile(dir.ino(), &new)?
    };
    let born = nodes::born(dir.super_block(), &attr).inspect_err(|_| {
        // Nobody has it, and nobody will.
        let _ = fs.evict(attr.ino);
    })?;
    // From here on, the end of the last reference takes it back.
    dress(&born, dir, None, &inherited)?;
    Ok(born)
}

/// Gives an inode one more name.
pub(crate) fn link(inode: &Inode, dir: &Inode, dentry: &Dentry) -> Result {
    let _dir = dir.meta(0);
    let _inode = inode.meta(2);
    let attr = dir
        .mount()
        .fs()
        .link(inode.ino(), dir.ino(), dentry.name())?;
    inode.refresh(&attr);
    nodes::refresh(dir)
}

/// Takes a name away.
pub(crate) fn unlink(dir: &Inode, dentry: &Dentry, directory: bool) -> Result {
    let inode = dentry.inode().ok_or(Errno::NO_ENTRY)?;
    let _dir = dir.meta(0);
    let _inode = inode.meta(2);
    let fs = dir.mount().fs();
    if directory {
        fs.rmdir(dir.ino(), dentry.name())?;
    } else {
        fs.unlink(dir.ino(), dentry.name())?;
    }
    nodes::refresh(inode)?;
    nodes::refresh(dir)
}

/// Moves a name, or exchanges two.
pub(crate) fn rename(
    dir: &Inode,
    dentry: &Dentry,
    new_dir: &Inode,
    new_dentry: &Dentry,
    mode: RenameMode,
) -> Result {
    let inode = dentry.inode().ok_or(Errno::NO_ENTRY)?;
    let target = new_dentry.inode().filter(|target| !target.is_same(inode));
    let other = (!new_dir.is_same(dir)).then_some(new_dir);
    // An inode that is moved can be no directory it is moved from or to. What is moved inside of one
    // directory is not locked by the VFS if it is a directory itself: another move may be from there.
    let all = Inode::meta_of([Some(dir), other, Some(inode), target]);
    dir.mount().fs().rename(
        dir.ino(),
        dentry.name(),
        new_dir.ino(),
        new_dentry.name(),
        mode,
    )?;
    for changed in [Some(dir), other, Some(inode), target]
        .into_iter()
        .flatten()
    {
        nodes::refresh(changed)?;
    }
    drop(all);
    if matches!(mode, RenameMode::Whiteout { .. }) {
        label_whiteout(dir, dentry);
    }
    Ok(())
}

/// Gives what a rename left behind a label. The name has moved: that the label cannot be had changes nothing.
fn label_whiteout(dir: &Inode, dentry: &Dentry) {
    let left = {
        let _meta = dir.meta_shared();
        dir.mount().fs().lookup(dir.ino(), dentry.name())
    };
    if let Ok(whiteout) = left
        .map_err(Errno::from)
        .and_then(|ino| nodes::named(dir.super_block(), ino))
    {
        let _ = Label::apply(&whiteout, dir, Some(dentry));
    }
}

/// Where a symbolic link leads, with a NUL behind it.
pub(crate) fn target(inode: &Inode) -> Result<KBox<[u8; 4096]>> {
    let mut target = KBox::new([0; 4096], GFP_KERNEL)?;
    let _meta = inode.meta_shared();
    let room = target.len() - 1;
    inode
        .mount()
        .fs()
        .readlink(inode.ino(), &mut target[..room])?;
    Ok(target)
}
