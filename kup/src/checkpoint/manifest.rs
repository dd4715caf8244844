// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a checkpoint is, and how far it got: `manifest.json`, replaced as a whole.

use crate::foreign::Foreign;
use crate::sockets::Cut;
use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Of the manifest and of all that lies beside it.
pub const VERSION: u32 = 1;

pub const NAME: &str = "manifest.json";

/// How far a checkpoint got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is being written. Whoever finds this after a crash finds nothing to restore.
    Writing,
    /// Complete. The processes are gone or stopped, and may be restored, once.
    Ready,
    /// A restore has begun and has not said how it ended.
    Restoring,
    /// The processes run; what they have not touched yet still comes from here.
    Draining,
    /// The processes run, and need nothing of this any more.
    Restored,
}

/// Where the memory of the processes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// In sparse files, restored on demand
    Foam,
    /// In CRIU's own images, restored before the processes run
    Images,
}

/// What became of the processes after they were checkpointed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    Killed,
    Running,
    /// They stand still until the kernel is switched under them. Under the old one they went on.
    Carried,
}

/// One process, or what a person needs to know it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub command: String,
}

/// One run of CRIU over the processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Bytes of memory that it sent.
    pub bytes: u64,
    pub seconds: f64,
    /// The processes stood still for so long.
    pub frozen_seconds: f64,
}

/// A file of the checkpoint, as it must still be when it is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub name: String,
    pub bytes: u64,
    pub crc32: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub name: String,
    pub state: State,
    pub memory: Memory,
    /// Has every page of the memory a checksum?
    pub sealed: bool,
    pub left: Left,
    /// The service manager's unit that the processes belong to.
    pub unit: Option<String>,
    /// Where the unit's main PID is written.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// Seconds since 1970.
    pub created: u64,
    pub kernel: String,
    /// The boot of that kernel.
    pub boot_id: String,
    pub criu: String,
    pub root_pid: u32,
    pub processes: Vec<Process>,
    pub rounds: Vec<Round>,
    /// Connections to processes that stayed behind.
    #[serde(default)]
    pub cut: Vec<Cut>,
    /// What a service has open from outside of its mounts.
    #[serde(default)]
    pub foreign: Vec<Foreign>,
    /// Bytes that are restored on demand, and before the processes run.
    pub lazy_bytes: u64,
    pub eager_bytes: u64,
    /// More of CRIU's options, for the dump and the restore alike.
    pub criu_options: Vec<String>,
    /// CRIU's table of connections in the packet filter has none, and CRIU was told that there is nothing to unlock.
    #[serde(default)]
    pub empty_table: bool,
    pub images: Vec<Sealed>,
}

impl Manifest {
    /// # Errors
    /// There is none, or one that this version does not know.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(NAME);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let parse = || {
            let Version { version } = serde_json::from_str(&text)?;
            if version != VERSION {
                bail!("version {version}; this kup knows {VERSION}: use the one that made it");
            }
            Ok(serde_json::from_str(&text)?)
        };
        parse().with_context(|| path.display().to_string())
    }

    /// Replaces it. After this it is in the file, whatever happens.
    ///
    /// # Errors
    /// It could not be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let (path, new) = (dir.join(NAME), dir.join(".manifest.json.new"));
        let write = || -> Result<()> {
            // In one piece: applications stand still meanwhile.
            let text = serde_json::to_string_pretty(self)? + "\n";
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            Ok(File::open(dir)?.sync_all()?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// Bytes of the memory of the processes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lazy_bytes.saturating_add(self.eager_bytes)
    }
}

/// The files of a directory, as they are now. FOAM has sums of its own; where the memory is in CRIU's
/// images, they are left out: to sum them would cost downtime twice.
///
/// # Errors
/// One of them cannot be read.
pub fn seal(dir: &Path, memory: Memory) -> Result<Vec<Sealed>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_str().context("a name that is not UTF-8")?;
        if memory == Memory::Images && name.starts_with("pages-") {
            continue;
        }
        let (bytes, crc32) = sum(&entry.path())?;
        all.push(Sealed {
            name: name.to_owned(),
            bytes,
            crc32,
        });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// # Errors
/// A file is not what it was.
pub fn verify(dir: &Path, sealed: &[Sealed]) -> Result<()> {
    for file in sealed {
        ensure!(
            !file.name.contains('/') && file.name != "..",
            "{}: no name of an image",
            file.name
        );
        let path = dir.join(&file.name);
        let kind = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        ensure!(kind.is_file(), "{}: not a file", path.display());
        ensure!(
            sum(&path)? == (file.bytes, file.crc32),
            "{}: not what was checkpointed: somebody wrote into it, or into the region",
            path.display()
        );
    }
    Ok(())
}

fn sum(path: &Path) -> Result<(u64, u32)> {
    let read = || -> Result<(u64, u32)> {
        let mut file = File::open(path)?;
        let mut hash = crc32fast::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        let mut bytes = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok((bytes, hash.finalize()));
            }
            hash.update(&buffer[..n]);
            bytes += n as u64;
        }
    };
    read().with_context(|| path.display().to_string())
}
