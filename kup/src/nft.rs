// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! nft(8): told once, or started before it is needed and told when it is. To load it takes longer than what it does.

use anyhow::{ensure, Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// To start a program, on a busy machine.
const START: Duration = Duration::from_secs(20);
const MISSING: &str = "cannot run nft: is nftables installed?";

/// Tells it all at once.
///
/// # Errors
/// It is not there, or does not take it.
pub fn tell(rules: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().context(MISSING)?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    stdin.write_all(rules.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}

/// What it answers to a command, such as `list tables`.
///
/// # Errors
/// It is not there, or does not know.
pub fn ask(command: &str) -> Result<String> {
    let output = Command::new("nft").arg(command).output().context(MISSING)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "nft {command}: {}",
        said.trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One that waits for what it is told of a table. It ends when we do.
pub struct Nft {
    process: Child,
    /// With its family.
    table: String,
    /// What it says. It would end if nobody could hear that.
    output: BufReader<UnixStream>,
}

impl Drop for Nft {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Nor does it wait for somebody who hears what it has left to say.
        let _ = self.output.get_ref().shutdown(Shutdown::Both);
        let _ = self.process.wait();
    }
}

impl Nft {
    /// Does not wait until it is loaded.
    ///
    /// # Errors
    /// It is not there.
    pub fn start(table: &str) -> Result<Nft> {
        let (output, theirs) = UnixStream::pair()?;
        output.set_read_timeout(Some(START))?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new("nft");
        command.arg("--interactive").stdin(Stdio::piped());
        command.stdout(theirs.try_clone()?).stderr(theirs);
        // It keeps a history of what it was told; not of this. And a Ctrl-C is not for it.
        command.env("HOME", "/dev/null").process_group(0);
        Ok(Nft {
            process: command.spawn().context(MISSING)?,
            table: table.to_owned(),
            output: BufReader::new(output),
        })
    }

    /// Has it not ended?
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// One line, as it takes them from its user, which is one transaction. Waits until that is done, and the table is
    /// there.
    ///
    /// # Errors
    /// It does not take it.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let table = format!("table {}", self.table);
        self.say(&format!("{line}\nlist {table}\n"))?;
        // Some say first what they were told. The list ends with a brace at the begin of a line.
        let mut is_listed = false;
        loop {
            let said = self.hear()?.context("nft has ended")?;
            is_listed |= said.starts_with(&table);
            if is_listed && said.starts_with('}') {
                return Ok(());
            }
        }
    }

    /// One line more, behind which it ends.
    ///
    /// # Errors
    /// It does not take it.
    pub fn end(mut self, line: &str) -> Result<()> {
        self.say(&format!("{line}\n"))?;
        drop(self.process.stdin.take());
        while self.hear()?.is_some() {}
        let status = self.process.wait().context("nft")?;
        ensure!(status.success(), "nft: {status}");
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("no pipe")?;
        stdin.write_all(text.as_bytes()).context("nft")
    }

    /// A line, if there is one more.
    fn hear(&mut self) -> Result<Option<String>> {
        let mut said = String::new();
        let bytes = self.output.read_line(&mut said).context("nft")?;
        // Or "netlink: Error: ".
        ensure!(!said.contains("Error: "), "nft: {}", said.trim_end());
        Ok((bytes > 0).then_some(said))
    }
}
