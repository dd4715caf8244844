// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that the host shares with a guest: what the guest stores there is known to the host at once, and
//! whatever becomes of the guest.

use crate::host::zeros;
use anyhow::Result;
use lab_agent::LEDGER_SIZE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// An empty one, in a file that QEMU maps.
    pub fn new(path: &Path) -> Result<Ledger> {
        Ok(Ledger {
            path: path.to_owned(),
            file: zeros(path, LEDGER_SIZE as u64)?,
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
