// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Writes the `newc` archives that the kernel unpacks as its first root file system.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

enum Entry {
    Dir,
    Link(String),
    File { from: PathBuf, mode: u32 },
    Text { text: Vec<u8>, mode: u32 },
    CharDevice { major: u32, minor: u32 },
}

/// What an archive will hold, by path without a leading slash.
#[derive(Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_start_matches('/'))
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries
                .entry(path[..at].to_owned())
                .or_insert(Entry::Dir);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    pub fn dir(&mut self, path: &str) {
        self.add(path, Entry::Dir);
    }

    pub fn link(&mut self, path: &str, to: &str) {
        self.add(path, Entry::Link(to.to_owned()));
    }

    pub fn text(&mut self, path: &str, text: impl Into<Vec<u8>>, mode: u32) {
        self.add(
            path,
            Entry::Text {
                text: text.into(),
                mode,
            },
        );
    }

    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, Entry::CharDevice { major, minor });
    }

    /// A file as it is on the host, with its mode.
    pub fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        let meta = fs::metadata(from).with_context(|| format!("{}", from.display()))?;
        let mode = meta.permissions().mode() & 0o7777;
        self.add(
            path,
            Entry::File {
                from: from.to_owned(),
                mode,
            },
        );
        Ok(())
    }

    /// The files and directories below a directory of the host's.
    pub fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
            let entry = entry?;
            let name = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.dir(&name);
                self.tree(&name, &entry.path())?;
            } else {
                self.file(&name, &entry.path())?;
            }
        }
        Ok(())
    }

    /// The archive's bytes: the same entries always give the same ones.
    pub fn pack(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, device, data) = match entry {
                Entry::Dir => (0o040755, (0, 0), Vec::new()),
                Entry::Link(to) => (0o120777, (0, 0), to.clone().into_bytes()),
                Entry::Text { text, mode } => (0o100000 | mode, (0, 0), text.clone()),
                Entry::CharDevice { major, minor } => (0o020600, (*major, *minor), Vec::new()),
                Entry::File { from, mode } => {
                    let data = fs::read(from).with_context(|| format!("{}", from.display()))?;
                    (0o100000 | mode, (0, 0), data)
                }
            };
            member(&mut out, number as u32 + 1, path, mode, device, &data);
        }
        member(&mut out, 0, "TRAILER!!!", 0, (0, 0), &[]);
        Ok(out)
    }
}

fn member(out: &mut Vec<u8>, ino: u32, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let (size, name) = (data.len() as u32, path.len() as u32 + 1);
    out.extend_from_slice(b"070701");
    let (major, minor) = device;
    for field in [ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_reads_it_back() {
        let mut archive = Archive::default();
        archive.text("/a/b/file", "hello", 0o644);
        archive.link("/a/link", "b/file");
        let bytes = archive.pack().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let places = ["a\0", "a/b\0", "a/b/file\0", "a/link\0", "TRAILER!!!\0"];
        let found: Vec<_> = places.iter().map(|name| text.find(name)).collect();
        assert!(found.iter().all(Option::is_some), "{found:?}");
        assert_eq!(bytes.len() % 4, 0);
        // header 110 + "a" + NUL = 112
        assert_eq!(&bytes[112..118], b"070701");
    }
}
