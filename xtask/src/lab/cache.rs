// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The cache directory: `$XDG_CACHE_HOME/rpramfs` or `~/.cache/rpramfs`.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const UNUSED: Duration = Duration::from_secs(30 * 86400);

#[derive(Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// Held while something in the cache is made; other processes wait.
pub struct Lock(#[allow(dead_code)] File);

impl Cache {
    pub fn open() -> Result<Cache> {
        let base = match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => {
                PathBuf::from(std::env::var_os("HOME").context("$HOME is not set")?).join(".cache")
            }
        };
        let dir = base.join("rpramfs");
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        Ok(Cache { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn lock(&self, name: &str) -> Result<Lock> {
        let dir = self.dir.join("locks");
        fs::create_dir_all(&dir)?;
        let file = File::create(dir.join(name.replace('/', "-")))?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(std::io::Error::last_os_error()).context("flock");
        }
        Ok(Lock(file))
    }

    /// The path of a cached thing, made by `make` if it is not there. `make` is given a path to
    /// fill; only what was made whole gets the final name.
    pub fn get(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if touch(&path) {
            return Ok(path);
        }
        let _lock = self.lock(name)?;
        if touch(&path) {
            return Ok(path);
        }
        fs::create_dir_all(path.parent().context("a name below the cache")?)?;
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        remove(&partial)?;
        make(&partial)?;
        // An unpacked directory has the date of the package.
        touch(&partial);
        fs::rename(&partial, &path)?;
        Ok(path)
    }

    /// Removes what nobody has used for a month: versions that the archive has long replaced.
    pub fn sweep(&self) -> Result<()> {
        let _lock = self.lock("sweep")?;
        let mut dirs = vec![
            "disks", "initrd", "kbuild", "kernels", "locks", "modules", "rust", "userland",
        ]
        .into_iter()
        .map(|name| self.dir.join(name))
        .collect::<Vec<_>>();
        for suite in list(&self.dir.join("apt")) {
            dirs.push(suite.join("archives"));
        }
        for path in dirs.iter().flat_map(|dir| list(dir)) {
            let used = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
            let age = used
                .ok()
                .and_then(|used| SystemTime::now().duration_since(used).ok());
            if age.is_some_and(|age| age > UNUSED) && !path.ends_with("partial") {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Notes that something in the cache was used. False if it is not there.
pub fn touch(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => {
            let _ = file.set_modified(SystemTime::now());
            true
        }
        Err(_) => false,
    }
}

pub fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.with_context(|| format!("remove {}", path.display()))
}

/// A short name for some content.
pub fn key<B: AsRef<[u8]>>(parts: impl IntoIterator<Item = B>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..8])
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
