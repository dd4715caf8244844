// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Is a physical range a place for a region?
//!
//! Three sources say what an address is: `/proc/iomem` (what the running kernel made of it),
//! `/sys/firmware/memmap` (what the firmware said before `memmap=` changed it: this is how memory
//! that exists is told from a reservation of nothing) and the kernel's command line. A range is
//! accepted only when all of it is memory that the running kernel leaves alone.

use crate::in_use::{KernelMount, Uses};
use crate::{cmdline, size, Error, Kind, PhysRange, Result};
use std::fmt;
use std::fs;
use std::path::Path;

/// One line of `/proc/iomem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 0 for a top-level resource, 1 for its children, and so on.
    pub depth: usize,
    /// First address.
    pub start: u64,
    /// Last address, inclusive as the file has it.
    pub last: u64,
    /// `System RAM`, `Reserved`, a driver's name, …
    pub name: String,
}

/// One entry of `/sys/firmware/memmap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// First address.
    pub start: u64,
    /// Last address, inclusive.
    pub last: u64,
    /// `System RAM`, `Reserved`, `Persistent Memory`, …
    pub kind: String,
}

/// What is known of the machine's physical addresses.
#[derive(Clone, Debug, Default)]
pub struct PhysMap {
    iomem: Vec<Entry>,
    firmware: Vec<Firmware>,
    cmdline: String,
    /// Of the kernel module.
    mounts: Vec<KernelMount>,
}

/// Why a range is no place for a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kernel hides the addresses from everybody but root.
    Hidden,
    /// The kernel uses it as memory; the overlap, as the iomem line has it.
    SystemRam(Entry),
    /// A driver has claimed part of it.
    Claimed(Entry),
    /// It is a device, a firmware table or the like.
    NotMemory(Entry),
    /// The firmware keeps it for itself.
    FirmwareOwned(Firmware),
    /// Nothing is there, from this address on.
    Absent(u64),
}

/// Top-level names that stand for memory a region may lie in, in lower case.
const MEMORY: [&str; 4] = [
    "reserved",
    "persistent memory",
    "persistent memory (legacy)",
    "soft reserved",
];

/// Smallest region, in bytes (docs/LAYOUT.md): smaller reservations hold none.
const LEAST: u64 = 1 << 20;

fn is_memory(name: &str) -> bool {
    MEMORY.contains(&name.to_ascii_lowercase().as_str())
}

impl PhysMap {
    /// What this machine says.
    pub fn system() -> Result<Self> {
        let path = "/proc/iomem";
        let iomem = fs::read_to_string(path).map_err(|e| {
            Error::io(format!("cannot read {path}"), &e)
                .hint("without it no physical range can be checked; is /proc mounted?")
        })?;
        Ok(PhysMap {
            iomem: parse_iomem(&iomem),
            firmware: read_firmware(Path::new("/sys/firmware/memmap")),
            cmdline: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            mounts: Uses::system().kernel_mounts(),
        })
    }

    /// A machine on paper: the texts of `/proc/iomem` and `/proc/cmdline`, and the firmware's map
    /// (empty where the kernel does not show it).
    #[must_use]
    pub fn from_text(iomem: &str, firmware: Vec<Firmware>, cmdline: &str) -> Self {
        PhysMap {
            iomem: parse_iomem(iomem),
            firmware,
            cmdline: cmdline.into(),
            mounts: Vec::new(),
        }
    }

    /// The `memmap=` reservations of the running kernel.
    #[must_use]
    pub fn reservations(&self) -> Vec<(PhysRange, cmdline::Mark)> {
        cmdline::reservations(&self.cmdline)
    }

    /// May a region lie here? Says why not.
    pub fn check(&self, range: &PhysRange) -> std::result::Result<(), Refusal> {
        let last = range.end() - 1;
        if self.iomem.iter().all(|e| e.start == 0 && e.last == 0) {
            return Err(Refusal::Hidden);
        }
        let over = |e: &&Entry| e.start <= last && range.start <= e.last;
        // The worst first: System RAM at any depth (dax/kmem puts it below its own resource).
        if let Some(e) = self
            .iomem
            .iter()
            .filter(over)
            .find(|e| e.name.starts_with("System RAM"))
        {
            return Err(Refusal::SystemRam(e.clone()));
        }
        if let Some(e) = self
            .iomem
            .iter()
            .filter(over)
            .find(|e| e.depth == 0 && !is_memory(&e.name))
        {
            return Err(Refusal::NotMemory(e.clone()));
        }
        if let Some(e) = self.iomem.iter().filter(over).find(|e| e.depth > 0) {
            return Err(Refusal::Claimed(e.clone()));
        }
        let top = self.iomem.iter().filter(|e| e.depth == 0);
        if let Some(gap) = first_gap(range, top.map(|e| (e.start, e.last))) {
            return Err(Refusal::Absent(gap));
        }
        self.check_firmware(range)
    }

    /// Is real memory behind the reservation? `memmap=1G$100T` is "Reserved" on any machine.
    fn check_firmware(&self, range: &PhysRange) -> std::result::Result<(), Refusal> {
        if self.firmware.is_empty() {
            return Ok(());
        }
        let memory = |f: &Firmware| f.kind == "System RAM" || is_memory(&f.kind);
        let all = self.firmware.iter().filter(|f| memory(f));
        if let Some(gap) = first_gap(range, all.map(|f| (f.start, f.last))) {
            return Err(Refusal::Absent(gap));
        }
        // A crash kernel is handed the old kernel's reservations as if the firmware had made
        // them; anywhere else "Reserved" from the firmware means that it, or a device, is there.
        if cmdline::is_crash_kernel(&self.cmdline) {
            return Ok(());
        }
        let last = range.end() - 1;
        match self.firmware.iter().find(|f| {
            f.start <= last && range.start <= f.last && f.kind.eq_ignore_ascii_case("reserved")
        }) {
            Some(f) => Err(Refusal::FirmwareOwned(f.clone())),
            None => Ok(()),
        }
    }

    /// [`PhysMap::check`], as an error that says what to do next.
    pub fn require(&self, range: &PhysRange) -> Result<()> {
        self.check(range)
            .map_err(|refusal| refusal.into_error(range, self))
    }

    /// Ranges in which a region could lie, for LABEL= and UUID=: the `memmap=$` reservations as
    /// they were written (two of them side by side look like one to the kernel), then whatever
    /// else is reserved memory of at least 1 MiB. Each passes [`PhysMap::check`]; none
    /// starts where an earlier one does.
    #[must_use]
    pub fn candidates(&self) -> Vec<PhysRange> {
        let mut found: Vec<PhysRange> = Vec::new();
        let written = self.reservations().into_iter().map(|(range, _)| range);
        let listed = self
            .iomem
            .iter()
            .filter(|e| e.depth == 0 && is_memory(&e.name))
            .filter_map(|e| whole_pages(e.start, e.last));
        // A reserved entry may join what the firmware keeps with what the command line reserves.
        let cut = listed.flat_map(|range| {
            let parts: Vec<PhysRange> = self
                .firmware
                .iter()
                .filter_map(|f| whole_pages(f.start.max(range.start), f.last.min(range.end() - 1)))
                .collect();
            std::iter::once(range).chain(parts)
        });
        for range in written.chain(cut) {
            if range.size >= LEAST
                && self.check(&range).is_ok()
                && found.iter().all(|f| f.start != range.start)
            {
                found.push(range);
            }
        }
        found
    }
}

/// The whole pages of an inclusive range, if there is one.
fn whole_pages(start: u64, last: u64) -> Option<PhysRange> {
    let page = fs_core::PAGE_SIZE;
    let start = start.checked_next_multiple_of(page)?;
    let end = last.checked_add(1)? / page * page;
    let size = end.checked_sub(start).filter(|size| *size > 0)?;
    PhysRange::new(start, size).ok()
}

/// The first address of `range` that none of the inclusive `spans` covers.
fn first_gap(range: &PhysRange, spans: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    let mut at = range.start;
    for (start, last) in spans {
        if start > at {
            break;
        }
        if last >= at {
            match last.checked_add(1) {
                Some(next) => at = next,
                None => return None,
            }
        }
    }
    (at < range.end()).then_some(at)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x} {}", self.start, self.last, self.name)
    }
}

impl Refusal {
    fn into_error(self, range: &PhysRange, machine: &PhysMap) -> Error {
        let reserve = format!(
            "reserve it on the kernel's command line: {} (in /etc/default/grub write {})",
            range.memmap(),
            range.memmap().replace('$', "\\\\\\$"),
        );
        match self {
            Refusal::Hidden => Error::new(
                Kind::Permission,
                format!("{range}: /proc/iomem shows no addresses, so the range cannot be checked"),
            )
            .hint("run this as root"),
            Refusal::SystemRam(e) => {
                let written = machine.reservations();
                let mut hint = reserve;
                if let Some((near, _)) = written.iter().find(|(r, _)| r.overlaps(range)) {
                    hint = format!(
                        "the command line reserves only {}; name that, or {hint}",
                        near.memmap()
                    );
                } else if written.is_empty() {
                    hint = format!("this kernel was booted without memmap=; {hint}");
                }
                Error::new(
                    Kind::Refused,
                    format!("{range}: overlaps System RAM ({e}), which the kernel uses"),
                )
                .hint(hint)
            }
            Refusal::Claimed(e) if e.name == "rpramfs" => held_by_module(range, &e, machine),
            Refusal::Claimed(e) => {
                let bus = match e.name.as_str() {
                    name if name.starts_with("namespace") => Some("nd"),
                    name if name.starts_with("dax") => Some("dax"),
                    _ => None,
                };
                let hint = if let Some(bus) = bus {
                    format!(
                        "use its device (/dev/pmem*, /dev/dax*) instead, or take it from the \
                         driver: echo {0} > /sys/bus/{bus}/devices/{0}/driver/unbind",
                        e.name
                    )
                } else {
                    "choose a range no driver uses".into()
                };
                Error::new(Kind::Busy, format!("{range}: claimed by {e}")).hint(hint)
            }
            Refusal::NotMemory(e) => Error::new(
                Kind::Refused,
                format!("{range}: overlaps {e}, which is no memory for a region"),
            )
            .hint("choose System RAM of /proc/iomem, at or above 4 GiB, and reserve it: memmap=SIZE$ADDR"),
            Refusal::FirmwareOwned(f) => Error::new(
                Kind::Refused,
                format!(
                    "{range}: the firmware keeps {:#x}-{:#x} for itself",
                    f.start, f.last
                ),
            )
            .hint("choose a range that /sys/firmware/memmap calls System RAM, and reserve that"),
            Refusal::Absent(at) => {
                let part = if at == range.start {
                    String::new()
                } else {
                    format!(" from {at:#x} on (after {})", size::human(at - range.start))
                };
                Error::new(
                    Kind::Refused,
                    format!("{range}: there is no memory at this address{part}"),
                )
                .hint("compare with /proc/iomem and /sys/firmware/memmap")
            }
        }
    }
}

/// The kernel module has claimed part of the range: says where it is mounted.
fn held_by_module(range: &PhysRange, claim: &Entry, machine: &PhysMap) -> Error {
    let last = claim.last;
    let mut mounts = machine.mounts.iter();
    let on = mounts.rfind(|m| m.range.start <= last && claim.start < m.range.end());
    match on {
        Some(KernelMount {
            range: held, on, ..
        }) if held == range => Error::new(
            Kind::Busy,
            format!("{range}: mounted on {on} by the kernel module"),
        )
        .hint(format!("umount {on} first")),
        Some(KernelMount {
            range: held, on, ..
        }) => Error::new(
            Kind::Busy,
            format!("{range}: overlaps {held}, which is mounted on {on} by the kernel module"),
        )
        .hint(format!("umount {on} first")),
        None => Error::new(
            Kind::Busy,
            format!("{range}: the kernel module has it mounted, but not on a directory seen here"),
        )
        .hint(
            "it is mounted in another mount namespace, or was detached (umount -l) and waits for \
             its last user",
        ),
    }
}

/// Reads the text of `/proc/iomem`; a line that makes no sense is left out.
#[must_use]
pub fn parse_iomem(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| {
            let body = line.trim_start_matches(' ');
            let (range, name) = body.split_once(" : ")?;
            let (start, last) = range.trim_end().split_once('-')?;
            Some(Entry {
                depth: (line.len() - body.len()) / 2,
                start: u64::from_str_radix(start, 16).ok()?,
                last: u64::from_str_radix(last, 16).ok()?,
                name: name.trim_end().into(),
            })
        })
        .collect()
}

/// Reads `/sys/firmware/memmap`: a directory per entry, with files `start`, `end` and `type`.
/// Empty where the kernel has none (other machines than x86, CONFIG_FIRMWARE_MEMMAP=n).
fn read_firmware(dir: &Path) -> Vec<Firmware> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<Firmware> = entries
        .flatten()
        .filter_map(|entry| {
            let get = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
            let address = |name: &str| size::parse(get(name)?.trim()).ok();
            Some(Firmware {
                start: address("start")?,
                last: address("end")?,
                kind: get("type")?.trim().into(),
            })
        })
        .collect();
    found.sort_by_key(|f| f.start);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = 1 << 30;

    /// A machine of 12 GiB booted with memmap=1G$4G memmap=1G$5G memmap=1G!8G memmap=1G$64G.
    const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000a0000-000bffff : PCI Bus 0000:00
00100000-bfffffff : System RAM
  01000000-02209987 : Kernel code
c0001000-eebfffff : PCI Bus 0000:00
eec00000-febfffff : Reserved
  eec00000-eecfffff : PCI ECAM 0000 [bus 00-00]
100000000-17fffffff : Reserved
180000000-1ffffffff : System RAM
200000000-23fffffff : Persistent Memory (legacy)
  200000000-23fffffff : namespace0.0
240000000-27fffffff : Soft Reserved
280000000-2bfffffff : Reserved
  280000000-2bfffffff : rpramfs
2c0000000-2ffffffff : dax2.0
  2c0000000-2ffffffff : System RAM (kmem)
300000000-33fffffff : Reserved
1000000000-103fffffff : Reserved
";

    fn firmware(list: &[(u64, u64, &str)]) -> Vec<Firmware> {
        list.iter()
            .map(|(start, end, kind)| Firmware {
                start: *start,
                last: end - 1,
                kind: (*kind).into(),
            })
            .collect()
    }

    fn machine() -> PhysMap {
        let fw = firmware(&[
            (0, 0x9fc00, "System RAM"),
            (0x10_0000, 0xc000_0000, "System RAM"),
            (0xeec0_0000, 0xfec0_0000, "Reserved"),
            (4 * G, 12 * G, "System RAM"),
            (12 * G, 13 * G, "Reserved"),
        ]);
        PhysMap::from_text(
            IOMEM,
            fw,
            "quiet memmap=1G$4G memmap=1G$5G memmap=1G!8G memmap=1G$64G",
        )
    }

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(start, size).expect("range")
    }

    #[test]
    fn reserved_ram_is_fine() {
        let m = machine();
        for r in [
            range(4 * G, G),
            range(5 * G, G),
            range(4 * G, 2 * G),
            range(4 * G + 4096, 4096),
            range(9 * G, G),
        ] {
            assert_eq!(m.check(&r), Ok(()), "{r}");
        }
    }

    #[test]
    fn system_ram_is_refused_at_either_end_and_below_a_driver() {
        let m = machine();
        for r in [
            range(G, G),
            range(6 * G, G),
            range(5 * G, G + 4096),
            range(0, 2 * G),
            range(0x100_0000, 4096),
            range(11 * G, G),
        ] {
            assert!(matches!(m.check(&r), Err(Refusal::SystemRam(_))), "{r}");
        }
        let e = m.require(&range(5 * G, 2 * G)).expect_err("refused");
        assert_eq!(e.kind(), Kind::Refused);
        assert!(e.to_string().contains("System RAM"), "{e}");
        assert!(e.to_string().contains("reserves only memmap=1G$5G"), "{e}");
        let e = m.require(&range(6 * G, G)).expect_err("refused");
        assert!(e.to_string().contains("memmap=1G$6G"), "{e}");
        assert!(e.to_string().contains("memmap=1G\\\\\\$6G"), "{e}");
    }

    #[test]
    fn what_a_driver_holds_is_busy() {
        let m = machine();
        for r in [
            range(8 * G, G),
            range(8 * G + 4096, 4096),
            range(10 * G, 4096),
        ] {
            assert!(matches!(m.check(&r), Err(Refusal::Claimed(_))), "{r}");
            assert_eq!(m.require(&r).expect_err("busy").kind(), Kind::Busy);
        }
        let e = m.require(&range(8 * G, G)).expect_err("busy").to_string();
        assert!(e.contains("namespace0.0") && e.contains("unbind"), "{e}");
    }

    #[test]
    fn what_the_kernel_module_holds_is_named_by_its_mount() {
        let mut m = machine();
        let held = range(10 * G, G);
        let why = |m: &PhysMap, r: &PhysRange| m.require(r).expect_err("busy").to_string();
        assert!(why(&m, &held).contains("not on a directory seen here"));
        for on in ["/mnt", "/srv/b"] {
            let range = held;
            let (device, on) = (1, on.into());
            m.mounts.push(KernelMount { range, device, on });
        }
        let e = why(&m, &held);
        assert!(
            e.contains("mounted on /srv/b by the kernel module") && e.contains("umount /srv/b"),
            "{e}"
        );
        let e = why(&m, &range(10 * G + 4096, 4096));
        assert!(e.contains("overlaps 0x280000000+1G"), "{e}");
        assert_eq!(m.require(&held).expect_err("busy").kind(), Kind::Busy);
    }

    #[test]
    fn devices_holes_and_firmware_are_refused() {
        let m = machine();
        assert!(matches!(
            m.check(&range(0xd000_0000, 4096)),
            Err(Refusal::NotMemory(_))
        ));
        assert!(matches!(
            m.check(&range(0xf000_0000, 4096)),
            Err(Refusal::FirmwareOwned(_))
        ));
        assert!(matches!(
            m.check(&range(12 * G, G)),
            Err(Refusal::FirmwareOwned(_))
        ));
        // Reserved on the command line, but no memory is there.
        assert_eq!(m.check(&range(64 * G, G)), Err(Refusal::Absent(64 * G)));
        // Not even that.
        assert_eq!(m.check(&range(128 * G, G)), Err(Refusal::Absent(128 * G)));
        assert_eq!(
            m.check(&range(65 * G - 4096, 8192)),
            Err(Refusal::Absent(65 * G)),
        );
        assert_eq!(
            m.check(&range(u64::MAX - 8191, 4096)),
            Err(Refusal::Absent(u64::MAX - 8191))
        );
    }

    #[test]
    fn without_a_firmware_map_the_kernel_is_believed() {
        let m = PhysMap::from_text(IOMEM, Vec::new(), "");
        assert_eq!(m.check(&range(64 * G, G)), Ok(()));
        assert_eq!(m.check(&range(128 * G, G)), Err(Refusal::Absent(128 * G)));
    }

    #[test]
    fn a_crash_kernel_sees_the_old_reservations_as_the_firmwares() {
        let fw = firmware(&[(0, G, "System RAM"), (4 * G, 5 * G, "Reserved")]);
        let iomem = "00000000-3fffffff : System RAM\n100000000-13fffffff : Reserved\n";
        let crash = PhysMap::from_text(iomem, fw.clone(), "elfcorehdr=0x1000 quiet");
        assert_eq!(crash.check(&range(4 * G, G)), Ok(()));
        let other = PhysMap::from_text(iomem, fw, "quiet");
        assert!(matches!(
            other.check(&range(4 * G, G)),
            Err(Refusal::FirmwareOwned(_))
        ));
    }

    #[test]
    fn ordinary_users_see_only_zeros() {
        let m = PhysMap::from_text(
            "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n",
            Vec::new(),
            "",
        );
        assert_eq!(m.check(&range(4 * G, G)), Err(Refusal::Hidden));
        assert_eq!(
            m.require(&range(4 * G, G)).expect_err("hidden").kind(),
            Kind::Permission
        );
    }

    #[test]
    fn candidates_are_the_reservations_and_the_rest() {
        let found = machine().candidates();
        assert_eq!(
            found,
            [range(4 * G, G), range(5 * G, G), range(9 * G, G),],
            "the joint entry 4G-6G starts where the first reservation does"
        );
    }

    #[test]
    fn junk_lines_are_left_out() {
        assert_eq!(
            parse_iomem("x\n00-zz : A\n10-1f : B : C\n   \n"),
            [Entry {
                depth: 0,
                start: 16,
                last: 31,
                name: "B : C".into()
            }]
        );
    }
}
