// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that the host shares with a guest: what the guest stores there is known to the host at once, and
//! whatever becomes of the guest.

use anyhow::{Context, Result};
use lab_agent::LEDGER_SIZE;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// An empty one, in a file that QEMU maps.
    pub fn new(path: &Path) -> Result<Ledger> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        let file = file.with_context(|| format!("{}", path.display()))?;
        file.set_len(LEDGER_SIZE as u64)?;
        Ok(Ledger {
            path: path.to_owned(),
            file,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn words(&self) -> Result<Vec<u64>> {
        let mut bytes = vec![0; LEDGER_SIZE];
        self.file.read_exact_at(&mut bytes, 0)?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        Ok(bytes.chunks_exact(8).map(word).collect())
    }
}
