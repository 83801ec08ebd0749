//! What the fuzz targets do with bytes, as plain functions, so that ordinary tests replay the corpora.

pub mod batch;
pub mod bytes;
pub mod control;
pub mod engine;
mod fair;
mod harness;
pub mod inputs;
pub mod open;
pub mod peer;
pub mod qmp_codec;
pub mod record;
pub mod rules;
pub mod scan;
pub mod segment;
pub mod sim;
