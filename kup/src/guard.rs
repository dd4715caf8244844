// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The last word before CRIU kills what it has dumped. CRIU asks over the socket that it got its request from; a
//! process of its own, the guard, hands the question to the one that runs the dump, and the answer back. If that
//! one says no, or is killed, the guard sees to it that the checkpoint cannot be restored, and then tells CRIU to
//! let the processes go on. If CRIU is killed it does the former. It is there before the dump begins: nothing is
//! left to be started while processes stand still.

use crate::checkpoint::MANIFEST;
use crate::rpc;
use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, send, shutdown, MsgFlags, Shutdown};
use prost::Message;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// CRIU's name for the moment (`action_names` of `criu/action-scripts.c`).
const COMPLETE: &str = "post-dump";
const READY: u8 = b'!';
const QUESTION: u8 = b'?';
const YES: u8 = b'y';

/// Stands between CRIU and the one that runs the dump.
pub struct Guard {
    stream: UnixStream,
}

impl Guard {
    /// Starts the process, for a checkpoint's directory and the socket to its CRIU, and waits until it is there.
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
        let mut child = command.spawn().context("starting the guard")?;
        // With its ends of the sockets: the end of them is the end of the guard.
        drop(command);
        let mut guard = Guard { stream };
        if guard.hear().context("waiting for the guard")? != Some(READY) {
            bail!("the guard has ended: {}", child.wait()?);
        }
        Ok((guard, child))
    }

    /// Waits until CRIU asks. Then the answer is given by dropping or saying yes.
    ///
    /// # Errors
    /// CRIU ended without asking.
    pub fn asked(mut self) -> Result<Asked> {
        let said = self.hear().context("waiting for CRIU")?;
        ensure!(
            said == Some(QUESTION),
            "CRIU ended before the checkpoint was complete"
        );
        Ok(Asked(self.stream))
    }

    /// A byte, or none at the end.
    fn hear(&mut self) -> std::io::Result<Option<u8>> {
        let mut byte = [0];
        let heard = self.stream.read(&mut byte)?;
        Ok((heard == 1).then_some(byte[0]))
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
    // Once the processes go on, the checkpoint is out of date. (To remove a name needs no room.)
    let out_of_date = || {
        let _ = std::fs::remove_file(dir.join(MANIFEST));
    };
    kup.write_all(&[READY])?;
    let mut begun = false;
    loop {
        if !begun && comes_first(&criu, &kup)? == Side::Kup {
            // It has nothing to say unasked: it has ended. There will be no request, and if there was one CRIU finds out
            // when it says that it begins. Nothing can be restored yet.
            shutdown(criu.as_raw_fd(), Shutdown::Write)?;
        }
        begun = true;
        let Some(said) = rpc::receive(&criu)? else {
            return Ok(());
        };
        // What a program that CRIU starts prints comes here as well, and is none.
        let Ok(said) = rpc::CriuResp::decode(&said[..]) else {
            continue;
        };
        if said.r#type() != rpc::CriuReqType::Notify {
            // How it ended.
            return Ok(());
        }
        let complete = said
            .notify
            .is_some_and(|notify| notify.script() == COMPLETE);
        let good = !complete || is_agreed(&criu, &mut kup).unwrap_or(false);
        if !good {
            out_of_date();
        }
        let heard = answer(&criu, good)?;
        if complete && !heard {
            out_of_date();
        }
    }
}

#[derive(PartialEq, Eq)]
enum Side {
    Kup,
    Criu,
}

/// Waits for either of them.
fn comes_first(criu: &OwnedFd, kup: &UnixStream) -> Result<Side> {
    let mut fds = [
        PollFd::new(kup.as_fd(), PollFlags::POLLIN),
        PollFd::new(criu.as_fd(), PollFlags::POLLIN),
    ];
    wait(&mut fds)?;
    Ok(match fds[0].any() {
        Some(false) => Side::Criu,
        _ => Side::Kup,
    })
}

fn wait(fds: &mut [PollFd]) -> Result<()> {
    loop {
        match poll(fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop).context("poll"),
        }
    }
}

/// Asks who runs the dump, as long as CRIU lives.
fn is_agreed(criu: &OwnedFd, kup: &mut UnixStream) -> Result<bool> {
    kup.write_all(&[QUESTION])?;
    // CRIU says nothing until it is answered: an end is all that can come from there.
    let mut fds = [
        PollFd::new(criu.as_fd(), PollFlags::POLLIN),
        PollFd::new(kup.as_fd(), PollFlags::POLLIN),
    ];
    wait(&mut fds)?;
    let ended = fds[0].any() != Some(false);
    let mut answer = [0];
    Ok(!ended && kup.read(&mut answer)? == 1 && answer[0] == YES)
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
