// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The lab: stock Debian kernels in QEMU guests, driven from the host.
//!
//! A scenario (see `tests/vm/`) asks the [`Lab`] for a guest and talks to it:
//!
//! ```ignore
//! let region = Region::reserved(Size::gib(1));
//! let guest = lab.boot(&Boot::new("6.12").region(region))?;
//! guest.run("mkfs.rpramfs -q 0x100000000+1G")?;
//! lab.kexec_load(&guest, &Boot::new("7.x").region(region))?;
//! lab.kexec(&guest)?;
//! ```
//!
//! What is downloaded or built is kept under `~/.cache/rpramfs` by content; console logs are kept
//! under `target/vm/NAME/`.

mod accel;
mod agent;
mod apt;
mod cache;
mod console;
mod cpio;
mod filesystem;
mod guest;
mod here;
mod initrd;
mod kernel;
#[allow(clippy::module_inception)]
mod lab;
mod ledger;
mod qemu;
mod region;
mod root_disk;
mod shell;
mod tap;
mod tools;
mod userland;

pub use apt::{unpack, Apt};
pub use cache::{hex, key, Cache};
pub use filesystem::Filesystem;
pub use guest::{EmulatorFault, Guest};
pub use here::Here;
pub use kernel::Kernels;
pub use lab::{Boot, Lab, BLANK};
pub use region::{Region, Size};
pub use shell::Shell;
pub use tools::{check_static, program};
