// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What fsck.rpramfs and the rpramfs inspector share.

#![deny(unsafe_code, missing_docs)]

pub mod progress;
pub mod region;
pub mod signals;
