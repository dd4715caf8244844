// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What RP-RAMFS needs of user space.
//!
//! The core knows no file, no device, no clock and no lock; here they are handed to it:
//! [`UserHost`] (clock, randomness, checksum, locks), [`UserRegion`] (memory behind a file, a
//! device, a physical range), [`Spec`] (how a person names a region), and the checks that keep a
//! tool from writing where it must not ([`iomem`], [`in_use`], [`signature`]).

#![deny(unsafe_code, missing_docs)]

pub mod cmdline;
mod device;
pub mod driver;
mod error;
pub mod in_use;
pub mod iomem;
mod locks;
mod names;
pub mod owner;
mod region;
pub mod resolve;
pub mod signature;
pub mod size;
mod spec;
mod user_host;
pub mod uuid;
mod volume;
mod windows;

pub use error::{Error, Kind, Program, Result};
pub use region::{open, Access, Backing, UserRegion};
pub use spec::{PhysRange, Spec};
pub use user_host::UserHost;
pub use volume::Volume;
