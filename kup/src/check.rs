// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup check`: is this machine ready?

use kup::{criu, gate, kexec, links, namespaces, place, processes, unit};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What is thought of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It goes without, less well.
    Warning,
    Missing,
}

#[derive(Clone, Debug, Serialize)]
pub struct Point {
    pub name: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do about it.
    pub advice: String,
}

/// What was found, or what is wrong and what to do about it.
type Finding = Result<String, (Verdict, String, String)>;

pub fn all(dir: Option<&Path>, next: Option<&Path>, services: &[String]) -> Vec<Point> {
    let mut points: Vec<(&'static str, Finding)> = vec![
        ("reserved memory", reserved()),
        ("region", region(dir)),
        ("criu", criu_version()),
        (
            "on-demand restore",
            feature("uffd-noncoop", "userfaultfd without its events"),
        ),
        ("rounds", rounds()),
        ("kexec", kexec_works()),
        ("network lock", nft()),
        ("pids", pids()),
    ];
    if unit::is_systemd() {
        points.push(("at boot", at_boot()));
    }
    if let Some(image) = next {
        points.push(("next kernel", next_kernel(image)));
    }
    points.extend(services.iter().map(|name| ("service", service(name))));
    points
        .into_iter()
        .map(|(name, finding)| match finding {
            Ok(found) => Point {
                name,
                verdict: Verdict::Ok,
                found,
                advice: String::new(),
            },
            Err((verdict, found, advice)) => Point {
                name,
                verdict,
                found,
                advice,
            },
        })
        .collect()
}

pub fn text(points: &[Point]) -> String {
    let mut text = String::new();
    for point in points {
        let verdict = match point.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Missing => "MISSING",
        };
        text += &format!("{:18} {verdict:8} {}\n", point.name, point.found);
        if !point.advice.is_empty() {
            text += &format!("{:27} → {}\n", "", point.advice);
        }
    }
    text
}

fn missing(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Err((Verdict::Missing, found.into(), advice.into()))
}

fn warning(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Err((Verdict::Warning, found.into(), advice.into()))
}

fn reserved() -> Finding {
    let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let ranges = host::cmdline::reservations(&text);
    if ranges.is_empty() {
        return missing(
            "no memmap= on the kernel's command line",
            "add memmap=SIZE$ADDRESS, at or above 4 GiB and aligned to 1 GiB (in /etc/default/grub: \\\\\\$), and reboot",
        );
    }
    let list: Vec<String> = ranges
        .iter()
        .map(|(range, _)| format!("{:#x}+{:#x}", range.start, range.size))
        .collect();
    Ok(list.join(", "))
}

fn region(dir: Option<&Path>) -> Finding {
    let dir = match place::find(dir) {
        Ok(dir) => dir,
        Err(e) => return missing("none is mounted", format!("{e:#}")),
    };
    let on = dir.parent().unwrap_or(&dir);
    let Ok(space) = nix::sys::statvfs::statvfs(on) else {
        return missing(format!("{}: cannot be asked", on.display()), "mount it");
    };
    let free = space.blocks_available() * space.fragment_size();
    let kind = place::mounts().unwrap_or_default();
    let kind = kind.iter().find(|mount| mount.on == on);
    let kind = kind.map_or("not an RP-RAMFS", |mount| match mount.kind.as_str() {
        "rpramfs" => "the kernel module",
        _ => "FUSE",
    });
    Ok(format!(
        "{} ({kind}), {} free",
        on.display(),
        kup::system::size(free)
    ))
}

fn criu_version() -> Finding {
    let version = match criu::version() {
        Ok(version) => version,
        Err(e) => return missing(format!("{e:#}"), "install criu 4.2 or later"),
    };
    let numbers: Vec<u32> = version.split('.').filter_map(|n| n.parse().ok()).collect();
    if numbers < vec![3, 19] {
        return missing(
            version,
            "kup asks criu in a way that 3.19 and later understand: install 4.2 or later",
        );
    }
    if numbers < vec![4, 2] {
        return warning(
            version,
            "criu before 4.2 fails on 7.x kernels (SO_PASSCRED of TCP sockets)",
        );
    }
    Ok(version)
}

fn feature(name: &str, without: &str) -> Finding {
    match criu::require_feature(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(e) => missing(format!("{e:#}"), without),
    }
}

fn rounds() -> Finding {
    if criu::tracks_memory() {
        return Ok("the kernel tells which pages are written".to_owned());
    }
    warning(
        "the kernel does not tell which pages are written",
        "all memory is copied while the applications stand still; a kernel with CONFIG_MEM_SOFT_DIRTY does better",
    )
}

fn kexec_works() -> Finding {
    if let Err(e) = Command::new("kexec")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
    {
        return missing(format!("kexec: {e}"), "install kexec-tools");
    }
    let disabled = fs::read_to_string("/proc/sys/kernel/kexec_load_disabled").unwrap_or_default();
    if disabled.trim() == "1" {
        return missing(
            "kexec_load_disabled is 1",
            "sysctl cannot set it back: reboot without it",
        );
    }
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") || lockdown.contains("[integrity]") {
        return warning(
            format!("lockdown: {}", lockdown.trim()),
            "the next kernel must be signed by a key that this one trusts",
        );
    }
    match kexec::current_command_line() {
        Ok(_) => Ok("kexec_file_load(2)".to_owned()),
        Err(e) => missing(format!("{e:#}"), "mount /proc"),
    }
}

fn nft() -> Finding {
    match gate::works() {
        Ok(()) => Ok("nftables".to_owned()),
        Err(e) => missing(
            format!("{e:#}"),
            "install nftables 1.0 or later; the kernel needs nf_tables (Linux 5.12 or later)",
        ),
    }
}

fn pids() -> Finding {
    const ROOM: u32 = 65_536;
    let read = |path: &str| -> Option<u32> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let max = read("/proc/sys/kernel/pid_max").unwrap_or(0);
    let last = read("/proc/sys/kernel/ns_last_pid").unwrap_or(0);
    let found = format!("the last was {last} of {max}");
    if max < ROOM {
        return warning(
            found,
            "applications keep their PIDs, which the next kernel's own processes must not have: make room \
             (sysctl kernel.pid_max=4194304)",
        );
    }
    if last < processes::LOW {
        return warning(
            found,
            "applications keep their PIDs, which the next kernel's own threads must not have: run `kup hold`, now and \
             early at every boot, and start them behind it",
        );
    }
    Ok(found)
}

/// The units that hold and resume.
fn at_boot() -> Finding {
    const UNITS: [&str; 2] = ["kup-hold.service", "kup-resume.service"];
    let enabled = |unit: &&str| {
        let mut systemctl = Command::new("systemctl");
        systemctl.args(["is-enabled", "--quiet", unit]);
        systemctl.status().is_ok_and(|status| status.success())
    };
    if UNITS.iter().all(enabled) {
        return Ok(UNITS.join(", "));
    }
    warning(
        "kup-hold and kup-resume are not enabled",
        "in the next kernel you resume by hand: kup-hold.service and kup-resume.service (kup/systemd/ of the sources) in \
         /etc/systemd/system and `systemctl enable kup-hold kup-resume` have it done at boot",
    )
}

/// Has it the module, if it is installed as kernels are?
fn next_kernel(image: &Path) -> Finding {
    let release = match kexec::release(image) {
        Ok(release) => release,
        Err(e) => {
            return missing(
                format!("{e:#}"),
                "give the image of a kernel, such as /boot/vmlinuz-...",
            )
        }
    };
    let modules = Path::new("/lib/modules").join(&release);
    let list = fs::read_to_string(modules.join("modules.dep")).unwrap_or_default();
    let has = |line: &str| {
        let name = line.split(':').next().unwrap_or_default();
        name.rsplit('/')
            .next()
            .is_some_and(|file| file.starts_with("rpramfs.ko"))
    };
    if list.lines().any(has) {
        return Ok(format!("{release}, with the module"));
    }
    warning(
        format!("{release}, without the module in {}", modules.display()),
        "FUSE will serve the region there, if its initramfs or root has it; otherwise build the module for it \
         (kmod/README.md)",
    )
}

/// Can it be carried along?
fn service(name: &str) -> Finding {
    let unit =
        match unit::find(name) {
            Ok(unit) => unit,
            Err(e) => return missing(
                format!("{e:#}"),
                "mend that first: by --pid it would be carried, but started anew beside it at boot",
            ),
        };
    if namespaces::own_users(unit.main_pid) {
        return missing(
            format!("{} has users of its own", unit.id),
            format!(
                "`systemctl edit {}`: [Service], PrivateUsers=no; restart it",
                unit.id
            ),
        );
    }
    if namespaces::own_pids(unit.main_pid) {
        return missing(
            format!("{} has process numbers of its own", unit.id),
            format!(
                "`systemctl edit {}`: [Service], PrivatePIDs=no; restart it",
                unit.id
            ),
        );
    }
    let found = format!("{}, main process {}", unit.id, unit.main_pid);
    let pids = processes::pids(unit.main_pid).unwrap_or_default();
    if pids.iter().any(|pid| *pid < processes::LOW) {
        return warning(
            format!("{found}; under the next kernel somebody else may have its PIDs"),
            "restart it, behind `kup hold`: then it gets higher ones",
        );
    }
    let links = links::with_others(&pids).unwrap_or_default();
    if links.is_empty() {
        return Ok(found);
    }
    let links: Vec<String> = links.iter().map(ToString::to_string).collect();
    warning(
        format!("{found}; it has {}", links.join(", ")),
        "that ends with the update: the service finds it closed, as if the other side had been restarted",
    )
}
