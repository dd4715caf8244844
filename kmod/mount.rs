// SPDX-License-Identifier: GPL-2.0
//! A mounted region: opened, found by its inodes, given back.

use crate::claim::{Claim, Peek};
use crate::errno::{Errno, Result};
use crate::host::KernelHost;
use crate::memory::Memory;
use crate::reclaim::Reclaim;
use crate::source::Range;
use crate::vfs::work::Work;
use fs_core::{Error, Fs, MountOptions, Owner, OwnerKind, SuperInfo};
use kernel::prelude::*;
use kernel::sync::SetOnce;

/// The core over claimed memory.
pub(crate) type Core = Fs<Memory, KernelHost>;

/// What a superblock has: where its region is, and, once it is open, what is in it.
pub(crate) struct Site {
    pub(crate) range: Range,
    mount: SetOnce<KBox<Mount>>,
    reclaim: SetOnce<KBox<Work<Reclaim>>>,
}

/// An open region. Dropping it unmounts.
pub(crate) struct Mount {
    fs: Core,
    // After `fs`, which uses the memory.
    claim: Claim,
}

impl Site {
    pub(crate) fn new(range: Range) -> Result<KBox<Site>> {
        Ok(KBox::new(
            Site {
                range,
                mount: SetOnce::new(),
                reclaim: SetOnce::new(),
            },
            GFP_KERNEL,
        )?)
    }

    /// Opens the region.
    pub(crate) fn open(&self, read_only: bool, boot_id: [u8; 16]) -> Result<&Mount> {
        let mount = Mount::new(self.range, read_only, boot_id)?;
        self.mount.populate(mount);
        Ok(self.mount())
    }

    /// What `open` opened. Nothing of the filesystem can be reached before.
    pub(crate) fn mount(&self) -> &Mount {
        match self.mount.as_ref() {
            Some(mount) => mount,
            None => unreachable!("an inode of a region that is not open"),
        }
    }

    /// The mount, if it came so far.
    pub(crate) fn opened(&self) -> Option<&Mount> {
        self.mount.as_ref().map(|mount| &**mount)
    }

    /// Who gives back what a crash left behind, when told to.
    pub(crate) fn prepare_reclaim(&self, reclaim: Reclaim) -> Result {
        self.reclaim.populate(Work::new(reclaim)?);
        Ok(())
    }

    /// Begins, or goes on.
    pub(crate) fn go_on_reclaiming(&self) {
        if let Some(work) = self.reclaim.as_ref() {
            work.data().go_on();
            work.queue();
        }
    }

    /// Ends that: before the inodes go, or nothing may be written any more.
    pub(crate) fn stop_reclaim(&self) {
        if let Some(work) = self.reclaim.as_ref() {
            work.data().stop();
            work.cancel();
        }
    }
}

impl Mount {
    #[inline(never)]
    fn new(range: Range, read_only: bool, boot_id: [u8; 16]) -> Result<KBox<Mount>> {
        let host = KernelHost::new()?;
        let info = Self::look(range, &host, &boot_id)?;
        let begin = crate::host::clock();
        let claim = Claim::new(range, &info.geometry)?;
        let claimed = crate::host::clock();
        let options = MountOptions {
            read_only,
            owner: Owner {
                boot_id,
                kind: OwnerKind::Kernel,
                pid: 0,
                start: 0,
            },
            alive: &|owner| lives(owner),
        };
        let fs = Fs::mount(claim.memory(), host, &options).map_err(|e| explain(range, e, None))?;
        // The first grows with the region, and is the kernel's own; the second does not.
        pr_info!(
            "{}: claimed with its struct pages in {} us, mounted in {} us{}\n",
            core::format_args!("{range}"),
            (claimed - begin) / 1000,
            (crate::host::clock() - claimed) / 1000,
            if read_only { ", read-only" } else { "" }
        );
        Ok(KBox::new(Mount { fs, claim }, GFP_KERNEL)?)
    }

    /// Reads the superblock and the marker, before anything is claimed.
    fn look(range: Range, host: &KernelHost, boot_id: &[u8; 16]) -> Result<SuperInfo> {
        let peek = Peek::new(range)?;
        let info = fs_core::probe(&peek.memory()?, &host).map_err(|e| explain(range, e, None))?;
        match info.owner {
            Some(owner) if owner.boot_id == *boot_id && lives(&owner) => {
                Err(explain(range, Error::Busy, Some(owner)))
            }
            _ => Ok(info),
        }
    }

    pub(crate) fn fs(&self) -> &Core {
        &self.fs
    }

    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Unmounts, and gives the region back. Nobody uses either any more.
    pub(crate) fn close(&self) {
        if self.claim.is_given_back() {
            return;
        }
        // A marker that stays is taken for one of an earlier boot by the next.
        if let Err(e) = self.fs.unmount() {
            complain!("{}: unmount: {e}", self.claim.range());
        }
        self.claim.give_back();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.close();
    }
}

/// Does who holds the marker, of this boot, still live? The kernel's own holders do not: there is one
/// superblock for a region, and this one was not found.
fn lives(owner: &Owner) -> bool {
    owner.kind != OwnerKind::Kernel && crate::host::task_lives(owner.pid, owner.start)
}

/// Says why a region cannot be mounted, and what to do.
fn explain(range: Range, e: Error, owner: Option<Owner>) -> Errno {
    match (&e, owner) {
        (Error::Busy, Some(owner)) => complain!("{range}: is mounted by process {} ({:?}); unmount it there first",
            owner.pid,
            owner.kind
        ),
        (Error::NotOurs, _) => complain!("{range}: no RP-RAMFS here; nothing is formatted by a mount: mkfs.rpramfs does. If there was one before a kexec: is memmap= the same as then?"
        ),
        (Error::UnknownFeatures { .. }, _) => {
            complain!("{range}: {e}; mount it with the version that made it")
        }
        (Error::Corrupt(_), _) => complain!("{range}: {e}; check it: fsck.rpramfs {range}"),
        (Error::TooSmall, _) => complain!("{range}: {e}: is the length the one it was made with?"
        ),
        _ => complain!("{range}: {e}"),
    }
    e.into()
}
