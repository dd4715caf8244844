// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Boots guests and carries them over to other kernels.

use super::accel::{self, Accel};
use super::agent::Agent;
use super::cache::Cache;
use super::console::Console;
use super::guest::{EmulatorFault, Guest};
use super::initrd::{self, Contents};
use super::kernel::{Kernel, Kernels};
use super::ledger::Ledger;
use super::qemu::{self, Machine};
use super::region::{Region, Size};
use super::root_disk;
use super::tap::Tap;
use super::tools::Tools;
use crate::host;
use anyhow::{Context, Result};
use lab_agent::Hello;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// From the machine's start to init; slow hosts under TCG need some of it.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Where a guest has the kernel that it carries.
const CARRIED: &str = "next";

/// Where a guest without a root disk finds its empty one.
pub const BLANK: &str = "/dev/vda";

/// What kind of guest a scenario wants.
#[derive(Clone, Debug)]
pub struct Boot {
    kernel: String,
    region: Option<Region>,
    memory: Size,
    cpus: u32,
    disk: Option<Size>,
    network: bool,
    terminal: bool,
    ledger: bool,
    resets: bool,
    carries: bool,
    slow: u32,
    arguments: Vec<String>,
    contents: Contents,
}

impl Boot {
    /// A guest with this kernel (`6.12`, `7.x`, …; see `Kernels::get`), two CPUs, 2 GiB of memory,
    /// the tools of RP-RAMFS and no region.
    pub fn new(kernel: &str) -> Boot {
        Boot {
            kernel: kernel.to_owned(),
            region: None,
            memory: Size::gib(2),
            cpus: 2,
            disk: None,
            network: false,
            terminal: false,
            ledger: false,
            resets: false,
            carries: false,
            slow: 1,
            arguments: Vec::new(),
            contents: Contents {
                tools: true,
                ..Contents::default()
            },
        }
    }

    /// The same with another kernel.
    pub fn with_kernel(&self, kernel: &str) -> Boot {
        Boot {
            kernel: kernel.to_owned(),
            ..self.clone()
        }
    }

    pub fn region(mut self, region: Region) -> Boot {
        self.region = Some(region);
        self
    }

    /// Memory besides the region.
    pub fn memory(mut self, memory: Size) -> Boot {
        self.memory = memory;
        self
    }

    pub fn cpus(mut self, cpus: u32) -> Boot {
        self.cpus = cpus;
        self
    }

    /// With an empty disk, which ends with the guest; see [`BLANK`].
    pub fn disk(mut self, size: Size) -> Boot {
        self.disk = Some(size);
        self
    }

    /// With a tap device; see `Guest::network_up`.
    pub fn network(mut self) -> Boot {
        self.network = true;
        self
    }

    /// With a shell on the person's terminal.
    pub fn terminal(mut self) -> Boot {
        self.terminal = true;
        self
    }

    /// With memory that host and guest share; see `Guest::ledger`.
    pub fn ledger(mut self) -> Boot {
        self.ledger = true;
        self
    }

    /// A reset, or a panic without a crash kernel, starts this kernel again, with what is in memory.
    pub fn resets(mut self) -> Boot {
        self.resets = true;
        self
    }

    /// Only what it takes to mount and to load another kernel: such a guest boots in half the time.
    pub fn small(mut self) -> Boot {
        self.contents.small = true;
        self
    }

    /// A kernel that takes so many times longer for everything: time limits grow with it.
    pub fn slow(mut self, times: u32) -> Boot {
        self.slow = times;
        self
    }

    /// A guest as operators have it: Debian on a root disk, with systemd, services from ordinary packages, and
    /// 3 GiB of memory. The disk lives as long as the guest, over every kexec and reset.
    pub fn root_disk(mut self) -> Boot {
        self.contents.root_disk = true;
        self.memory = Size::gib(3);
        // There is much more to start.
        self.slow = self.slow.max(2);
        self
    }

    /// Another word on the kernel's command line.
    pub fn argument(mut self, word: &str) -> Boot {
        self.arguments.push(word.to_owned());
        self
    }

    /// Without mkfs.rpramfs and the others.
    pub fn without_tools(mut self) -> Boot {
        self.contents.tools = false;
        self
    }

    /// Another kernel module.
    pub fn module(mut self, name: &str) -> Boot {
        self.contents.modules.push(name.to_owned());
        self
    }

    /// A kernel module of our own, where modprobe finds it. The guest has to have a root disk.
    pub fn external_module(mut self, from: &Path) -> Boot {
        self.contents.external_modules.push(from.to_owned());
        self
    }

    /// Another program, from a package of Debian forky.
    pub fn program(mut self, package: &str, program: &str) -> Boot {
        self.contents.extra.packages.push(package.to_owned());
        self.contents.extra.programs.push(program.to_owned());
        self
    }

    /// A file of the host's in the guest.
    pub fn file(mut self, place: &str, from: &Path) -> Boot {
        self.contents
            .files
            .push((place.to_owned(), from.to_owned()));
        self
    }

    fn command_line(&self) -> String {
        let mut words = vec![
            "console=ttyS0",
            "panic=-1",
            "oops=panic",
            "random.trust_cpu=on",
            // On a busy host an emulated timer can be late enough for a kernel to give up on it at boot.
            "no_timer_check",
        ];
        if self.terminal {
            words.push(lab_agent::SHELL_ARGUMENT);
        }
        let root = format!("{}={}", lab_agent::ROOT_ARGUMENT, root_disk::DEVICE);
        if self.contents.root_disk {
            words.push(&root);
            words.extend(root_disk::ARGUMENTS);
        }
        let region = self.region.map(|region| region.argument());
        words.extend(region.as_deref());
        words.extend(self.arguments.iter().map(String::as_str));
        words.join(" ")
    }
}

pub struct Lab {
    cache: Cache,
    kernels: OnceCell<Kernels>,
    tools: Tools,
    /// Kernels and initrds by what was asked for.
    prepared: RefCell<HashMap<String, (Kernel, PathBuf)>>,
    /// Images by the packages that were asked for.
    root_disks: RefCell<HashMap<Vec<String>, PathBuf>>,
    accel: OnceCell<Accel>,
    /// Of the scenario that runs; its logs are kept under this name.
    name: String,
    guests: Mutex<u32>,
}

impl Lab {
    pub fn open(name: &str) -> Result<Lab> {
        crate::setup::lab()?;
        let cache = Cache::open()?;
        cache.sweep()?;
        Ok(Lab {
            cache,
            kernels: OnceCell::new(),
            tools: Tools::default(),
            prepared: RefCell::default(),
            root_disks: RefCell::default(),
            accel: OnceCell::new(),
            name: name.to_owned(),
            guests: Mutex::new(0),
        })
    }

    /// Where logs and results of this scenario are kept.
    pub fn dir(&self) -> PathBuf {
        host::target().join("vm").join(&self.name)
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn kernels(&self) -> Result<&Kernels> {
        if self.kernels.get().is_none() {
            let kernels = Kernels::find(&self.cache)?;
            let _ = self.kernels.set(kernels);
        }
        Ok(self.kernels.get().expect("set just now"))
    }

    /// Downloads and packs what a guest needs, so that no clock runs over it.
    pub fn prepare(&self, boot: &Boot) -> Result<(Kernel, PathBuf)> {
        let mut key = format!("{} {:?}", boot.kernel, boot.contents);
        let own = boot.contents.files.iter().map(|(_, file)| file);
        for file in own.chain(&boot.contents.external_modules) {
            let meta = fs::metadata(file).with_context(|| format!("{}", file.display()))?;
            key.push_str(&format!(" {:?} {}", meta.modified()?, meta.len()));
        }
        // Asking apt for it again and again takes longer than a boot.
        if let Some(known) = self.prepared.borrow().get(&key) {
            if known.1.exists() {
                return Ok(known.clone());
            }
        }
        let kernel = self.kernels()?.get(&boot.kernel)?;
        let initrd = initrd::make(&self.cache, &kernel, &self.tools, &boot.contents)?;
        self.root_disk(boot)?;
        let known = (kernel, initrd);
        self.prepared.borrow_mut().insert(key, known.clone());
        Ok(known)
    }

    fn root_disk(&self, boot: &Boot) -> Result<Option<PathBuf>> {
        if !boot.contents.root_disk {
            return Ok(None);
        }
        let packages = &boot.contents.extra.packages;
        if let Some(known) = self.root_disks.borrow().get(packages) {
            if known.exists() {
                return Ok(Some(known.clone()));
            }
        }
        let image = root_disk::image(&self.cache, packages)?;
        let mut known = self.root_disks.borrow_mut();
        known.insert(packages.clone(), image.clone());
        Ok(Some(image))
    }

    /// KVM or TCG.
    pub fn accel(&self) -> Result<Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let probe = Boot::new("6.12").without_tools();
        let (kernel, initrd) = self.prepare(&probe)?;
        let accel = accel::choose(&self.cache, &kernel.image, &initrd)?;
        Ok(*self.accel.get_or_init(|| accel))
    }

    /// Boots a guest and waits for its init.
    pub fn boot(&self, boot: &Boot) -> Result<Guest> {
        EmulatorFault::outlived(|| self.boot_once(boot))
    }

    fn boot_once(&self, boot: &Boot) -> Result<Guest> {
        let (kernel, initrd) = self.prepare(boot)?;
        let accel = self.accel()?;
        let root_disk = self.root_disk(boot)?;
        let dir = self.dir();
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        let console = dir.join(self.console_name());
        let _ = fs::remove_file(&console);
        let tap = boot.network.then(Tap::create).transpose()?;
        let ledger = match boot.ledger {
            true => Some(Ledger::new(&console.with_extension("ledger"))?),
            false => None,
        };
        let machine = Machine {
            accel,
            kernel: &kernel.image,
            initrd: &initrd,
            append: &boot.command_line(),
            cpus: boot.cpus,
            memory: boot.memory,
            region: boot.region.map(|region| region.size),
            console: &console,
            root_disk: root_disk.as_deref(),
            disk: boot.disk,
            tap: tap.as_ref(),
            ledger: ledger.as_ref().map(Ledger::path),
            resets: boot.resets,
            terminal: boot.terminal,
        };
        let (qemu, line) = qemu::start(&machine)?;
        let guest = Guest {
            qemu: Mutex::new(qemu),
            agent: Agent::new(line)?,
            console: Console::new(&console),
            tap,
            ledger,
            carries: boot.carries,
            slow: boot.slow,
        };
        guest.wait_hello(0, BOOT_LIMIT * boot.slow)?;
        Ok(guest)
    }

    /// `console.log`, and `console-2.log` for a second guest of the same scenario.
    fn console_name(&self) -> String {
        let mut guests = self.guests.lock().unwrap();
        *guests += 1;
        match *guests {
            1 => "console.log".to_owned(),
            n => format!("console-{n}.log"),
        }
    }

    /// Loads the next kernel in the guest, always by kexec_file_load: the older system call places
    /// its segments by the firmware's map and would write over the region.
    pub fn kexec_load(&self, guest: &Guest, next: &Boot) -> Result<()> {
        self.load(guest, next, "-l")
    }

    /// Loads the kernel that is to be started by a panic. The guest needs `crashkernel=`.
    pub fn crash_load(&self, guest: &Guest, next: &Boot) -> Result<()> {
        self.load(guest, next, "-p")
    }

    /// The same guest with the kernel that is going to be loaded in its initrd: for those who do it often,
    /// as the line to the agent is slow.
    pub fn carrying(&self, boot: Boot, next: &Boot) -> Result<Boot> {
        let (kernel, initrd) = self.prepare(next)?;
        let boot = boot.file(&format!("{CARRIED}/vmlinuz"), &kernel.image);
        Ok(Boot {
            carries: true,
            ..boot.file(&format!("{CARRIED}/initrd"), &initrd)
        })
    }

    /// Starts the kernel that is loaded. Returns what its init says and the seconds it took.
    pub fn kexec(&self, guest: &Guest) -> Result<(Hello, f64)> {
        let (hello, _, seconds) = self.leave_by(guest, "exec kexec -e")?;
        Ok((hello, seconds))
    }

    /// Runs a command that ends in another kernel, such as `systemctl kexec` or `kup update`. Returns what
    /// the new kernel's init says, what the command said, and the seconds between them.
    pub fn leave_by(&self, guest: &Guest, command: &str) -> Result<(Hello, String, f64)> {
        let start = Instant::now();
        let (hello, said) = guest.leave(command, BOOT_LIMIT * guest.slow)?;
        Ok((hello, said, start.elapsed().as_secs_f64()))
    }

    /// Resets the machine as `reboot -ff` does: without stopping anything first. The guest has to be
    /// one that `resets`.
    pub fn reset(&self, guest: &Guest) -> Result<Hello> {
        let (hello, _) = guest.leave("exec reboot -ff", BOOT_LIMIT * guest.slow)?;
        Ok(hello)
    }

    /// Brings the next kernel, its initrd and its command line into the guest: `vmlinuz`, `initrd` and
    /// `cmdline` in the directory that is returned.
    pub fn bring(&self, guest: &Guest, next: &Boot) -> Result<&'static str> {
        let dir = if guest.carries { CARRIED } else { "tmp/next" };
        if !guest.carries {
            let (kernel, initrd) = self.prepare(next)?;
            guest.push_file(&format!("/{dir}/vmlinuz"), &kernel.image)?;
            guest.push_file(&format!("/{dir}/initrd"), &initrd)?;
        }
        guest.push(&format!("/{dir}/cmdline"), next.command_line())?;
        Ok(dir)
    }

    fn load(&self, guest: &Guest, next: &Boot, how: &str) -> Result<()> {
        let dir = self.bring(guest, next)?;
        let load = format!(
            "cd /{dir} && \
             kexec -s {how} vmlinuz --initrd=initrd --command-line=\"$(cat cmdline)\" && \
             rm -r /{dir}"
        );
        guest.command(load).timeout(120).run().map(drop)
    }
}
