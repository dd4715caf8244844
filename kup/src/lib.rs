// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The parts of `kup`, for programs that want one of them: [`foam`] keeps the memory of checkpointed
//! processes in sparse files and gives it back on demand, [`images`] reads and writes CRIU's images,
//! [`checkpoint`] is a directory with both.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod criu;
pub mod foam;
pub mod foreign;
pub mod gate;
pub mod guard;
pub mod images;
mod inherited;
pub mod kexec;
pub mod links;
mod lock;
pub mod namespaces;
pub mod network;
mod nft;
pub mod overcommit;
pub mod place;
pub mod prepare;
pub mod processes;
mod rpc;
pub mod sockets;
pub mod system;
pub mod timeline;
pub mod unit;
mod unlock;
pub mod update;
