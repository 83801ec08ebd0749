//! A domain's definition, which takes several records.
//!
//! Invariant: a definition is known only whole.
//! Not here: what is in one; nobody here looks.

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{DEFINITION_PART_SIZE_MAX, DefinitionPart, Draft, RecordBody};

use super::{Domain, State};

impl State {
    /// The definition of a domain that has another one now, or is gone.
    pub(super) fn drop_definition(&mut self, before: Option<Domain>, now: Option<Lsn>) {
        let unused = before.and_then(|domain| domain.state.definition);
        if let Some(first) = unused.filter(|first| Some(*first) != now) {
            self.definitions.remove(&first);
        }
    }

    /// A definition, if all its parts are there.
    pub(crate) fn definition(&self, first: Lsn) -> Option<String> {
        let parts = self.definitions.get(&first)?;
        let count = usize::from(parts.values().next()?.count);
        (parts.len() == count).then(|| parts.values().map(|part| part.text.as_str()).collect())
    }
}

/// A definition as records, cut between characters.
pub(crate) fn definition_parts(domain: DomainId, first: Lsn, text: &str) -> Vec<Draft> {
    let mut pieces: Vec<&str> = Vec::new();
    let mut rest = text;
    loop {
        let cut = rest.floor_char_boundary(DEFINITION_PART_SIZE_MAX);
        let (piece, remaining) = rest.split_at(cut);
        pieces.push(piece);
        rest = remaining;
        if rest.is_empty() {
            break;
        }
    }
    let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
    let part = |(index, piece): (u16, &str)| {
        let part = DefinitionPart {
            first,
            index,
            count,
            text: piece.to_owned(),
        };
        Draft {
            domain: Some(domain),
            body: RecordBody::DefinitionPart(part),
        }
    };
    (0..count).zip(pieces).map(part).collect()
}
