// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup`: updates the kernel under running applications.

#![deny(unsafe_code)]

fn main() {}
