// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What CRIU hands over is taken by the supervisor, and if that is killed, by its daemon: they share the table of
//! descriptors, CRIU's connection in it. Each message is looked at first, what it asks for is noted in the memory
//! that they share, and only then is it taken. So whoever goes on knows what was under way:
//!
//! * The note is there, and a userfaultfd that nobody knows of: it is the one that was announced.
//! * The note is there, and next in the connection comes a descriptor: that is the one.
//! * Otherwise it is as if there were no note.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, RawFd};

use anyhow::{bail, ensure, Context, Result};

use super::listener::{Announced, Connection, Next};
use super::shared::Shared;
use super::state::Record;

/// Who receives, and for which processes.
#[derive(Debug)]
pub struct Handover {
    connection: Connection,
    /// As CRIU's images have them, in the order of the memories.
    pids: Vec<i32>,
}

impl Handover {
    pub fn new(connection: Connection, pids: Vec<i32>) -> Handover {
        Handover { connection, pids }
    }

    /// Takes CRIU's next message. Tells whether it was the last.
    pub fn receive(&self, shared: &Shared) -> Result<bool> {
        let announced = match self.connection.next()? {
            Next::End => bail!("CRIU's connection ended before all was restored"),
            Next::Descriptor => bail!("CRIU sent a descriptor of no process"),
            Next::Word(announced) => announced,
        };
        match announced {
            Announced::Finished => {
                shared.finish();
                self.connection.take_word()?;
                return Ok(true);
            }
            Announced::Zombie => {
                self.connection.take_word()?;
            }
            Announced::Task { pid } => {
                let Some(memory) = self.pids.iter().position(|known| *known == pid) else {
                    bail!("CRIU restores process {pid}, for which there is no memory");
                };
                ensure!(
                    !shared.has_arrived(memory),
                    "CRIU restores process {pid} twice"
                );
                // Its own number, until the kernel says ours.
                shared.set_expected(Some((memory, pid)));
                let task = self.connection.take_word()?.unwrap_or(pid);
                shared.set_expected(Some((memory, task)));
                self.take(shared, memory, task)?;
            }
        }
        Ok(false)
    }

    /// Goes on where another was killed. `known` are the userfaultfds of all processes that it told of.
    pub fn resume(&self, shared: &Shared, known: &[RawFd]) -> Result<()> {
        let Some((memory, task)) = shared.expected() else {
            return Ok(());
        };
        if shared.has_arrived(memory) {
            shared.set_expected(None);
        } else if let Some(fd) = userfaultfds()?.into_iter().find(|fd| !known.contains(fd)) {
            arrived(shared, memory, fd, task);
        } else if let Next::Descriptor = self.connection.next()? {
            self.take(shared, memory, task)?;
        } else {
            // The word itself was not taken yet.
            shared.set_expected(None);
        }
        Ok(())
    }

    fn take(&self, shared: &Shared, memory: usize, task: i32) -> Result<()> {
        let uffd = self.connection.descriptor();
        let uffd =
            uffd.with_context(|| format!("the descriptor of process {}", self.pids[memory]))?;
        arrived(shared, memory, uffd.into_raw_fd(), task);
        Ok(())
    }
}

impl AsFd for Handover {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn arrived(shared: &Shared, memory: usize, fd: RawFd, task: i32) {
    shared.deliver(Record::Arrived { memory, fd, task });
    shared.set_expected(None);
}

/// Those that we have.
fn userfaultfds() -> Result<Vec<RawFd>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let fd = name.to_str().and_then(|name| name.parse().ok());
        all.extend(fd.filter(|&fd| is_userfaultfd(fd)));
    }
    Ok(all)
}

pub fn is_userfaultfd(fd: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .is_ok_and(|link| link.as_os_str() == "anon_inode:[userfaultfd]")
}
