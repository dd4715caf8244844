// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What mkfs.rpramfs refuses: with which exit status, in which words, and without a byte written.

mod support;

use fs_core::{Host, OwnerKind, Region};
use host::{owner, Access, Spec, UserHost};
use std::fs;
use std::path::Path;
use support::{bytes, mkfs, text, tool, Place};

const MIB: u64 = 1 << 20;
const USAGE: i32 = 16;
const FAILED: i32 = 8;

/// The image is refused and stays as it is; a dry run refuses as well, and `-f` takes it.
fn refused(path: &Path, name: &str) {
    let before = bytes(path);
    for args in [
        vec![text(path)],
        vec!["-n", text(path)],
        vec!["-q", text(path)],
    ] {
        mkfs(&args)
            .expect(FAILED)
            .says(&[name, "nothing was written", "-f"]);
    }
    assert!(before == bytes(path), "{name}: bytes were changed");
    mkfs(&["-n", "-f", text(path)]).expect(0);
    assert!(before == bytes(path), "{name}: bytes were changed by -n -f");
    mkfs(&["-q", "-f", text(path)]).expect(0);
    mkfs(&["-q", text(path)]).expect(FAILED).says(&["RP-RAMFS"]);
}

/// Makes an image with another filesystem's own tool and shows that it is refused.
fn real(name: &str, len: u64, program: &str, args: &[&str]) {
    let place = Place::new();
    let path = place.file("image", len);
    let mut args = args.to_vec();
    args.push(text(&path));
    if tool(program, &args) {
        refused(&path, name);
    }
}

#[test]
fn ext4() {
    real("ext4", 16 * MIB, "mkfs.ext4", &["-q", "-F"]);
}

#[test]
fn ext3() {
    real("ext3", 16 * MIB, "mkfs.ext3", &["-q", "-F"]);
}

#[test]
fn ext2() {
    real("ext2", 16 * MIB, "mkfs.ext2", &["-q", "-F"]);
}

#[test]
fn xfs() {
    real("XFS", 512 * MIB, "mkfs.xfs", &["-q"]);
}

#[test]
fn btrfs() {
    real("btrfs", 128 * MIB, "mkfs.btrfs", &["-q"]);
}

#[test]
fn f2fs() {
    real("F2FS", 64 * MIB, "mkfs.f2fs", &["-q"]);
}

#[test]
fn fat() {
    for bits in ["12", "16", "32"] {
        real("FAT", 64 * MIB, "mkfs.vfat", &["-F", bits]);
    }
}

#[test]
fn minix() {
    for version in ["-1", "-2", "-3"] {
        real("Minix", 8 * MIB, "mkfs.minix", &[version]);
    }
}

#[test]
fn cramfs_and_squashfs() {
    let place = Place::new();
    let dir = place.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("file"), vec![7; 100_000]).expect("write");
    let image = place.path("squash");
    if tool(
        "mksquashfs",
        &[text(&dir), text(&image), "-quiet", "-noappend"],
    ) {
        lengthen(&image);
        refused(&image, "SquashFS");
    }
    let image = place.path("cram");
    if tool("mkfs.cramfs", &[text(&dir), text(&image)]) {
        lengthen(&image);
        refused(&image, "cramfs");
    }
}

fn lengthen(path: &Path) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|f| f.set_len(4 * MIB))
        .expect("lengthen");
}

#[test]
fn swap() {
    real("swap", 8 * MIB, "mkswap", &["-q"]);
    real("swap", 8 * MIB, "mkswap", &["-q", "-p", "65536"]);
}

#[test]
fn luks() {
    let place = Place::new();
    let key = place.path("key");
    fs::write(&key, "secret").expect("key");
    for version in ["luks1", "luks2"] {
        let args = [
            "luksFormat",
            "-q",
            "--type",
            version,
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file",
            text(&key),
        ];
        real("LUKS", 32 * MIB, "cryptsetup", &args);
    }
}

#[test]
fn partition_tables() {
    for (kind, name) in [("gpt", "GPT"), ("dos", "MBR")] {
        let place = Place::new();
        let path = place.file("disk", 16 * MIB);
        let script = format!("echo 'start=2048' | sfdisk -q -X {kind} {}", text(&path));
        let here = Path::new("/usr/sbin/sfdisk").exists() || Path::new("/sbin/sfdisk").exists();
        if !here {
            println!("skipped: sfdisk is not on this machine");
            return;
        }
        assert!(tool("sh", &["-c", &script]));
        refused(&path, name);
    }
}

#[test]
fn rpramfs_itself() {
    let place = Place::new();
    let path = place.path("f");
    mkfs(&["-q", "-L", "keep", text(&path), "16M"]).expect(0);
    mkfs(&[text(&path)])
        .expect(FAILED)
        .says(&["RP-RAMFS", "keep"]);
    // The backup superblock alone is enough.
    let r = host::open(&Spec::Path(path.clone()), Access::ReadWrite).expect("open");
    r.zero(0, 4096).expect("destroy the primary");
    drop(r);
    refused(&path, "RP-RAMFS");
}

#[test]
fn rpramfs_cut_short() {
    let place = Place::new();
    let path = place.path("f");
    mkfs(&["-q", text(&path), "16M"]).expect(0);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|f| f.set_len(8 * MIB))
        .expect("cut");
    refused(&path, "RP-RAMFS");
}

#[test]
fn a_version_from_the_future() {
    // docs/LAYOUT.md: version at 8, an incompat bit, a ro_compat bit.
    for (field, name) in [
        (8, "RP-RAMFS of a later version"),
        (96 + 5, "RP-RAMFS of a later version"),
        (88 + 5, "RP-RAMFS"),
    ] {
        let place = Place::new();
        let path = place.path("f");
        mkfs(&["-q", text(&path), "16M"]).expect(0);
        let r = host::open(&Spec::Path(path.clone()), Access::ReadWrite).expect("open");
        // Both superblocks, the checksum of 256 bytes at 12.
        for at in [0, 16 * MIB - 4096] {
            let mut sb = [0; 256];
            r.read(at, &mut sb).expect("read");
            assert_eq!(&sb[..8], b"RPRAMFS\0");
            sb[field] ^= 2;
            sb[12..16].fill(0);
            let crc = UserHost::new().crc32(0, &sb);
            sb[12..16].copy_from_slice(&crc.to_le_bytes());
            r.write(at, &sb).expect("write");
        }
        drop(r);
        refused(&path, name);
    }
}

#[test]
fn junk_is_no_obstacle() {
    let place = Place::new();
    for (name, pattern) in [
        ("ff", vec![0xff]),
        ("text", b"all work and no play ".to_vec()),
        ("words", 0xdead_beef_u32.to_le_bytes().to_vec()),
        ("boot", vec![0x55, 0xaa]),
    ] {
        let path = place.path(name);
        let junk: Vec<u8> = pattern.into_iter().cycle().take(4 << 20).collect();
        fs::write(&path, junk).expect("write");
        mkfs(&["-q", text(&path)]).expect(0);
    }
    let path = place.path("random");
    let mut state = 88_172_645_463_325_252_u64;
    let junk: Vec<u8> = (0..(4 << 20) / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    fs::write(&path, junk).expect("write");
    mkfs(&["-q", text(&path)]).expect(0);
}

#[test]
fn too_small() {
    let place = Place::new();
    for len in [0, 1, 4095, 4096, MIB - 4096] {
        let path = place.file("f", len);
        mkfs(&[text(&path)])
            .expect(FAILED)
            .says(&["small", "1 MiB"]);
        assert!(bytes(&path).iter().all(|b| *b == 0), "{len}: written to");
    }
    // A file that was made for it does not stay behind, one that was lengthened is cut back.
    let path = place.path("new");
    mkfs(&[text(&path), "64K"]).expect(FAILED).says(&["small"]);
    assert!(!path.exists());
    let path = place.file("short", 8192);
    mkfs(&[text(&path), "64K"]).expect(FAILED);
    assert_eq!(fs::metadata(&path).expect("meta").len(), 8192);
    // The least size works.
    mkfs(&["-q", text(&place.path("least")), "1M"]).expect(0);
}

#[test]
fn not_there() {
    mkfs(&["/no/such/file"])
        .expect(FAILED)
        .says(&["/no/such/file", "No such file"]);
    mkfs(&["/no/such/dir/file", "1M"])
        .expect(FAILED)
        .says(&["/no/such/dir/file"]);
    mkfs(&["LABEL=no such label at all"])
        .expect(FAILED)
        .says(&["no such region"]);
}

#[test]
fn not_memory() {
    let place = Place::new();
    let dir = place.path("");
    mkfs(&[text(&dir)]).expect(FAILED).says(&["neither"]);
    mkfs(&["/dev/null"]).expect(FAILED).says(&["no device-dax"]);
}

#[test]
fn system_ram_and_emptiness() {
    let iomem = fs::read_to_string("/proc/iomem").expect("iomem");
    let ram = host::iomem::parse_iomem(&iomem)
        .into_iter()
        .find(|e| e.name == "System RAM" && e.last > 64 << 20);
    let Some(ram) = ram else {
        println!("skipped: /proc/iomem shows no addresses (not root?)");
        return;
    };
    let inside = (ram.start.max(32 << 20)).next_multiple_of(4096);
    for args in [
        vec![format!("{inside:#x}+1M")],
        vec!["-f".into(), format!("{inside:#x}+1M")],
        vec!["-n".into(), format!("1M${inside:#x}")],
    ] {
        mkfs(&args)
            .expect(FAILED)
            .says(&["System RAM", "memmap=1M$", "grub"]);
    }
    // 4 PiB: beyond what any CPU of today reaches.
    mkfs(&["4P+1G"])
        .expect(FAILED)
        .says(&["no memory at this address"]);
}

#[test]
fn while_it_is_mounted() {
    let place = Place::new();
    let path = place.path("f");
    mkfs(&["-q", text(&path), "16M"]).expect(0);
    // Somebody has it open for writing: the lock says so.
    let spec = Spec::Path(path.clone());
    let region = host::open(&spec, Access::ReadWrite).expect("open");
    let before = bytes(&path);
    for args in [
        vec![text(&path)],
        vec!["-f", text(&path)],
        vec!["-n", text(&path)],
    ] {
        mkfs(&args).expect(FAILED).says(&["process"]);
    }
    drop(region);
    assert!(before == bytes(&path));
    // And without a lock (another container, a network filesystem) the mark in the region does.
    let region = host::open(&spec, Access::ReadWrite).expect("open");
    let options = fs_core::MountOptions {
        read_only: false,
        owner: owner::current(OwnerKind::Fuse).expect("owner"),
        alive: &owner::alive,
    };
    let volume = fs_core::Fs::mount(region, UserHost::new(), &options).expect("mount");
    drop(volume);
    let before = bytes(&path);
    for args in [
        vec![text(&path)],
        vec!["-f", text(&path)],
        vec!["-n", text(&path)],
    ] {
        mkfs(&args)
            .expect(FAILED)
            .says(&["mounted by the FUSE daemon", "umount"]);
    }
    assert!(before == bytes(&path));
    // Also where the details of the mark are damaged, or not written yet.
    let mut damaged = before;
    damaged[fs_core::layout::marker::OFFSET as usize + 16..][..8].fill(0xff);
    std::fs::write(&path, &damaged).expect("write");
    mkfs(&["-f", text(&path)])
        .expect(FAILED)
        .says(&["mounted by the FUSE daemon", "umount"]);
    assert!(damaged == bytes(&path));
}

#[test]
fn usage() {
    let place = Place::new();
    let path = place.file("f", 4 * MIB);
    let f = text(&path);
    let long = "x".repeat(33);
    for args in [
        vec![],
        vec!["--no-such-option", f],
        vec!["-L", &long, f],
        vec!["-U", "nonsense", f],
        vec!["-U", "00000000-0000-0000-0000-000000000000", f],
        vec!["-E", "stride=3", f],
        vec!["-E", "root_owner=me", f],
        vec!["-E", "root_mode=9", f],
        vec!["-q", "--json", f],
        vec![f, "1X"],
        vec![f, "5000"],
        vec![f, "1M"],
        vec![f, "1M", "2M"],
        vec!["4G+1G", "1G"],
        vec!["4G+1000"],
        vec!["4G+1GB"],
        vec!["010+1G"],
        vec!["4G+0"],
        vec!["1G@4G+1"],
        vec!["/dev/null", "1M"],
        vec!["UUID=1"],
        vec![""],
    ] {
        let run = mkfs(&args).expect(USAGE);
        assert!(
            run.out.is_empty() && !run.err.is_empty(),
            "{args:?}: {run:?}"
        );
    }
    assert!(bytes(&path).iter().all(|b| *b == 0));
}

#[test]
fn dev_mem_as_a_whole() {
    if !Path::new("/dev/mem").exists() {
        println!("skipped: no /dev/mem");
        return;
    }
    mkfs(&["/dev/mem"]).expect(USAGE).says(&["which range"]);
}
