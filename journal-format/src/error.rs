//! What can be wrong with bytes.
//! Invariant: an error says what was being read and what is wrong, never guesses why.
//! Not here: where in which file (whoever reads adds that).

use core::fmt;

/// Why bytes are not what they should be, or a record cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than the thing has.
    TooShort {
        /// What was being read.
        what: &'static str,
    },
    /// It does not begin as it must.
    NoMagic {
        /// What was being read.
        what: &'static str,
    },
    /// Its CRC does not match its bytes.
    Checksum {
        /// What was being read.
        what: &'static str,
    },
    /// A version that this program does not read.
    Version {
        /// The version found.
        found: u32,
    },
    /// A field has a value that no writer writes.
    Field {
        /// Which.
        what: &'static str,
    },
    /// A batch that does not follow the one before it: repeated, stale, or moved.
    OutOfPlace,
    /// A body that does not decode as its type and version say.
    Body {
        /// The type's name.
        kind: &'static str,
    },
    /// A record too large to be written.
    TooLarge {
        /// The type's name.
        kind: &'static str,
        /// The most there can be, in bytes.
        size_max: usize,
    },
    /// A batch too large to be written.
    BatchFull,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::TooShort { what } => write!(f, "{what} is cut short"),
            FormatError::NoMagic { what } => write!(f, "no {what} begins here"),
            FormatError::Checksum { what } => write!(f, "the checksum of the {what} is wrong"),
            FormatError::Version { found } => {
                write!(f, "format version {found} is not one this program reads")
            }
            FormatError::Field { what } => write!(f, "{what} has an impossible value"),
            FormatError::OutOfPlace => f.write_str("the batch does not follow the one before it"),
            FormatError::Body { kind } => write!(f, "the body of a {kind} record does not decode"),
            FormatError::TooLarge { kind, size_max } => {
                write!(f, "a {kind} record is larger than {size_max} bytes")
            }
            FormatError::BatchFull => f.write_str("the batch is full"),
        }
    }
}

impl core::error::Error for FormatError {}
