//! What the fuzz targets do with bytes, as plain functions, so that ordinary tests replay the corpora.

pub mod bytes;
pub mod engine;
pub mod inputs;
pub mod rules;
pub mod scan;
