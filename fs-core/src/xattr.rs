// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Extended attributes: one page of entries, replaced as a whole (LAYOUT.md, section 12).

use crate::bytes::{get16, get32, get64, get8, put, put16, put32, put64, put8};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Need, Tx, TxResult};
use crate::layout::{checksum, xattr, CRC_AT, PAGE, SECTOR, XATTR_MAGIC};
use crate::region::Region;
use crate::space::{offset, Want};
use crate::types::{Ino, XattrMode, XATTR_NAME_MAX, XATTR_SIZE_MAX};

/// Bytes of an entry before its name.
const HEAD: u64 = 8;
/// Bytes of an entry that say where a value elsewhere is.
const POINTER: u64 = 16;
/// Values longer than this go elsewhere, as long as there may be more of those.
const LARGE: usize = 1024;
/// Most values elsewhere of one inode: one transaction can free them all.
const MAX_ELSEWHERE: u64 = 8;

/// An attribute block that was checked.
struct Block {
    base: u64,
    count: u64,
    used: u64,
}

/// One entry of a block.
struct Item {
    at: u64,
    size: u64,
    name_len: usize,
    value_len: usize,
    elsewhere: bool,
}

impl Block {
    fn load<R: Region, H: Host>(fs: &Fs<R, H>, inode: &Inode) -> Result<Option<Block>> {
        let page = inode.xattr();
        if page == 0 {
            return Ok(None);
        }
        if !fs.geo.is_data(page, 1) {
            return Err(Error::corrupt(
                inode.off,
                "inode: attribute block outside the data zone",
            ));
        }
        let base = offset(page);
        let mut b = [0u8; SECTOR as usize];
        fs.region.read(base, &mut b)?;
        if get32(&b, 0) != XATTR_MAGIC
            || get64(&b, xattr::OWNER) != inode.ino()
            || get64(&b, xattr::SELF) != page
            || get32(&b, xattr::GENERATION) != inode.generation()
        {
            return Err(Error::corrupt(
                base,
                "attribute block: not one, or another inode's",
            ));
        }
        if page_sum(fs, base)? != get32(&b, CRC_AT) {
            return Err(Error::corrupt(base, "attribute block: bad checksum"));
        }
        let used = u64::from(get16(&b, xattr::USED));
        if !(xattr::ENTRIES..=PAGE).contains(&used) {
            return Err(Error::corrupt(base, "attribute block: bad size"));
        }
        Ok(Some(Block {
            base,
            count: u64::from(get16(&b, xattr::COUNT)),
            used,
        }))
    }

    /// Calls `f` for each entry until it answers something.
    fn find<R: Region, H: Host, T>(
        &self,
        fs: &Fs<R, H>,
        mut f: impl FnMut(&Item) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut at = xattr::ENTRIES;
        for _ in 0..self.count {
            let mut h = [0u8; HEAD as usize];
            if at + HEAD > self.used {
                return Err(Error::corrupt(
                    self.base,
                    "attribute block: entry out of bounds",
                ));
            }
            fs.region.read(self.base + at, &mut h)?;
            let name_len = usize::from(get8(&h, 0));
            let elsewhere = get8(&h, 1) & xattr::ELSEWHERE != 0;
            let value_len = get32(&h, 4) as usize;
            let size = entry_size(name_len, value_len, elsewhere);
            if name_len == 0 || value_len > XATTR_SIZE_MAX || at + size > self.used {
                return Err(Error::corrupt(
                    self.base,
                    "attribute block: entry out of bounds",
                ));
            }
            let item = Item {
                at: self.base + at,
                size,
                name_len,
                value_len,
                elsewhere,
            };
            if let Some(t) = f(&item)? {
                return Ok(Some(t));
            }
            at += size;
        }
        Ok(None)
    }
}

impl Item {
    fn name<'b, R: Region, H: Host>(
        &self,
        fs: &Fs<R, H>,
        buf: &'b mut [u8; XATTR_NAME_MAX],
    ) -> Result<&'b [u8]> {
        let b = buf.get_mut(..self.name_len).unwrap_or_default();
        fs.region.read(self.at + HEAD, b)?;
        Ok(b)
    }

    /// Page and checksum of a value elsewhere.
    fn pointer<R: Region, H: Host>(&self, fs: &Fs<R, H>) -> Result<(u64, u32)> {
        let mut b = [0u8; POINTER as usize];
        fs.region
            .read(self.at + HEAD + self.name_len as u64, &mut b)?;
        let page = get64(&b, 0);
        if !fs.geo.is_data(page, value_pages(self.value_len)) {
            return Err(Error::corrupt(
                self.at,
                "attribute value outside the data zone",
            ));
        }
        Ok((page, get32(&b, 8)))
    }
}

fn entry_size(name_len: usize, value_len: usize, elsewhere: bool) -> u64 {
    let value = if elsewhere { POINTER } else { value_len as u64 };
    (HEAD + name_len as u64 + value).next_multiple_of(8)
}

fn value_pages(len: usize) -> u64 {
    (len as u64).div_ceil(PAGE).max(1)
}

/// Checksum of an attribute block.
fn page_sum<R: Region, H: Host>(fs: &Fs<R, H>, base: u64) -> Result<u32> {
    let mut b = [0u8; SECTOR as usize];
    fs.region.read(base, &mut b)?;
    put32(&mut b, CRC_AT, 0);
    let mut crc = checksum(&fs.host, fs.seed, base, &b);
    for k in 1..PAGE / SECTOR {
        fs.region.read(base + k * SECTOR, &mut b)?;
        crc = fs.host.crc32(crc, &b);
    }
    Ok(crc)
}

/// Is this a name we keep? (xattr(7): ERANGE for a long one.)
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > XATTR_NAME_MAX {
        return Err(Error::Range);
    }
    let spaces: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
    match spaces.iter().find(|p| name.starts_with(p)) {
        Some(p) if name.len() > p.len() && !name.contains(&0) => Ok(()),
        Some(_) => Err(Error::Invalid),
        None => Err(Error::NotSupported),
    }
}

/// Frees an inode's attributes; the inode is changed, not written. At most 9 frees.
pub(crate) fn free_all<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
) -> TxResult<()> {
    let fs = tx.fs;
    let Some(block) = Block::load(fs, inode)? else {
        return Ok(());
    };
    let mut left = MAX_ELSEWHERE;
    block.find(fs, |item| {
        if item.elsewhere {
            if left == 0 {
                return Err(Error::corrupt(
                    block.base,
                    "attribute block: too many large values",
                ));
            }
            left -= 1;
            let pages = value_pages(item.value_len);
            tx.free(item.pointer(fs)?.0, pages)?;
            inode.add_pages(-(pages as i64));
        }
        Ok(None::<()>)
    })?;
    tx.free(inode.xattr(), 1)?;
    inode.add_pages(-1);
    inode.set_xattr(0);
    Ok(())
}

/// What the attributes of an inode shall become.
struct Change<'a> {
    name: &'a [u8],
    /// `None` removes.
    value: Option<&'a [u8]>,
    mode: XattrMode,
}

impl<R: Region, H: Host> Fs<R, H> {
    pub(crate) fn do_getxattr(&self, ino: Ino, name: &[u8], buf: &mut [u8]) -> Result<usize> {
        check_name(name)?;
        let mut i = Inode::NONE;
        self.inode(self, ino, &mut i)?;
        let Some(block) = Block::load(self, &i)? else {
            return Err(Error::NoData);
        };
        let mut space = [0u8; XATTR_NAME_MAX];
        let found = block.find(self, |item| {
            if item.name(self, &mut space)? != name {
                return Ok(None);
            }
            if buf.is_empty() {
                return Ok(Some(item.value_len));
            }
            let Some(out) = buf.get_mut(..item.value_len) else {
                return Err(Error::Range);
            };
            if item.elsewhere {
                let (page, crc) = item.pointer(self)?;
                self.region.read(offset(page), out)?;
                if self.sum(offset(page), out) != crc {
                    return Err(Error::corrupt(
                        offset(page),
                        "attribute value: bad checksum",
                    ));
                }
            } else {
                self.region
                    .read(item.at + HEAD + item.name_len as u64, out)?;
            }
            Ok(Some(item.value_len))
        })?;
        found.ok_or(Error::NoData)
    }

    pub(crate) fn do_listxattr(&self, ino: Ino, buf: &mut [u8]) -> Result<usize> {
        let mut i = Inode::NONE;
        self.inode(self, ino, &mut i)?;
        let Some(block) = Block::load(self, &i)? else {
            return Ok(0);
        };
        let mut total = 0;
        block.find(self, |item| {
            if !buf.is_empty() {
                let Some(out) = buf.get_mut(total..total + item.name_len + 1) else {
                    return Err(Error::Range);
                };
                if let Some((end, name)) = out.split_last_mut() {
                    self.region.read(item.at + HEAD, name)?;
                    *end = 0;
                }
            }
            total += item.name_len + 1;
            Ok(None::<()>)
        })?;
        Ok(total)
    }

    pub(crate) fn do_setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<()> {
        check_name(name)?;
        if value.is_some_and(|v| v.len() > XATTR_SIZE_MAX) {
            return Err(Error::TooBig);
        }
        let now = self.host.now();
        self.run(|tx| {
            if value.is_none() {
                tx.need = Need::Must;
            }
            let mut i = Inode::NONE;
            self.inode(tx, ino, &mut i)?;
            change(tx, &mut i, &Change { name, value, mode })?;
            i.set_ctime(now);
            Ok(tx.put_inode(&i)?)
        })
    }
}

/// Writes the new attribute block and frees the old one. The inode is changed, not written.
fn change<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    c: &Change<'_>,
) -> TxResult<()> {
    let fs = tx.fs;
    let old = Block::load(fs, inode)?;
    let mut space = [0u8; XATTR_NAME_MAX];
    let (mut kept, mut bytes, mut elsewhere) = (0u64, 0u64, 0u64);
    let mut replaced: Option<Item> = None;
    if let Some(block) = &old {
        block.find(fs, |item| {
            if item.name(fs, &mut space)? == c.name {
                replaced = Some(Item { ..*item });
            } else {
                kept += 1;
                bytes += item.size;
                elsewhere += u64::from(item.elsewhere);
            }
            Ok(None::<()>)
        })?;
    }
    match (&replaced, c.mode, c.value) {
        (Some(_), XattrMode::Create, Some(_)) => return Err(Error::Exists.into()),
        (None, XattrMode::Replace, _) | (None, _, None) => return Err(Error::NoData.into()),
        _ => {}
    }

    if kept > 0 || c.value.is_some() {
        let room = PAGE - xattr::ENTRIES - bytes.min(PAGE - xattr::ENTRIES);
        let mut large = None;
        if let Some(v) = c.value {
            let fits = entry_size(c.name.len(), v.len(), false) <= room;
            if !fits || (v.len() > LARGE && elsewhere < MAX_ELSEWHERE) {
                if elsewhere >= MAX_ELSEWHERE || entry_size(c.name.len(), 0, true) > room {
                    return Err(Error::NoSpace.into());
                }
                let pages = value_pages(v.len());
                let (page, _) = tx.alloc(Want {
                    pages,
                    least: pages,
                    goal: None,
                    colour: None,
                })?;
                // Nobody names the page yet.
                fs.region.write(offset(page), v)?;
                inode.add_pages(pages as i64);
                large = Some((page, fs.sum(offset(page), v)));
            }
        }
        let (page, _) = tx.alloc(Want::PAGE)?;
        inode.add_pages(1);
        write_block(fs, inode, page, old.as_ref(), c, large, kept)?;
        free_replaced(tx, inode, old.as_ref(), replaced.as_ref())?;
        inode.set_xattr(page);
    } else {
        free_replaced(tx, inode, old.as_ref(), replaced.as_ref())?;
        inode.set_xattr(0);
    }
    Ok(())
}

/// Frees the old block, and the value that is not wanted any more.
fn free_replaced<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    old: Option<&Block>,
    replaced: Option<&Item>,
) -> TxResult<()> {
    if old.is_some() {
        tx.free(inode.xattr(), 1)?;
        inode.add_pages(-1);
    }
    if let Some(item) = replaced {
        if item.elsewhere {
            let pages = value_pages(item.value_len);
            tx.free(item.pointer(tx.fs)?.0, pages)?;
            inode.add_pages(-(pages as i64));
        }
    }
    Ok(())
}

/// Fills a page that nobody names yet with the new block.
fn write_block<R: Region, H: Host>(
    fs: &Fs<R, H>,
    inode: &Inode,
    page: u64,
    old: Option<&Block>,
    c: &Change<'_>,
    large: Option<(u64, u32)>,
    kept: u64,
) -> Result<()> {
    let base = offset(page);
    fs.region.zero(base, PAGE)?;
    let mut at = xattr::ENTRIES;
    let mut space = [0u8; XATTR_NAME_MAX];
    if let Some(block) = old {
        block.find(fs, |item| {
            if item.name(fs, &mut space)? != c.name {
                fs.region.copy(item.at, base + at, item.size)?;
                at += item.size;
            }
            Ok(None::<()>)
        })?;
    }
    if let Some(v) = c.value {
        let mut head = [0u8; HEAD as usize];
        put8(&mut head, 0, c.name.len() as u8);
        put8(
            &mut head,
            1,
            if large.is_some() { xattr::ELSEWHERE } else { 0 },
        );
        put32(&mut head, 4, v.len() as u32);
        fs.region.write(base + at, &head)?;
        fs.region.write(base + at + HEAD, c.name)?;
        let to = base + at + HEAD + c.name.len() as u64;
        match large {
            Some((page, crc)) => {
                let mut p = [0u8; POINTER as usize];
                put64(&mut p, 0, page);
                put32(&mut p, 8, crc);
                fs.region.write(to, &p)?;
            }
            None => fs.region.write(to, v)?,
        }
        at += entry_size(c.name.len(), v.len(), large.is_some());
    }
    let mut h = [0u8; xattr::ENTRIES as usize];
    put32(&mut h, 0, XATTR_MAGIC);
    put64(&mut h, xattr::OWNER, inode.ino());
    put64(&mut h, xattr::SELF, page);
    put32(&mut h, xattr::GENERATION, inode.generation());
    put16(
        &mut h,
        xattr::COUNT,
        (kept + u64::from(c.value.is_some())) as u16,
    );
    put16(&mut h, xattr::USED, at as u16);
    fs.region.write(base, &h)?;
    let crc = page_sum(fs, base)?;
    put(&mut h, CRC_AT, &crc.to_le_bytes());
    fs.region.write(base, &h)
}
