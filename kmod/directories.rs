// SPDX-License-Identifier: GPL-2.0
//! Directories read from one end to the other.

use crate::errno::Result;
use crate::vfs::file::Stream;
use crate::vfs::Inode;
use fs_core::Dirent;
use kernel::prelude::*;

/// "." is at position 0, ".." at 1.
const DOTS: u64 = 2;
/// Bytes before a name: inode number, cookie, type, length of the name.
const HEAD: usize = 8 + 8 + 4 + 1;

/// Emits entries from the stream's position on. A position behind the dots is the cookie of the entry
/// before it.
pub(crate) fn read(stream: &mut Stream<'_>) -> Result {
    if stream.position() < DOTS && !stream.emit_dots() {
        return Ok(());
    }
    let mut batch = Batch::new()?;
    loop {
        let cookie = match stream.position() {
            DOTS => 0,
            cookie => cookie,
        };
        // The caller's memory may make us wait as long as it likes: the directory is not locked then.
        batch.collect(stream.dir(), cookie)?;
        let mut entries = batch.entries().peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        for entry in entries {
            if !stream.emit(entry.name, entry.ino, entry.kind) {
                return Ok(());
            }
            stream.set_position(entry.cookie);
        }
    }
}

/// Entries, one behind the other in a page.
struct Batch {
    bytes: KBox<[u8; 4096]>,
    used: usize,
}

impl Batch {
    fn new() -> Result<Batch> {
        Ok(Batch {
            bytes: KBox::new([0; 4096], GFP_KERNEL)?,
            used: 0,
        })
    }

    /// Takes over as many entries behind a cookie as there is room for.
    fn collect(&mut self, dir: &Inode, cookie: u64) -> Result {
        self.used = 0;
        let _meta = dir.meta_shared();
        dir.mount()
            .fs()
            .readdir(dir.ino(), cookie, &mut |entry| self.push(entry))?;
        Ok(())
    }

    fn push(&mut self, entry: &Dirent<'_>) -> bool {
        let end = self.used + HEAD + entry.name.len();
        let (Some(place), Ok(len)) = (
            self.bytes.get_mut(self.used..end),
            u8::try_from(entry.name.len()),
        ) else {
            return false;
        };
        let (head, name) = place.split_at_mut(HEAD);
        head[..8].copy_from_slice(&entry.ino.to_ne_bytes());
        head[8..16].copy_from_slice(&entry.cookie.to_ne_bytes());
        head[16..20].copy_from_slice(&entry.kind.to_ne_bytes());
        head[20] = len;
        name.copy_from_slice(entry.name);
        self.used = end;
        true
    }

    fn entries(&self) -> impl Iterator<Item = Dirent<'_>> {
        let mut rest = &self.bytes[..self.used];
        core::iter::from_fn(move || {
            let (ino, tail) = rest.split_first_chunk()?;
            let (cookie, tail) = tail.split_first_chunk()?;
            let (kind, tail) = tail.split_first_chunk()?;
            let (len, tail) = tail.split_first()?;
            let (name, tail) = tail.split_at_checked(usize::from(*len))?;
            rest = tail;
            Some(Dirent {
                ino: u64::from_ne_bytes(*ino),
                kind: u32::from_ne_bytes(*kind),
                cookie: u64::from_ne_bytes(*cookie),
                name,
            })
        })
    }
}
