// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What must not be touched is refused: with a message that says why, the exit status that mkfs(8),
//! mount(8) and fsck(8) have for it, and not one byte written.
//!
//! The guest's memory from 4 GiB on: a region, System RAM, a range of the pmem driver's, and a
//! reservation of which only the first half is there.

use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{ensure, Context, Result};
use std::cell::RefCell;

const REGION: &str = "0x100000000+16M";
const HALF: &str = "0x100000000+8M";
/// What /init is told of the region.
const MEMORY: &str = "0x100000000 0x1000000";

pub fn run(lab: &Lab) -> Result<()> {
    let region = |size| {
        Boot::new("6.12")
            .region(Region::reserved(size))
            .memory(Size::gib(3))
            .argument("memmap=16M!0x13f000000")
            .argument("memmap=32M$0x140000000")
    };
    let boot = region(Size::mib(16));
    let guest = Refusals::new(lab.boot(&boot)?);
    places(&guest)?;
    held_by_a_driver(&guest)?;
    unformatted(&guest)?;
    foreign(&guest)?;
    formatted(&guest)?;
    mounted(&guest)?;
    full(&guest)?;
    from_the_future(&guest)?;

    // Kernels that were booted with a wrong memmap=, or with none.
    guest.run("mkfs.rpramfs -q -f -L kept 0x100000000+16M")?;
    lab.kexec_load(
        &guest.guest,
        &region(Size::mib(8)).memory(Size(3 << 30 | 8 << 20)),
    )?;
    lab.kexec(&guest.guest)?;
    half_of_it(&guest)?;
    lab.kexec_load(&guest.guest, &Boot::new("6.12").memory(Size::gib(3)))?;
    lab.kexec(&guest.guest)?;
    nothing_of_it(&guest)?;
    println!("{} refusals", guest.count.borrow());
    let faults = guest.faults.borrow();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    guest.guest.check()
}

/// No memory that a region could lie in.
fn places(guest: &Refusals) -> Result<()> {
    guest.watch(MEMORY);
    guest.run(format!("/init memory fill 1 {MEMORY}"))?;
    guest.all("0x10000000+64M", &["overlaps System RAM", "memmap="])?;
    guest.all("0x110000000+64M", &["overlaps System RAM", "memmap="])?;
    guest.all("0x10000000000+1G", &["there is no memory at this address"])?;
    // Past the end of a reservation: into System RAM, and into nothing.
    let past = ["overlaps System RAM", "reserves only memmap=16M$4G"];
    guest.all("0x100000000+128M", &past)?;
    guest.all(
        "0x140000000+32M",
        &["no memory", "from 0x141000000 on", "16 MiB"],
    )?;
    // Device registers (the APICs), and the BIOS.
    guest.all("0xfec00000+2M", &["no memory for a region"])?;
    guest.all("0xf0000+64K", &["0xf0000"])?;
    // No ranges at all.
    guest.usage("0x100000800+32M", &["multiples of 4096"])?;
    guest.usage("0x100000000+1000", &["multiples of 4096"])?;
    guest.usage("0x100000000+0", &["size is 0"])?;
    guest.usage("0xfffffffffffff000+64M", &["64-bit"])?;
    guest.usage("/dev/mem", &["which range"])?;
    guest.all("/dev/null", &["no device-dax"])?;
    guest.all("/no/such/file", &["No such file"])?;
    guest.all("label=nowhere", &["no such region"])?;
    for tool in ["mkfs.rpramfs", "mkfs.rpramfs -f"] {
        guest.refuse(
            format!("{tool} 0x100000000+512K"),
            8,
            &["too small", "1 MiB"],
        )?;
    }
    guest.refuse("mkfs.rpramfs", 16, &["required"])?;
    guest.refuse("fsck.rpramfs", 16, &["required"])?;
    guest.refuse("fsck.rpramfs --no-such 4G+64M", 16, &["--no-such"])?;
    guest.refuse("mount.rpramfs", 1, &["SPEC"])?;
    guest.refuse("mount.rpramfs 4G+64M", 1, &["DIR"])?;
    guest.refuse(
        format!("mount.rpramfs {REGION} /mnt -o nonsense"),
        1,
        &["nonsense"],
    )?;
    let words = guest.run(format!("/init memory check 1 {MEMORY}"))?;
    ensure!(words.trim() == "0", "{} words changed", words.trim());
    Ok(())
}

/// A range that became /dev/pmem0, and the device with another filesystem on it, then mounted.
fn held_by_a_driver(guest: &Refusals) -> Result<()> {
    let digest = "dd if=/dev/pmem0 bs=1M 2>/dev/null | md5sum";
    guest.watch_by(digest);
    let range = "0x13f000000+16M";
    guest.all(range, &["claimed by", "namespace0.0", "/dev/pmem"])?;
    guest.run("mkfs.ext4 -q /dev/pmem0")?;
    guest.all(range, &["claimed by", "namespace0.0"])?;
    guest.foreign("/dev/pmem0", "ext4")?;
    guest.run("mount -t ext4 -o ro /dev/pmem0 /mnt")?;
    guest.all("/dev/pmem0", &["mounted"])?;
    guest.run("umount /mnt")?;
    Ok(())
}

fn unformatted(guest: &Refusals) -> Result<()> {
    guest.watch(MEMORY);
    for seed in [1, 2] {
        guest.run(format!("/init memory fill {seed} {MEMORY}"))?;
        guest.unreadable(REGION, &["no RP-RAMFS"])?;
    }
    guest.run(format!(
        "head -c 16777216 /dev/zero | /init memory write {MEMORY}"
    ))?;
    guest.unreadable(REGION, &["no RP-RAMFS"])
}

/// Somebody else's filesystem.
fn foreign(guest: &Refusals) -> Result<()> {
    guest.watch(MEMORY);
    let image = "/tmp/image";
    let put = format!("/init memory write 0x100000000 0x1000000 < {image}");
    guest.run(format!(
        "truncate -s 16M {image} && mkfs.ext4 -q {image} && {put}"
    ))?;
    guest.foreign(REGION, "ext4")?;
    guest.run(format!("truncate -s 0 {image} && truncate -s 16M {image}"))?;
    guest.run(format!("mkswap {image} >/dev/null && {put}"))?;
    guest.foreign(REGION, "swap")?;
    let luks =
        format!("printf 'LUKS\\272\\276\\000\\002' | dd of={image} conv=notrunc 2>/dev/null");
    guest.run(format!("{luks} && {put}"))?;
    guest.foreign(REGION, "LUKS")
}

/// One of ours that nobody uses.
fn formatted(guest: &Refusals) -> Result<()> {
    guest.watch(MEMORY);
    let format = format!("mkfs.rpramfs -q -f -L kept {REGION}");
    guest.run(format!("{format} && {}", fill_files(REGION)))?;
    guest.refuse(
        format!("mkfs.rpramfs {REGION}"),
        8,
        &["RP-RAMFS", "kept", "-f"],
    )?;
    guest.refuse("mkfs.rpramfs LABEL=kept", 8, &["RP-RAMFS", "kept", "-f"])?;
    // Wrong addresses and sizes.
    guest.refuse(
        format!("mkfs.rpramfs {HALF}"),
        8,
        &["RP-RAMFS", "larger than this"],
    )?;
    let smaller = ["too small", "size"];
    guest.refuse(mount(HALF), 32, &smaller)?;
    guest.refuse(format!("fsck.rpramfs -n {HALF}"), 8, &smaller)?;
    guest.refuse(format!("fsck.rpramfs -y {HALF}"), 8, &smaller)?;
    let inside = "0x100800000+4M";
    guest.refuse(
        format!("mkfs.rpramfs {inside}"),
        8,
        &["overlaps", "RP-RAMFS"],
    )?;
    guest.unreadable(inside, &["no RP-RAMFS"])?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    Ok(())
}

fn mounted(guest: &Refusals) -> Result<()> {
    guest.run(mount(REGION))?;
    guest.watch(MEMORY);
    guest.all(REGION, &["in use"])?;
    guest.all("label=kept", &["in use"])?;
    // A part of it, by another name.
    for tool in ["mkfs.rpramfs", "mkfs.rpramfs -f"] {
        guest.refuse(format!("{tool} {HALF}"), 8, &["in use"])?;
        guest.refuse(format!("{tool} 0x100800000+4M"), 8, &["in use"])?;
    }
    guest.refuse(format!("rpramfs tune -L new {REGION}"), 8, &["in use"])?;
    guest.refuse(
        format!("mkdir -p /second; mount -t rpramfs {REGION} /second"),
        32,
        &["in use"],
    )?;
    guest.run("cd /mnt && md5sum -c sums >/dev/null && cd / && umount /mnt")?;
    guest.run(format!("fsck.rpramfs -n {REGION}"))?;
    Ok(())
}

/// No space left is an error like any other.
fn full(guest: &Refusals) -> Result<()> {
    guest.unwatch();
    guest.run(mount(REGION))?;
    let fill = "dd if=/dev/zero of=/mnt/full bs=64K";
    guest.refuse(fill, 1, &["No space left"])?;
    guest.refuse(
        "i=0; while mkdir /mnt/d$i; do i=$((i+1)); done; exit 1",
        1,
        &["No space left"],
    )?;
    guest.refuse("echo more > /mnt/more", 2, &["No space left"])?;
    let free = "df -P -k /mnt | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4";
    let left: u64 = guest.run(free)?.trim().parse()?;
    ensure!(left <= 1024, "{left} KiB free in a full region");
    // Nothing that was there has suffered, and space given back is space again.
    guest.run("cd /mnt && md5sum -c sums >/dev/null")?;
    guest.run("rm -r /mnt/full /mnt/d*; rm -f /mnt/more")?;
    let again: u64 = guest.run(free)?.trim().parse()?;
    ensure!(
        again > 8 << 10,
        "only {again} KiB free after all was removed"
    );
    guest.run("dd if=/dev/zero of=/mnt/again bs=1M count=8 && rm /mnt/again")?;
    guest.run(format!("umount /mnt && fsck.rpramfs -n {REGION}"))?;
    Ok(())
}

/// Superblocks of versions that are not written yet.
fn from_the_future(guest: &Refusals) -> Result<()> {
    // Version (section 5 of docs/LAYOUT.md) and incompatible features.
    for (offset, value, word) in [
        (8, 2, "version"),
        (96, 1 << 1, "0x2"),
        (96, 1 << 63, "newer"),
    ] {
        guest.run(format!("mkfs.rpramfs -q -f -L kept {REGION}"))?;
        for copy in [0x1_0000_0000_u64, 0x1_0100_0000 - 4096] {
            let mut block = guest.read(copy, 256)?;
            block[offset..offset + 4].copy_from_slice(&(value as u32).to_le_bytes());
            if offset == 96 {
                block[offset..offset + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
            block[12..16].fill(0);
            let crc = crc32(&block);
            block[12..16].copy_from_slice(&crc.to_le_bytes());
            guest.write(copy, block)?;
        }
        guest.watch(MEMORY);
        guest.refuse(
            format!("mkfs.rpramfs {REGION}"),
            8,
            &["later version", "-f"],
        )?;
        guest.refuse(mount(REGION), 32, &["newer version", word])?;
        guest.refuse(format!("{} -o ro", mount(REGION)), 32, &["newer version"])?;
        guest.refuse(
            format!("fsck.rpramfs -n {REGION}"),
            8,
            &["newer version", word],
        )?;
        guest.refuse(format!("fsck.rpramfs -y {REGION}"), 8, &["newer version"])?;
        guest.unwatch();
    }
    Ok(())
}

/// The kernel reserves the first half of the region only.
fn half_of_it(guest: &Refusals) -> Result<()> {
    guest.watch("0x100000000 0x800000");
    guest.all(
        REGION,
        &["overlaps System RAM", "reserves only memmap=8M$4G"],
    )?;
    guest.refuse(
        format!("mkfs.rpramfs {HALF}"),
        8,
        &["RP-RAMFS", "larger than this"],
    )?;
    guest.refuse(mount(HALF), 32, &["too small", "size"])?;
    guest.refuse(mount("label=kept"), 32, &["no such region", "memmap="])?;
    guest.refuse(format!("fsck.rpramfs -n {HALF}"), 8, &["too small", "size"])?;
    guest.refuse(format!("fsck.rpramfs -y {HALF}"), 8, &["too small", "size"])
}

/// The kernel reserves nothing: what was the region is its memory.
fn nothing_of_it(guest: &Refusals) -> Result<()> {
    guest.unwatch();
    guest.all(REGION, &["overlaps System RAM", "booted without memmap="])?;
    guest.all("label=kept", &["no such region", "memmap="])
}

fn mount(spec: &str) -> String {
    format!("mount -t rpramfs {spec} /mnt")
}

/// Something to lose.
fn fill_files(spec: &str) -> String {
    let mount = mount(spec);
    format!(
        "{mount} && cd /mnt && for i in 1 2 3 4; do head -c 1000000 /dev/urandom > f$i; done && \
         md5sum f* > sums && cd / && umount /mnt"
    )
}

/// A guest in which commands are refused.
struct Refusals {
    guest: Guest,
    /// Prints a digest of what must not be written to.
    watched: RefCell<Option<String>>,
    /// What it said since anything but a refusal was run.
    digest: RefCell<Option<String>>,
    count: RefCell<u32>,
    faults: RefCell<Vec<String>>,
}

impl Refusals {
    fn new(guest: Guest) -> Refusals {
        Refusals {
            guest,
            watched: RefCell::default(),
            digest: RefCell::default(),
            count: RefCell::default(),
            faults: RefCell::default(),
        }
    }

    fn run(&self, script: impl Into<String>) -> Result<String> {
        self.digest.take();
        self.guest.run(script)
    }

    fn watch(&self, memory: &str) {
        self.watch_by(&format!("/init memory digest {memory}"));
    }

    fn watch_by(&self, script: &str) {
        self.digest.take();
        self.watched.replace(Some(script.to_owned()));
    }

    fn unwatch(&self) {
        self.digest.take();
        self.watched.take();
    }

    /// A command that is refused with this exit status and these words. What is wrong is told at
    /// the end.
    fn refuse(&self, command: impl Into<String>, status: i32, words: &[&str]) -> Result<()> {
        let command = command.into();
        let digest = self.watched.borrow().clone().unwrap_or("true".to_owned());
        let before = match self.digest.take() {
            Some(digest) => digest,
            None => self.guest.run(&digest)?,
        };
        let script = format!("({command}) >/tmp/said 2>&1; echo $?; cat /tmp/said >&2; {digest}");
        let output = self.guest.command(script).succeed()?;
        let (said, told) = (output.stderr(), output.stdout());
        let (code, after) = told.split_once('\n').context("no exit status")?;
        let mut faults = Vec::new();
        if code != status.to_string() {
            faults.push(format!("exit status {code}, not {status}"));
        }
        let missing = words.iter().filter(|word| !said.contains(**word));
        faults.extend(missing.map(|word| format!("not a word of `{word}`")));
        if after != before {
            faults.push("it wrote".to_owned());
        }
        if !faults.is_empty() {
            let faults = faults.join(", ");
            println!("`{command}`: {faults}:\n{said}");
            self.faults
                .borrow_mut()
                .push(format!("`{command}`: {faults}"));
        }
        self.digest.replace(Some(after.to_owned()));
        *self.count.borrow_mut() += 1;
        Ok(())
    }

    /// Refused by all tools, whatever they are asked to do.
    fn all(&self, spec: &str, words: &[&str]) -> Result<()> {
        self.refuse(format!("mkfs.rpramfs '{spec}'"), 8, words)?;
        self.refuse(format!("mkfs.rpramfs -f '{spec}'"), 8, words)?;
        self.refuse(mount(&format!("'{spec}'")), 32, words)?;
        self.refuse(format!("fsck.rpramfs -n '{spec}'"), 8, words)?;
        self.refuse(format!("fsck.rpramfs -y '{spec}'"), 8, words)
    }

    /// The same for what cannot even be tried.
    fn usage(&self, spec: &str, words: &[&str]) -> Result<()> {
        self.refuse(format!("mkfs.rpramfs -f '{spec}'"), 16, words)?;
        self.refuse(mount(&format!("'{spec}'")), 1, words)?;
        self.refuse(format!("fsck.rpramfs -y '{spec}'"), 16, words)
    }

    /// Refused by all that need an RP-RAMFS.
    fn unreadable(&self, spec: &str, words: &[&str]) -> Result<()> {
        self.refuse(mount(spec), 32, words)?;
        self.refuse(format!("{} -o ro", mount(spec)), 32, words)?;
        self.refuse(format!("fsck.rpramfs -n {spec}"), 8, words)?;
        self.refuse(format!("fsck.rpramfs -y {spec}"), 8, words)?;
        self.refuse(format!("rpramfs stat {spec}"), 8, words)
    }

    fn foreign(&self, spec: &str, name: &str) -> Result<()> {
        self.refuse(format!("mkfs.rpramfs {spec}"), 8, &[name, "-f"])?;
        self.unreadable(spec, &["no RP-RAMFS", name])
    }

    fn read(&self, address: u64, size: usize) -> Result<Vec<u8>> {
        let script = format!("/init memory read {address:#x} {size}");
        let bytes = self.guest.command(script).succeed()?.stdout;
        ensure!(bytes.len() == size, "{} bytes of {size}", bytes.len());
        Ok(bytes)
    }

    fn write(&self, address: u64, bytes: Vec<u8>) -> Result<()> {
        let script = format!("/init memory write {address:#x} {}", bytes.len());
        self.digest.take();
        let command = self.guest.command(script).stdin(bytes);
        command.run().map(drop).context("poking")
    }
}

/// IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ ((crc & 1) * 0xedb8_8320)
        })
    })
}
