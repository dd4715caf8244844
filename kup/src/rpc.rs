// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What CRIU is asked, and answers (`proto/criu/rpc.proto`, MIT).

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{recv, MsgFlags};
use std::os::fd::{AsRawFd, OwnedFd};

#[allow(clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/rpc.rs"));
}

pub use generated::*;

/// A message of CRIU's is a few words.
pub const MESSAGE: usize = 4096;

/// Waits for one message of CRIU's. There is none if it has ended.
pub fn receive(criu: &OwnedFd) -> Result<Option<Vec<u8>>> {
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
