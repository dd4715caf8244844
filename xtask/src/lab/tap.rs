// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A tap device: QEMU's own user network ends TCP connections itself, so that it cannot show
//! whether one lived on. Made by root, the device goes away with the process.

use crate::host;
use crate::setup::privileged;
use anyhow::{bail, Context, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

pub struct Tap {
    file: File,
    number: u8,
}

impl Tap {
    /// Takes the first number that no other guest has.
    pub fn create() -> Result<Tap> {
        let path = "/dev/net/tun";
        if host::is_root() && !Path::new(path).exists() {
            // Containers often come without the node.
            std::fs::create_dir_all("/dev/net")?;
            host::quiet(&mut host::command("mknod", [path, "c", "10", "200"]))?;
        }
        for number in 0..250 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .context(path)?;
            let tap = Tap { file, number };
            let mut result = tap.attach();
            if matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EPERM)) {
                tap.make_for_user()?;
                result = tap.attach();
            }
            match result {
                Ok(()) => {
                    if host::is_root() {
                        tap.configure()?;
                    }
                    return Ok(tap);
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error).context("cannot make a tap device"),
            }
        }
        bail!("250 tap devices are in use already")
    }

    pub fn name(&self) -> String {
        format!("rpramfs{}", self.number)
    }

    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, 1)
    }

    pub fn guest(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, 2)
    }

    pub fn mac(&self) -> String {
        format!("52:54:00:d5:00:{:02x}", self.number)
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn attach(&self) -> io::Result<()> {
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name().bytes()) {
            *to = from as libc::c_char;
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF takes a pointer to an ifreq.
        let result = unsafe { libc::ioctl(self.fd(), libc::TUNSETIFF as _, &mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// For whoever is not root: a device that stays, and belongs to them.
    fn make_for_user(&self) -> Result<()> {
        let (name, address) = (self.name(), format!("{}/30", self.host()));
        // SAFETY: a system call without arguments.
        let user = unsafe { libc::getuid() }.to_string();
        println!("lab: {name}, a tap device of your own, stays until `ip link del {name}`");
        privileged(
            "ip",
            &["tuntap", "add", "dev", &name, "mode", "tap", "user", &user],
            None,
        )?;
        privileged("ip", &["addr", "add", &address, "dev", &name], None)?;
        privileged("ip", &["link", "set", &name, "up"], None)
    }

    fn configure(&self) -> Result<()> {
        let name = self.name();
        // Only noise here.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let address = format!("{}/30", self.host());
        host::quiet(&mut host::command(
            "ip",
            ["addr", "add", &address, "dev", &name],
        ))?;
        host::quiet(&mut host::command("ip", ["link", "set", &name, "up"])).map(drop)
    }
}
