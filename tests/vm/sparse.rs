// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Files far larger than the region cost what is in them, say where that is, are copied as sparse
//! as they are, and are as sparse after a kernel update.

use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};

const REGION: &str = "0x100000000+64M";
const PAGE: u64 = 4096;
/// Pages with data: the first, one at 16 TiB, and the last below 2^47 bytes.
const PAGES: [u64; 3] = [0, 1 << 32, (1 << 35) - 1];

pub fn run(lab: &Lab) -> Result<()> {
    let region = Region::reserved(Size::mib(64));
    let old = Boot::new("6.12")
        .region(region)
        .program("coreutils", "cp")
        .program("util-linux", "fallocate");
    let new = Boot::new("7.x").region(region);
    lab.prepare(&new)?;
    let guest = lab.boot(&old)?;
    guest.run(format!("mkfs.rpramfs -q {REGION}"))?;
    guest.run(format!("mount -t rpramfs {REGION} /mnt"))?;

    guest.run("touch /mnt/file && dd if=/dev/urandom of=/tmp/pages bs=4k count=3")?;
    let before = used_pages(&guest)?;
    for (at, page) in PAGES.iter().enumerate() {
        let copy = "dd if=/tmp/pages of=/mnt/file bs=4k count=1 conv=notrunc";
        guest.run(format!("{copy} skip={at} seek={page}"))?;
    }
    let cost = used_pages(&guest)? - before;
    println!("three pages in a file of 128 TiB cost {cost} pages of the region");
    ensure!(cost == 3, "three pages of data cost {cost}");
    is_right(&guest, "file")?;
    for how in ["always", "auto"] {
        guest
            .run(format!("cp --sparse={how} /mnt/file /mnt/{how}"))
            .and_then(|_| is_right(&guest, how))
            .with_context(|| format!("cp --sparse={how}"))?;
    }

    // Holes made anew, by punching and by writing zeros that are found again.
    let (last, end) = (PAGES[2] * PAGE, (PAGES[2] + 1) * PAGE);
    guest.run("cp /mnt/file /mnt/punched")?;
    guest.run(format!(
        "fallocate --punch-hole --offset {} --length {PAGE} /mnt/punched",
        PAGES[1] * PAGE
    ))?;
    let left = format!("0 {PAGE}\n{last} {end}\n");
    has(&guest, "punched", end, 2, &left)?;
    guest.run("truncate -s 9223372036854775807 /mnt/longest")?;
    has(&guest, "longest", i64::MAX as u64, 0, "")?;

    let files = ["file", "always", "auto", "punched", "longest"];
    let extents = |file: &&str| extents(&guest, file);
    let before: Vec<String> = files.iter().map(extents).collect::<Result<_>>()?;
    guest.run("umount /mnt")?;
    let pages = guest.command("cat /tmp/pages").succeed()?.stdout;

    lab.kexec_load(&guest, &new)?;
    let (hello, _) = lab.kexec(&guest)?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    guest.run(format!("mount -t rpramfs {REGION} /mnt"))?;
    guest.push("/tmp/pages", pages)?;
    let after: Vec<String> = files.iter().map(extents).collect::<Result<_>>()?;
    ensure!(
        before == after,
        "{before:#?}\nin {}:\n{after:#?}",
        hello.release
    );
    is_right(&guest, "file")?;
    is_right(&guest, "always")?;
    has(&guest, "punched", end, 2, &left)?;
    println!("as sparse in {}", hello.release);
    guest.run("umount /mnt")?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    guest.check()
}

/// What is allocated in the region.
fn used_pages(guest: &Guest) -> Result<u64> {
    let blocks = guest.run("stat -f -c '%b %f' /mnt")?;
    let (all, free) = blocks.trim().split_once(' ').context("two numbers")?;
    Ok(all.parse::<u64>()? - free.parse::<u64>()?)
}

/// A file with the three pages of /tmp/pages.
fn is_right(guest: &Guest, file: &str) -> Result<()> {
    let runs = PAGES.map(|page| format!("{} {}\n", page * PAGE, (page + 1) * PAGE));
    has(guest, file, (PAGES[2] + 1) * PAGE, 3, &runs.concat())?;
    for (at, page) in PAGES.iter().enumerate() {
        let page = format!("dd if=/mnt/{file} bs=4k count=1 skip={page} 2>/dev/null | md5sum");
        let right = format!("dd if=/tmp/pages bs=4k count=1 skip={at} 2>/dev/null | md5sum");
        ensure!(guest.run(page)? == guest.run(right)?, "page {at} of {file}");
    }
    // In the middle of nothing.
    let hole = format!("dd if=/mnt/{file} bs=1M count=1 skip=1000000 2>/dev/null");
    let zeros = guest.run(format!("{hole} | tr -d '\\0' | wc -c"))?;
    ensure!(zeros.trim() == "0", "{} bytes in a hole", zeros.trim());
    Ok(())
}

/// Size, pages by `st_blocks` and by du(1), and the runs of data by SEEK_DATA and SEEK_HOLE.
fn has(guest: &Guest, file: &str, size: u64, pages: u64, runs: &str) -> Result<()> {
    let path = format!("/mnt/{file}");
    let stat = guest.run(format!("stat -c '%s %b' {path}"))?;
    ensure!(
        stat.trim() == format!("{size} {}", pages * 8),
        "{file}: {stat}"
    );
    let du = guest.run(format!("du -k {path} | cut -f1"))?;
    ensure!(du.trim() == (pages * 4).to_string(), "du {file}: {du}");
    let found = guest.run(format!("/init holes {path}"))?;
    ensure!(found == runs, "{file}: data at\n{found}not\n{runs}");
    Ok(())
}

/// The extents as they lie in the region.
fn extents(guest: &Guest, file: &str) -> Result<String> {
    guest.run(format!(
        "rpramfs dump {REGION} extents $(stat -c %i /mnt/{file})"
    ))
}
