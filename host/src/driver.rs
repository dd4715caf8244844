// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A device of memory and the driver that has it: for who needs the memory itself.

use crate::device;
use crate::{open, Access, Error, Kind, PhysRange, Result, Spec, UserHost};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// `/dev/pmemN` or `/dev/daxX.Y` as its driver has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driven {
    path: PathBuf,
    range: PhysRange,
    /// Of the driver, in sysfs: what is written to its `unbind` and `bind` is the device's name.
    driver: PathBuf,
    name: String,
}

/// Who has the memory behind a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// This driver.
    By(Driven),
    /// The device has no driver: its memory can be had as it is.
    ByNobody(PhysRange),
    /// It is no physical memory, as far as is known.
    Nowhere,
}

/// A device without its driver, which gets it back unless [`Taken::keep`] is called.
#[derive(Debug)]
pub struct Taken {
    driven: Option<Driven>,
    /// The driver's `bind`: the caller may be in another mount namespace by then.
    bind: File,
}

impl Driven {
    /// The driver of a device, and where its memory is.
    ///
    /// # Errors
    /// As for a region at this path.
    pub fn of(path: &Path) -> Result<Held> {
        let device = device::identify(path)?;
        let node = device.node.as_ref();
        let node = node.and_then(|node| fs::canonicalize(node).ok());
        let (Some(range), Some(node)) = (device.physical, node) else {
            return Ok(Held::Nowhere);
        };
        let (Some(driver), Some(name)) = (device.driver(), node.file_name()) else {
            return Ok(Held::ByNobody(range));
        };
        Ok(Held::By(Driven {
            path: device.path,
            range,
            driver,
            name: name.to_string_lossy().into_owned(),
        }))
    }

    /// The memory.
    #[must_use]
    pub fn range(&self) -> PhysRange {
        self.range
    }

    /// The driver's name, for people.
    #[must_use]
    pub fn driver(&self) -> String {
        let name = self.driver.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The command that gives the device back to its driver.
    #[must_use]
    pub fn giving_back(&self) -> String {
        format!("echo {} > {}/bind", self.name, self.driver.display())
    }

    /// Takes the device from its driver, if it holds an RP-RAMFS that nobody uses.
    ///
    /// # Errors
    /// As for opening and mounting the region; `System` where the driver does not let go.
    pub fn take(self) -> Result<Taken> {
        let spec = Spec::Path(self.path.clone());
        // Nobody else has it, and it is ours. A lock that outlived the device would keep it from going.
        let region = open(&spec, Access::ReadWrite)?;
        fs_core::probe(&region, &UserHost::new())
            .map_err(|e| Error::core(self.path.display(), e))?;
        drop(region);
        let control = |file: &str| OpenOptions::new().write(true).open(self.driver.join(file));
        let unbind = || {
            let bind = control("bind")?;
            control("unbind")?.write_all(self.name.as_bytes())?;
            Ok(bind)
        };
        let bind = unbind().map_err(|e: std::io::Error| {
            let what = format!(
                "{}: cannot take it from {}: {e}",
                self.path.display(),
                self.driver()
            );
            Error::new(Kind::System, what)
        })?;
        let driven = Some(self);
        Ok(Taken { driven, bind })
    }
}

impl Taken {
    /// Leaves the device without its driver.
    #[must_use]
    pub fn keep(mut self) -> Option<Driven> {
        self.driven.take()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(driven) = self.driven.take() {
            if let Err(e) = self.bind.write_all(driven.name.as_bytes()) {
                log::warn!(
                    "{}: {} does not take it back: {e}",
                    driven.path.display(),
                    driven.driver()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_driver() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r");
        fs::write(&path, vec![0; 1 << 20]).expect("write");
        assert_eq!(Driven::of(&path).expect("a file"), Held::Nowhere);
    }
}
