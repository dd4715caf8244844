// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! From the checks to the finished filesystem.

use crate::args::Args;
use crate::report::Report;
use fs_core::{check, FormatOptions, OwnerKind, Region, SuperInfo};
use host::{
    iomem::PhysMap, open, owner, resolve, signature, size, uuid, Access, Backing, Error, Kind,
    PhysRange, Result, Spec, UserHost, UserRegion,
};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Does what the command line asks for.
pub fn run(args: &Args) -> Result<Report> {
    let (spec, size) = args.target()?;
    let options = args.options()?;
    let file = match (&spec, size) {
        (Spec::Path(path), Some(size)) => Some(FilePlan::new(path, size)?),
        _ => None,
    };
    if args.dry_run {
        return dry_run(args, &spec, file.as_ref(), &options);
    }
    let undo = file.map(|plan| plan.carry_out(args.force)).transpose()?;
    let region = open(&spec, Access::ReadWrite)?;
    refuse_contents(&region, args.force)?;
    // What is left of another filesystem would mislead blkid and, later, people.
    signature::wipe_foreign(&region)
        .map_err(|e| Error::core(format!("{}: cannot wipe", region.name()), e))?;
    let info = format(&region, &options)?;
    region.sync()?;
    if let Some(undo) = undo {
        undo.forget();
    }
    Ok(report(args, &spec, &region, &options, &info))
}

fn format(region: &UserRegion, options: &FormatOptions) -> Result<SuperInfo> {
    fs_core::format(region, &UserHost::new(), options).map_err(|e| {
        let len = region.len();
        let what = format!("{} ({})", region.name(), size::human(len));
        match e {
            fs_core::Error::TooSmall => {
                Error::new(Kind::Refused, format!("{what}: too small for a filesystem"))
                    .hint("a region has at least 1 MiB")
            }
            e => Error::core(what, e),
        }
    })
}

/// All the checks, and the same format call on memory of the same size that is then forgotten.
fn dry_run(
    args: &Args,
    spec: &Spec,
    file: Option<&FilePlan>,
    options: &FormatOptions,
) -> Result<Report> {
    let new = file.filter(|plan| plan.present.is_none_or(|len| len < fs_core::PAGE_SIZE));
    let region = match new {
        Some(plan) => UserRegion::anonymous(plan.size)?,
        None => open(spec, Access::ReadOnly)?,
    };
    refuse_contents(&region, args.force)?;
    let len = file.map_or(region.len(), |plan| plan.size);
    let trial = UserRegion::anonymous(len)?;
    let info = format(&trial, options)?;
    Ok(report(args, spec, &region, options, &info))
}

fn report(
    args: &Args,
    spec: &Spec,
    region: &UserRegion,
    options: &FormatOptions,
    info: &SuperInfo,
) -> Report {
    let name = match spec {
        // As it was typed: that is what the person will type for mount.
        Spec::Path(path) => path.display().to_string(),
        _ => region.name().to_string(),
    };
    let mut report = Report::new(name, info, options, args.dry_run);
    report.physical = region.physical();
    if region.backing() == Backing::Physical {
        if let Some(range) = region.physical() {
            let written = PhysMap::system()
                .map(|machine| machine.reservations())
                .unwrap_or_default()
                .into_iter()
                .find(|(reserved, _)| reserved.contains(&range));
            report.memmap = Some(written.map_or(range, |(reserved, _)| reserved).memmap());
        }
    }
    report.page_cached = region.backing() == Backing::Block;
    report
}

/// Refuses a region that somebody uses, and unless forced one that holds something known.
fn refuse_contents(region: &UserRegion, force: bool) -> Result<()> {
    let name = region.name();
    let Some(found) = signature::detect(region) else {
        return match region.physical().filter(|_| !force) {
            Some(range) => refuse_neighbour(name, &range),
            None => Ok(()),
        };
    };
    if found.ours.is_some() {
        let us = owner::current(OwnerKind::Tool)?;
        let holder = check::holder(region, &UserHost::new(), &us, &owner::alive)
            .map_err(|e| Error::core(name, e))?;
        if let Some(holder) = holder {
            return Err(Error::new(
                Kind::Busy,
                format!("{name}: mounted by {}", owner::describe(&holder)),
            )
            .hint("umount it first; -f does not help here"));
        }
    }
    if force {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!(
            "{name}: holds {} (found at offset {:#x})",
            found.name, found.offset
        ),
    )
    .hint("nothing was written; -f overwrites it"))
}

/// Refuses memory that belongs to a filesystem which begins before it, or inside of it.
fn refuse_neighbour(name: &str, range: &PhysRange) -> Result<()> {
    match resolve::overlapping(range) {
        Some(other) => Err(Error::new(
            Kind::Refused,
            format!(
                "{name}: overlaps {}, which holds RP-RAMFS (UUID {})",
                other.spec,
                uuid::format(&other.info.uuid)
            ),
        )
        .hint("nothing was written; -f overwrites it")),
        None => Ok(()),
    }
}

/// What is to be done about a regular file of a given size.
struct FilePlan {
    path: PathBuf,
    size: u64,
    /// Length as it is, `None` where there is no file yet.
    present: Option<u64>,
}

/// Removes the file that was created, or cuts it back, unless all went well.
struct Undo(Option<(PathBuf, Option<u64>)>);

impl Drop for Undo {
    fn drop(&mut self) {
        // An error is on its way already; a second one about the clean-up would hide it.
        match self.0.take() {
            Some((path, None)) => {
                let _ = fs::remove_file(path);
            }
            Some((path, Some(len))) => {
                let _ = OpenOptions::new()
                    .write(true)
                    .open(path)
                    .and_then(|file| file.set_len(len));
            }
            None => {}
        }
    }
}

impl Undo {
    /// All went well: the file stays as it is.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl FilePlan {
    fn new(path: &Path, size: u64) -> Result<Self> {
        let present = match fs::metadata(path) {
            Ok(meta) if meta.is_file() => Some(meta.len()),
            Ok(_) => {
                return Err(Error::usage(format!(
                    "{}: SIZE is for regular files only",
                    path.display()
                )))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(path.display(), &e)),
        };
        if let Some(len) = present.filter(|len| *len > size) {
            return Err(Error::usage(format!(
                "{}: has {} already and is not made shorter",
                path.display(),
                size::human(len)
            ))
            .hint("leave out SIZE to use all of it, or truncate it first"));
        }
        Ok(FilePlan {
            path: path.into(),
            size,
            present,
        })
    }

    /// Creates or lengthens the file, sparse, once it is clear that it may be.
    fn carry_out(&self, force: bool) -> Result<Undo> {
        let shown = self.path.display();
        if self.present == Some(self.size) {
            return Ok(Undo(None));
        }
        if self.present.is_some_and(|len| len >= fs_core::PAGE_SIZE) {
            let region = open(&Spec::Path(self.path.clone()), Access::ReadWrite)?;
            refuse_contents(&region, force)?;
        }
        let mut options = OpenOptions::new();
        options.write(true);
        if self.present.is_none() {
            // Whatever will be kept in it, of whichever owner: for root and its owner only.
            options.create_new(true).mode(0o600);
        }
        let file = options
            .open(&self.path)
            .map_err(|e| Error::io(format!("cannot create {shown}"), &e))?;
        let undo = Undo(Some((self.path.clone(), self.present)));
        file.set_len(self.size).map_err(|e| {
            Error::io(
                format!("cannot make {shown} {} long", size::human(self.size)),
                &e,
            )
        })?;
        Ok(undo)
    }
}
