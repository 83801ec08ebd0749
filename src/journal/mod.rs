//! The journal's files.
mod durable;

pub use durable::Durable;
