// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs dump`: any structure, with what is wrong with it.

use crate::args::What;
use crate::render::{hex, time};
use fs_core::check::{
    account, is_type, read_slot, system_name, AttributeBlock, Image, Inode, Marker, Node, Place,
    Record, Slot, Superblock,
};
use fs_core::layout::{
    self, body, chunk, iflag, node, shard, slot, summary, CHUNK_PAGES, EXTENT_LEN,
    EXTENT_UNWRITTEN, GROUP_CHUNKS, ITABLE_OWNER, PENDING_OWNER, PENDING_SETS,
};
use fs_core::{Region, PAGE_SIZE};
use host::{owner, uuid, Error, Kind, Result, UserHost, UserRegion};
use rpramfs_fsck::region::explain;
use serde_json::{json, Map, Value};

fn u16_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 2)
        .and_then(|s| s.try_into().ok())
        .map_or(0, |s| u64::from(u16::from_le_bytes(s)))
}

fn u32_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 4)
        .and_then(|s| s.try_into().ok())
        .map_or(0, |s| u64::from(u32::from_le_bytes(s)))
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8)
        .and_then(|s| s.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// Shows a structure. Only the journal is shown as it lies there; everything else with committed
/// transactions carried out.
pub fn dump(region: &UserRegion, host: &UserHost, what: &What) -> Result<Value> {
    let image = Image::open(region, host).map_err(|e| explain(region, "superblock", e))?;
    let d = Dump {
        region,
        host,
        image,
    };
    match what {
        What::Superblock => d.superblocks(),
        What::Marker => d.marker(),
        What::Journal => d.journal(),
        What::System => d.system(),
        What::Chunk { number } => d.chunk(number.0),
        What::Group { number } => d.group(number.0),
        What::Inode { ino } => d.inode(ino.0),
        What::Node { page } => d.node(page.0),
        What::Dir { ino } => d.dir(ino.0),
        What::Extents { ino } => d.extents(ino.0),
        What::Xattr { ino } => d.xattr(ino.0),
        What::Page { page, hex } => d.page(page.0, *hex),
    }
}

struct Dump<'a> {
    region: &'a UserRegion,
    host: &'a UserHost,
    image: Image<'a>,
}

impl Dump<'_> {
    fn error(&self, what: impl std::fmt::Display, e: fs_core::Error) -> Error {
        Error::core(format!("{}: {what}", self.region.name()), e)
    }

    fn range(&self, what: &str, n: u64, count: u64) -> Result<()> {
        if n < count {
            return Ok(());
        }
        Err(Error::new(
            Kind::Usage,
            format!("{}: no {what} {n}: there are {count}", self.region.name()),
        ))
    }

    fn sector(&self, off: u64) -> Result<[u8; 256]> {
        self.image
            .store()
            .sector(off)
            .map_err(|e| self.error(format!("offset {off:#x}"), e))
    }

    /// Whether magic and checksum hold, in words.
    fn health(&self, off: u64, bytes: &[u8], magic: u32) -> &'static str {
        if u32_at(bytes, 0) != u64::from(magic) {
            "no magic"
        } else if self.image.store().intact(off, bytes, magic) {
            "sound"
        } else {
            "wrong checksum"
        }
    }

    fn superblocks(&self) -> Result<Value> {
        let show = |s: &std::result::Result<Superblock, String>, off: u64| match s {
            Ok(s) => {
                let b = s.bytes();
                let g = s.geometry();
                let label = b.get(32..64).unwrap_or(&[]);
                let end = label.iter().position(|c| *c == 0).unwrap_or(label.len());
                json!({
                    "offset": off,
                    "state": "sound",
                    "version": u32_at(b, layout::sb::VERSION),
                    "crc": u32_at(b, layout::sb::CRC),
                    "uuid": uuid::format(&b.get(16..32).and_then(|u| u.try_into().ok()).unwrap_or_default()),
                    "label": String::from_utf8_lossy(label.get(..end).unwrap_or(&[])),
                    "generation": s.generation(),
                    "created": time(u64_at(b, layout::sb::CREATED) as i64),
                    "features": {
                        "compat": u64_at(b, layout::sb::COMPAT),
                        "ro_compat": u64_at(b, layout::sb::RO_COMPAT),
                        "incompat": u64_at(b, layout::sb::INCOMPAT),
                    },
                    "total_pages": g.total_pages,
                    "slots": g.slots,
                    "shards": g.shards,
                    "pages": {
                        "top_start": g.top_start,
                        "summary_start": g.summary_start,
                        "chunk_start": g.chunk_start,
                        "journal_start": g.journal_start,
                        "struct_start": g.struct_start,
                        "struct_pages": g.struct_pages,
                        "data_start": g.data_start,
                        "data_end": g.data_end,
                    },
                })
            }
            Err(why) => json!({ "offset": off, "state": why }),
        };
        let s = self.image.superblocks();
        Ok(json!({
            "primary": show(&s.primary, 0),
            "backup": show(&s.backup, self.image.geometry().backup_offset()),
        }))
    }

    fn marker(&self) -> Result<Value> {
        let m = Marker::read(self.region).map_err(|e| self.error("marker", e))?;
        let holder = m.owner(self.host);
        Ok(json!({
            "offset": layout::marker::OFFSET,
            "word": m.state(),
            "held": m.state() != 0,
            "details": if m.details_hold(self.host) { "sound" } else { "not of this holder" },
            "pid": m.state() as u32,
            "kind": m.kind().map(|k| format!("{k:?}").to_lowercase()),
            "boot_hash_word": m.state() >> 40,
            "boot_id": holder.map(|o| uuid::format(&o.boot_id)),
            "start_ticks": holder.map(|o| o.start),
            "since": holder.map(|_| time(m.since())),
            "alive": holder.map(|o| owner::alive(&o)),
        }))
    }

    fn journal(&self) -> Result<Value> {
        let raw = Image::raw(self.region, self.host).map_err(|e| self.error("superblock", e))?;
        let g = raw.geometry();
        let mut slots = Vec::new();
        for n in 0..g.slots {
            let s = read_slot(raw.store(), g, n).map_err(|e| self.error("journal", e))?;
            let a = account(raw.store(), g, n).map_err(|e| self.error("journal", e))?;
            slots.push(json!({
                "slot": n,
                "offset": g.slot_offset(n),
                "header": s.header.unwrap_or("sound"),
                "commit": s.commit,
                "state": match &s.transaction {
                    Ok(t) if t.is_empty() => "empty".to_string(),
                    Ok(t) => format!("committed, {} sectors", t.len()),
                    Err(why) => format!("damaged: {why}"),
                },
                "sequence": s.commit & 0xffff,
                "sectors": s.transaction.as_deref().unwrap_or(&[]).iter().map(|(home, kind)| json!({
                    "offset": home,
                    "kind": match kind { 0 => "plain", 1 => "chunks", 2 => "node header", _ => "node payload" },
                    "is": self.describe(*home),
                })).collect::<Vec<_>>(),
                "account": match a {
                    Ok(a) => json!({
                        "offset": g.slot_offset(n) + slot::ACCOUNT,
                        "free_pages": a.free_pages,
                        "used_inodes": a.used_inodes,
                        "pending": a.pending,
                    }),
                    Err(why) => json!({ "offset": g.slot_offset(n) + slot::ACCOUNT, "state": why }),
                },
            }));
        }
        Ok(json!({ "slots": slots }))
    }

    fn describe(&self, off: u64) -> String {
        match self.image.place(off) {
            Place::Fixed(s) => s,
            Place::Data { page } => format!("page {page} of the data"),
            Place::Outside => "outside".into(),
        }
    }

    fn system(&self) -> Result<Value> {
        let g = self.image.geometry();
        let at = g.system_offset(0);
        let f = self.sector(at)?;
        let iat = g.system_offset(1);
        let i = self.sector(iat)?;
        let mut shards = Vec::new();
        for n in 0..g.shards {
            let off = g.shard_offset(n);
            let s = self.sector(off)?;
            shards.push(json!({
                "shard": n,
                "offset": off,
                "state": self.health(off, &s, layout::SHARD_MAGIC),
                "free_head": u64_at(&s, shard::FREE_HEAD),
                "free_count": u64_at(&s, shard::FREE_COUNT),
                "unused_from": u64_at(&s, shard::NEXT),
                "unused_to": u64_at(&s, shard::END),
            }));
        }
        let mut inodes = Map::new();
        for owner in (0..PENDING_SETS)
            .map(|n| PENDING_OWNER + n)
            .chain([ITABLE_OWNER])
        {
            let name = system_name(owner).unwrap_or("?");
            inodes.insert(name.into(), self.inode(owner)?);
        }
        Ok(json!({
            "frontier": {
                "offset": at,
                "state": self.health(at, &f, layout::FRONTIER_MAGIC),
                "first_group": u64_at(&f, layout::FRONTIER_FIRST),
                "groups_ready": u64_at(&f, layout::FRONTIER_READY),
            },
            "inode_frontier": {
                "offset": iat,
                "state": self.health(iat, &i, layout::IFRONTIER_MAGIC),
                "next": u64_at(&i, layout::IFRONTIER_NEXT),
                "capacity": u64_at(&i, layout::IFRONTIER_CAPACITY),
            },
            "shards": shards,
            "inodes": inodes,
        }))
    }

    fn chunk(&self, n: u64) -> Result<Value> {
        let g = self.image.geometry();
        self.range("chunk", n, g.chunks())?;
        let off = g.chunk_offset(n);
        let mut b = [0; chunk::SIZE];
        self.image
            .store()
            .read(off, &mut b)
            .map_err(|e| self.error("chunk", e))?;
        let set = |p: u64| u64_at(&b, chunk::BITMAP + 8 * (p / 64) as usize) >> (p % 64) & 1 != 0;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for p in (0..CHUNK_PAGES).filter(|p| set(*p)) {
            match runs.last_mut() {
                Some((from, len)) if *from + *len == p => *len += 1,
                _ => runs.push((p, 1)),
            }
        }
        Ok(json!({
            "chunk": n,
            "offset": off,
            "state": self.health(off, &b, layout::CHUNK_MAGIC),
            "index": u64_at(&b, chunk::INDEX),
            "first_page": n * CHUNK_PAGES,
            "free": u16_at(&b, chunk::FREE),
            "class": match b.get(chunk::CLASS) {
                Some(0) => "free",
                Some(1) => "packed",
                Some(2) => "coloured",
                Some(3) => "full",
                _ => "impossible",
            },
            "allocated": runs.iter().map(|(from, len)| json!({
                "page": n * CHUNK_PAGES + from, "pages": len,
            })).collect::<Vec<_>>(),
        }))
    }

    fn summary(&self, off: u64, children: u64) -> Result<Value> {
        let s = self.sector(off)?;
        let runs = |class: usize| {
            let bit = |c: u64| {
                u64_at(&s, summary::BITMAP + 64 * class + 8 * (c / 64) as usize) >> (c % 64) & 1
                    != 0
            };
            (0..512).filter(|c| bit(*c)).count()
        };
        Ok(json!({
            "offset": off,
            "state": self.health(off, &s, layout::SUMMARY_MAGIC),
            "level": u64_at(&s, summary::LEVEL),
            "index": u64_at(&s, summary::INDEX),
            "of": children,
            "free": runs(0),
            "packed": runs(1),
            "coloured": runs(2),
        }))
    }

    fn group(&self, n: u64) -> Result<Value> {
        let g = self.image.geometry();
        self.range("group", n, g.groups())?;
        let top = n / GROUP_CHUNKS;
        let chunks = (g.chunks() - n * GROUP_CHUNKS).min(GROUP_CHUNKS);
        let groups = (g.groups() - top * GROUP_CHUNKS).min(GROUP_CHUNKS);
        let f = self.sector(g.system_offset(0))?;
        let ready =
            n >= u64_at(&f, layout::FRONTIER_FIRST) && n < u64_at(&f, layout::FRONTIER_READY);
        Ok(json!({
            "group": n,
            "first_page": n * GROUP_CHUNKS * CHUNK_PAGES,
            "initialised": ready,
            "chunks_by_class": self.summary(g.summary_offset(n), chunks)?,
            "top_summary": self.summary(g.top_offset(top), groups)?,
        }))
    }

    fn load(&self, ino: u64) -> Result<Inode> {
        self.image
            .inode(ino)
            .map_err(|e| self.error(format!("inode {ino}"), e))
    }

    fn inode(&self, ino: u64) -> Result<Value> {
        let off = self
            .image
            .inode_offset(ino)
            .map_err(|e| self.error(format!("inode {ino}"), e))?;
        let i = match Inode::load(self.image.store(), off, ino)
            .map_err(|e| self.error(format!("inode {ino}"), e))?
        {
            Slot::Inode(i) => i,
            Slot::Zero => return Ok(json!({ "ino": ino, "offset": off, "state": "never used" })),
            Slot::Bad(why) => return Ok(json!({ "ino": ino, "offset": off, "state": why })),
        };
        let flags: Vec<&str> = [
            (iflag::IN_USE, "in use"),
            (iflag::SEALED, "sealed"),
            (iflag::PENDING, "pending"),
            (iflag::SYSTEM, "system"),
            (iflag::SEAL, "seal"),
        ]
        .into_iter()
        .filter(|(bit, _)| i.flags & bit != 0)
        .map(|(_, name)| name)
        .collect();
        let body = match i.format {
            body::INLINE => json!({
                "format": "inline records",
                "records": i.inline().map(|r| record(&r, &i)).collect::<Vec<_>>(),
            }),
            body::TREE => json!({
                "format": "tree",
                "root_page": i.root(),
                "levels": i.depth,
                "entries": i.tree_records(),
            }),
            body::TARGET | body::TARGET_PAGE => json!({
                "format": if i.format == body::TARGET { "target" } else { "target in a page" },
                "page": (i.format == body::TARGET_PAGE).then(|| u64_at(&i.body, 0)),
                "target": self.image.target(&i).ok().map(|t| String::from_utf8_lossy(&t).into_owned()),
            }),
            other => json!({ "format": other }),
        };
        Ok(json!({
            "ino": ino,
            "offset": off,
            "state": if i.in_use() && !is_type(i.kind()) && i.flags & (iflag::SYSTEM | iflag::SEAL) == 0 {
                "impossible mode"
            } else {
                "sound"
            },
            "flags": flags.join(", "),
            "generation": i.generation,
            "mode": i.mode,
            "uid": i.uid,
            "gid": i.gid,
            "nlink": i.nlink,
            "size": i.size,
            "pages": i.pages,
            "atime": time(i.atime),
            "mtime": time(i.mtime),
            "ctime": time(i.ctime),
            "btime": time(i.btime),
            "rdev": i.rdev,
            "link": i.link,
            "xattr_page": i.xattr,
            "seal": i.seal,
            "intent": i.has_intent().then(|| json!({ "from_page": i.intent_start, "to_page": i.intent_end })),
            "body": body,
        }))
    }

    fn node(&self, page: u64) -> Result<Value> {
        let g = self.image.geometry();
        if !g.is_data(page, 1) {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{}: page {page} is outside the data, which is pages {} to {}",
                    self.region.name(),
                    g.data_start,
                    g.data_end - 1
                ),
            ));
        }
        let n = match Node::load(self.image.store(), page).map_err(|e| self.error("node", e))? {
            Ok(n) => n,
            Err(why) => {
                return Ok(json!({ "page": page, "offset": page * PAGE_SIZE, "state": why }))
            }
        };
        let bad: Vec<u64> = (1..16).filter(|s| n.good & (1 << s) == 0).collect();
        let count = n.count.min(n.most() as u16);
        let entries: Vec<Value> = (0..count)
            .map(|i| {
                let off = n.entry_offset(i);
                if n.level > 0 {
                    return json!({ "offset": off, "key": n.key(i), "child_page": n.child(i) });
                }
                if n.kind == node::KIND_DENTRIES {
                    return match n.dentry(i) {
                        Some((key, ino, kind, name)) => json!({
                            "offset": off, "key": key, "ino": ino, "type": kind,
                            "name": String::from_utf8_lossy(name),
                        }),
                        None => json!({ "offset": off, "state": "not readable" }),
                    };
                }
                match n.record(i) {
                    Some(r) => {
                        json!({ "offset": off, "key": r.key, "second": r.a, "third_word": r.b })
                    }
                    None => json!({ "offset": off, "state": "not readable" }),
                }
            })
            .collect();
        Ok(json!({
            "page": page,
            "offset": n.offset(),
            "state": if bad.is_empty() { "sound" } else { "some sectors fail their checksums" },
            "bad_sectors": bad,
            "owner": n.owner,
            "generation": n.generation,
            "kind": match n.kind { node::KIND_RECORDS => "records", node::KIND_DENTRIES => "directory", _ => "impossible" },
            "level": n.level,
            "count": n.count,
            "heap": n.heap,
            "dead": n.dead,
            "entries": entries,
        }))
    }

    fn dir(&self, ino: u64) -> Result<Value> {
        let i = self.load(ino)?;
        let (list, scan) = self
            .image
            .entries(&i)
            .map_err(|e| self.error(format!("inode {ino}"), e))?;
        Ok(json!({
            "ino": ino,
            "parent": i.link,
            "nodes": scan.nodes,
            "faults": faults(&scan),
            "entries": list.entries.iter().map(|e| json!({
                "offset": e.offset,
                "key": e.key,
                "ino": e.ino,
                "type": e.kind,
                "name": String::from_utf8_lossy(list.name(e)),
            })).collect::<Vec<_>>(),
        }))
    }

    fn extents(&self, ino: u64) -> Result<Value> {
        let i = self.load(ino)?;
        let (records, scan) = self
            .image
            .records(&i)
            .map_err(|e| self.error(format!("inode {ino}"), e))?;
        Ok(json!({
            "ino": ino,
            "size": i.size,
            "nodes": scan.nodes,
            "faults": faults(&scan),
            "records": records.iter().map(|r| record(r, &i)).collect::<Vec<_>>(),
        }))
    }

    fn xattr(&self, ino: u64) -> Result<Value> {
        let i = self.load(ino)?;
        if i.xattr == 0 {
            return Ok(json!({ "ino": ino, "page": null, "attributes": [] }));
        }
        let store = self.image.store();
        let block = AttributeBlock::load(store, self.image.geometry(), &i)
            .map_err(|e| self.error(format!("inode {ino}"), e))?;
        let block = match block {
            Ok(b) => b,
            Err(why) => return Ok(json!({ "ino": ino, "page": i.xattr, "state": why })),
        };
        let mut list = Vec::new();
        for a in &block.list {
            let value = a.value(store).map_err(|e| self.error("attribute", e))?;
            list.push(json!({
                "offset": a.offset,
                "name": String::from_utf8_lossy(&a.name),
                "len": a.len,
                "value_page": a.elsewhere.map(|(page, _)| page),
                "state": value.as_ref().err(),
                "value": value.as_ref().ok().map(|v| v.iter().take(64).map(|b| b.escape_ascii().to_string()).collect::<String>()),
                "cut": value.as_ref().is_ok_and(|v| v.len() > 64),
            }));
        }
        Ok(json!({
            "ino": ino,
            "page": block.page,
            "offset": block.page * PAGE_SIZE,
            "state": "sound",
            "attributes": list,
        }))
    }

    fn page(&self, page: u64, with_hex: bool) -> Result<Value> {
        self.range("page", page, self.region.len() / PAGE_SIZE)?;
        let off = page * PAGE_SIZE;
        let bytes = self
            .image
            .store()
            .page(page)
            .map_err(|e| self.error("page", e))?;
        let magic = u32_at(bytes.as_slice(), 0) as u32;
        let looks = match self.image.place(off) {
            Place::Fixed(_) => None,
            _ if bytes.iter().all(|b| *b == 0) => Some("zeros"),
            _ if magic == layout::NODE_MAGIC => Some("a tree node (see dump node)"),
            _ if magic == layout::XATTR_MAGIC => Some("an attribute block"),
            _ if bytes
                .chunks_exact(256)
                .any(|s| u32_at(s, 0) == u64::from(layout::INODE_MAGIC)) =>
            {
                Some("inodes")
            }
            _ => Some("data"),
        };
        Ok(json!({
            "page": page,
            "offset": off,
            "place": self.describe(off),
            "looks_like": looks,
            "bytes": with_hex.then(|| hex(bytes.as_slice(), off)),
        }))
    }
}

fn faults(scan: &fs_core::check::Scan) -> Vec<Value> {
    scan.faults
        .iter()
        .map(|f| json!({ "offset": f.offset, "what": f.what }))
        .collect()
}

/// A record by what its owner is.
fn record(r: &Record, i: &Inode) -> Value {
    if i.is_seal() {
        return json!({ "window": r.key, "from_byte": r.key.saturating_mul(layout::SEAL_WINDOW), "crc": r.a });
    }
    if i.ino >= PENDING_OWNER {
        return json!({ "ino": r.key, "generation": r.a, "epoch": r.b });
    }
    json!({
        "file_page": r.key,
        "page": r.a,
        "pages": r.b & EXTENT_LEN,
        "offset": r.a.saturating_mul(PAGE_SIZE),
        "unwritten": r.b & EXTENT_UNWRITTEN != 0,
    })
}
