// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What mkfs.rpramfs makes, and how it tells.

mod support;

use fs_core::{Region, ROOT_INO};
use host::{owner, signature, Access, Spec, UserHost, UserRegion};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use support::{bytes, mkfs, text, Place};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn region(path: &Path, access: Access) -> UserRegion {
    host::open(&Spec::Path(path.into()), access).expect("open")
}

fn probe(path: &Path) -> fs_core::SuperInfo {
    fs_core::probe(&region(path, Access::Inspect), &UserHost::new()).expect("probe")
}

fn json(args: &[&str]) -> Value {
    let run = mkfs(args).expect(0);
    serde_json::from_str(&run.out).expect("JSON")
}

#[test]
fn a_new_file_is_created_sparse_and_formatted() {
    let place = Place::new();
    let path = place.path("new");
    let run = mkfs(&[text(&path), "64M"]).expect(0);
    let meta = fs::metadata(&path).expect("made");
    assert_eq!(meta.len(), 64 * MIB);
    assert!(meta.blocks() * 512 < 8 * MIB, "{} blocks", meta.blocks());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let info = probe(&path);
    assert_eq!(info.size, 64 * MIB);
    assert!(!info.from_backup);
    assert_eq!(info.owner, None);
    assert!(run.out.contains(&host::uuid::format(&info.uuid)), "{run:?}");
    assert!(
        run.out
            .contains(&format!("mount -t rpramfs {} DIR", path.display())),
        "{run:?}"
    );
}

#[test]
fn label_uuid_and_root_are_as_asked() {
    let place = Place::new();
    let path = place.file("f", 16 * MIB);
    let id = "123e4567-e89b-42d3-a456-426614174000";
    let made = json(&[
        "--json",
        "-L",
        "büro 1",
        "-U",
        id,
        "-E",
        "root_owner=1000:100,root_mode=1770",
        text(&path),
    ]);
    assert_eq!(made["uuid"], id);
    assert_eq!(made["label"], "büro 1");
    assert_eq!(made["root"]["uid"], 1000);
    assert_eq!(made["root"]["mode"], "1770");
    assert_eq!(made["size"], 16 * MIB);
    assert_eq!(made["dry_run"], false);
    let info = probe(&path);
    assert_eq!(host::uuid::format(&info.uuid), id);
    assert_eq!(host::resolve::label(&info), "büro 1");

    let options = fs_core::MountOptions {
        read_only: false,
        owner: owner::current(fs_core::OwnerKind::Tool).expect("owner"),
        alive: &owner::alive,
    };
    let volume = fs_core::Fs::mount(region(&path, Access::ReadWrite), UserHost::new(), &options)
        .expect("mount");
    let root = volume.getattr(ROOT_INO).expect("root");
    assert_eq!((root.uid, root.gid), (1000, 100));
    assert_eq!(root.mode, fs_core::S_IFDIR | 0o1770);
    volume.unmount().expect("unmount");
}

#[test]
fn two_runs_give_two_uuids() {
    let place = Place::new();
    let (a, b) = (place.file("a", 4 * MIB), place.file("b", 4 * MIB));
    mkfs(&["-q", text(&a)]).expect(0);
    mkfs(&["-q", text(&b)]).expect(0);
    assert_ne!(probe(&a).uuid, probe(&b).uuid);
}

#[test]
fn room_for_struct_pages_is_kept_when_asked() {
    let place = Place::new();
    let path = place.file("f", GIB);
    let made = json(&["--json", "--struct-pages", text(&path)]);
    let kept = made["struct_pages"].as_u64().expect("number");
    // 64 bytes per page of 4096.
    assert!(kept >= GIB / 64, "{kept}");
    assert!(kept <= GIB / 64 + 4 * MIB, "{kept}");
    assert_eq!(probe(&path).struct_pages().1, kept);
    let plain = place.file("g", GIB);
    assert_eq!(json(&["--json", text(&plain)])["struct_pages"], 0);
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_same() {
    let place = Place::new();
    let path = place.file("f", 64 * MIB);
    fs::write(place.path("junk"), [0x5a; 8192]).expect("junk");
    let before = fs::metadata(&path).expect("meta");
    let id = "123e4567-e89b-42d3-a456-426614174000";
    let mut told = json(&["-n", "--json", "-U", id, text(&path)]);
    let after = fs::metadata(&path).expect("meta");
    assert!(bytes(&path).iter().all(|b| *b == 0));
    assert_eq!(before.mtime_nsec(), after.mtime_nsec());
    assert_eq!(told["dry_run"], true);
    told["dry_run"] = false.into();
    assert_eq!(json(&["--json", "-U", id, text(&path)]), told);

    // A file that is not there yet stays away, one that is shorter stays short.
    let new = place.path("new");
    let run = mkfs(&["-n", text(&new), "64M"]).expect(0);
    assert!(run.out.contains("nothing was written"), "{run:?}");
    assert!(!new.exists());
    let short = place.file("short", MIB);
    assert_eq!(
        json(&["-n", "--json", text(&short), "64M"])["size"],
        64 * MIB
    );
    assert_eq!(fs::metadata(&short).expect("meta").len(), MIB);
}

#[test]
fn quiet_is_quiet() {
    let place = Place::new();
    let run = mkfs(&["-q", text(&place.path("f")), "4M"]).expect(0);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
}

#[test]
fn a_file_is_made_longer() {
    let place = Place::new();
    let path = place.file("f", MIB + 100);
    mkfs(&["-q", text(&path), "8M"]).expect(0);
    assert_eq!(fs::metadata(&path).expect("meta").len(), 8 * MIB);
    assert_eq!(probe(&path).size, 8 * MIB);
}

#[test]
fn a_file_of_odd_length_is_used_up_to_its_last_whole_page() {
    let place = Place::new();
    let path = place.file("f", 8 * MIB + 4095);
    mkfs(&["-q", text(&path)]).expect(0);
    assert!(probe(&path).size <= 8 * MIB);
}

#[test]
fn force_makes_anew_and_leaves_no_trace_of_the_old() {
    let place = Place::new();
    let path = place.file("f", 16 * MIB);
    mkfs(&["-q", "-L", "one", text(&path)]).expect(0);
    let old = probe(&path);
    mkfs(&["-q", "-f", "-L", "two", text(&path)]).expect(0);
    let new = probe(&path);
    assert_eq!(host::resolve::label(&new), "two");
    assert_ne!(old.uuid, new.uuid);
    // btrfs keeps its superblock where ours writes nothing at first.
    let r = region(&path, Access::ReadWrite);
    r.write(0x1_0040, b"_BHRfS_M").expect("write");
    drop(r);
    mkfs(&["-q", "-f", text(&path)]).expect(0);
    let r = region(&path, Access::Inspect);
    assert_eq!(signature::foreign(&r), None);
}

#[test]
fn size_does_not_matter() {
    let place = Place::new();
    let seconds = |name: &str, size: &str| {
        let path = place.path(name);
        let start = std::time::Instant::now();
        mkfs(&["-q", text(&path), size]).expect(0);
        let seconds = start.elapsed().as_secs_f64();
        (seconds, fs::metadata(&path).expect("meta").blocks() * 512)
    };
    let (_, small) = seconds("1g", "1G");
    let (time, large) = seconds("64g", "64G");
    println!("64 GiB: {time:.3} s, {large} bytes touched; 1 GiB: {small} bytes");
    assert!(time < 1.0, "64 GiB took {time} s");
    assert!(
        large <= small + MIB,
        "{large} against {small} bytes touched"
    );
    let huge = place.path("16t");
    // Only tmpfs holds a sparse file of this size.
    if fs::File::create(&huge)
        .and_then(|f| f.set_len(16 << 40))
        .is_ok()
    {
        fs::remove_file(&huge).expect("remove");
        let (time, touched) = seconds("16t", "16T");
        println!("16 TiB: {time:.3} s, {touched} bytes touched");
        assert!(time < 2.0 && touched <= small + 4 * MIB);
    } else {
        println!("skipped: no sparse file of 16 TiB here");
    }
}

#[test]
fn help_teaches_and_version_tells() {
    let run = mkfs(&["--help"]).expect(0);
    for word in ["Examples", "memmap=", "mount -t rpramfs", "Exit status"] {
        assert!(run.out.contains(word), "{word}: {}", run.out);
    }
    mkfs(&["-h"]).expect(0);
    let run = mkfs(&["-V"]).expect(0);
    assert!(run.out.starts_with("mkfs.rpramfs "), "{run:?}");
}
