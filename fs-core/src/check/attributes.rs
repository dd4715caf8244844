// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Extended attributes (LAYOUT.md, section 12).

use super::checker::{Checker, Info, Res};
use super::flip;
use super::inode::Inode;
use super::report::{Finding, Structure};
use super::store::{Page, Store};
use crate::bytes::{get16, get32, get64, get8, put16};
use crate::layout::{xattr as at, Geometry, PAGE, XATTR_MAGIC};
use crate::types::{Ino, XATTR_NAME_MAX, XATTR_SIZE_MAX};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// What names begin with.
const SPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
/// Values elsewhere that an inode can have.
const MOST_ELSEWHERE: u64 = 8;

/// One attribute.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Region offset of the entry.
    pub offset: u64,
    /// The whole name.
    pub name: Vec<u8>,
    /// Length of the value.
    pub len: u32,
    /// Page and checksum of a value that lies elsewhere.
    pub elsewhere: Option<(u64, u32)>,
    /// Where in the block the entry lies.
    place: (usize, usize),
    /// A value inside the block.
    value: Vec<u8>,
}

impl Attribute {
    /// Pages of a value that lies elsewhere.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.elsewhere
            .map_or(0, |_| u64::from(self.len).div_ceil(PAGE).max(1))
    }

    /// The value; `Ok(Err(why))` where it is not sound.
    pub fn value(&self, store: &Store<'_>) -> crate::Result<Result<Vec<u8>, &'static str>> {
        let Some((page, crc)) = self.elsewhere else {
            return Ok(Ok(self.value.clone()));
        };
        let mut value = vec![0; (self.len as usize).min(XATTR_SIZE_MAX)];
        let off = page.saturating_mul(PAGE);
        store.read(off, &mut value)?;
        Ok(if store.sum(off, &value) == crc {
            Ok(value)
        } else {
            Err("wrong checksum of the value")
        })
    }
}

/// The attribute block of an inode.
#[derive(Clone, Debug)]
pub struct AttributeBlock {
    /// Its page.
    pub page: u64,
    /// Its attributes.
    pub list: Vec<Attribute>,
    bytes: Box<Page>,
}

impl AttributeBlock {
    /// Reads the block of an inode; `Ok(Err(why))` where it is not sound.
    pub fn load(
        store: &Store<'_>,
        geo: &Geometry,
        inode: &Inode,
    ) -> crate::Result<Result<Self, String>> {
        let page = inode.xattr;
        if !geo.is_data(page, 1) {
            return Ok(Err(format!("page {page} is outside the data")));
        }
        let bytes = store.page(page)?;
        let b = bytes.as_slice();
        let off = page.saturating_mul(PAGE);
        if !store.intact(off, b, XATTR_MAGIC) {
            return Ok(Err("wrong magic or checksum".into()));
        }
        if get64(b, at::OWNER) != inode.ino
            || get64(b, at::SELF) != page
            || get32(b, at::GENERATION) != inode.generation
        {
            return Ok(Err("belongs to another inode".into()));
        }
        let count = get16(b, at::COUNT);
        let used = usize::from(get16(b, at::USED));
        if used > PAGE as usize || used < at::ENTRIES as usize {
            return Ok(Err(format!("{used} bytes used")));
        }
        let mut list = Vec::new();
        let mut pos = at::ENTRIES as usize;
        for _ in 0..count {
            let name_len = usize::from(get8(b, pos));
            let flags = get8(b, pos.saturating_add(1));
            let len = get32(b, pos.saturating_add(4));
            let name_at = pos.saturating_add(8);
            let value_at = name_at.saturating_add(name_len);
            let inside = if flags & at::ELSEWHERE != 0 {
                16
            } else {
                len as usize
            };
            let end = value_at
                .saturating_add(inside)
                .checked_next_multiple_of(8)
                .unwrap_or(usize::MAX);
            if name_len == 0
                || name_len > XATTR_NAME_MAX
                || flags & !at::ELSEWHERE != 0
                || len as usize > XATTR_SIZE_MAX
                || end > used
            {
                return Ok(Err(format!("impossible entry at {pos}")));
            }
            let (Some(name), Some(value)) = (
                b.get(name_at..value_at),
                b.get(value_at..value_at.saturating_add(inside)),
            ) else {
                return Ok(Err(format!("impossible entry at {pos}")));
            };
            let elsewhere =
                (flags & at::ELSEWHERE != 0).then(|| (get64(value, 0), get32(value, 8)));
            list.push(Attribute {
                offset: off.saturating_add(pos as u64),
                name: name.to_vec(),
                len,
                elsewhere,
                place: (pos, end),
                value: if elsewhere.is_some() {
                    Vec::new()
                } else {
                    value.to_vec()
                },
            });
            pos = end;
        }
        if pos != used {
            return Ok(Err(format!("{pos} bytes of entries, {used} used")));
        }
        Ok(Ok(AttributeBlock { page, list, bytes }))
    }

    /// The block with only the attributes for which `keep` is set.
    fn without(&self, store: &Store<'_>, keep: &[bool]) -> Box<Page> {
        let mut page = Box::new([0; PAGE as usize]);
        let start = at::ENTRIES as usize;
        if let (Some(to), Some(from)) = (page.get_mut(..start), self.bytes.get(..start)) {
            to.copy_from_slice(from);
        }
        let mut pos = start;
        let mut count = 0;
        for (a, keep) in self.list.iter().zip(keep) {
            if !keep {
                continue;
            }
            let (from, to) = a.place;
            let end = pos.saturating_add(to.saturating_sub(from));
            if let (Some(target), Some(source)) = (page.get_mut(pos..end), self.bytes.get(from..to))
            {
                target.copy_from_slice(source);
            }
            pos = end;
            count += 1;
        }
        put16(page.as_mut_slice(), at::COUNT, count);
        put16(page.as_mut_slice(), at::USED, pos as u16);
        store.seal(self.page.saturating_mul(PAGE), page.as_mut_slice());
        page
    }
}

/// Can an attribute be asked for by this name? One that can only be listed is of no use to anybody,
/// and in the way of whoever copies all of them.
fn is_name(name: &[u8]) -> bool {
    !name.contains(&0)
        && SPACES
            .iter()
            .any(|space| name.len() > space.len() && name.starts_with(space))
}

impl Checker<'_, '_> {
    /// Sets a flipped bit of a value elsewhere right.
    fn mend_value(&mut self, ino: Ino, a: &Attribute) -> Res<()> {
        let Some((page, crc)) = a.elsewhere else {
            return Ok(());
        };
        if !self.geo.is_data(page, a.pages()) {
            return Ok(());
        }
        let off = page.saturating_mul(PAGE);
        let mut value = vec![0; a.len as usize];
        self.store.read(off, &mut value)?;
        let sum = self.store.sum(off, &value);
        let mut right = value.clone();
        if sum == crc || !flip::mend(&mut right, sum, crc) {
            return Ok(());
        }
        let name = super::directories::readable(&a.name);
        let f = Finding::new(
            Structure::Attribute,
            off,
            format!("{name}: one bit of its value flipped"),
        )
        .of(ino)
        .fix("set right")
        .harmless();
        if self.find(&f)? {
            self.stage_bytes(off, &value, &right)?;
        }
        Ok(())
    }

    pub(super) fn check_attributes(&mut self, inode: &mut Inode, info: &mut Info) -> Res<()> {
        if inode.xattr == 0 {
            return Ok(());
        }
        let block_off = inode.xattr.saturating_mul(PAGE);
        if self.geo.is_data(inode.xattr, 1) {
            let page = self.store.page(inode.xattr)?;
            if !self.store.intact(block_off, page.as_slice(), XATTR_MAGIC) {
                if let Some(right) = self.store.mended(block_off, &page, XATTR_MAGIC) {
                    let f = Finding::new(Structure::Attribute, block_off, "one bit flipped")
                        .of(inode.ino)
                        .fix("set right")
                        .harmless();
                    if self.find(&f)? {
                        self.stage_bytes(block_off, page.as_slice(), right.as_slice())?;
                    }
                }
            }
        }
        let block = match AttributeBlock::load(&self.store, &self.geo, inode)? {
            Ok(block) => match self.claims.claim(block.page, 1, inode.ino) {
                Ok(()) => Ok(block),
                Err(other) => Err(format!("the page belongs to inode {}", other.owner)),
            },
            Err(why) => Err(why),
        };
        let block = match block {
            Ok(block) => block,
            Err(why) => {
                let f = Finding::new(Structure::Attribute, block_off, why)
                    .of(inode.ino)
                    .fix("all attributes of the inode removed");
                if self.find(&f)? {
                    inode.xattr = 0;
                }
                return Ok(());
            }
        };
        let mut pages = 1u64;
        let mut elsewhere = 0;
        let mut keep = Vec::new();
        for (n, a) in block.list.iter().enumerate() {
            self.mend_value(inode.ino, a)?;
            let twin = block.list.iter().take(n).any(|b| b.name == a.name);
            let why = match a.elsewhere {
                _ if !is_name(&a.name) => Some(String::from("is no name")),
                _ if twin => Some(String::from("is there twice")),
                None => None,
                Some(_) if elsewhere == MOST_ELSEWHERE => {
                    Some(format!("is one of more than {elsewhere} values elsewhere"))
                }
                Some((page, _)) if !self.geo.is_data(page, a.pages()) => {
                    Some(String::from("its value lies outside the data"))
                }
                Some((page, _)) => match a.value(&self.store)? {
                    Err(why) => Some(why.into()),
                    Ok(_) => match self.claims.claim(page, a.pages(), inode.ino) {
                        Ok(()) => {
                            elsewhere += 1;
                            pages = pages.saturating_add(a.pages());
                            None
                        }
                        Err(other) => {
                            Some(format!("its value lies in pages of inode {}", other.owner))
                        }
                    },
                },
            };
            let Some(why) = why else {
                keep.push(true);
                continue;
            };
            let name = super::directories::readable(&a.name);
            let f = Finding::new(Structure::Attribute, a.offset, format!("{name}: {why}"))
                .of(inode.ino)
                .fix("attribute removed");
            keep.push(!self.find(&f)?);
        }
        if keep.iter().any(|k| !k) {
            if keep.iter().any(|k| *k) {
                let page = block.without(&self.store, &keep);
                for (i, s) in page.chunks_exact(256).enumerate() {
                    if let Ok(s) = s.try_into() {
                        self.store.stage(block_off + i as u64 * 256, s);
                    }
                }
            } else {
                self.claims.release(block.page, 1, inode.ino);
                pages = pages.saturating_sub(1);
                inode.xattr = 0;
            }
        }
        info.pages = info.pages.saturating_add(pages);
        self.report.pages_metadata = self.report.pages_metadata.saturating_add(pages);
        Ok(())
    }
}
