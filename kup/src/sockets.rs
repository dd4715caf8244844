// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Connections to processes that are not carried along: a service's standard output to the journal, a client of
//! the system's bus. Their other end goes with the old kernel. CRIU leaves such a connection out if it is told to,
//! and takes what it is given in its place.

use anyhow::{ensure, Context, Result};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::constants::{SOCK_SEQPACKET, SOCK_STREAM, TCP_ESTABLISHED};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_sys::{protocols::NETLINK_SOCK_DIAG, Socket, SocketAddr};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Where systemd connects the standard output of services to (`systemd-journald.service(8)`).
pub(crate) const JOURNAL: &str = "/run/systemd/journal/stdout";
const PATHS: &str = "/proc/net/unix";

/// One end of a connection whose other end stays behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// CRIU's name for it.
    pub inode: u32,
    /// Messages keep their bounds (SOCK_SEQPACKET).
    pub packets: bool,
    /// Where the other end listened.
    pub peer: Option<String>,
}

impl Cut {
    /// The option of a dump that leaves it out.
    #[must_use]
    pub fn left_out(&self) -> String {
        format!("unix[{}]", self.inode)
    }

    /// The option of a restore that puts `fd` in its place.
    #[must_use]
    pub fn replaced_by(&self, fd: &OwnedFd) -> String {
        format!("fd[{}]:socket:[{}]", fd.as_raw_fd(), self.inode)
    }

    /// What a process gets in its place, to be inherited by CRIU: a new stream into the journal, or a connection
    /// whose other end has closed it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn replacement(&self, identifier: &str, unit: &str) -> Result<OwnedFd> {
        let journal = self.peer.as_deref() == Some(JOURNAL);
        let fd = match journal.then(|| stream(identifier, unit)) {
            Some(Ok(stream)) => stream.into(),
            // No journal here, or none meant.
            _ => self.closed()?,
        };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(fd)
    }

    fn closed(&self) -> Result<OwnedFd> {
        let kind = match self.packets {
            true => SockType::SeqPacket,
            false => SockType::Stream,
        };
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        Ok(pair.context("a pair of sockets")?.0)
    }
}

/// A stream into the journal, as systemd opens them for services (`sd_journal_stream_fd(3)`): the identifier, the
/// unit, facility and priority (daemon, info), whether lines may begin with a priority of their own, and whether
/// they go to syslog, the kernel's log and the console too.
fn stream(identifier: &str, unit: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(JOURNAL)?;
    stream.shutdown(Shutdown::Read)?;
    stream.write_all(format!("{identifier}\n{unit}\n30\n1\n0\n0\n0\n").as_bytes())?;
    Ok(stream)
}

/// The connections of these processes to others.
///
/// # Errors
/// The kernel does not tell (the module unix_diag is needed).
pub fn cut(pids: &[u32]) -> Result<Vec<Cut>> {
    let own: BTreeSet<u32> = pids.iter().flat_map(|&pid| inodes(pid)).collect();
    let all = all().context("the kernel does not list its local sockets (module unix_diag)")?;
    let paths = fs::read_to_string(PATHS).context(PATHS)?;
    let mut cut = Vec::new();
    for socket in own.iter().filter_map(|inode| all.get(inode)) {
        let kind = socket.header.kind;
        let connected =
            matches!(kind, SOCK_STREAM | SOCK_SEQPACKET) && socket.header.state == TCP_ESTABLISHED;
        let Some(peer) = socket
            .peer()
            .filter(|peer| connected && !own.contains(peer))
        else {
            continue;
        };
        cut.push(Cut {
            inode: socket.header.inode,
            packets: kind == SOCK_SEQPACKET,
            peer: path(&paths, peer),
        });
    }
    Ok(cut)
}

/// The path that a socket is bound to, which an accepted one has of the one that listens: the seventh column is the
/// inode, the eighth the path (`unix(7)`), or an abstract name with an @.
fn path(text: &str, inode: u32) -> Option<String> {
    let of = |line: &str| -> Option<String> {
        let mut words = line.split_whitespace().skip(6);
        (words.next()?.parse() == Ok(inode)).then_some(())?;
        let path = words.collect::<Vec<_>>().join(" ");
        path.starts_with('/').then_some(path)
    };
    text.lines().find_map(of)
}

/// The sockets that a process has open.
pub(crate) fn inodes(pid: u32) -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        // It has ended.
        return BTreeSet::new();
    };
    let inode = |entry: std::io::Result<fs::DirEntry>| -> Option<u32> {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        let target = target.to_str()?;
        target
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    };
    entries.filter_map(inode).collect()
}

/// All local sockets of this network namespace, by inode.
fn all() -> Result<BTreeMap<u32, UnixResponse>> {
    let request = UnixRequest {
        state_flags: StateFlags::all(),
        inode: 0,
        show_flags: ShowFlags::PEER,
        cookie: [0xff; 8],
    };
    let mut message = NetlinkMessage::from(SockDiagMessage::UnixRequest(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut all = BTreeMap::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            let length = message.header.length as usize;
            ensure!(length > 0, "a message without a length");
            // Messages are padded to words.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(all),
                NetlinkPayload::Error(e) => return Err(e.to_io().into()),
                NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
                    all.insert(response.header.inode, *response);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_connections_to_others_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        // Both ends are ours.
        let of = |socket: &UnixStream| -> u32 {
            let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
            let digits = link
                .to_str()
                .unwrap()
                .replace(|c: char| !c.is_ascii_digit(), "");
            digits.parse().unwrap()
        };
        let cut_here = cut(&[std::process::id()]).unwrap();
        let (client, server) = (of(&client), of(&server));
        assert!(cut_here
            .iter()
            .all(|cut| cut.inode != client && cut.inode != server));
        let all = all().unwrap();
        assert_eq!(all[&client].peer(), Some(server));
        let paths = fs::read_to_string(PATHS).unwrap();
        assert_eq!(
            super::path(&paths, server),
            path.to_str().map(str::to_owned)
        );
        assert_eq!(super::path(&paths, client), None);
    }

    #[test]
    fn the_other_end_is_closed() {
        let cut = Cut {
            inode: 7,
            packets: false,
            peer: Some("/run/dbus/system_bus_socket".to_owned()),
        };
        let fd = cut.replacement("x", "x.service").unwrap();
        assert_eq!(
            cut.replaced_by(&fd),
            format!("fd[{}]:socket:[7]", fd.as_raw_fd())
        );
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&fd, &mut byte).unwrap(), 0);
    }
}
