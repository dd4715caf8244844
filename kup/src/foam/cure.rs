// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Pages that CRIU itself changed while they were on their way.
//!
//! CRIU has a process make system calls by putting the instruction over the first bytes of one of its executable
//! mappings, and puts the code back behind each. The last of them, by which its parasite is unmapped
//! (`compel_cure`), comes when the pages have been sent, but perhaps not received: what lies in the socket are
//! references to the pages of the process, not copies. So such a page is taken once more when CRIU has finished with
//! all processes, and before one of them runs.

use super::server::Round;
use super::store::Store;
use super::{sums, Owner, PAGE};
use crate::images::{magic, pb, Images};
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;

const PROT_EXEC: u32 = libc::PROT_EXEC as u32;

/// Takes the first page of each executable mapping anew, if the store has it, from processes that stand still.
/// Returns how many had been changed.
///
/// # Errors
/// An image or a process cannot be read, or the store not be written.
pub fn cure(images: &Images, store: &Store, round: &Round) -> Result<usize> {
    let mut changed = 0;
    for (owner, held) in round {
        let Owner::Process(pid) = *owner else {
            continue;
        };
        let mm: pb::MmEntry = images.read_one(&format!("mm-{pid}.img"), magic::MM)?;
        let code = mm.vmas.iter().filter(|area| area.prot & PROT_EXEC != 0);
        let starts: Vec<u64> = code
            .map(|area| area.start)
            .filter(|&start| held.pages.contains(&(start..start + PAGE)))
            .collect();
        if starts.is_empty() {
            continue;
        }
        let path = format!("/proc/{pid}/mem");
        let process = File::open(&path).context(path)?;
        let memory = store.create(*owner)?;
        for start in starts {
            let again = again(&process, &memory, start)
                .with_context(|| format!("the code of process {pid} at {start:#x}"))?;
            if again {
                changed += 1;
                if store.open_sums(*owner)?.is_some() {
                    sums::make(&memory, &store.create_sums(*owner)?, start..start + PAGE)?;
                }
            }
        }
    }
    Ok(changed)
}

/// Takes a page anew. Returns whether it was another.
fn again(process: &File, memory: &File, at: u64) -> std::io::Result<bool> {
    let (mut now, mut sent) = ([0; PAGE as usize], [0; PAGE as usize]);
    process.read_exact_at(&mut now, at)?;
    memory.read_exact_at(&mut sent, at)?;
    if now != sent {
        memory.write_all_at(&now, at)?;
    }
    Ok(now != sent)
}

#[cfg(test)]
mod tests {
    use super::super::server::Held;
    use super::*;

    const PAGES: usize = 4;

    #[test]
    fn code_is_as_the_process_has_it() {
        // Any address can be an offset in a tmpfs.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (images, store) = (Images::new(dir.path()), Store::new(dir.path()));
        let pid = std::process::id();
        let owner = Owner::Process(pid);
        let page = PAGE as usize;
        // This process's own memory.
        let bytes: Vec<u8> = (0..PAGES * page).map(|n| n as u8 | 1).collect();
        let skip = bytes.as_ptr().align_offset(page);
        let start = bytes.as_ptr() as u64 + skip as u64;
        let area = |number: u64, pages: u64, prot: i32| pb::VmaEntry {
            start: start + number * PAGE,
            end: start + (number + pages) * PAGE,
            prot: prot as u32,
            ..pb::VmaEntry::default()
        };
        let mm = pb::MmEntry {
            vmas: vec![
                area(0, 1, libc::PROT_READ),
                area(1, 2, libc::PROT_READ | libc::PROT_EXEC),
            ],
            ..pb::MmEntry::default()
        };
        let name = format!("mm-{pid}.img");
        images.write(&name, magic::MM, &[mm]).unwrap();

        let (memory, made) = (
            store.create(owner).unwrap(),
            store.create_sums(owner).unwrap(),
        );
        let sent = vec![0xcc; 3 * page];
        memory.write_all_at(&sent, start).unwrap();
        sums::make(&memory, &made, start..start + 3 * PAGE).unwrap();
        let held = Held {
            pages: std::iter::once(start..start + 3 * PAGE).collect(),
            ..Held::default()
        };
        let round = Round::from([(owner, held)]);
        assert_eq!(cure(&images, &store, &round).unwrap(), 1);
        let mut now = vec![0; 3 * page];
        memory.read_exact_at(&mut now, start).unwrap();
        let code = &bytes[skip + page..][..page];
        assert!(now[..page] == sent[..page] && now[2 * page..] == sent[..page]);
        assert!(now[page..2 * page] == *code);
        let mut sum = [0; 4];
        let place = sums::place(&(start + PAGE..start + 2 * PAGE));
        made.read_exact_at(&mut sum, place.start).unwrap();
        assert_eq!(u32::from_le_bytes(sum), sums::sum(code));
        assert_eq!(cure(&images, &store, &round).unwrap(), 0);
        // What was not dumped is not made.
        let none = Round::from([(owner, Held::default())]);
        assert_eq!(cure(&images, &store, &none).unwrap(), 0);
    }
}
