// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! LABEL= and UUID=: looks for the region wherever one could be.

use crate::in_use::Uses;
use crate::iomem::PhysMap;
use crate::region::open_physical;
use crate::{names, uuid, Access, Error, Kind, PhysRange, Result, Spec, UserHost, UserRegion};
use fs_core::SuperInfo;
use std::fs;
use std::path::PathBuf;

/// A filesystem that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where: a path or a physical range.
    pub spec: Spec,
    /// What its superblock says.
    pub info: SuperInfo,
}

/// The label of a superblock as text, without the padding.
#[must_use]
pub fn label(info: &SuperInfo) -> String {
    let end = info.label.iter().position(|b| *b == 0);
    String::from_utf8_lossy(&info.label[..end.unwrap_or(info.label.len())]).into_owned()
}

/// All RP-RAMFS of this machine: reserved memory, `/dev/pmem*`, `/dev/dax*`. Regular files are
/// not searched. Also gives the places that could not be looked at, and why.
#[must_use]
pub fn scan() -> (Vec<Found>, Vec<Error>) {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    match PhysMap::system() {
        Ok(machine) => {
            for range in machine.candidates() {
                if let Err(e) = scan_range(range, &machine, &mut found) {
                    errors.push(e);
                }
            }
        }
        Err(e) => errors.push(e),
    }
    for path in device_paths() {
        let spec = Spec::Path(path);
        match crate::open(&spec, Access::Inspect) {
            Ok(region) => found.extend(look(&region).map(|info| Found { spec, info })),
            Err(e) => errors.push(e),
        }
    }
    (found, errors)
}

/// An RP-RAMFS that begins elsewhere and shares memory with `range`. Only those are seen that begin
/// where reserved memory does, or right behind another.
#[must_use]
pub fn overlapping(range: &PhysRange) -> Option<Found> {
    let (found, _) = scan();
    found.into_iter().find(|f| match &f.spec {
        Spec::Physical(other) => other.start != range.start && other.overlaps(range),
        _ => false,
    })
}

/// A reserved range may hold several regions side by side: behind each that is found, the search
/// goes on.
fn scan_range(mut range: PhysRange, machine: &PhysMap, found: &mut Vec<Found>) -> Result<()> {
    loop {
        let region = open_physical(&range, Access::Inspect, machine)?;
        let Some(info) = look(&region) else {
            return Ok(());
        };
        let used = info.size.next_multiple_of(fs_core::PAGE_SIZE);
        let exact = PhysRange::new(range.start, used)
            .ok()
            .filter(|exact| range.contains(exact))
            .unwrap_or(range);
        let spec = Spec::Physical(exact);
        if found.iter().all(|f| f.spec != spec) {
            found.push(Found { spec, info });
        }
        match PhysRange::new(exact.end(), range.end() - exact.end()) {
            Ok(rest) => range = rest,
            Err(_) => return Ok(()),
        }
    }
}

fn look(region: &UserRegion) -> Option<SuperInfo> {
    fs_core::probe(region, &UserHost::new()).ok()
}

/// Persistent memory and device-dax nodes that sysfs knows and `/dev` has.
fn device_paths() -> Vec<PathBuf> {
    let names = |dir: &str, prefix: &'static str| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(move |name| name.starts_with(prefix))
    };
    let mut paths: Vec<PathBuf> = names("/sys/block", "pmem")
        .chain(names("/sys/bus/dax/devices", "dax"))
        .map(|name| PathBuf::from("/dev").join(name))
        .filter(|path| path.exists())
        .collect();
    paths.sort();
    paths
}

/// What a region is called.
#[derive(Clone, Debug)]
struct Named {
    spec: Spec,
    label: String,
    uuid: [u8; 16],
}

/// Turns LABEL= and UUID= into a path or a physical range; others are given back as they are.
/// Regions that the kernel module has mounted cannot be looked at; it is asked for their names.
pub fn resolve(spec: &Spec) -> Result<Spec> {
    if matches!(spec, Spec::Path(_) | Spec::Physical(_)) {
        return Ok(spec.clone());
    }
    let (found, errors) = scan();
    let mut named: Vec<Named> = found
        .into_iter()
        .map(|f| Named {
            label: label(&f.info),
            uuid: f.info.uuid,
            spec: f.spec,
        })
        .collect();
    for mount in Uses::system().kernel_mounts() {
        let spec = Spec::Physical(mount.range);
        if named.iter().any(|n| n.spec == spec) {
            continue;
        }
        if let Some((label, uuid)) = names::of(&mount) {
            named.push(Named { spec, label, uuid });
        }
    }
    choose(spec, &named, &errors)
}

fn choose(spec: &Spec, found: &[Named], errors: &[Error]) -> Result<Spec> {
    let matching: Vec<&Named> = found
        .iter()
        .filter(|f| match spec {
            Spec::Label(text) => f.label == *text,
            Spec::Uuid(id) => f.uuid == *id,
            Spec::Path(_) | Spec::Physical(_) => f.spec == *spec,
        })
        .collect();
    match matching.as_slice() {
        [one] => Ok(one.spec.clone()),
        [] => {
            let mut hint = if found.is_empty() {
                "searched: reserved ranges of /proc/iomem, /dev/pmem*, /dev/dax* (name a file by \
                 its path); is memmap= on the kernel's command line the one it was made with?"
                    .to_string()
            } else {
                let mut text = String::from("found only:");
                for f in found {
                    text += &format!(
                        "\n{} UUID={} LABEL={}",
                        f.spec,
                        uuid::format(&f.uuid),
                        f.label
                    );
                }
                text
            };
            for e in errors {
                hint += &format!("\nnot looked at: {e}");
            }
            Err(Error::new(Kind::NotFound, format!("{spec}: no such region")).hint(hint))
        }
        several => {
            let list: Vec<String> = several.iter().map(|f| f.spec.to_string()).collect();
            Err(Error::new(
                Kind::Refused,
                format!("{spec}: names more than one region: {}", list.join(", ")),
            )
            .hint("name it by address or device"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(spec: &str, label: &str, id: u8) -> Named {
        Named {
            spec: Spec::parse(spec).expect("spec"),
            label: label.into(),
            uuid: [id; 16],
        }
    }

    fn all() -> Vec<Named> {
        vec![
            named("4G+1G", "one", 1),
            named("5G+1G", "twin", 2),
            named("/dev/dax0.0", "twin", 3),
        ]
    }

    #[test]
    fn exactly_one_is_taken() {
        let get = |text: &str| choose(&Spec::parse(text).expect("spec"), &all(), &[]);
        assert_eq!(get("LABEL=one").expect("one").to_string(), "0x100000000+1G");
        let id = uuid::format(&[3; 16]);
        assert_eq!(
            get(&format!("UUID={id}")).expect("3").to_string(),
            "/dev/dax0.0"
        );
        let e = get("LABEL=twin").expect_err("two").to_string();
        assert!(e.contains("0x140000000+1G, /dev/dax0.0"), "{e}");
    }

    #[test]
    fn a_miss_says_what_there_is_and_what_was_not_seen() {
        let spec = Spec::Label("x".into());
        let denied = Error::new(Kind::Permission, "/dev/dax1.0: denied");
        let e = choose(&spec, &all(), &[denied]).expect_err("none");
        assert_eq!(e.kind(), Kind::NotFound);
        let text = e.to_string();
        assert!(
            text.contains("LABEL=one") && text.contains("dax1.0: denied"),
            "{text}"
        );
        let e = choose(&spec, &[], &[]).expect_err("none").to_string();
        assert!(e.contains("memmap="), "{e}");
    }

    #[test]
    fn full_labels_have_no_terminator() {
        let options = fs_core::FormatOptions {
            uuid: [1; 16],
            label: *b"12345678901234567890123456789012",
            uid: 0,
            gid: 0,
            mode: 0o755,
            struct_pages: false,
        };
        let region = UserRegion::anonymous(1 << 20).expect("memory");
        let info = fs_core::format(&region, &UserHost::new(), &options).expect("format");
        assert_eq!(label(&info).len(), 32);
    }
}
