// SPDX-License-Identifier: GPL-2.0
//! Gives back, in the background, what a crash left behind: orphans and unfinished removals.

use crate::errno::Errno;
use crate::nodes;
use crate::vfs::super_block::Handle;
use crate::vfs::work::Run;
use core::sync::atomic::{AtomicBool, Ordering};
use fs_core::Ino;

/// The work of one mount.
pub(crate) struct Reclaim {
    sb: Handle,
    stop: AtomicBool,
}

impl Reclaim {
    pub(crate) fn new(sb: Handle) -> Self {
        Reclaim {
            sb,
            stop: AtomicBool::new(false),
        }
    }

    /// It may run.
    pub(crate) fn go_on(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Ends it after the inode it is at.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Runs work on an inode with its locks.
    fn locked(
        &self,
        ino: Ino,
        work: &mut dyn FnMut() -> fs_core::Result<()>,
    ) -> fs_core::Result<bool> {
        match nodes::named(self.sb.get(), ino) {
            Ok(inode) => {
                let _inode = inode.lock();
                let _faults = inode.invalidate_lock();
                let _meta = inode.meta(0);
                if inode.links() == 0 {
                    // Open, and unlinked since: its end takes it back.
                    return Ok(false);
                }
                let done = work();
                // Fewer pages; if that cannot be read, it was reported.
                let _ = nodes::refresh(&inode);
                done.map(|()| true)
            }
            // No name leads to it, and file handles are refused too: it is ours alone.
            Err(Errno::STALE) => work().map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

impl Run for Reclaim {
    fn run(&self) {
        let fs = self.sb.get().mount().fs();
        while !self.stop.load(Ordering::Relaxed) {
            let _thawed = self.sb.get().change();
            // What is corrupt was reported where it was found.
            let step = fs.reclaim_step(&mut |ino, work| self.locked(ino, work));
            if step != Ok(true) {
                break;
            }
        }
    }
}
