//! Measures the journal beside its peers and beside the raw limit of the disk they all write to.
//!
//! Invariant: every figure of appends stands beside the raw limit of the same second; candidates take
//! turns; what is compared does the same work, and what does not is said to.
//! Not here: tuning. Nothing of the product is changed to be measured.

pub mod append;
pub mod costs;
pub mod failure;
pub mod host;
pub mod limit;
pub mod node;
pub mod opening;
pub mod ours;
pub mod payload;
pub mod peers;
pub mod proxy;
pub mod replay;
pub mod report;
pub mod statistics;
