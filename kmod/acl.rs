// SPDX-License-Identifier: GPL-2.0
//! POSIX access control lists: attributes of the system namespace, in the kernel's own format.

use crate::errno::{Errno, Result};
use crate::vfs::acl::{Acl, Kind};
use crate::vfs::{Dentry, Idmap, Inode};
use crate::xattrs::{self, Name};
use fs_core::{SetAttr, XattrMode, S_IFLNK, S_IFMT};
use kernel::prelude::*;

/// Larger lists than this are not stored.
const MOST: usize = 65536;

fn name(kind: Kind) -> Result<Name> {
    match kind {
        Kind::Access => Name::new(b"system.posix_acl_", b"access"),
        Kind::Default => Name::new(b"system.posix_acl_", b"default"),
    }
}

/// The list of an inode, if it has one.
pub(crate) fn get(inode: &Inode, kind: Kind) -> Result<Option<Acl>> {
    let name = name(kind)?;
    loop {
        let len = match xattrs::get(inode, &name, &mut []) {
            Ok(len) if len > MOST => return Err(Errno::IO),
            Ok(len) => len,
            Err(Errno::NO_DATA) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut value = KVec::from_elem(0u8, len, GFP_KERNEL)?;
        match xattrs::get(inode, &name, &mut value) {
            Ok(len) => return Acl::from_xattr(value.get(..len).ok_or(Errno::IO)?),
            // It grew meanwhile.
            Err(e) if e == Errno::from(fs_core::Error::Range) => {}
            Err(e) => return Err(e),
        }
    }
}

fn store(inode: &Inode, kind: Kind, acl: Option<&Acl>) -> Result {
    let name = name(kind)?;
    match acl {
        Some(acl) => {
            let value = acl.to_xattr()?;
            xattrs::set(inode, &name, Some(&value), XattrMode::Either)?;
        }
        None => match xattrs::set(inode, &name, None, XattrMode::Either) {
            Ok(()) | Err(Errno::NO_DATA) => {}
            Err(e) => return Err(e),
        },
    }
    Ok(())
}

/// Gives an inode a list, or takes it away. The inode is locked.
pub(crate) fn set(idmap: Idmap, inode: &Inode, acl: Option<Acl>, kind: Kind) -> Result {
    let mut acl = acl;
    let mut mode = inode.mode();
    if kind == Kind::Access {
        // A list that says no more than a mode is one.
        Acl::into_mode(idmap, inode, &mut mode, &mut acl)?;
    }
    store(inode, kind, acl.as_ref())?;
    if mode != inode.mode() {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        let _meta = inode.meta(0);
        let attr = inode.mount().fs().setattr(inode.ino(), &set)?;
        inode.refresh(&attr);
    }
    Acl::remember(inode, kind, acl.as_ref());
    Ok(())
}

/// After a chmod, the list says the same.
pub(crate) fn follow_mode(idmap: Idmap, dentry: &Dentry, inode: &Inode) -> Result {
    if inode.mode() & S_IFMT == S_IFLNK {
        return Ok(());
    }
    Acl::follow_mode(idmap, dentry, inode)
}

/// What a new inode has from its directory.
pub(crate) struct Inherited {
    mode: u32,
    default: Option<Acl>,
    access: Option<Acl>,
}

impl Inherited {
    pub(crate) fn new(dir: &Inode, mode: u32) -> Result<Inherited> {
        if mode & S_IFMT == S_IFLNK {
            return Ok(Inherited {
                mode,
                default: None,
                access: None,
            });
        }
        let (mode, default, access) = Acl::inherit(dir, mode)?;
        Ok(Inherited {
            mode,
            default,
            access,
        })
    }

    /// The mode, as the directory's default list narrows it.
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    /// Stores the lists.
    pub(crate) fn apply(&self, inode: &Inode) -> Result {
        for (kind, acl) in [(Kind::Default, &self.default), (Kind::Access, &self.access)] {
            if acl.is_some() {
                store(inode, kind, acl.as_ref())?;
            }
            Acl::remember(inode, kind, acl.as_ref());
        }
        Ok(())
    }
}
