// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What CRIU is asked, and answers (`proto/criu/rpc.proto`, MIT).

#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/rpc.rs"));
