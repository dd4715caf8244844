// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU's lock of the network where there is nothing to lock.
//!
//! For a dump CRIU makes a table of nftables, and puts each connection into it; the restore deletes it before anything
//! runs. The kernel takes 20 to 30 ms for that, as it waits until no CPU looks at the old rules (`synchronize_rcu`): more
//! than for all else of the restore of a process. Without a connection the table has nothing in it, and can be deleted when
//! the processes run. (That of processes with a network of their own lets nothing through, and is in the images of that network.)

use crate::images::{magic, pb, Images};
use anyhow::Result;
use std::fs;

/// `enum NETWORK_LOCK_METHOD` (`criu/include/cr_options.h`).
const NFTABLES: u32 = 1;
const SKIP: u32 = 2;
const INVENTORY: &str = "inventory.img";
/// What there is of each connection, and of each network that is restored.
const LOCKED: [&str; 2] = ["tcp-stream-", "netns-"];

/// Says in the images of a dump that a restore has nothing to unlock, if that is so. Returns whether it is.
///
/// # Errors
/// An image cannot be read or written, or holds what is not known here.
pub fn forget(images: &Images) -> Result<bool> {
    for entry in fs::read_dir(images.path("."))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if LOCKED.iter().any(|locked| name.starts_with(locked)) {
            return Ok(false);
        }
    }
    let mut inventory: pb::InventoryEntry = images.read_one(INVENTORY, magic::INVENTORY)?;
    if inventory.network_lock_method != Some(NFTABLES) {
        return Ok(false);
    }
    inventory.network_lock_method = Some(SKIP);
    images.replace_one(INVENTORY, magic::INVENTORY, &inventory)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(images: &Images) -> Option<u32> {
        let inventory: pb::InventoryEntry = images.read_one(INVENTORY, magic::INVENTORY).unwrap();
        inventory.network_lock_method
    }

    #[test]
    fn what_is_locked_is_unlocked() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        let with = |method| pb::InventoryEntry {
            network_lock_method: method,
            ..pb::InventoryEntry::default()
        };
        let write = |method| {
            let written = images.write(INVENTORY, magic::INVENTORY, &[with(method)]);
            written.unwrap();
        };
        write(Some(NFTABLES));
        assert!(forget(&images).unwrap());
        assert_eq!(method(&images), Some(SKIP));
        // What somebody has chosen stays.
        for other in [None, Some(0)] {
            write(other);
            assert!(!forget(&images).unwrap());
            assert_eq!(method(&images), other);
        }
        write(Some(NFTABLES));
        for name in ["tcp-stream-1234.img", "netns-9.img"] {
            let path = images.path(name);
            fs::write(&path, "").unwrap();
            assert!(!forget(&images).unwrap());
            assert_eq!(method(&images), Some(NFTABLES));
            fs::remove_file(&path).unwrap();
        }
    }
}
