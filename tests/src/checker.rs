// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The core's own whole-region check, as the tests use it. It shares no code with the operations.

use fs_core::check::{check, CheckOptions, Decision, Event, Report};
use fs_core::{Host, Owner, OwnerKind, Region};

fn run<R: Region, H: Host>(
    region: &R,
    host: &H,
    repair: bool,
    data: bool,
) -> Result<(Report, Vec<String>), fs_core::Error> {
    let options = CheckOptions {
        repair,
        data,
        quick: false,
        owner: repair.then_some(Owner {
            boot_id: *b"boot-id-of-fsck.",
            kind: OwnerKind::Tool,
            pid: 43,
            start: 4343,
        }),
        alive: &|_| false,
    };
    let mut found = Vec::new();
    let report = check(region, host, &options, &mut |event| {
        if let Event::Finding(f) = event {
            if found.len() < 20 {
                found.push(f.to_string());
            }
        }
        Decision::Repair
    })?;
    Ok((report, found))
}

/// Is a region clean as it is, mounted or not, journal and pending work included, with nothing
/// repaired?
///
/// # Errors
/// What was found.
pub fn clean<R: Region, H: Host>(region: &R, host: &H) -> Result<Report, String> {
    clean_if(region, host, true)
}

/// As [`clean`], but what sealed files hold is not looked at: no repair brings it back.
///
/// # Errors
/// What was found.
pub fn clean_structure<R: Region, H: Host>(region: &R, host: &H) -> Result<Report, String> {
    clean_if(region, host, false)
}

fn clean_if<R: Region, H: Host>(region: &R, host: &H, data: bool) -> Result<Report, String> {
    let (report, found) = run(region, host, false, data).map_err(|e| format!("check: {e:?}"))?;
    if report.found == 0 && found.is_empty() {
        Ok(report)
    } else {
        Err(format!("check is not clean: {}", found.join("; ")))
    }
}

/// Repairs everything. Returns how many findings there were, and what they were.
///
/// # Errors
/// What the core answers.
pub fn repair<R: Region, H: Host>(
    region: &R,
    host: &H,
) -> Result<(Report, Vec<String>), fs_core::Error> {
    run(region, host, true, true)
}
