// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Stop after every store of every operation, recover, and look at everything.
//!
//! `RPRAMFS_FULL=1` does all of it, `RPRAMFS_CASE=text` only the cases with that in their name,
//! and says more of each.

mod format;
mod interleaved;
mod mutants;
mod persistence;
mod sequences;
mod single;
