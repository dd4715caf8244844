// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The protocol between the host and the agent in a lab guest.
//!
//! Both directions carry frames over one virtio-serial port. A kexec or a panic may cut a frame
//! short at any byte, so whoever starts anew first sends [`RESYNC_ZEROS`] zero bytes: they fill up
//! whatever frame the other side is still waiting for, and the rest is skipped in search of the
//! next magic number.

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// The name of the virtio-serial port.
pub const PORT_NAME: &str = "rpramfs.agent";
/// On the kernel's command line: the disk with the system that takes over from the initrd.
pub const ROOT_ARGUMENT: &str = "lab.root";
/// On the kernel's command line: a person wants a prompt on the second console.
pub const SHELL_ARGUMENT: &str = "rpramfs.shell";
/// Vendor and device number of the memory that the host shares with the guest (ivshmem), which the guest's
/// stores reach at once, so that no crash takes what was written there.
pub const LEDGER_DEVICE: (&str, &str) = ("0x1af4", "0x1110");
/// Bytes of it. The first word is not 0 once work has begun, each thread's number of acknowledged
/// operations follows.
pub const LEDGER_SIZE: usize = 4096;
/// No frame carries more than this.
pub const MAX_PAYLOAD: usize = 32 << 10;
/// Sent before the first frame of a new boot; more than the longest frame.
pub const RESYNC_ZEROS: usize = MAX_PAYLOAD + 1024;

const MAGIC: [u8; 4] = *b"\xf5RPL";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// guest → host: the agent is up ([`Hello`]).
    Hello = 1,
    /// host → guest: start a command ([`Run`]).
    Run = 2,
    /// host → guest: bytes for the command's standard input; empty closes it.
    Stdin = 3,
    /// host → guest: kill the command and everything in its process group.
    Kill = 4,
    /// guest → host: what the command wrote.
    Stdout = 5,
    Stderr = 6,
    /// guest → host: the command has ended ([`Exit`]); nothing more comes for this id.
    Exit = 7,
    /// Are you there?
    Ping = 8,
    Pong = 9,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Hello, Run, Stdin, Kill, Stdout, Stderr, Exit, Ping, Pong]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Differs from one boot to the next.
    pub boot_id: String,
    /// `uname -r`.
    pub release: String,
    /// Seconds since this kernel started.
    pub uptime: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Zero: no limit.
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub timed_out: bool,
    /// The command could not even be started.
    pub error: Option<String>,
    /// How long it ran, by the guest's clock.
    pub seconds: f64,
}

#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub id: u32,
    pub payload: Vec<u8>,
}

/// Writes one frame with a single call of `write_all`.
pub fn write_frame(out: &mut impl Write, kind: Kind, id: u32, payload: &[u8]) -> io::Result<()> {
    assert!(payload.len() <= MAX_PAYLOAD);
    let mut bytes = Vec::with_capacity(payload.len() + 13);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(kind as u8);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    out.write_all(&bytes)?;
    out.flush()
}

/// Reads the next frame, skipping whatever does not look like one.
pub fn read_frame(input: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0u8; 13];
    let mut have = 0;
    loop {
        input.read_exact(&mut head[have..])?;
        if let Some(frame) = parse_head(&head) {
            let (kind, id, len) = frame;
            let mut payload = vec![0; len];
            input.read_exact(&mut payload)?;
            return Ok(Frame { kind, id, payload });
        }
        // Look for the next place where a frame may begin.
        let next = (1..head.len()).find(|&i| MAGIC.starts_with(&head[i..head.len().min(i + 4)]));
        let next = next.unwrap_or(head.len());
        head.copy_within(next.., 0);
        have = head.len() - next;
    }
}

fn parse_head(head: &[u8; 13]) -> Option<(Kind, u32, usize)> {
    if head[..4] != MAGIC {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let kind = Kind::from_u8(head[4])?;
    let len = word(9) as usize;
    (len <= MAX_PAYLOAD).then_some((kind, word(5), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_cut_stream() {
        let mut whole = Vec::new();
        write_frame(&mut whole, Kind::Stdout, 7, &[0xf5; 1000]).unwrap();
        let mut hello = vec![0; RESYNC_ZEROS];
        write_frame(&mut hello, Kind::Hello, 0, b"{}").unwrap();
        for cut in 0..whole.len() {
            let mut stream = whole[..cut].to_vec();
            stream.extend_from_slice(&hello);
            let mut input = &stream[..];
            loop {
                let frame = read_frame(&mut input).unwrap();
                if frame.kind == Kind::Hello {
                    assert_eq!(frame.payload, b"{}");
                    break;
                }
            }
        }
    }

    #[test]
    fn frames_round_trip() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Kind::Run, 3, b"abc").unwrap();
        write_frame(&mut bytes, Kind::Exit, 4, b"").unwrap();
        let mut input = &bytes[..];
        let first = read_frame(&mut input).unwrap();
        assert_eq!(
            (first.kind, first.id, &first.payload[..]),
            (Kind::Run, 3, &b"abc"[..])
        );
        let second = read_frame(&mut input).unwrap();
        assert_eq!(
            (second.kind, second.id, second.payload.len()),
            (Kind::Exit, 4, 0)
        );
        assert!(read_frame(&mut input).is_err());
    }
}
