// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory of applications holds keys and passwords: it is overwritten before its pages are given back.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{lseek, Whence};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Overwrites all files of a directory, and those below it.
pub fn directory(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            directory(&path)?;
        } else if kind.is_file() {
            let file = OpenOptions::new().write(true).read(true).open(&path);
            file.map_err(Into::into)
                .and_then(|file| data(&file))
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Overwrites what is not a hole.
fn data(file: &File) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut end = 0;
    loop {
        let start = match lseek(file, end, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e.into()),
        };
        end = lseek(file, start, Whence::SeekHole)?;
        let mut at = start as u64;
        while at < end as u64 {
            let n = zeros.len().min((end as u64 - at) as usize);
            file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
    }
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let file = File::create(below.join("memory")).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"secret", (1 << 29) + 5).unwrap();
        directory(dir.path()).unwrap();
        let file = File::open(below.join("memory")).unwrap();
        let mut read = [1; 6];
        file.read_exact_at(&mut read, (1 << 29) + 5).unwrap();
        assert_eq!(read, [0; 6]);
        assert_eq!(file.metadata().unwrap().len(), 1 << 30);
    }
}
