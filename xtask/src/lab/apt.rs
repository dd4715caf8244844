// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Debian packages without touching the system's apt: a private configuration in the cache, so
//! that apt itself checks the archive's signatures and every file's hash. Needs no root.

use super::cache::{touch, Cache};
use crate::host;
use anyhow::{ensure, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

pub const MIRROR: &str = "http://deb.debian.org/debian";
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// An index younger than this is taken as it is.
const FRESH: Duration = Duration::from_secs(20 * 3600);

pub struct Apt {
    dir: PathBuf,
    cache: Cache,
    name: String,
}

impl Apt {
    /// A view of the archive that knows these suites only.
    pub fn open(cache: &Cache, name: &str, suites: &[&str]) -> Result<Apt> {
        Apt::open_kind(cache, name, suites, "deb")
    }

    /// The same of their sources.
    pub fn open_sources(cache: &Cache, name: &str, suites: &[&str]) -> Result<Apt> {
        Apt::open_kind(cache, name, suites, "deb-src")
    }

    fn open_kind(cache: &Cache, name: &str, suites: &[&str], kind: &str) -> Result<Apt> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install debian-archive-keyring"
        );
        let dir = cache.dir().join("apt").join(name);
        let apt = Apt {
            dir,
            cache: cache.clone(),
            name: name.to_owned(),
        };
        let _lock = apt.lock()?;
        for sub in [
            "etc/preferences.d",
            "etc/trusted.d",
            "lists/partial",
            "archives/partial",
        ] {
            fs::create_dir_all(apt.dir.join(sub))?;
        }
        let at = apt.dir.display();
        let sources: String = suites
            .iter()
            .map(|suite| format!("{kind} [signed-by={KEYRING}] {MIRROR} {suite} main\n"))
            .collect();
        write_changed(&apt.dir.join("etc/sources.list"), &sources)?;
        write_changed(&apt.dir.join("status"), "")?;
        write_changed(
            &apt.config(),
            &format!(
                "Dir \"{at}/\";\nDir::Etc \"{at}/etc/\";\nDir::Etc::parts \"none\";\n\
                 Dir::Etc::trustedparts \"{at}/etc/trusted.d/\";\n\
                 Dir::State \"{at}/\";\nDir::State::status \"{at}/status\";\n\
                 Dir::Cache \"{at}/\";\n\
                 APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\n\
                 APT::Sandbox::User \"\";\nAPT::Install-Recommends \"false\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
                 Acquire::Check-Valid-Until \"false\";\n"
            ),
        )?;
        let stamp = apt.dir.join("updated");
        let text = fs::read_to_string(&stamp).unwrap_or_default();
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok();
        let age = age.and_then(|time| SystemTime::now().duration_since(time).ok());
        if text != sources || age.is_none_or(|age| age > FRESH) {
            match apt.update() {
                Ok(()) => fs::write(&stamp, &sources)?,
                // Without the network what is cached must do.
                Err(error) if text == sources => {
                    eprintln!("lab: {error:#}\nlab: going on with the index of last time");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(apt)
    }

    fn config(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    fn lock(&self) -> Result<super::cache::Lock> {
        self.cache.lock(&format!("apt-{}", self.name))
    }

    fn tool(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("APT_CONFIG", self.config()).env("LC_ALL", "C");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null());
        command
    }

    fn update(&self) -> Result<()> {
        println!("lab: reading the package index of {MIRROR} ({})", self.name);
        let mut update = self.tool("apt-get");
        update.args(["update", "-q", "-o", "APT::Update::Error-Mode=any"]);
        host::quiet(&mut update).map(drop)
    }

    /// Names of packages that begin so.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = host::stdout(self.tool("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Which of these packages can be had; the others are only spoken of by some package.
    pub fn available(&self, packages: &[String]) -> Result<Vec<String>> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let text = host::stdout(self.tool("apt-cache").arg("madison").args(packages))?;
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.split('|').next()?.trim().to_owned()))
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The newest version of a package.
    pub fn version(&self, package: &str) -> Result<String> {
        let text = host::stdout(self.tool("apt-cache").args(["madison", package]))?;
        let version = text.lines().find_map(|line| line.split('|').nth(1));
        let version = version.with_context(|| format!("the archive has no {package}"))?;
        Ok(version.trim().to_owned())
    }

    /// Downloads these packages (`name` or `name=version`) alone.
    pub fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let uris = |apt: &Apt| {
            host::stdout(
                apt.tool("apt-get")
                    .args(["download", "--print-uris"])
                    .args(packages),
            )
        };
        self.fetch(uris, &["download"], packages)
    }

    /// Downloads these packages and all that they depend on.
    pub fn closure(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        // Asked for first without a look at what is downloaded already.
        let empty = self.dir.join("empty");
        fs::create_dir_all(empty.join("partial"))?;
        let uris = |apt: &Apt| {
            let archives = format!("Dir::Cache::archives={}/", empty.display());
            let mut list = apt.tool("apt-get");
            list.args(["install", "--print-uris", "-y", "-qq", "-o", &archives])
                .args(packages);
            host::stdout(&mut list)
        };
        self.fetch(uris, &["install", "--download-only", "-y"], packages)
    }

    /// Downloads what a package is made of, as its authors published it.
    pub fn source(&self, package: &str) -> Result<PathBuf> {
        let how = ["source", "--tar-only"];
        let uris = |apt: &Apt| {
            let mut list = apt.tool("apt-get");
            host::stdout(list.args(how).args(["--print-uris", "-qq", package]))
        };
        let get = [how[0], how[1], "--download-only"];
        let mut files = self.fetch(uris, &get, &[package.to_owned()])?;
        files.retain(|file| file.extension().is_some_and(|ext| ext != "asc"));
        ensure!(files.len() == 1, "{package}: more than one archive");
        Ok(files.remove(0))
    }

    fn fetch(
        &self,
        uris: impl Fn(&Apt) -> Result<String>,
        how: &[&str],
        packages: &[String],
    ) -> Result<Vec<PathBuf>> {
        let _lock = self.lock()?;
        let archives = self.dir.join("archives");
        let files = || -> Result<Vec<PathBuf>> {
            // 'http://…/x.deb' x_1%3a2_amd64.deb 1234 SHA256:…
            let text = uris(self)?;
            let names = text.lines().filter(|line| line.starts_with('\''));
            let names = names.filter_map(|line| line.split_whitespace().nth(1));
            Ok(names.map(|name| archives.join(name)).collect())
        };
        let mut wanted = files()?;
        ensure!(
            !wanted.is_empty(),
            "the archive has none of {}",
            packages.join(" ")
        );
        if wanted.iter().all(|file| touch(file)) {
            return Ok(wanted);
        }
        println!("lab: downloading {}", packages.join(" "));
        let mut get = self.tool("apt-get");
        get.args(how)
            .arg("-q")
            .args(packages)
            .current_dir(&archives);
        if host::quiet(&mut get).is_err() {
            // Versions roll off the mirror: a fresh index names what is there now.
            self.update()?;
            host::quiet(&mut get)?;
            wanted = files()?;
        }
        for file in &wanted {
            ensure!(touch(file), "{} was not downloaded", file.display());
        }
        Ok(wanted)
    }
}

fn write_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}

/// Unpacks a package's files (no scripts) into a directory.
pub fn unpack(package: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    host::quiet(Command::new("dpkg-deb").arg("-x").arg(package).arg(dir)).map(drop)
}
