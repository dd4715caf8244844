// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Golden images: regions as a version of the format left them, and what they must be found to hold.
//!
//! `tests/golden/README.md` says how the files are read and where new ones come from.

use crate::mem::MemRegion;
use crate::record::Image;
use crate::tree::{self, Body, Node, Tree};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use flate2::Compression;
use fs_core::{Fs, Host, Ino, Region, SuperInfo};
use serde_json::{json, Map, Value};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The first bytes of an image, uncompressed.
pub const MAGIC: &[u8; 8] = b"RPGOLDEN";
const PAGE: usize = 4096;
/// Lists longer than this are told by a digest.
const LONG: usize = 64;

/// Where the images are.
#[must_use]
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The file of an image.
#[must_use]
pub fn image_path(name: &str) -> PathBuf {
    dir().join(format!("{name}.img.gz"))
}

/// The file of its manifest.
#[must_use]
pub fn manifest_path(name: &str) -> PathBuf {
    dir().join(format!("{name}.json"))
}

/// The names of all images, sorted.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(dir()).expect("tests/golden");
    let mut names: Vec<String> = entries
        .filter_map(|e| e.expect("an entry").file_name().into_string().ok())
        .filter_map(|n| n.strip_suffix(".img.gz").map(String::from))
        .collect();
    names.sort();
    names
}

/// The bytes of an image's file for these contents.
///
/// # Errors
/// Those of compression.
pub fn pack(image: &Image) -> io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(MAGIC)?;
    out.write_all(&image.mem.len().to_le_bytes())?;
    let mut pages = image.pages.clone();
    pages.sort_unstable();
    pages.dedup();
    let mut bytes = [0; PAGE];
    for page in pages {
        let off = page * PAGE as u64;
        image.mem.read(off, &mut bytes).expect("inside");
        if bytes != [0; PAGE] {
            out.write_all(&page.to_le_bytes())?;
            out.write_all(&bytes)?;
        }
    }
    out.finish()
}

/// Hands out the pages of an image's file: first its size in bytes, then page numbers and bytes.
///
/// # Errors
/// Those of the file; `InvalidData` where it is no image.
pub fn unpack<T>(
    path: &Path,
    begin: impl FnOnce(u64) -> io::Result<T>,
    mut put: impl FnMut(&mut T, u64, &[u8]) -> io::Result<()>,
) -> io::Result<T> {
    let mut all = Vec::new();
    GzDecoder::new(File::open(path)?).read_to_end(&mut all)?;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let word = |b: &[u8]| b.first_chunk().map(|w| u64::from_le_bytes(*w));
    let (magic, rest) = all.split_at_checked(8).ok_or_else(bad)?;
    let size = word(rest).filter(|_| magic == MAGIC).ok_or_else(bad)?;
    let mut to = begin(size)?;
    let records = rest[8..].chunks_exact(8 + PAGE);
    if !records.remainder().is_empty() {
        return Err(bad());
    }
    for record in records {
        let page = word(record).ok_or_else(bad)?;
        put(&mut to, page, &record[8..])?;
    }
    Ok(to)
}

/// An image as a region.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn load(name: &str) -> MemRegion {
    let path = image_path(name);
    unpack(
        &path,
        |size| Ok(MemRegion::new(size)),
        |mem, page, bytes| {
            mem.write(page * PAGE as u64, bytes).expect("inside");
            Ok(())
        },
    )
    .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The manifest of an image.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn manifest(name: &str) -> Value {
    let path = manifest_path(name);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn text(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

fn digest(bytes: &[u8]) -> Value {
    json!({ "len": bytes.len(), "sha256": hex(Sha256::digest(bytes)) })
}

/// What a superblock says.
#[must_use]
pub fn superblock(info: &SuperInfo) -> Value {
    json!({
        "version": info.version,
        "uuid": hex(info.uuid),
        "label": info.label_str(),
        "size": info.size,
        "compat": info.compat,
        "ro_compat": info.ro_compat,
        "incompat": info.incompat,
        "created": info.created,
        "slots": info.geometry.slots,
        "struct_pages": info.geometry.struct_pages,
        "data_start": info.geometry.data_start,
    })
}

/// Everything that can be asked about the inodes of a filesystem without pending work.
///
/// # Errors
/// What contradicts itself.
pub fn contents<R: Region, H: Host>(fs: &Fs<R, H>) -> Result<Value, String> {
    let tree: Tree = tree::walk(fs, &[])?;
    let mut inodes = Map::new();
    for (ino, node) in &tree {
        inodes.insert(ino.to_string(), inode(fs, *ino, node)?);
    }
    let stat = fs.statfs();
    Ok(json!({ "free_pages": stat.free, "used_inodes": stat.inodes, "inodes": inodes }))
}

fn inode<R: Region, H: Host>(fs: &Fs<R, H>, ino: Ino, node: &Node) -> Result<Value, String> {
    let attr = fs.getattr(ino).map_err(|e| format!("{ino}: {e}"))?;
    let mut out = json!({
        "mode": format!("{:o}", node.mode),
        "generation": attr.generation,
        "nlink": node.nlink,
        "uid": node.uid,
        "gid": node.gid,
        "size": node.size,
        "pages": node.pages,
        "times": node.times.map(|t| t.to_string()).join(" "),
    });
    if node.rdev != 0 {
        out["rdev"] = json!(node.rdev);
    }
    if node.sealed {
        out["sealed"] = json!(true);
    }
    if !node.xattrs.is_empty() {
        let values = node.xattrs.iter();
        let values: Map<_, _> = values.map(|(n, v)| (text(n), digest(v))).collect();
        out["xattrs"] = Value::Object(values);
    }
    match &node.body {
        Body::Dir { parent, .. } => {
            out["parent"] = json!(parent);
            let mut entries = Map::new();
            fs.readdir(ino, 0, &mut |e| {
                entries.insert(text(e.name), json!(format!("{} {}", e.ino, e.cookie)));
                true
            })
            .map_err(|e| format!("{ino}: {e}"))?;
            out["entries"] = Value::Object(entries);
        }
        Body::File(pages) => {
            let extents: Vec<Value> = tree::extents(fs, ino)?
                .iter()
                .map(|e| {
                    let state = if e.unwritten { " unwritten" } else { "" };
                    json!(format!("{} {} {}{state}", e.file_page, e.page, e.len))
                })
                .collect();
            if extents.len() > LONG {
                let line = serde_json::to_vec(&extents).map_err(|e| e.to_string())?;
                out["extents"] = digest(&line);
                out["extents"]["count"] = json!(extents.len());
            } else {
                out["extents"] = json!(extents);
            }
            let mut sum = Sha256::new();
            for (page, bytes) in pages {
                sum.update(page.to_le_bytes());
                sum.update(bytes);
            }
            out["sha256"] = json!(hex(sum.finalize()));
        }
        Body::Link(target) if target.len() > LONG => out["target"] = digest(target),
        Body::Link(target) => out["target"] = json!(text(target)),
        Body::Other => {}
    }
    Ok(out)
}

/// Where two manifests differ, in few words.
#[must_use]
pub fn diff(want: &Value, got: &Value) -> Option<String> {
    fn go(at: &str, want: &Value, got: &Value, out: &mut Vec<String>) {
        match (want, got) {
            (Value::Object(w), Value::Object(g)) => {
                let more = g.keys().filter(|k| !w.contains_key(*k));
                for key in w.keys().chain(more) {
                    let none = Value::Null;
                    let side = |m: &Map<String, Value>| m.get(key).unwrap_or(&none).clone();
                    go(&format!("{at}/{key}"), &side(w), &side(g), out);
                }
            }
            _ if want == got => {}
            _ => out.push(format!("{at}: {got}, wanted {want}")),
        }
    }
    let mut out = Vec::new();
    go("", want, got, &mut out);
    let more = out.len().saturating_sub(20);
    out.truncate(20);
    if more > 0 {
        out.push(format!("and {more} more"));
    }
    (!out.is_empty()).then(|| out.join("\n"))
}
