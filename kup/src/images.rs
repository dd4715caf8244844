// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! CRIU's image files: two words that say what it is, then length-prefixed protobuf messages.

/// CRIU's own definitions (`proto/criu/`, MIT).
#[allow(clippy::all, clippy::pedantic)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}
