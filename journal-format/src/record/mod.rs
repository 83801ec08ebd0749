//! A record: type, version, domain, previous LSN of the domain, body.

mod body;
mod codec;
mod disks;
mod fixed;
mod job;
mod key;
mod settings;
mod vocabulary;

pub use body::*;
pub use codec::{
    Decoded, RECORD_HEADER_SIZE, RecordHeader, body_size, put_record, record_at, record_size,
};
pub(crate) use codec::{decode_record, encode_record};
pub use disks::*;
pub use job::*;
pub use key::*;
pub use settings::*;
pub use vocabulary::*;

use crate::number::{DomainId, Lsn};

/// A record before it is given its place: what it says, and about which domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The domain it is about; none for what concerns the whole journal.
    pub domain: Option<DomainId>,
    /// What it says.
    pub body: RecordBody,
}

/// A record in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub lsn: Lsn,
    /// The domain it is about.
    pub domain: Option<DomainId>,
    /// The record of the same domain before this one, if there is one (F17).
    pub previous: Option<Lsn>,
    /// What it says.
    pub body: RecordBody,
}
