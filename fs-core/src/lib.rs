// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! RP-RAMFS: the on-RAM layout and every operation on it.
//!
//! `docs/LAYOUT.md` is the contract this crate implements; `docs/DESIGN.md` says why it is so.

#![no_std]
#![deny(unsafe_code, missing_docs)]

#[cfg(feature = "check")]
extern crate alloc;

mod bytes;
mod error;
mod fs;
mod host;
pub mod layout;
mod region;
mod types;

pub use error::{Corruption, Error, Result};
pub use fs::{format, probe, FormatOptions, Fs, MountOptions, SuperInfo};
pub use host::{Host, LOCKS};
pub use region::{MappedRegion, Region};
pub use types::*;
