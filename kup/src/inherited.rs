// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Mappings that CRIU would take for inherited, and which are not.
//!
//! Where a process and its parent have a private mapping of the same file at the same addresses, CRIU restores that of the
//! parent, and the child inherits it by fork(2), so that they share pages as they did (`check_cow_vmas`). CRIU 4.2 does
//! not ask where in the file it begins: where they differ in that, the child would find other pages of the file than it had. The
//! file gets a second number in the images for such a mapping, and so a mapping of its own.

use crate::images::{magic, pb, vma, Images};
use anyhow::{bail, Context, Result};
use std::collections::BTreeMap;

/// The private file mappings of a process by their first addresses, each with the number that its file has now.
type Mappings = BTreeMap<u64, (pb::VmaEntry, u64)>;

/// Sets such mappings apart. Returns how many there were.
///
/// # Errors
/// An image cannot be read or written, or holds what is not known here.
pub fn set_apart(images: &Images) -> Result<usize> {
    let mut all: BTreeMap<u32, Mappings> = BTreeMap::new();
    let mut files: Option<Files> = None;
    let mut count = 0;
    // Parents come before their children.
    for process in images.processes()? {
        let name = format!("mm-{}.img", process.pid);
        if !images.path(&name).exists() {
            // A zombie.
            continue;
        }
        let mut mm: pb::MmEntry = images.read_one(&name, magic::MM)?;
        let parent = all.get(&process.ppid);
        let mut mappings = Mappings::new();
        let mut changed = false;
        for area in &mut mm.vmas {
            if area.status & vma::FILE_PRIVATE == 0 {
                continue;
            }
            let was = *area;
            if let Some((above, number)) = parent.and_then(|parent| parent.get(&area.start)) {
                if above.end == area.end && above.shmid == area.shmid {
                    if above.pgoff == area.pgoff {
                        area.shmid = *number;
                    } else if *number == area.shmid {
                        let files = match &mut files {
                            Some(files) => files,
                            none => none.insert(Files::read(images)?),
                        };
                        area.shmid = files.again(images, area.shmid).with_context(|| {
                            format!("process {}: the mapping at {:#x}", process.pid, area.start)
                        })?;
                        count += 1;
                    }
                }
            }
            changed |= area.shmid != was.shmid;
            mappings.insert(was.start, (was, area.shmid));
        }
        if changed {
            images.replace_one(&name, magic::MM, &mm)?;
        }
        all.insert(process.pid, mappings);
    }
    Ok(count)
}

/// The files of the images, and where those are that have no name any more.
struct Files {
    files: Vec<pb::FileEntry>,
    remaps: Vec<pb::RemapFilePathEntry>,
    last: u32,
}

impl Files {
    fn read(images: &Images) -> Result<Files> {
        let files: Vec<pb::FileEntry> = images.read(FILES, magic::FILES)?;
        let remaps = match images.path(REMAPS).exists() {
            true => images.read(REMAPS, magic::REMAPS)?,
            false => Vec::new(),
        };
        let last = files.iter().map(|file| file.id).max().unwrap_or(0);
        Ok(Files {
            files,
            remaps,
            last,
        })
    }

    /// Gives a file one more number.
    fn again(&mut self, images: &Images, number: u64) -> Result<u64> {
        let found = self.files.iter().find(|file| u64::from(file.id) == number);
        let mut file = found
            .with_context(|| format!("{FILES}: no file {number}"))?
            .clone();
        self.last = self.last.checked_add(1).context("too many files")?;
        file.id = self.last;
        match (&mut file.reg, &mut file.memfd) {
            (Some(reg), None) => reg.id = file.id,
            (None, Some(memfd)) => memfd.id = file.id,
            _ => bail!("{FILES}: {number} is no file that can be mapped"),
        }
        images.append(FILES, &file)?;
        for remap in &self.remaps {
            if u64::from(remap.orig_id) == number {
                let remap = pb::RemapFilePathEntry {
                    orig_id: file.id,
                    ..*remap
                };
                images.append(REMAPS, &remap)?;
            }
        }
        Ok(file.id.into())
    }
}

const FILES: &str = "files.img";
const REMAPS: &str = "remap-fpath.img";

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, ppid: u32) -> pb::PstreeEntry {
        pb::PstreeEntry {
            pid,
            ppid,
            ..pb::PstreeEntry::default()
        }
    }

    fn mapping(start: u64, pgoff: u64, shmid: u64, status: u32) -> pb::VmaEntry {
        pb::VmaEntry {
            start,
            end: start + 0x3000,
            pgoff,
            shmid,
            status,
            ..pb::VmaEntry::default()
        }
    }

    fn numbers(images: &Images, pid: u32) -> Vec<u64> {
        let mm: pb::MmEntry = images
            .read_one(&format!("mm-{pid}.img"), magic::MM)
            .unwrap();
        mm.vmas.iter().map(|area| area.shmid).collect()
    }

    #[test]
    fn only_other_offsets_are_set_apart() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        let tree = [
            process(10, 0),
            process(11, 10),
            process(12, 11),
            process(13, 10),
        ];
        images.write("pstree.img", magic::PSTREE, &tree).unwrap();
        let files = [7, 40].map(|id| pb::FileEntry {
            id,
            reg: Some(pb::RegFileEntry {
                id,
                name: format!("/file-{id}"),
                ..pb::RegFileEntry::default()
            }),
            ..pb::FileEntry::default()
        });
        images.write(FILES, magic::FILES, &files).unwrap();
        let remap = pb::RemapFilePathEntry {
            orig_id: 40,
            remap_id: 1,
            remap_type: None,
        };
        images.write(REMAPS, magic::REMAPS, &[remap]).unwrap();
        let private = vma::FILE_PRIVATE | 1;
        let of = |offsets: [u64; 4]| {
            let [a, b, c, d] = offsets;
            vec![
                mapping(0x1000, a, 7, private),
                mapping(0x5000, b, 40, private),
                // Shared mappings are never inherited.
                mapping(0x9000, c, 7, 1 << 7 | 1),
                mapping(0xd000, d, 7, private),
            ]
        };
        let vmas = [
            (10, of([0, 0, 0, 0])),
            (11, of([0, 0x4000, 0x1000, 0x1000])),
            // As its parent, and as its parent's parent.
            (12, of([0, 0x4000, 0, 0])),
            (13, of([0, 0, 0, 0x2000])),
        ];
        for (pid, vmas) in vmas {
            let mm = pb::MmEntry {
                vmas,
                ..pb::MmEntry::default()
            };
            let name = format!("mm-{pid}.img");
            images.write(&name, magic::MM, &[mm]).unwrap();
        }

        assert_eq!(set_apart(&images).unwrap(), 3);
        assert_eq!(numbers(&images, 10), [7, 40, 7, 7]);
        assert_eq!(numbers(&images, 11), [7, 41, 7, 42]);
        // The first number again: its parent has another now.
        assert_eq!(numbers(&images, 12), [7, 41, 7, 7]);
        assert_eq!(numbers(&images, 13), [7, 40, 7, 43]);
        let files: Vec<pb::FileEntry> = images.read(FILES, magic::FILES).unwrap();
        let named = files.iter().map(|file| {
            let reg = file.reg.as_ref().unwrap();
            assert_eq!(reg.id, file.id);
            (file.id, reg.name.as_str())
        });
        let want = [
            (7, "/file-7"),
            (40, "/file-40"),
            (41, "/file-40"),
            (42, "/file-7"),
            (43, "/file-7"),
        ];
        assert_eq!(named.collect::<Vec<_>>(), want);
        let remaps: Vec<pb::RemapFilePathEntry> = images.read(REMAPS, magic::REMAPS).unwrap();
        let known: Vec<_> = remaps
            .iter()
            .map(|remap| (remap.orig_id, remap.remap_id))
            .collect();
        assert_eq!(known, [(40, 1), (41, 1)]);
        // All is said.
        assert_eq!(set_apart(&images).unwrap(), 0);
    }
}
