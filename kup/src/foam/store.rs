// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A directory with the memory of a checkpoint: a file for each owner, and beside it the sums of its pages.

use super::{Owner, Ranges};
use nix::errno::Errno;
use nix::fcntl::{fallocate, FallocateFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Runs of this many bytes are worth a request for room in one piece.
const RUN: u64 = 64 << 10;

/// Where memory files are.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in `dir`, which exists.
    #[must_use]
    pub fn new(dir: &Path) -> Store {
        Store {
            dir: dir.to_owned(),
        }
    }

    #[must_use]
    pub fn path(&self, owner: Owner) -> PathBuf {
        self.dir.join(owner.to_string())
    }

    fn sums_path(&self, owner: Owner) -> PathBuf {
        self.dir.join(format!("{owner}.sums"))
    }

    /// The memory of `owner`, made if it is not there.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn create(&self, owner: Owner) -> io::Result<File> {
        writable(&self.path(owner))
    }

    /// The sums of its pages, made if they are not there.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn create_sums(&self, owner: Owner) -> io::Result<File> {
        writable(&self.sums_path(owner))
    }

    /// Takes away the memory of `owner` and its sums, as far as they are there.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self, owner: Owner) -> io::Result<()> {
        for path in [self.path(owner), self.sums_path(owner)] {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// The memory of `owner`, to read.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self, owner: Owner) -> io::Result<File> {
        File::open(self.path(owner))
    }

    /// The sums of its pages, to read, if they were kept.
    ///
    /// # Errors
    /// Those of open(2), but for a file that is not there.
    pub fn open_sums(&self, owner: Owner) -> io::Result<Option<File>> {
        match File::open(self.sums_path(owner)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Memory is nobody's business but root's.
fn writable(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(path)
}

/// Asks for room for a run that is about to be written, so that it lies in one piece and, on RP-RAMFS,
/// aligned for huge pages. A filesystem that cannot do so will find room as it comes.
///
/// # Errors
/// There is no room.
pub(super) fn reserve(file: &File, range: &Range<u64>) -> io::Result<()> {
    if range.end - range.start < RUN {
        return Ok(());
    }
    allocate(file, range)
}

/// Takes room for the first bytes of a file.
///
/// # Errors
/// There is no room.
pub fn room(file: &File, bytes: u64) -> io::Result<()> {
    allocate(file, &(0..bytes))
}

fn allocate(file: &File, range: &Range<u64>) -> io::Result<()> {
    let bytes = range.end - range.start;
    let flags = FallocateFlags::empty();
    match fallocate(file, flags, range.start as i64, bytes as i64) {
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Gives back the room of ranges, where the filesystem can: nobody reads what is there.
///
/// # Errors
/// Those of fallocate(2).
pub fn punch(file: &File, ranges: &Ranges) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for range in ranges.iter() {
        let bytes = range.end - range.start;
        match fallocate(file, flags, range.start as i64, bytes as i64) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
