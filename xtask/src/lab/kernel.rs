// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Stock Debian kernels, found in the archive at run time: versions roll off the mirror, so that
//! none is ever pinned.

use super::apt::{self, Apt};
use super::cache::{key, Cache};
use anyhow::{bail, ensure, Context, Result};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What makes a kernel; see `offers`.
const PACKAGES: &[&str] = &[
    "linux-base-",
    "linux-binary-",
    "linux-image-",
    "linux-modules-",
];
/// What depmod wants to know besides the modules.
const LISTS: &[&str] = &[
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.order",
];
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel, downloaded and unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    pub image: PathBuf,
    /// Every module of the kernel by its name.
    modules: BTreeMap<String, PathBuf>,
    /// Those of `LISTS` that it comes with.
    pub lists: Vec<PathBuf>,
}

/// What the archive offers.
pub struct Kernels {
    cache: Cache,
    apt: Apt,
    /// Newest first.
    offers: Vec<Offer>,
}

#[derive(Clone, Debug)]
struct Offer {
    release: String,
    packages: Vec<String>,
}

impl Kernels {
    pub fn find(cache: &Cache) -> Result<Kernels> {
        // 6.1 in bookworm, 6.12 in trixie, 7.x in trixie-backports.
        let apt = Apt::open(
            cache,
            "kernels",
            &["bookworm", "trixie", "trixie-backports"],
        )?;
        let names = apt.names("linux-")?;
        let wanted = |name: &&String| {
            name.ends_with(FLAVOUR) && PACKAGES.iter().any(|prefix| name.starts_with(prefix))
        };
        let names: Vec<String> = names.iter().filter(wanted).cloned().collect();
        let mut offers = offers(&apt.available(&names)?);
        offers.sort_by_key(|offer| Reverse(version(&offer.release)));
        Ok(Kernels {
            cache: cache.clone(),
            apt,
            offers,
        })
    }

    /// The releases on offer, newest first.
    pub fn releases(&self) -> impl Iterator<Item = &str> {
        self.offers.iter().map(|offer| offer.release.as_str())
    }

    pub fn apt(&self) -> &Apt {
        &self.apt
    }

    /// The release that a pattern means; see `get`.
    pub fn release(&self, pattern: &str) -> Result<&str> {
        Ok(&self.offers[self.choose(pattern)?].release)
    }

    /// The newest release of every series from this major version on.
    pub fn series(&self, major: u64) -> Vec<&str> {
        let mut seen = Vec::new();
        self.releases()
            .filter(|release| {
                let version = version(release);
                let series = version[..2.min(version.len())].to_vec();
                let new = series.first() >= Some(&major) && !seen.contains(&series);
                seen.push(series);
                new
            })
            .collect()
    }

    /// A kernel by a pattern: `6.12` is the newest 6.12.*, `7.x` the newest of all 7.*, `7.x-1` the
    /// newest of the series before that one; a whole release name is itself. A path is a directory
    /// with a kernel of one's own: `vmlinuz`, modules if it has any, and its name in `release`.
    pub fn get(&self, pattern: &str) -> Result<Kernel> {
        if pattern.starts_with('/') {
            let dir = Path::new(pattern);
            let release = fs::read_to_string(dir.join("release"));
            let release = release.with_context(|| format!("{pattern}: no kernel for the lab"))?;
            return Kernel::at(dir, release.trim());
        }
        let offer = self.offers[self.choose(pattern)?].clone();
        let files = self.apt.download(&offer.packages)?;
        let names = files.iter().map(|file| file.as_os_str().as_encoded_bytes());
        let dir = format!("kernels/{}-{}", offer.release, key(names));
        let dir = self.cache.get(&dir, |dir| {
            files.iter().try_for_each(|file| apt::unpack(file, dir))
        })?;
        Kernel::at(&dir, &offer.release)
    }

    fn choose(&self, pattern: &str) -> Result<usize> {
        let releases: Vec<&str> = self.releases().collect();
        choose(&releases, pattern).with_context(|| {
            format!(
                "no kernel {pattern} in the archive; there are {}",
                releases.join(", ")
            )
        })
    }
}

fn choose(releases: &[&str], pattern: &str) -> Option<usize> {
    if let Some(at) = releases.iter().position(|release| *release == pattern) {
        return Some(at);
    }
    let (pattern, back) = match pattern.split_once('-') {
        Some((pattern, back)) => (pattern, back.parse::<usize>().ok()?),
        None => (pattern, 0),
    };
    let want: Vec<u64> = version(pattern.trim_end_matches(".x"));
    let mut series = Vec::new();
    for (at, release) in releases.iter().enumerate() {
        let have = version(release);
        if have.starts_with(&want) {
            let this = have[..2.min(have.len())].to_vec();
            if !series.contains(&this) {
                series.push(this);
                if series.len() == back + 1 {
                    return Some(at);
                }
            }
        }
    }
    None
}

/// The numbers in a version: `7.2.12+deb13-cloud-amd64` → 7, 2, 12, 13.
fn version(text: &str) -> Vec<u64> {
    let text = text.strip_suffix(FLAVOUR).unwrap_or(text);
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Which packages make which kernel. Up to 6.x one holds image and modules; from 7.x on they are
/// two, with a third that names what is built in, and the image of a new version is there unsigned
/// before it is there signed.
fn offers(names: &[String]) -> Vec<Offer> {
    let have = |name: &String| names.contains(name);
    let mut offers = Vec::new();
    for name in names {
        if let Some(release) = name.strip_prefix("linux-modules-") {
            let signed = format!("linux-binary-{release}");
            let unsigned = format!("linux-binary-unsigned-{release}");
            if let Some(image) = [signed, unsigned].into_iter().find(have) {
                let mut packages = vec![image, name.clone()];
                packages.extend(Some(format!("linux-base-{release}")).filter(have));
                offers.push(Offer {
                    release: release.to_owned(),
                    packages,
                });
            }
        } else if let Some(release) = name.strip_prefix("linux-image-") {
            let early = matches!(version(release).first(), Some(0..=6));
            if early && !have(&format!("linux-modules-{release}")) {
                offers.push(Offer {
                    release: release.to_owned(),
                    packages: vec![name.clone()],
                });
            }
        }
    }
    offers
}

impl Kernel {
    /// Whatever lies below a directory.
    fn at(dir: &Path, release: &str) -> Result<Kernel> {
        let mut kernel = Kernel {
            release: release.to_owned(),
            image: PathBuf::new(),
            modules: BTreeMap::new(),
            lists: Vec::new(),
        };
        kernel.collect(dir)?;
        ensure!(
            kernel.image.is_file(),
            "{release}: no kernel image in {}",
            dir.display()
        );
        Ok(kernel)
    }

    fn collect(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && !path.is_symlink() {
                self.collect(&path)?;
            } else if name.starts_with("vmlinuz") {
                self.image = path;
            } else if LISTS.contains(&name.as_str()) {
                self.lists.push(path);
            } else if let Some((module, rest)) = name.split_once(".ko") {
                if ["", ".xz", ".zst", ".gz"].contains(&rest) {
                    self.modules.insert(module.replace('-', "_"), path);
                }
            }
        }
        Ok(())
    }

    /// The modules of this list and those they need, in the order of loading, as (name, bytes).
    /// A name the kernel has no module for is built in, or not there: it is left out.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut loaded = Vec::new();
        for name in wanted {
            self.load(&name.replace('-', "_"), &mut loaded)?;
        }
        Ok(loaded)
    }

    fn load(&self, name: &str, loaded: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let Some(path) = self.modules.get(name) else {
            return Ok(());
        };
        if loaded.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let bytes = decompress(path)?;
        for needed in depends(&bytes) {
            self.load(&needed, loaded)?;
        }
        loaded.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// The modules that a module needs.
pub fn depends(module: &[u8]) -> Vec<String> {
    modinfo(module, "depends")
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn decompress(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|ext| ext.to_str()) {
        Some("ko") => return Ok(fs::read(path)?),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!(
            "{}: compressed in a way that is not known here",
            path.display()
        ),
    };
    let mut command = crate::host::command(tool, ["-dc"]);
    command.arg(path);
    Ok(crate::host::quiet(&mut command)?.stdout)
}

/// A field of a module's `.modinfo`, which is a run of NUL-terminated `name=value` strings.
fn modinfo(module: &[u8], field: &str) -> String {
    let key = format!("\0{field}=");
    let at = module
        .windows(key.len())
        .position(|window| window == key.as_bytes());
    let value = at.map_or(&[][..], |at| &module[at + key.len()..]);
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_the_newest_that_fits() {
        let releases = [
            "7.3.4+deb13-cloud-amd64",
            "7.2.12+deb13-cloud-amd64",
            "7.2.9+deb13-cloud-amd64",
            "6.12.107+deb13-cloud-amd64",
            "6.12.94+deb13-cloud-amd64",
            "6.1.0-50-cloud-amd64",
        ];
        let chosen = |pattern| choose(&releases, pattern).map(|at| releases[at]);
        assert_eq!(chosen("7.x"), Some(releases[0]));
        assert_eq!(chosen("7.x-1"), Some(releases[1]));
        assert_eq!(chosen("7.2"), Some(releases[1]));
        assert_eq!(chosen("7.2.9+deb13-cloud-amd64"), Some(releases[2]));
        assert_eq!(chosen("6.12"), Some(releases[3]));
        assert_eq!(chosen("6.1"), Some(releases[5]));
        assert_eq!(chosen("6.1.0-50-cloud-amd64"), Some(releases[5]));
        assert_eq!(chosen("8.x"), None);
    }

    #[test]
    fn an_unsigned_image_will_do_and_a_name_alone_will_not() {
        let names = [
            "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.1.13+deb13-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
        ];
        let offers = offers(&names.map(str::to_owned));
        let releases: Vec<&str> = offers.iter().map(|offer| offer.release.as_str()).collect();
        assert_eq!(
            releases,
            ["7.3.4+deb13-cloud-amd64", "6.1.0-50-cloud-amd64"]
        );
    }
}
