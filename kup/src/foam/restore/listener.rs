// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The socket to which `criu restore --lazy-pages` connects, and what it says there.

use std::fs::{File, OpenOptions};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use nix::sys::socket::UnixCredentials;
use nix::sys::socket::{
    recv, recvmsg, setsockopt, sockopt::PassCred, ControlMessageOwned, MsgFlags,
};

use super::supervisor::Supervisor;
use super::{Memory, Outcome, Progress};

/// CRIU's name for it, in its work directory.
const NAME: &str = "lazy-pages.socket";

/// "RSTF": all tasks are restored.
const RESTORE_FINISHED: i32 = 0x5253_5446;

/// How long a descriptor may take that was announced. CRIU sends the two at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that awaits CRIU.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    dir: File,
    poison: bool,
}

impl Listener {
    /// Listens in CRIU's work directory. A socket that an earlier restore left there is replaced.
    ///
    /// # Errors
    /// When the directory cannot be opened or written.
    pub fn bind(work_dir: &Path) -> Result<Listener> {
        let dir = open_dir(work_dir)?;
        let path = path_in(&dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("replace {NAME} in {}", work_dir.display()));
            }
            _ => {}
        }
        let socket = UnixListener::bind(path)
            .with_context(|| format!("listen in {}", work_dir.display()))?;
        // A pid in CRIU's message is one of the pid namespace that it restores; the kernel tells ours.
        setsockopt(&socket, PassCred, &true).context("ask for credentials")?;
        Ok(Listener {
            socket,
            dir,
            poison: true,
        })
    }

    /// Makes the [`supervise`](Self::supervise) of another process, which still waits for CRIU in this
    /// directory, end with an error: for who started a CRIU that failed before it connected.
    ///
    /// # Errors
    /// When no one waits there.
    pub fn abandon(work_dir: &Path) -> Result<()> {
        let dir = open_dir(work_dir)?;
        UnixStream::connect(path_in(&dir))
            .with_context(|| format!("connect in {}", work_dir.display()))?;
        Ok(())
    }

    /// Behaves as on a kernel that cannot mark pages as failed (before Linux 6.6): who would see a
    /// failed page is killed.
    #[doc(hidden)]
    #[must_use]
    pub fn without_poison(mut self) -> Listener {
        self.poison = false;
        self
    }

    /// Serves one restore: takes CRIU's connection, gives each restored process its memory, and
    /// returns when all have theirs. `progress` is called some ten times a second and should not
    /// block; faults are served all the same, but not without end.
    ///
    /// The calling process must have one thread. It becomes the supervisor of a daemon that does the
    /// work; see [`hard_to_kill`](super::hard_to_kill).
    ///
    /// # Errors
    /// When CRIU's connection ends before it says that all is restored, or when it names a process
    /// that none of `memories` is for; all descriptors are closed then, so what CRIU has restored up
    /// to now must not go on. A page that cannot be had is no error: see [`Outcome::bad_pages`].
    pub fn supervise(
        self,
        memories: Vec<Memory>,
        progress: impl FnMut(&Progress),
    ) -> Result<Outcome> {
        let poison = self.poison && super::uffd::has_poison();
        Supervisor::new(memories, poison)?.run(self, progress)
    }

    pub(super) fn accept(&self) -> Result<Connection> {
        let (stream, _) = self.socket.accept().context("accept CRIU's connection")?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("set a time limit")?;
        Ok(Connection { stream })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Best effort: the next one replaces it.
        let _ = std::fs::remove_file(path_in(&self.dir));
    }
}

fn open_dir(dir: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
        .open(dir)
        .with_context(|| format!("open {}", dir.display()))
}

/// The address of a socket has room for some hundred bytes only; this one is short.
fn path_in(dir: &File) -> String {
    format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd())
}

/// What CRIU says of a task.
#[derive(Debug, PartialEq, Eq)]
pub enum Announced {
    /// Its descriptor comes next.
    Task { pid: i32 },
    /// It has no memory.
    Zombie,
    /// It was the last.
    Finished,
}

/// What comes next in CRIU's connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Word(Announced),
    Descriptor,
    /// It hung up.
    End,
}

/// CRIU's connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Looks at the next message, which stays; waits for it.
    pub fn next(&self) -> Result<Next> {
        let mut word = [0; 4];
        // With no room for it, the descriptor behind a word does not come: nobody would know of it if we died here.
        let got = recv(self.stream.as_raw_fd(), &mut word, MsgFlags::MSG_PEEK);
        match got.context("receive from CRIU")? {
            0 => return Ok(Next::End),
            1 => return Ok(Next::Descriptor),
            4 => {}
            // The rest never comes: CRIU writes it at once.
            some => bail!("CRIU hung up within a word, of which {some} bytes came"),
        }
        Ok(Next::Word(match i32::from_ne_bytes(word) {
            RESTORE_FINISHED => Announced::Finished,
            ..=0 => Announced::Zombie,
            pid => Announced::Task { pid },
        }))
    }

    /// Takes the word that was looked at. Tells who sent it.
    pub fn take_word(&self) -> Result<Option<i32>> {
        Ok(self.receive(&mut [0; 4])?.sender)
    }

    /// Takes a descriptor; waits for it.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        let got = self.receive(&mut [0])?;
        ensure!(got.bytes == 1, "CRIU hung up before it came");
        got.descriptor.context("CRIU sent none")
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<Received> {
        let mut space = nix::cmsg_space!(RawFd, UnixCredentials);
        let mut slices = [IoSliceMut::new(buffer)];
        let fd = self.stream.as_raw_fd();
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(fd, &mut slices, Some(&mut space), flags);
        let message = message.context("receive from CRIU")?;
        let (mut sender, mut descriptor) = (None, None);
        for control in message.cmsgs().context("receive from CRIU")? {
            match control {
                ControlMessageOwned::ScmRights(fds) => {
                    descriptor = fds.into_iter().map(own).collect::<Vec<_>>().pop();
                }
                ControlMessageOwned::ScmCredentials(credentials) => {
                    sender = Some(credentials.pid()).filter(|pid| *pid > 0);
                }
                _ => {}
            }
        }
        Ok(Received {
            bytes: message.bytes,
            sender,
            descriptor,
        })
    }
}

/// Bytes, the sender's pid and a descriptor.
struct Received {
    bytes: usize,
    sender: Option<i32>,
    descriptor: Option<OwnedFd>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for us as it gave us the message, which names it once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
