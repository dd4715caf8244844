// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a CRIU leaves behind that was killed while it held processes: they run on, but their TCP connections are in
//! repair mode and send nothing, and a table of nftables drops what comes for them. Nobody else would end that. (A
//! process that reads from one in the meantime gets EPERM, and closes it most likely.)

use crate::images::{magic, pb, Images};
use crate::{network, nft};
use anyhow::Result;
use nix::sys::socket::{getsockopt, setsockopt, sockopt::TcpRepair};
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;

/// What CRIU's tables are called, with an id behind it.
const TABLE: &str = "inet CRIU-";

/// Ends it for the processes whose dump has left these images, as far as it came.
///
/// # Errors
/// Nft does not delete the table.
pub fn unlock(images: &Images) -> Result<()> {
    let processes = images.processes().unwrap_or_default();
    let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
    leave_repair(&pids);
    delete_table(images)
}

/// Deletes the table by which that dump has locked connections.
///
/// # Errors
/// Nft does not delete it.
pub fn delete_table(images: &Images) -> Result<()> {
    // It is the last that CRIU writes.
    let inventory = images.read_one::<pb::InventoryEntry>("inventory.img", magic::INVENTORY);
    let id = inventory
        .ok()
        .and_then(|inventory| inventory.dump_criu_run_id);
    let Some(id) = id.filter(|id| is_id(id)) else {
        return Ok(());
    };
    // As CRIU calls it (`criu/netfilter.c`), which has room for 31 letters of that in 4.2.
    let name = format!("{TABLE}{id}");
    network::delete(&[name.get(..31).unwrap_or(&name), &name])
}

/// Ends it for processes whose CRIU was killed in the midst of a dump: its images do not say yet what it has locked.
/// `before` are the tables of others. All of ours have ended.
pub fn unlock_since(pids: &[u32], before: &BTreeSet<String>) {
    leave_repair(pids);
    let now = tables().map_err(|e| eprintln!("kup: CRIU may have locked connections: {e:#}"));
    for table in now.unwrap_or_default().difference(before) {
        if let Err(e) = network::delete(&[table]) {
            eprintln!("kup: {table}, by which CRIU has locked connections, is still there: {e:#}");
        }
    }
}

/// The tables by which CRIUs have locked connections.
///
/// # Errors
/// There is no nft(8), or it does not know.
pub fn tables() -> Result<BTreeSet<String>> {
    let list = nft::ask("list tables")?;
    let names = list.lines().filter_map(|line| line.strip_prefix("table "));
    let ours = |name: &&str| name.strip_prefix(TABLE).is_some_and(is_id);
    Ok(names.filter(ours).map(str::to_owned).collect())
}

/// It comes out of an image, and goes to nft(8).
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// The connections of these processes go on.
pub fn leave_repair(pids: &[u32]) {
    pids.iter().copied().for_each(leave);
}

fn leave(pid: u32) {
    let pid_number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = pid_number.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(process) = process else {
        // It has ended meanwhile.
        return;
    };
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    for entry in entries.into_iter().flatten().flatten() {
        let socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (socket, number) {
            if let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
                end_repair(&socket);
            }
        }
    }
}

fn end_repair(socket: &OwnedFd) {
    // Other sockets have no such option.
    if let Ok(1) = getsockopt(socket, TcpRepair) {
        let _ = setsockopt(socket, TcpRepair, &0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_an_id_goes_to_nft() {
        assert!(is_id("0b5e3f6e-7b0c-4a43-a9a4-1f4d8fd9a3a1"));
        assert!(!is_id("1\ndelete table inet filter"));
        assert!(!is_id(""));
    }
}
