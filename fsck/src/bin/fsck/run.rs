// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Runs a check as the command line asks for it.

use crate::args::Args;
use crate::ask::Answer;
use crate::report;
use fs_core::check::{self, CheckOptions, Decision, Event, Report};
use fs_core::OwnerKind;
use host::{owner, resolve, Access, Error, Kind, Result, UserHost, UserRegion};
use rpramfs_fsck::progress::Progress;
use rpramfs_fsck::region::{explain, open, refuse_mounted};
use rpramfs_fsck::signals;
use serde_json::Value;
use std::fs::File;
use std::io::{self, IsTerminal};

/// fsck(8): errors were repaired.
const REPAIRED: u8 = 1;
/// fsck(8): errors are left.
const LEFT: u8 = 4;
/// fsck(8): cancelled.
const CANCELLED: u8 = 32;

/// What came of it.
struct Outcome {
    report: Report,
    findings: Vec<Value>,
    notes: Vec<String>,
}

/// Does what the command line says; gives the exit status.
pub fn run(args: &Args) -> Result<u8> {
    let mut answer = if args.dry_run {
        Answer::No
    } else if args.yes {
        Answer::Yes
    } else if args.preen {
        Answer::Preen
    } else {
        Answer::Ask
    };
    if answer == Answer::Ask && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(
            Error::new(Kind::System, "there is no terminal to ask before repairs")
                .hint("-n only looks, -p repairs what can be without loss, -y repairs everything"),
        );
    }
    let access = if args.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let mut progress = match args.progress {
        None => Progress::bar(false),
        Some(0) => Progress::bar(true),
        Some(fd) => Progress::lines(inherited(fd)?, &args.spec.to_string_lossy()),
    };
    if args.json {
        progress = match progress {
            Progress::Bar(_) => Progress::None,
            other => other,
        };
    }
    let region = open(&args.spec, access)?;
    refuse_mounted(&region)?;
    if !args.json && args.verbose {
        if let Ok(info) = fs_core::probe(&region, &UserHost::new()) {
            println!(
                "{}: label \"{}\", UUID {}, {}",
                region.name(),
                resolve::label(&info).escape_debug(),
                host::uuid::format(&info.uuid),
                host::size::human(info.size)
            );
        }
    }
    let quick = args.preen && !args.force && !args.data;
    let mut outcome = None;
    if quick {
        let glance = pass(&region, args, true, &mut Answer::No, &mut Progress::None)?;
        if glance.report.found == 0 {
            outcome = Some(glance);
        } else if !args.json {
            println!("{}: damaged; going through everything", region.name());
        }
    }
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => pass(&region, args, false, &mut answer, &mut progress)?,
    };
    progress.clear();
    let report = &outcome.report;
    if report.repaired > 0 || !args.dry_run {
        region.sync()?;
    }
    let mut code = 0;
    if report.repaired > 0 {
        code |= REPAIRED;
    }
    if report.left() > 0 {
        code |= LEFT;
    }
    if report.stopped {
        code |= CANCELLED;
    }
    if args.json {
        let json = report::json(region.name(), report, outcome.findings, outcome.notes, code);
        println!("{json:#}");
        return Ok(code);
    }
    if !report.quick && !report.stopped {
        println!("{}: {}", region.name(), report::figures(report));
    }
    println!(
        "{}: {}",
        region.name(),
        report::verdict(report, args.dry_run)
    );
    if args.preen && report.left() > 0 {
        println!(
            "{}: repair would lose something: run fsck.rpramfs without -p, or with -y",
            region.name()
        );
    }
    Ok(code)
}

/// One check.
fn pass(
    region: &UserRegion,
    args: &Args,
    quick: bool,
    answer: &mut Answer,
    progress: &mut Progress,
) -> Result<Outcome> {
    let repair = !args.dry_run && !quick;
    let host = UserHost::new();
    let options = CheckOptions {
        repair,
        data: args.data,
        quick,
        owner: if repair {
            Some(owner::current(OwnerKind::Tool)?)
        } else {
            None
        },
        alive: &owner::alive,
    };
    let mut findings = Vec::new();
    let mut notes = Vec::new();
    let report = check::check(region, &host, &options, &mut |event| {
        if signals::stop() {
            return Decision::Stop;
        }
        match event {
            Event::Progress { phase, done, total } => progress.update(phase, done, total),
            Event::Note(text) => {
                progress.clear();
                if !args.json && !quick {
                    println!("{}: {text}", region.name());
                }
                notes.push(text.to_string());
            }
            Event::Finding(f) => {
                progress.clear();
                // What a glance finds is told again when everything is gone through.
                let told = !args.json && !quick;
                if told {
                    println!("{f}");
                }
                let asked = *answer == Answer::Ask;
                let decision = answer.decide(f);
                let outcome = match (&f.repair, decision) {
                    (None, _) => "cannot be repaired",
                    (Some(_), Decision::Repair) if repair => "repaired",
                    (Some(_), Decision::Stop) => "stopped",
                    (Some(_), _) => "left",
                };
                if told && !asked {
                    match &f.repair {
                        Some(how) if outcome == "repaired" => println!("    repaired: {how}"),
                        Some(how) => println!("    left; repair would be: {how}"),
                        None => {}
                    }
                }
                if args.json {
                    findings.push(report::finding(f, outcome));
                }
                return decision;
            }
            _ => {}
        }
        Decision::Repair
    })
    .map_err(|e| explain(region, "cannot be checked", e))?;
    Ok(Outcome {
        report,
        findings,
        notes,
    })
}

/// A file descriptor that whoever started us left open.
fn inherited(fd: i32) -> Result<File> {
    // A copy of our own, through /proc: the number is not taken over, and a wrong one is found out.
    std::fs::OpenOptions::new()
        .append(true)
        .open(format!("/proc/self/fd/{fd}"))
        .map_err(|e| {
            Error::io(format!("-C {fd}: cannot write to this file descriptor"), &e)
                .hint("-C 0 shows a bar on standard output")
        })
}
