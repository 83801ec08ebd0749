//! The journal's files.
mod durable;

pub use durable::Durable;

/// A value that was never written down, for tests of what takes one.
#[cfg(test)]
pub(crate) fn durable_for_tests<T>(value: T) -> Durable<T> {
    Durable::new(value)
}
