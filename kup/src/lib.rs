// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The parts of `kup`, for programs that want one of them: [`foam`] keeps the memory of checkpointed
//! processes in sparse files and gives it back on demand, [`images`] reads and writes CRIU's images.

#![deny(unsafe_code)]

pub mod foam;
pub mod images;
