// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Runs the real binary on files of a temporary directory.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What a run left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    /// Fails unless the exit status is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Fails unless standard error holds each of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }
}

/// Runs mkfs.rpramfs.
pub fn mkfs<S: AsRef<OsStr>>(args: &[S]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_mkfs-rpramfs"))
        .args(args)
        .output()
        .expect("run mkfs.rpramfs");
    Run {
        code: output.status.code().expect("not killed by a signal"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A directory on tmpfs where there is one: sparse files of any size.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let shm = Path::new("/dev/shm");
        Place(if shm.is_dir() {
            tempfile::tempdir_in(shm).expect("directory in /dev/shm")
        } else {
            tempfile::tempdir().expect("directory")
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A sparse file of `len` bytes.
    pub fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path)
            .and_then(|file| file.set_len(len))
            .expect("create");
        path
    }
}

/// Path as text, for arguments.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}

/// The bytes of a file, to show that nothing was written.
pub fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("read")
}

/// Runs a tool of another filesystem; `false` (and says why) where it is not on this machine.
pub fn tool(name: &str, args: &[&str]) -> bool {
    let result = Command::new(name)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output();
    match result {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            true
        }
        Err(e) => {
            println!("skipped: {name}: {e}");
            false
        }
    }
}
