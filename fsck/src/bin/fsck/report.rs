// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The result, for people and for programs.

use fs_core::check::{Finding, Report};
use fs_core::PAGE_SIZE;
use host::size;
use serde_json::{json, Value};

/// A finding as JSON.
pub fn finding(f: &Finding, answer: &str) -> Value {
    json!({
        "offset": f.offset,
        "structure": f.structure.to_string(),
        "owner": f.owner,
        "what": f.what,
        "repair": f.repair,
        "harmless": f.harmless,
        "outcome": answer,
    })
}

/// The whole result as JSON.
pub fn json(
    name: &str,
    report: &Report,
    findings: Vec<Value>,
    notes: Vec<String>,
    code: u8,
) -> Value {
    json!({
        "region": name,
        "exit_status": code,
        "found": report.found,
        "repaired": report.repaired,
        "left": report.left(),
        "stopped": report.stopped,
        "quick": report.quick,
        "replayed": report.replayed,
        "files": report.files,
        "directories": report.directories,
        "symlinks": report.symlinks,
        "others": report.others,
        "sealed": report.sealed,
        "verified_bytes": report.verified,
        "extents": report.extents,
        "fragmented": report.fragmented,
        "pending": report.pending,
        "inode_capacity": report.inode_capacity,
        "pages": report.pages,
        "pages_used": report.pages_used,
        "pages_metadata": report.pages_metadata,
        "reconnected": report.reconnected,
        "findings": findings,
        "notes": notes,
    })
}

/// One number and its noun.
fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Figures of a full check.
pub fn figures(r: &Report) -> String {
    let mut parts = vec![
        count(r.files, "file", "files"),
        count(r.directories, "directory", "directories"),
    ];
    if r.symlinks > 0 {
        parts.push(count(r.symlinks, "symbolic link", "symbolic links"));
    }
    if r.others > 0 {
        parts.push(count(r.others, "special file", "special files"));
    }
    if r.sealed > 0 {
        parts.push(count(r.sealed, "sealed file", "sealed files"));
    }
    if r.files > 0 {
        parts.push(format!(
            "{:.1} % in more than one piece",
            100.0 * r.fragmented as f64 / r.files as f64
        ));
    }
    let bytes = |pages: u64| size::human(pages.saturating_mul(PAGE_SIZE));
    parts.push(format!(
        "{} of {} in use",
        bytes(r.pages_used),
        bytes(r.pages)
    ));
    if r.pending > 0 {
        parts.push(format!(
            "{} to be reclaimed after the next mount (no damage)",
            r.pending
        ));
    }
    if r.verified > 0 {
        parts.push(format!(
            "{} of sealed data verified",
            size::human(r.verified)
        ));
    }
    parts.join(", ")
}

/// The last line: what it comes to.
pub fn verdict(r: &Report, dry_run: bool) -> String {
    if r.stopped {
        return format!(
            "stopped: {} found, {} repaired; what was not looked at may hold more",
            r.found, r.repaired
        );
    }
    match (r.found, r.repaired, r.left()) {
        (0, _, _) if r.quick => "sound at a glance (-f looks at everything)".into(),
        (0, _, _) => "sound".into(),
        (n, 0, _) if dry_run => format!(
            "{} found, nothing was changed: fsck.rpramfs -y repairs",
            count(n, "error", "errors")
        ),
        (1, _, 0) => "1 error, repaired".into(),
        (n, _, 0) => format!("{n} errors, all repaired"),
        (n, fixed, left) => format!(
            "{}: {fixed} repaired, {left} left",
            count(n, "error", "errors")
        ),
    }
}
