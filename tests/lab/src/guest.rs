//! Assembles the counting guest (`guest/counter.s`) into a boot disk.
//!
//! Invariant: the image is what the source in the tree says; none is committed. Only `as` and `ld`
//! are needed, which are there wherever Rust links.
//!
//! Not here: what the numbers prove (see [`crate::judge`]).

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Error, Scratch};

const SOURCE: &str = include_str!("../guest/counter.s");

/// Address of the working set's first page, whose first 32 bits hold the number.
pub const FIRST_PAGE_ADDRESS: u32 = 0x10000;

/// Most pages that lie between the boot sector and the BIOS' own memory below 640 KiB.
pub const DIRTY_PAGES_MAX: u32 = 128;

/// Ticks of the guest per second that a test can count on: about one each 10 ms.
pub const TICKS_PER_SECOND: u32 = 100;

/// Bytes per second at which a pass over the working set of [`GuestOptions::RESTLESS`] takes half
/// a second, so that all of it is dirty again at the end of each.
pub const RESTLESS_BANDWIDTH: u64 = 1_000_000;

/// Frequency of the PC's timer, in Hz.
const PIT_HZ: u32 = 1_193_182;

const SECTOR_BYTES: usize = 512;

/// Size of the disk: small, and a whole number of any sector size.
const DISK_BYTES: usize = 1024 * 1024;

/// How the guest behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestOptions {
    /// Pages of 4 KiB written at each tick, 1 to [`DIRTY_PAGES_MAX`].
    pub dirty_pages: u32,
    /// One byte of output per tick in place of one line, so that almost every moment lies within a line.
    pub paced: bool,
}

impl GuestOptions {
    /// 256 KiB per tick: enough that memory is always dirty, and it converges at once without a limit.
    pub const ORDINARY: GuestOptions = GuestOptions {
        dirty_pages: 64,
        paced: false,
    };
    /// 512 KiB per tick. With a bandwidth of [`RESTLESS_BANDWIDTH`] and a downtime limit of 1 ms a
    /// migration does not converge, and stays `active` until one of them is raised.
    pub const RESTLESS: GuestOptions = GuestOptions {
        dirty_pages: DIRTY_PAGES_MAX,
        paced: false,
    };
    /// Prints a line in 90 ms, so that nearly every switch falls within one.
    pub const PACED: GuestOptions = GuestOptions {
        dirty_pages: 64,
        paced: true,
    };
}

/// A bootable raw disk in memory. Each scenario writes its own copy, as QEMU locks the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    disk: Vec<u8>,
}

impl GuestImage {
    /// Assembles the guest; takes some 20 ms.
    ///
    /// # Errors
    /// [`Error::Assemble`] when `as` or `ld` refuse, [`Error::Io`] when they cannot be run.
    ///
    /// # Panics
    /// If `dirty_pages` is 0 or above [`DIRTY_PAGES_MAX`].
    pub fn assemble(options: GuestOptions) -> Result<GuestImage, Error> {
        assert!((1..=DIRTY_PAGES_MAX).contains(&options.dirty_pages));
        let scratch = Scratch::create()?;
        let path = |name| scratch.path().join(name);
        let (source, object, image) = (path("counter.s"), path("counter.o"), path("counter.img"));
        fs::write(&source, SOURCE).map_err(Error::io("writing", &source))?;
        run(
            "as",
            Command::new("as")
                .args(["--32", "--fatal-warnings"])
                .args(["--defsym", &format!("DIRTY_PAGES={}", options.dirty_pages)])
                .args([
                    "--defsym",
                    &format!("PIT_DIVISOR={}", PIT_HZ / TICKS_PER_SECOND),
                ])
                .args(["--defsym", &format!("PACED={}", u32::from(options.paced))])
                .arg("-o")
                .args([&object, &source]),
        )?;
        run(
            "ld",
            Command::new("ld")
                .args(["-m", "elf_i386", "-N", "-e", "_start", "-Ttext", "0x7c00"])
                .args(["--oformat", "binary", "-o"])
                .args([&image, &object]),
        )?;
        let mut disk = fs::read(&image).map_err(Error::io("reading", &image))?;
        assert_eq!(
            disk.len(),
            SECTOR_BYTES,
            "the source fills its sector with .org"
        );
        disk.resize(DISK_BYTES, 0);
        Ok(GuestImage { disk })
    }

    /// Writes the disk to a file, replacing it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        fs::write(path, &self.disk).map_err(Error::io("writing", path))
    }
}

fn run(program: &'static str, command: &mut Command) -> Result<(), Error> {
    let output = command.output().map_err(Error::io("running", program))?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Assemble { program, output })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_a_boot_disk() {
        let kinds = [
            GuestOptions::ORDINARY,
            GuestOptions::RESTLESS,
            GuestOptions::PACED,
        ];
        let images = kinds.map(|kind| GuestImage::assemble(kind).unwrap());
        for image in &images {
            assert_eq!(image.disk.len(), DISK_BYTES);
            assert_eq!(image.disk[510..512], [0x55, 0xaa]);
        }
        assert_ne!(images[0], images[1]);
        assert_ne!(images[0], images[2]);
    }

    #[test]
    fn a_wrong_source_names_the_assembler() {
        let problem = run(
            "as",
            Command::new("as").args(["--32", "-o", "/dev/null", "/dev/null/x"]),
        );
        assert!(
            problem
                .unwrap_err()
                .to_string()
                .starts_with("`as` did not build")
        );
    }
}
