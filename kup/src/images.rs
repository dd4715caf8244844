// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU's image files (`criu/image.c`): two words that say what the file is, then protobuf messages, each
//! with its length as a little-endian u32 before it.

use anyhow::{bail, ensure, Context, Result};
use prost::Message;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// CRIU's own definitions (`proto/criu/`, MIT).
#[allow(clippy::all, clippy::pedantic)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// First word of an image of processes, and of one of CRIU's own (`criu/include/magic.h`).
const COMMON: u32 = 0x5456_4319;
const SERVICE: u32 = 0x5510_5940;

/// Second words.
pub mod magic {
    pub const INVENTORY: u32 = 0x5831_3116;
    pub const PSTREE: u32 = 0x5027_3030;
    pub const MM: u32 = 0x5749_2820;
    pub const PAGEMAP: u32 = 0x5608_4025;
    pub const FILES: u32 = 0x5630_3138;
    pub const STATS: u32 = 0x5709_3306;
    pub const REMAPS: u32 = 0x5913_3954;
}

/// Bits of `VmaEntry::status` (`criu/include/image.h`).
pub mod vma {
    pub const VSYSCALL: u32 = 1 << 2;
    pub const VDSO: u32 = 1 << 3;
    pub const FILE_PRIVATE: u32 = 1 << 6;
    pub const VVAR: u32 = 1 << 12;
    pub const GUARD: u32 = 1 << 16;
}

/// A directory with images of one checkpoint.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
}

impl Images {
    #[must_use]
    pub fn new(dir: &Path) -> Images {
        Images {
            dir: dir.to_owned(),
        }
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// All messages of an image.
    ///
    /// # Errors
    /// The file cannot be read or is something else.
    pub fn read<M: Message + Default>(&self, name: &str, magic: u32) -> Result<Vec<M>> {
        let path = self.path(name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        parse(&bytes, magic).with_context(|| path.display().to_string())
    }

    /// The one message of an image.
    ///
    /// # Errors
    /// The file cannot be read or is something else.
    pub fn read_one<M: Message + Default>(&self, name: &str, magic: u32) -> Result<M> {
        let mut all = self.read(name, magic)?;
        ensure!(
            all.len() == 1,
            "{}: {} messages",
            self.path(name).display(),
            all.len()
        );
        Ok(all.remove(0))
    }

    /// Writes another message over the only one of an image.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds what a message of this kind does not.
    pub fn replace_one<M: Message + Default>(
        &self,
        name: &str,
        magic: u32,
        message: &M,
    ) -> Result<()> {
        let path = self.path(name);
        let replace = || -> Result<()> {
            let bytes = fs::read(&path)?;
            let behind = body(&bytes, magic)?.len();
            let head = &bytes[..bytes.len() - behind];
            let with = |message: &M| {
                let mut bytes = head.to_vec();
                put(&mut bytes, message);
                bytes
            };
            ensure!(
                with(&self.read_one(name, magic)?) == bytes,
                "this CRIU writes more than is known here, which would be lost"
            );
            Ok(fs::write(&path, with(message))?)
        };
        replace().with_context(|| path.display().to_string())
    }

    /// Adds a message to an image.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&self, name: &str, message: &impl Message) -> Result<()> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        put(&mut bytes, message);
        let file = fs::OpenOptions::new().append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(&bytes));
        written.with_context(|| path.display().to_string())
    }

    /// Writes an image.
    #[cfg(test)]
    pub fn write(&self, name: &str, magic: u32, messages: &[impl Message]) -> Result<()> {
        let mut bytes = [COMMON.to_le_bytes(), magic.to_le_bytes()].concat();
        messages.iter().for_each(|message| put(&mut bytes, message));
        Ok(fs::write(self.path(name), bytes)?)
    }

    /// The processes.
    ///
    /// # Errors
    /// The image cannot be read or is something else.
    pub fn processes(&self) -> Result<Vec<pb::PstreeEntry>> {
        self.read("pstree.img", magic::PSTREE)
    }

    /// The numbers of all threads of all processes; those of the processes are among them.
    ///
    /// # Errors
    /// The image cannot be read or is something else.
    pub fn thread_ids(&self) -> Result<Vec<u32>> {
        let all = self.processes()?;
        let ids = |process: pb::PstreeEntry| {
            let first = std::iter::once(process.pid);
            first.chain(process.threads).collect::<Vec<_>>()
        };
        Ok(all.into_iter().flat_map(ids).collect())
    }

    /// The programs that the processes run, by their paths.
    ///
    /// # Errors
    /// An image cannot be read or is something else.
    pub fn executables(&self) -> Result<Vec<PathBuf>> {
        let files: Vec<pb::FileEntry> = self.read("files.img", magic::FILES)?;
        let mut paths = Vec::new();
        for process in self.processes()? {
            let name = format!("mm-{}.img", process.pid);
            if !self.path(&name).exists() {
                // A zombie.
                continue;
            }
            let mm: pb::MmEntry = self.read_one(&name, magic::MM)?;
            let file = files.iter().find(|file| file.id == mm.exe_file_id);
            let file = file.and_then(|file| file.reg.as_ref());
            paths.push(PathBuf::from(&file.context("no program")?.name));
        }
        Ok(paths)
    }

    /// A pagemap: which pages there are, and the number of the image with their bytes.
    ///
    /// # Errors
    /// The image cannot be read or is something else.
    pub fn pagemap(&self, name: &str) -> Result<(u32, Vec<pb::PagemapEntry>)> {
        let path = self.path(name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let read = || -> Result<(u32, Vec<pb::PagemapEntry>)> {
            let mut rest = body(&bytes, magic::PAGEMAP)?;
            let head: pb::PagemapHead = message(&mut rest)?.context("no head")?;
            let mut entries = Vec::new();
            while let Some(entry) = message(&mut rest)? {
                entries.push(entry);
            }
            Ok((head.pages_id, entries))
        };
        read().with_context(|| path.display().to_string())
    }

    /// Writes a pagemap.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_pagemap(
        &self,
        name: &str,
        pages: u32,
        entries: &[pb::PagemapEntry],
    ) -> Result<()> {
        let mut bytes = Vec::new();
        bytes.extend(COMMON.to_le_bytes());
        bytes.extend(magic::PAGEMAP.to_le_bytes());
        put(&mut bytes, &pb::PagemapHead { pages_id: pages });
        for entry in entries {
            put(&mut bytes, entry);
        }
        let path = self.path(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    }
}

fn put(bytes: &mut Vec<u8>, message: &impl Message) {
    bytes.extend((message.encoded_len() as u32).to_le_bytes());
    bytes.extend(message.encode_to_vec());
}

fn parse<M: Message + Default>(bytes: &[u8], magic: u32) -> Result<Vec<M>> {
    let mut rest = body(bytes, magic)?;
    let mut all = Vec::new();
    while let Some(one) = message(&mut rest)? {
        all.push(one);
    }
    Ok(all)
}

/// What follows the words that say what the file is.
fn body(bytes: &[u8], magic: u32) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_le_bytes)
    };
    // Images of the first version have the second word only.
    match (word(0), word(4)) {
        (Some(COMMON | SERVICE), Some(found)) if found == magic => Ok(&bytes[8..]),
        (Some(found), _) if found == magic => Ok(&bytes[4..]),
        _ => bail!("not the image of CRIU's that it should be"),
    }
}

fn message<M: Message + Default>(rest: &mut &[u8]) -> Result<Option<M>> {
    let Some((length, behind)) = rest.split_first_chunk() else {
        ensure!(rest.is_empty(), "cut off");
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    ensure!(length <= behind.len(), "cut off");
    let (message, behind) = behind.split_at(length);
    *rest = behind;
    Ok(Some(M::decode(message)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pagemaps() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        let entries = [pb::PagemapEntry {
            vaddr: 0x7fff_0000_0000,
            compat_nr_pages: 9,
            in_parent: None,
            flags: Some(2),
            nr_pages: Some(9),
        }];
        images.write_pagemap("pagemap-9.img", 4, &entries).unwrap();
        let read = images.pagemap("pagemap-9.img").unwrap();
        assert_eq!(read, (4, entries.to_vec()));
    }

    #[test]
    fn nonsense_is_an_error() {
        let good = [&COMMON.to_le_bytes()[..], &magic::PSTREE.to_le_bytes()].concat();
        let cut = [&good[..], &[200, 0, 0, 0, 8]].concat();
        let short = [&good[..], &[1, 0]].concat();
        let other = [&COMMON.to_le_bytes()[..], &magic::MM.to_le_bytes()].concat();
        let huge = [&good[..], &[0xff; 40]].concat();
        assert!(parse::<pb::PstreeEntry>(&good, magic::PSTREE).is_ok());
        for bytes in [&cut, &short, &other, &huge, &vec![]] {
            assert!(parse::<pb::PstreeEntry>(bytes, magic::PSTREE).is_err());
        }
    }
}
