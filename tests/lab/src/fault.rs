//! A disk that fails under a whole program: the kernel itself refuses its writes.
//!
//! Invariant: the fault is seccomp's, between the program and the kernel; nothing in the program knows
//! of it, and nothing but the program has it.
//! Not here: what a program should do then.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

const SOURCE: &str = include_str!("refuse.c");

/// A system call that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `pwritev2`: a batch, written and synced at once, or the head of a segment.
    WriteAndSync,
    /// `pwrite64`: zeros of segments to be.
    Write,
}

/// What fails, from where in a file on, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The system call.
    pub call: Call,
    /// It fails at this place in a file and behind it, in bytes.
    pub from: u32,
    /// With this error.
    pub errno: u16,
}

impl Fault {
    /// Builds the program that starts another one with this fault, in `directory`; returns it and its
    /// arguments before that one.
    ///
    /// # Errors
    /// [`Error::Assemble`] when `cc` refuses, [`Error::Io`] when it cannot be run.
    pub(crate) fn launcher(&self, directory: &Path) -> Result<(PathBuf, Vec<String>), Error> {
        let (source, program) = (directory.join("refuse.c"), directory.join("refuse"));
        std::fs::write(&source, SOURCE).map_err(Error::io("writing", &source))?;
        let built = Command::new("cc")
            .args(["-O", "-Wall", "-Werror", "-o"])
            .args([&program, &source])
            .output()
            .map_err(Error::io("building", &source))?;
        if !built.status.success() {
            return Err(Error::Assemble {
                program: "cc",
                output: String::from_utf8_lossy(&built.stderr).into_owned(),
            });
        }
        let call = match self.call {
            Call::WriteAndSync => "pwritev2",
            Call::Write => "pwrite64",
        };
        let arguments = [
            call.to_owned(),
            self.from.to_string(),
            self.errno.to_string(),
        ];
        Ok((program, arguments.to_vec()))
    }
}
