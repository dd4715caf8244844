// SPDX-License-Identifier: GPL-2.0
//! The kernel's C interface, as bindgen reads it from `helper.h`.
//!
//! The types are not those of `kernel::bindings`, though of the same layout: cast where they meet.

// rustc 1.85 does not know the last of these yet.
#![allow(unknown_lints)]
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes
)]

use kernel::ffi;

// What the kernel's parameters tell bindgen to leave out.
type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;

include!(concat!(env!("RPRAMFS_OBJ"), "/bindings_generated.rs"));
