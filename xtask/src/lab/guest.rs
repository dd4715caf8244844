// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A running guest.

use super::agent::{Agent, Event};
use super::console::Console;
use super::ledger::Ledger;
use super::tap::Tap;
use anyhow::{bail, ensure, Context, Result};
use lab_agent::{Exit, Hello, Run};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The time a command has if nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60);
/// An agent that says nothing for so long is in a guest that hangs.
const SILENCE: Duration = Duration::from_secs(30);

pub struct Guest {
    pub(super) qemu: Mutex<Child>,
    pub(super) agent: Agent,
    pub(super) console: Console,
    pub(super) tap: Option<Tap>,
    pub(super) ledger: Option<Ledger>,
    /// The kernel that is loaded in it is the one in its initrd.
    pub(super) carries: bool,
    /// All time limits are so many times longer.
    pub(super) slow: u32,
}

/// A kernel that ran into its own breakpoint while it patched its text: about one boot in some hundreds under
/// QEMU's emulation with two CPUs, whatever the kernel. It says nothing about who was to be tested.
#[derive(Debug)]
pub struct EmulatorFault;

impl std::fmt::Display for EmulatorFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the emulator let the kernel trip over the patching of its own text (int3)")
    }
}

impl EmulatorFault {
    /// Runs something that boots guests, and once more where this is what ended it.
    pub fn outlived<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
        match run() {
            Err(e) if e.downcast_ref::<EmulatorFault>().is_some() => {
                println!("lab: {e}; once more");
                run()
            }
            other => other,
        }
    }
}

/// A command that runs on its own.
pub struct Background {
    script: String,
    events: Receiver<Event>,
    said: Vec<u8>,
}

impl Background {
    /// Fails if the command has ended.
    pub fn check(&mut self) -> Result<()> {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Stdout(bytes) | Event::Stderr(bytes) => self.said.extend(bytes),
                Event::Exit(exit) => {
                    let said = String::from_utf8_lossy(&self.said);
                    bail!("`{}`: {exit:?}\n{said}", self.script);
                }
            }
        }
        Ok(())
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn success(&self) -> bool {
        self.exit.code == Some(0)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// How long the command ran, by the guest's clock.
    pub fn seconds(&self) -> f64 {
        self.exit.seconds
    }

    fn ending(&self) -> String {
        match &self.exit {
            Exit {
                error: Some(error), ..
            } => error.clone(),
            Exit {
                timed_out: true, ..
            } => "was killed at its time limit".to_owned(),
            Exit {
                code: Some(code), ..
            } => format!("exit status {code}"),
            Exit {
                signal: Some(signal),
                ..
            } => format!("signal {signal}"),
            _ => "ended in an unknown way".to_owned(),
        }
    }
}

/// A command for the guest's shell, not started yet.
pub struct Command<'a> {
    guest: &'a Guest,
    script: String,
    timeout: Duration,
    stdin: Vec<u8>,
}

impl Command<'_> {
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds) * self.guest.slow;
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs it to its end, whatever that is. An error means that the guest is not well.
    pub fn output(self) -> Result<Output> {
        let run = Run {
            argv: vec!["/bin/sh".into(), "-c".into(), self.script.clone()],
            env: Vec::new(),
            timeout_ms: self.timeout.as_millis() as u64,
        };
        let (id, events) = self.guest.agent.start(&run)?;
        self.guest.agent.stdin(id, &self.stdin)?;
        self.guest
            .collect(&events, self.timeout)
            .with_context(|| format!("`{}`", self.script))
    }

    /// Runs it and takes anything but success for an error.
    pub fn run(self) -> Result<String> {
        Ok(self.succeed()?.stdout())
    }

    /// The same, with all that is known of it.
    pub fn succeed(self) -> Result<Output> {
        let script = self.script.clone();
        let console = self.guest.console.path().to_owned();
        let output = self.output()?;
        ensure!(
            output.success(),
            "`{script}`: {}\n{}{}(console: {})",
            output.ending(),
            output.stdout(),
            output.stderr(),
            console.display()
        );
        Ok(output)
    }
}

impl Guest {
    /// A command, to be given options before it runs.
    pub fn command(&self, script: impl Into<String>) -> Command<'_> {
        Command {
            guest: self,
            script: script.into(),
            timeout: PATIENCE * self.slow,
            stdin: Vec::new(),
        }
    }

    /// Runs a shell command that has to succeed; returns what it wrote to its standard output.
    pub fn run(&self, script: impl Into<String>) -> Result<String> {
        self.command(script).run()
    }

    /// Starts a command that is to run until the guest leaves its kernel.
    pub fn background(&self, script: &str) -> Result<Background> {
        let run = Run {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            ..Run::default()
        };
        let (_, events) = self.agent.start(&run)?;
        Ok(Background {
            script: script.to_owned(),
            events,
            said: Vec::new(),
        })
    }

    /// The words of the memory that is shared with the guest.
    pub fn ledger(&self) -> Result<Vec<u64>> {
        let ledger = self.ledger.as_ref().context("this guest has no ledger")?;
        ledger.words()
    }

    /// Puts bytes into a file of the guest.
    pub fn push(&self, path: &str, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let script = format!("mkdir -p $(dirname {path}) && cat > {path}");
        self.command(script)
            .stdin(bytes)
            .timeout(180)
            .run()
            .map(drop)
    }

    /// Puts a file of the host into the guest.
    pub fn push_file(&self, path: &str, from: &Path) -> Result<()> {
        self.push(
            path,
            std::fs::read(from).with_context(|| format!("{}", from.display()))?,
        )
    }

    /// What the kernel that runs now said of itself.
    pub fn hello(&self) -> Hello {
        self.agent.hellos().1.expect("the guest has booted")
    }

    pub fn release(&self) -> String {
        self.hello().release
    }

    /// The process that runs the guest.
    pub fn process(&self) -> u32 {
        self.qemu.lock().unwrap().id()
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The guest's address on the tap device.
    pub fn address(&self) -> Result<Ipv4Addr> {
        Ok(self
            .tap
            .as_ref()
            .context("this guest has no network")?
            .guest())
    }

    /// Gives the interface its address and brings it up. Not done at boot, so that a scenario can
    /// place packet filters first.
    pub fn network_up(&self) -> Result<()> {
        let address = self.address()?;
        self.run(format!(
            "for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done
             ip addr add {address}/30 dev eth0 && ip link set eth0 up"
        ))
        .map(drop)
    }

    /// Programs that start from now on have PIDs that a kernel which has just begun has given to nobody.
    pub fn high_pids(&self) -> Result<()> {
        let set = "echo 20000 > /proc/sys/kernel/ns_last_pid";
        self.run(set).map(drop)
    }

    /// Waits for the next kernel to say hello after `before` of them did.
    pub(super) fn wait_hello(&self, before: usize, limit: Duration) -> Result<Hello> {
        let deadline = Instant::now() + limit;
        loop {
            match self.agent.hellos() {
                (count, Some(hello)) if count > before => return Ok(hello),
                _ => {}
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "no sign of init after {} s{}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn hello_count(&self) -> usize {
        self.agent.hellos().0
    }

    /// Leaves this kernel for another one by a command; returns what the new one says, and what the command
    /// said.
    pub(super) fn leave(&self, script: &str, limit: Duration) -> Result<(Hello, String)> {
        let before = self.hello_count();
        let run = Run {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            ..Run::default()
        };
        let (_, events) = self.agent.start(&run)?;
        let mut said = Vec::new();
        let deadline = Instant::now() + limit;
        while self.hello_count() == before {
            match events.recv_timeout(Duration::from_millis(5)) {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => said.extend(bytes),
                Ok(Event::Exit(exit)) if exit.code != Some(0) => {
                    bail!("`{script}`: {exit:?}\n{}", String::from_utf8_lossy(&said));
                }
                Ok(Event::Exit(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(2)),
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "no new kernel after {} s{}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
        }
        let hello = self.wait_hello(before, limit)?;
        Ok((hello, String::from_utf8_lossy(&said).into_owned()))
    }

    fn collect(&self, events: &Receiver<Event>, timeout: Duration) -> Result<Output> {
        let mut output = Output {
            exit: Exit::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        // The agent ends the command at its limit; if we hear nothing even then, it is the guest.
        let silence = SILENCE * self.slow;
        let deadline = Instant::now() + timeout + silence;
        let (mut pongs, mut asked) = (self.agent.pongs(), None::<Instant>);
        let mut heard = Instant::now();
        loop {
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(event) => {
                    heard = Instant::now();
                    match event {
                        Event::Stdout(bytes) => output.stdout.extend(bytes),
                        Event::Stderr(bytes) => output.stderr.extend(bytes),
                        Event::Exit(exit) => {
                            output.exit = exit;
                            return Ok(output);
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Why is on the console in a moment, if it is a panic.
                    std::thread::sleep(Duration::from_millis(300));
                    self.check()?;
                    bail!(
                        "the guest started anew while the command ran{}",
                        self.last_words()
                    );
                }
            }
            self.check()?;
            if self.agent.pongs() != pongs {
                (pongs, asked, heard) = (self.agent.pongs(), None, Instant::now());
            }
            let quiet = heard.elapsed();
            if quiet > silence || Instant::now() > deadline {
                bail!(
                    "the guest hangs: no answer for {} s{}",
                    quiet.as_secs(),
                    self.last_words()
                );
            }
            if quiet > Duration::from_secs(2) && asked.is_none() {
                asked = Some(Instant::now());
                self.agent.ping()?;
            }
        }
    }

    /// Fails if the kernel gave up or QEMU has ended.
    pub fn check(&self) -> Result<()> {
        self.look()
            .map_err(|e| match self.console.text().contains("Oops: int3") {
                true => e.context(EmulatorFault),
                false => e,
            })
    }

    fn look(&self) -> Result<()> {
        if let Some(line) = self.console.fatal() {
            // Let it say the rest.
            std::thread::sleep(Duration::from_millis(1000));
            bail!("the guest's kernel gave up: {line}{}", self.last_words());
        }
        let status = self.qemu.lock().unwrap().try_wait()?;
        if let Some(status) = status {
            if let Some(line) = self.console.fatal() {
                bail!("the guest's kernel gave up: {line}{}", self.last_words());
            }
            let log = self.console.path().with_file_name("qemu.log");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            bail!("QEMU has ended ({status})\n{log}{}", self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let (path, tail) = (self.console.path().display(), self.console.tail(15));
        format!("\n--- end of {path}:\n{tail}\n---")
    }

    /// Makes the kernel panic; returns what the crash kernel that is loaded says. Without one the
    /// guest ends, which is an error.
    pub fn panic(&self) -> Result<Hello> {
        let (hello, _) = self.leave("echo c > /proc/sysrq-trigger", Duration::from_secs(120))?;
        Ok(hello)
    }

    /// Stops the whole machine, as if it hung.
    pub fn freeze(&self) {
        // SAFETY: a signal to our own child.
        unsafe {
            libc::kill(self.qemu.lock().unwrap().id() as i32, libc::SIGSTOP);
        }
    }

    /// Waits until a person has left the guest's shell. `set_up` is called for every kernel that
    /// they boot, before it gives them a prompt.
    pub fn shell(&self, set_up: impl Fn(&Guest) -> Result<()>) -> Result<()> {
        let mut boots = 0;
        loop {
            // After a kexec QEMU does not always notice that the machine was switched off.
            let off = self.console.text().contains("reboot: Power down");
            if off || self.qemu.lock().unwrap().try_wait()?.is_some() {
                return Ok(());
            }
            if self.hello_count() > boots {
                boots = self.hello_count();
                set_up(self)?;
                self.run("touch /run/lab-shell")?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut qemu = self
            .qemu
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let _ = qemu.kill();
        let _ = qemu.wait();
    }
}
