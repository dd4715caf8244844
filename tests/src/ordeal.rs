// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a damaged image goes through: mounted, read, written, checked, repaired, checked again.

use crate::checker;
use crate::fixture::{drain, empty, mount};
use crate::host::TestHost;
use crate::script::new;
use crate::tree::{diff_node, node, walk, Body, Tree};
use fs_core::{Error, Fs, Ino, Region, RenameMode, Seek, SetAttr, ROOT_INO};

/// What was seen of a damaged image.
#[derive(Debug, Default)]
pub struct Seen {
    /// It could be mounted.
    pub mounted: bool,
    /// The mount went read-only.
    pub read_only: bool,
    /// Inodes that cannot be read whole any more.
    pub lost: Vec<Ino>,
    /// Answers that are neither right nor an error.
    pub wrong: Vec<String>,
}

/// Mounts, reads everything, then writes a little to what `written` says. What is read of an inode
/// is compared where `strict` says so.
///
/// # Errors
/// That of the mount.
pub fn tour<R: Region>(
    region: R,
    host: &TestHost,
    want: &Tree,
    strict: &dyn Fn(Ino) -> bool,
    written: &dyn Fn(Ino) -> bool,
) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    let fs = mount(region, host.clone())?;
    seen.mounted = true;
    for (ino, w) in want {
        let mut owned = Vec::new();
        match node(&fs, *ino, &mut owned) {
            Err(_) => seen.lost.push(*ino),
            Ok(mut n) => {
                // Front ends tell it in blocks of 512 bytes.
                if n.pages.checked_mul(8).is_none() {
                    seen.wrong.push(format!("inode {ino}: {} pages", n.pages));
                }
                n.pages = w.pages;
                if strict(*ino) && n != *w {
                    let what = format!("inode {ino}: {}", diff_node(w, &n));
                    seen.wrong.push(what);
                }
            }
        }
    }
    seen.read_only = fs.is_read_only();
    if !write_everywhere(&fs, want, written) {
        seen.wrong.push("reclaim does not come to an end".into());
    }
    Ok(seen)
}

/// Steps of reclaim that no specimen comes near.
const RECLAIMS: usize = 20_000;

/// A little of everything. Does reclaim come to an end afterwards?
fn write_everywhere<R: Region>(
    fs: &Fs<R, TestHost>,
    want: &Tree,
    written: &dyn Fn(Ino) -> bool,
) -> bool {
    let mut all: Vec<Result<(), Error>> = Vec::new();
    let mut d = |r: Result<(), Error>| all.push(r);
    let _ = fs.statfs();
    for (ino, w) in want.iter().filter(|(i, _)| written(**i)) {
        match &w.body {
            Body::Dir { entries, .. } => {
                d(fs.create(*ino, b"new", &new(fs_core::S_IFREG | 0o644))
                    .map(drop));
                d(fs.create(*ino, b"newdir", &new(fs_core::S_IFDIR | 0o755))
                    .map(drop));
                d(fs.symlink(*ino, b"newlink", &[b't'; 500], &new(0o777))
                    .map(drop));
                if let Some(name) = entries.keys().next() {
                    d(
                        fs.rename(*ino, name, ROOT_INO, b"moved", RenameMode::Replace)
                            .map(drop),
                    );
                    d(
                        fs.rename(*ino, b"new", ROOT_INO, b"moved", RenameMode::Exchange)
                            .map(drop),
                    );
                }
                if let Some(name) = entries.keys().last() {
                    if let Ok(gone) = fs.unlink(*ino, name) {
                        if gone.nlink == 0 {
                            d(fs.evict(gone.ino));
                        }
                    }
                }
                d(fs.rmdir(*ino, b"newdir").map(drop));
            }
            Body::File(_) => {
                d(fs.write(*ino, 1000, &[1; 9000]).map(drop));
                d(fs.write(*ino, w.size, &[2; 100]).map(drop));
                d(fs.seek(*ino, 0, Seek::Data).map(drop));
                d(fs.seek(*ino, 0, Seek::Hole).map(drop));
                d(fs.fallocate(*ino, fs_core::Fallocate::PunchHole, 4096, 4096));
                let set = SetAttr {
                    size: Some(w.size / 2),
                    ..SetAttr::default()
                };
                d(fs.setattr(*ino, &set).map(drop));
                let mut at = 0;
                for _ in 0..100 {
                    match fs.verify(*ino, at) {
                        Ok(Some(next)) => at = next,
                        _ => break,
                    }
                }
                d(fs.unseal(*ino));
                d(fs.seal(*ino));
            }
            _ => {}
        }
        d(fs.setxattr(*ino, b"user.new", &[3; 3000], fs_core::XattrMode::Either));
        d(fs.removexattr(*ino, b"user.small"));
    }
    let more = |fs: &Fs<R, TestHost>| fs.reclaim_step(&mut |_, f| f().map(|()| true)) == Ok(true);
    let ends = (0..RECLAIMS).any(|_| !more(fs));
    let _ = fs.statfs();
    let _ = fs.unmount();
    ends
}

/// May a mount of a damaged image fail so? Of what is corrupt, as a caller is told; only a
/// superblock whose checksum holds can ask for features (docs/LAYOUT.md, section 5), or for more
/// than the region has. Nobody else has the region, and it is ours.
#[must_use]
pub fn may_refuse(superblock: bool, mended: bool, e: &Error) -> bool {
    match e {
        Error::Corrupt(_) => true,
        Error::UnknownFeatures { .. } | Error::TooSmall => mended && superblock,
        _ => false,
    }
}

/// What came of a repair.
#[derive(Debug)]
pub enum Repaired {
    /// A superblock from the future, made whole by its checksum: not ours to repair.
    Refused,
    /// What can be read afterwards.
    Tree(Tree),
}

/// Why a repair is not a good one.
#[derive(Debug)]
pub enum Bad {
    /// The second check found something.
    Dirty(String),
    /// Anything else.
    Other(String),
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bad::Dirty(e) => write!(f, "the second {e}"),
            Bad::Other(e) => f.write_str(e),
        }
    }
}

/// Checks, repairs, checks again, mounts, walks; then deletes everything and checks, if `thorough`.
///
/// # Errors
/// Why it is not in order.
pub fn repaired<R: Region>(region: &R, host: &TestHost, thorough: bool) -> Result<Repaired, Bad> {
    let other = |e: String| Bad::Other(e);
    match checker::repair(region, host) {
        Err(Error::UnknownFeatures { .. }) => return Ok(Repaired::Refused),
        Err(e) => return Err(Bad::Other(format!("{e:?}"))),
        Ok(_) => {}
    }
    checker::clean_structure(region, host).map_err(Bad::Dirty)?;
    let host = host.reborn();
    let fs = mount(region, host.clone()).map_err(|e| other(format!("mount: {e:?}")))?;
    let tree = walk(&fs, &[]).map_err(other)?;
    drain(&fs).map_err(other)?;
    if thorough {
        empty(&fs).map_err(|e| other(format!("deleting everything: {e}")))?;
        checker::clean(region, &host).map_err(|e| other(format!("when emptied, {e}")))?;
    }
    if !host.reports().is_empty() {
        return Err(other(format!("corruption reported: {:?}", host.reports())));
    }
    Ok(Repaired::Tree(tree))
}
