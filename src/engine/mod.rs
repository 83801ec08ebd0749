//! The pure core: inputs to records, effects and messages.
mod interface;

pub use interface::*;
