// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The last word before CRIU kills what it has dumped. CRIU asks over the socket that it got its request from; a
//! process of its own, the guard, hands the question to the one that runs the dump, and the answer back. If that
//! one says no, or is killed, the guard sees to it that the checkpoint cannot be restored, and then tells CRIU to
//! let the processes go on. If CRIU is killed it does the former.

use crate::checkpoint::MANIFEST;
use crate::rpc;
use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, send, MsgFlags};
use prost::Message;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// CRIU's name for the moment (`action_names` of `criu/action-scripts.c`).
const COMPLETE: &str = "post-dump";
const QUESTION: u8 = b'?';
const YES: u8 = b'y';
/// A message of CRIU's is a few words.
const MESSAGE: usize = 4096;

/// Stands between CRIU and the one that runs the dump.
pub struct Guard {
    stream: UnixStream,
}

impl Guard {
    /// Starts the process, for a checkpoint's directory and the socket to its CRIU.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(dir: &Path, criu: OwnedFd) -> Result<(Guard, Child)> {
        let (stream, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("kup").arg("guard").arg(dir);
        command
            .stdin(Stdio::from(criu))
            .stdout(OwnedFd::from(theirs));
        // A Ctrl-C is for the one that runs the dump.
        command.process_group(0);
        let child = command.spawn().context("starting the guard")?;
        Ok((Guard { stream }, child))
    }

    /// Waits until CRIU asks. Then the answer is given by dropping or saying yes.
    ///
    /// # Errors
    /// CRIU ended without asking.
    pub fn asked(mut self) -> Result<Asked> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(1) => Ok(Asked(self.stream)),
            Ok(_) => bail!("CRIU ended before the checkpoint was complete"),
            Err(e) => Err(e).context("waiting for CRIU"),
        }
    }
}

/// CRIU waits for an answer. Dropping this is a no.
pub struct Asked(UnixStream);

impl Asked {
    /// Is who asked still there?
    #[must_use]
    pub fn waits(&self) -> bool {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        // It has nothing to say: an end is all that can come.
        recv(self.0.as_raw_fd(), &mut byte, flags) == Err(Errno::EAGAIN)
    }

    /// The checkpoint is complete.
    ///
    /// # Errors
    /// Nobody listens; then the processes go on.
    pub fn yes(mut self) -> Result<()> {
        self.0.write_all(&[YES]).context("answering CRIU")
    }
}

/// The process itself: CRIU is its standard input, who runs the dump its standard output.
///
/// # Errors
/// CRIU cannot be answered.
pub fn run(dir: &Path) -> Result<()> {
    let criu = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut kup = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    while let Some(said) = receive(&criu)? {
        // What a program that CRIU starts prints comes here as well, and is none.
        let Ok(said) = rpc::CriuResp::decode(&said[..]) else {
            continue;
        };
        if said.r#type() != rpc::CriuReqType::Notify {
            // How it ended.
            break;
        }
        let complete = said
            .notify
            .is_some_and(|notify| notify.script() == COMPLETE);
        // Once the processes go on, the checkpoint is out of date. (To remove a name needs no room.)
        let out_of_date = || {
            let _ = std::fs::remove_file(dir.join(MANIFEST));
        };
        let good = !complete || is_agreed(&criu, &mut kup).unwrap_or(false);
        if !good {
            out_of_date();
        }
        let heard = answer(&criu, good)?;
        if complete && !heard {
            out_of_date();
        }
    }
    Ok(())
}

/// Asks who runs the dump, as long as CRIU lives.
fn is_agreed(criu: &OwnedFd, kup: &mut UnixStream) -> Result<bool> {
    kup.write_all(&[QUESTION])?;
    // CRIU says nothing until it is answered: an end is all that can come from there.
    let mut fds = [
        PollFd::new(criu.as_fd(), PollFlags::POLLIN),
        PollFd::new(kup.as_fd(), PollFlags::POLLIN),
    ];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    let ended = fds[0].any() != Some(false);
    let mut answer = [0];
    Ok(!ended && kup.read(&mut answer)? == 1 && answer[0] == YES)
}

/// One message of CRIU's, or none if it has ended.
fn receive(criu: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let mut message = vec![0; MESSAGE];
    loop {
        match recv(criu.as_raw_fd(), &mut message, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
            Err(e) => return Err(e).context("CRIU's socket"),
            Ok(length) => {
                message.truncate(length);
                return Ok(Some(message));
            }
        }
    }
}

/// Tells whether there was still somebody to be told.
fn answer(criu: &OwnedFd, good: bool) -> Result<bool> {
    let mut answer = rpc::CriuReq {
        notify_success: Some(good),
        ..rpc::CriuReq::default()
    };
    answer.set_type(rpc::CriuReqType::Notify);
    let flags = MsgFlags::MSG_NOSIGNAL;
    match send(criu.as_raw_fd(), &answer.encode_to_vec(), flags) {
        Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(false),
        other => Ok(other.map(|_| true)?),
    }
}
