// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Checkpoints are directories, readable by root only:
//!
//! ```text
//! NAME/manifest.json   what it is, and how far it got
//!      images/         CRIU's images of the processes
//!      memory/         their memory, as FOAM
//!      rounds/1 2 …    the images of the rounds before the last, while it is being written
//!      log/            what CRIU said
//! ```

pub mod drain;
mod manifest;
pub mod restore;
mod take;
mod wipe;

pub use manifest::{Left, Manifest, Memory, Process, Round, State, NAME as MANIFEST, VERSION};
pub use take::{room, take, Complete, Request, Taking};

use crate::processes;
use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A directory of checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
}

/// Nobody else changes checkpoints while this lives.
pub struct Lock(#[allow(dead_code, reason = "held, not used")] Flock<File>);

/// A checkpoint's place, whether anything is there or not.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub name: String,
    pub dir: PathBuf,
}

impl Checkpoints {
    #[must_use]
    pub fn new(dir: &Path) -> Checkpoints {
        Checkpoints {
            dir: dir.to_owned(),
        }
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps others out until it is dropped, or this process ends. Makes the directory if it is not there.
    ///
    /// # Errors
    /// Somebody else is in.
    pub fn lock(&self) -> Result<Lock> {
        make(&self.dir)?;
        let path = self.dir.join(".lock");
        // What lies in the region is not trusted: no link leads out of it.
        let mut options = File::options();
        options.write(true).create(true).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, Errno::EAGAIN)) => bail!(
                "another kup works in {}; wait for it (`fuser -v {}` names it)",
                self.dir.display(),
                path.display()
            ),
            Err((_, e)) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    /// # Errors
    /// It is no name for a checkpoint.
    pub fn at(&self, name: &str) -> Result<Checkpoint> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@:".contains(c);
        ensure!(
            !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(fits),
            "{name:?} is no name for a checkpoint: letters, digits and - _ . @ :, not beginning with a dot"
        );
        Ok(Checkpoint {
            name: name.to_owned(),
            dir: self.dir.join(name),
        })
    }

    /// All there are, by name, with what is known of them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all(&self) -> Result<Vec<(Checkpoint, Result<Manifest>)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| self.dir.display().to_string())?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(Ok(checkpoint)) = name.to_str().map(|name| self.at(name)) else {
                continue;
            };
            if entry.file_type()?.is_dir() {
                let manifest = checkpoint.manifest();
                all.push((checkpoint, manifest));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        Ok(all)
    }
}

impl Checkpoint {
    /// # Errors
    /// There is no checkpoint, or none that this version knows.
    pub fn manifest(&self) -> Result<Manifest> {
        ensure!(
            self.dir.is_dir(),
            "no checkpoint {}; `kup list` names all",
            self.name
        );
        Manifest::read(&self.dir)
    }

    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }

    #[must_use]
    pub fn rounds(&self) -> PathBuf {
        self.dir.join("rounds")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// A file that keeps room for the restore.
    #[must_use]
    pub fn reserve(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// Where CRIU works while it restores: sockets are made there.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Has it come so far that it says what it is?
    #[must_use]
    pub fn has_manifest(&self) -> bool {
        self.dir.join(manifest::NAME).exists()
    }

    /// Does one of its processes live, with memory that is still to come?
    ///
    /// # Errors
    /// It cannot be told.
    pub fn drains(&self) -> Result<bool> {
        for process in self.manifest()?.processes {
            if processes::exists(process.pid) && processes::is_filled_on_demand(process.pid)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Overwrites all of it with zeros, in place where the filesystem does so (RP-RAMFS does).
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn wipe(&self) -> Result<()> {
        wipe::directory(&self.dir)
    }

    /// Removes it, whatever state it is in.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| self.dir.display().to_string())
    }
}

/// Makes a directory that only root enters.
pub(crate) fn make(dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(dir)
        .with_context(|| dir.display().to_string())
}
