//! A file of the fake disk: what a process sees of it, and what the power leaves.
//!
//! Invariant: what was synced is durable; of the rest a failure of the power leaves any choice of sectors.
//! Not here: names and faults (`disk`).

use std::ops::Range;
use std::rc::Rc;

use super::super::random::Random;
use super::page::{Image, PAGE, Page, page_of, whole};

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Image,
    pub(super) durable: Image,
    pub(super) length: u64,
    pub(super) durable_length: u64,
    /// Pages that differ, or may; some more than once.
    pub(super) dirty: Vec<u32>,
    pub(super) links: u32,
    pub(super) lock: Option<u64>,
}

pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// These bytes of a page that nobody else has, if they are there.
fn own_part(page: &mut Option<Page>, bytes: Range<usize>) -> Option<&mut [u8]> {
    Rc::get_mut(page.as_mut()?)?.get_mut(bytes)
}

impl Inode {
    fn page(image: &mut Image, number: usize) -> &mut Option<Page> {
        if image.len() <= number {
            image.resize(number + 1, None);
        }
        &mut image[number]
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (index(at), bytes);
        while !rest.is_empty() {
            let (number, begin) = (at / PAGE, at % PAGE);
            let count = rest.len().min(PAGE - begin);
            let (now, behind) = rest.split_at(count);
            let page = Inode::page(&mut self.live, number);
            if count == PAGE {
                *page = page_of(now);
            } else if let Some(there) = own_part(page, begin..begin + count) {
                // A small file that is written over and over.
                there.copy_from_slice(now);
            } else {
                let mut bytes = whole(page.as_ref());
                bytes[begin..begin + count].copy_from_slice(now);
                *page = page_of(&bytes);
            }
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            if !self.dirty.iter().rev().take(2).any(|one| *one == number) {
                self.dirty.push(number);
            }
            at += count;
            rest = behind;
        }
        self.length = self.length.max(at as u64);
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&mut self) {
        for number in self.dirty.drain(..) {
            let number = number as usize;
            *Inode::page(&mut self.durable, number) = self.live[number].clone();
        }
        self.durable_length = self.length;
    }

    /// Of what was written and not synced, any sectors are left.
    pub(super) fn lose(&mut self, random: &mut Random) {
        if self.durable_length != self.length && random.coin() {
            self.durable_length = self.length;
        }
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for number in self.dirty.drain(..) {
            let number = number as usize;
            let live = whole(self.live.get(number).and_then(Option::as_ref));
            let durable = Inode::page(&mut self.durable, number);
            let keep = random.number();
            let mut left = whole(durable.as_ref());
            for sector in 0..PAGE / SECTOR {
                if keep >> sector & 1 == 1 {
                    let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                    left[bytes.clone()].copy_from_slice(&live[bytes]);
                }
            }
            *durable = page_of(&left);
        }
        self.length = self.durable_length;
        let pages = index(self.length).div_ceil(PAGE);
        self.durable.truncate(pages);
        self.live.clone_from(&self.durable);
    }
}
