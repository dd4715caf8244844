// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The last word before CRIU kills what it has dumped. CRIU asks an action script; that is this program,
//! which asks the one that runs the dump whether the checkpoint is complete. If it says no, or says
//! nothing, the processes go on.

use crate::checkpoint::MANIFEST;
use crate::criu::seen;
use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{recv, MsgFlags};
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What CRIU sets for its scripts (`Documentation/criu.txt`, action scripts).
const ACTION: &str = "CRTOOLS_SCRIPT_ACTION";
/// Where the question goes.
const PLACE: &str = "KUP_HOOK";
const NAME: &str = "hook.socket";
const YES: u8 = b'y';

/// Waits for the question.
pub struct Hook {
    listener: UnixListener,
    dir: PathBuf,
}

impl Hook {
    /// Listens in a directory that only root enters.
    ///
    /// # Errors
    /// No socket can be made there.
    pub fn listen(dir: &Path) -> Result<Hook> {
        let path = dir.join(NAME);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(short(&File::open(dir)?));
        let listener = listener.with_context(|| path.display().to_string())?;
        listener.set_nonblocking(true)?;
        Ok(Hook {
            listener,
            dir: dir.to_owned(),
        })
    }

    /// What a CRIU in the namespaces of `within` has to be told: the script, and a variable for it.
    ///
    /// # Errors
    /// The path of this program is not known.
    pub fn told(&self, within: Option<u32>) -> Result<(PathBuf, (&'static str, OsString))> {
        let script = env::current_exe().context("the path of this program")?;
        let (script, dir) = (seen(&script, within), seen(&self.dir, within));
        Ok((script, (PLACE, dir.into())))
    }

    /// Waits until CRIU asks, as long as `alive`. Then the answer is given by dropping or saying yes.
    ///
    /// # Errors
    /// CRIU ended without asking.
    pub fn asked(&self, mut alive: impl FnMut() -> bool) -> Result<Asked> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(Asked(stream)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    ensure!(alive(), "CRIU ended before the checkpoint was complete");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) => return Err(e).context("waiting for CRIU's script"),
            }
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
        self.0.write_all(&[YES]).context("answering CRIU's script")
    }
}

/// The socket by a name that is short enough for one, whatever the directory's.
fn short(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))
}

/// Runs as CRIU's script, if that is what this program was started as. Returns the exit status.
#[must_use]
pub fn as_script() -> Option<u8> {
    let action = env::var(ACTION).ok()?;
    let place = env::var_os(PLACE)?;
    if action != "post-dump" {
        return Some(0);
    }
    let ask = || -> Result<bool> {
        let mut stream = UnixStream::connect(short(&File::open(&place)?))?;
        let mut answer = [0];
        Ok(stream.read(&mut answer)? == 1 && answer[0] == YES)
    };
    if ask().unwrap_or(false) {
        return Some(0);
    }
    // Once the processes go on, the checkpoint is out of date. CRIU still holds them. (To remove a name needs no
    // room.)
    if let Some(checkpoint) = Path::new(&place).parent() {
        let _ = std::fs::remove_file(checkpoint.join(MANIFEST));
    }
    Some(1)
}
