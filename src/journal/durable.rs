//! The proof that records are on stable storage.
//!
//! Invariant (P1): only the journal makes a [`Durable`], and only after the batch that holds the
//! value's records was written and synced. Whatever touches the world takes one by value.
//! Not here: what is proven (the engine's outbox).

/// A value whose records are on stable storage.
///
/// There is no public constructor and no `map`: a closure could swap the value for another. Only
/// structural access keeps the proof.
///
/// ```compile_fail
/// use phase_journal::journal::Durable;
/// // Nobody but the journal can claim that something is durable.
/// let forged = Durable("effect");
/// ```
///
/// ```compile_fail
/// use phase_journal::journal::Durable;
/// let forged = Durable::new("effect");
/// ```
#[must_use = "what became durable waits to be carried out"]
#[derive(Debug)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// For the journal alone: the batch that holds the value's records was written and synced.
    pub(in crate::journal) fn new(value: T) -> Durable<T> {
        Durable(value)
    }

    /// The value, to look at.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value without its proof.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<A, B> Durable<(A, B)> {
    /// Both halves, each with the proof.
    pub fn split(self) -> (Durable<A>, Durable<B>) {
        (Durable(self.0.0), Durable(self.0.1))
    }
}

impl<T> Durable<Vec<T>> {
    /// Every element with the proof.
    pub fn each(self) -> impl Iterator<Item = Durable<T>> {
        self.0.into_iter().map(Durable)
    }
}
