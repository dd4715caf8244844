// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A page server: receives the pages of a `criu dump --page-server --ps-socket` or pre-dump, each to its
//! place. They come as references to the pages of the process itself, so they are copied once.
//!
//! Pages that hold nothing but zeros were never sent, and stay holes.

use super::protocol::{flag, Request, HEADER};
use super::store::{self, Store};
use super::{sums, Owner, Ranges, PAGE};
use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::fcntl::{fcntl, splice, FcntlArg, SpliceFFlags};
use nix::sys::socket::{
    recv, send, setsockopt, socketpair, sockopt, AddressFamily, MsgFlags, SockFlag, SockType,
};
use std::collections::btree_map::Entry;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that are under way at a time.
const PIPE: usize = 1 << 20;
/// Bytes that CRIU may be ahead of us.
const SOCKET: usize = 8 << 20;
/// Bytes whose sums are made while the next come: CRIU may send 100 MiB as one range.
const SUMMED: u64 = 2 << 20;
/// Pieces that wait for their sums.
const WAITING: usize = 1024;
/// Who makes sums is never far behind with so many.
const MOST_THREADS: usize = 4;
/// How often somebody hears how far it is.
const TELL: Duration = Duration::from_secs(2);
/// Bytes a file needs to have room for any address of a process.
const OCEAN: u64 = 1 << 47;

/// What one owner has in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Pages that belong to the memory; all others of the file are old.
    pub pages: Ranges,
    /// Bytes that were received in this round.
    pub received: u64,
}

/// What a round left in the store.
pub type Round = BTreeMap<Owner, Held>;

/// A pair of sockets: ours, and CRIU's.
///
/// # Errors
/// Those of socketpair(2).
pub fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("a pair of sockets")?;
    // Of two such sockets it is the sender's buffer that counts. With the usual 208 KiB sender and receiver take
    // turns, and wake each other some thousand times per GiB; nothing is lost if it cannot be had.
    let _ = setsockopt(&theirs, sockopt::SndBufForce, &SOCKET);
    Ok((ours, theirs))
}

/// Serves one run of CRIU to its end.
///
/// `before` is the round that CRIU was told of by `--prev-images-dir`, empty if it was told of none. With
/// `sealed`, the sums of what is received are made on the way. `progress` is told now and then how many bytes came.
///
/// # Errors
/// CRIU ended early or said what it must not, or the store has no room.
pub fn serve(
    socket: &OwnedFd,
    store: &Store,
    before: &Round,
    sealed: bool,
    progress: &dyn Fn(u64),
) -> Result<Round> {
    Server::new(socket, store, before, sealed, progress)?.run()
}

/// Pages that want sums.
struct Job {
    files: Arc<Files>,
    range: Range<u64>,
}

/// The threads that make sums, while pages come.
struct Sums {
    jobs: SyncSender<Job>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Sums {
    fn start() -> Sums {
        let (jobs, taken) = sync_channel(WAITING);
        let taken = Arc::new(Mutex::new(taken));
        let count = thread::available_parallelism().map_or(1, usize::from);
        let one = |_| {
            let taken = taken.clone();
            thread::spawn(move || make_sums(&taken))
        };
        Sums {
            jobs,
            threads: (0..count.min(MOST_THREADS)).map(one).collect(),
        }
    }

    /// Waits until all are made.
    fn finish(self) -> io::Result<()> {
        drop(self.jobs);
        let mut ended = self.threads.into_iter().map(JoinHandle::join);
        ended.try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

fn make_sums(jobs: &Mutex<Receiver<Job>>) -> io::Result<()> {
    loop {
        // One waits for the next job, the others for that one.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { files, range }) = job else {
            return Ok(());
        };
        if let Some(sums) = &files.sums {
            sums::make(&files.memory, sums, range)?;
        }
    }
}

struct Files {
    memory: File,
    sums: Option<File>,
}

struct Server<'a> {
    socket: &'a OwnedFd,
    store: &'a Store,
    before: &'a Round,
    sums: Option<Sums>,
    pipe: (OwnedFd, OwnedFd),
    round: Round,
    files: BTreeMap<Owner, Arc<Files>>,
    progress: &'a dyn Fn(u64),
    received: u64,
    told: Instant,
}

impl<'a> Server<'a> {
    fn new(
        socket: &'a OwnedFd,
        store: &'a Store,
        before: &'a Round,
        sealed: bool,
        progress: &'a dyn Fn(u64),
    ) -> Result<Server<'a>> {
        let pipe = nix::unistd::pipe().context("a pipe")?;
        // Where this is refused the pipe is small, and the pages come in small pieces.
        let _ = fcntl(&pipe.1, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
        Ok(Server {
            socket,
            store,
            before,
            sums: sealed.then(Sums::start),
            pipe,
            round: Round::new(),
            files: BTreeMap::new(),
            progress,
            received: 0,
            told: Instant::now(),
        })
    }

    fn run(mut self) -> Result<Round> {
        while let Some(header) = self.header()? {
            match Request::parse(&header).context("CRIU's page transfer")? {
                Request::Open { owner, answer } => {
                    self.open(owner)?;
                    if answer {
                        self.answer(&[u8::from(self.before.contains_key(&owner))])?;
                    }
                }
                Request::Parent { owner } => {
                    let had = i32::from(self.before.contains_key(&owner));
                    self.answer(&had.to_le_bytes())?;
                }
                Request::Add {
                    owner,
                    range,
                    flags,
                } => self.add(owner, range, flags)?,
                Request::Close => {
                    // Only a 0 lets CRIU go on to what cannot be taken back.
                    let summed = self.sums.take().map_or(Ok(()), Sums::finish);
                    let status = if summed.is_ok() { 0i32 } else { -1 };
                    self.answer(&status.to_le_bytes())?;
                    summed.context("checksums of the pages")?;
                    return Ok(self.round);
                }
            }
        }
        bail!("CRIU ended before all pages were sent")
    }

    /// The next header, if there is one.
    fn header(&self) -> Result<Option<[u8; HEADER]>> {
        let mut header = [0; HEADER];
        let mut got = 0;
        while got < HEADER {
            let fd = self.socket.as_raw_fd();
            match recv(fd, &mut header[got..], MsgFlags::MSG_WAITALL) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => bail!("CRIU ended in the middle of a request"),
                Ok(n) => got += n,
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Ok(None),
                Err(e) => return Err(e).context("receiving from CRIU"),
            }
        }
        Ok(Some(header))
    }

    fn answer(&self, bytes: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
        ensure!(
            sent.context("answering CRIU")? == bytes.len(),
            "CRIU does not listen"
        );
        Ok(())
    }

    fn open(&mut self, owner: Owner) -> Result<Arc<Files>> {
        self.round.entry(owner).or_default();
        let place = match self.files.entry(owner) {
            Entry::Occupied(files) => return Ok(files.get().clone()),
            Entry::Vacant(place) => place,
        };
        let name = || self.store.path(owner).display().to_string();
        let memory = self.store.create(owner).with_context(name)?;
        if let Owner::Process(_) = owner {
            // Before anything is in it, so that a filesystem which cannot hold it says so at once.
            memory.set_len(OCEAN).with_context(|| {
                format!(
                    "{}: no room for a sparse file of 2^47 bytes (RP-RAMFS, tmpfs and xfs have it, ext4 has not)",
                    name()
                )
            })?;
        }
        let sums = match &self.sums {
            Some(_) => Some(self.store.create_sums(owner).with_context(name)?),
            None => None,
        };
        Ok(place.insert(Arc::new(Files { memory, sums })).clone())
    }

    fn add(&mut self, owner: Owner, range: Range<u64>, flags: u32) -> Result<()> {
        let files = self.open(owner)?;
        if flags & flag::PRESENT != 0 {
            // The sums of what came first may be under way still, and make holes of zeros.
            let held = self.round.entry(owner).or_default();
            ensure!(
                !held.pages.overlaps(&range),
                "{owner}: CRIU sends some of {:#x}..{:#x} twice in a round",
                range.start,
                range.end
            );
            self.receive(&files, &range)
                .with_context(|| self.store.path(owner).display().to_string())?;
        } else if flags & flag::PARENT != 0 {
            let before = self.before.get(&owner);
            ensure!(
                before.is_some_and(|held| held.pages.contains(&range)),
                "{owner}: CRIU takes {:#x}..{:#x} for unchanged since a round that did not have it",
                range.start,
                range.end
            );
        } else {
            bail!("{owner}: pages that are neither sent nor known: {range:x?}");
        }
        let held = self.round.entry(owner).or_default();
        let bytes = range.end - range.start;
        held.pages.insert(range);
        if flags & flag::PRESENT != 0 {
            held.received += bytes;
            self.received += bytes;
            if self.told.elapsed() >= TELL {
                (self.progress)(self.received);
                self.told = Instant::now();
            }
        }
        Ok(())
    }

    /// The bytes of `range`, from the socket to their place.
    fn receive(&self, files: &Arc<Files>, range: &Range<u64>) -> Result<()> {
        let memory = &files.memory;
        store::reserve(memory, range).context("no room for the pages")?;
        let mut at = range.start;
        let mut summed = range.start;
        while at < range.end {
            let want = PIPE.min((range.end - at) as usize);
            let flags = SpliceFFlags::SPLICE_F_MOVE;
            let mut left = match splice(self.socket, None, &self.pipe.1, None, want, flags) {
                Ok(0) => bail!("CRIU ended in the middle of its pages"),
                Ok(n) => n,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e).context("receiving pages from CRIU"),
            };
            while left > 0 {
                let mut to = at as i64;
                match splice(&self.pipe.0, None, memory, Some(&mut to), left, flags) {
                    Ok(0) => bail!("no bytes could be written at {at:#x}"),
                    Ok(n) => {
                        left -= n;
                        at += n as u64;
                    }
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(e).context("writing pages"),
                }
            }
            let whole = match at < range.end {
                true => at - at % PAGE,
                false => range.end,
            };
            if whole - summed >= SUMMED || whole == range.end {
                self.sum(files, summed..whole);
                summed = whole;
            }
        }
        Ok(())
    }

    /// Has sums made of pages that are there.
    fn sum(&self, files: &Arc<Files>, range: Range<u64>) {
        let files = files.clone();
        if let Some(sums) = &self.sums {
            // Who does not take it any more has failed, and says so at the end.
            let _ = sums.jobs.send(Job { files, range });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;

    /// CRIU's header of these pages (`op` and flags in the command), or of another request.
    fn header(command: u32, pages: u64, address: u64, owner: u64) -> Vec<u8> {
        let words = [u64::from(command), pages, address, owner];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn every_page_of_a_large_range_has_its_sum() {
        const PAGES: u64 = 3 * SUMMED / PAGE + 5;
        const START: u64 = 7 * PAGE;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        // Any filesystem can hold it.
        let owner = Owner::Segment(9);
        let number = 9 << 8 | 2;
        let memory: Vec<u8> = (0..PAGES * PAGE / 8)
            .flat_map(|word| (word * 0x9e37_79b9 + 1).to_le_bytes())
            .collect();
        let (ours, theirs) = sockets().unwrap();
        let sent = memory.clone();
        let criu = thread::spawn(move || {
            let mut socket = UnixStream::from(theirs);
            socket.write_all(&header(3, 0, 0, number)).unwrap();
            let add = 6 | 4 << 16;
            socket
                .write_all(&header(add, PAGES, START, number))
                .unwrap();
            socket.write_all(&sent).unwrap();
            socket.write_all(&header(0x1023, 0, 0, 0)).unwrap();
            let mut status = [1; 4];
            socket.read_exact(&mut status).unwrap();
            assert_eq!(status, [0; 4]);
        });
        let round = serve(&ours, &store, &Round::new(), true, &|_| ()).unwrap();
        criu.join().unwrap();
        let range = START..START + PAGES * PAGE;
        assert!(round[&owner].pages.contains(&range));
        let mut stored = vec![0; memory.len()];
        let file = store.open(owner).unwrap();
        file.read_exact_at(&mut stored, START).unwrap();
        assert!(stored == memory);
        let mut made = vec![0; PAGES as usize * 4];
        let file = store.open_sums(owner).unwrap().unwrap();
        file.read_exact_at(&mut made, sums::place(&range).start)
            .unwrap();
        let want = memory.chunks(PAGE as usize).map(sums::sum);
        let want: Vec<u8> = want.flat_map(u32::to_le_bytes).collect();
        assert!(made == want);
    }
}
