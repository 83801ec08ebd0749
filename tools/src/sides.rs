//! Journals of several hosts laid beside each other: what each side of a migration recorded must fit to what
//! the other one did.
//!
//! Invariant: only what two journals say is compared; where records are missing, nothing follows from their
//! absence. A journal that is older than what another one saw of it is told of as that, and not as wrong.
//! Not here: what one journal alone must keep (`phase_journal::engine::laws`).

use std::collections::BTreeMap;

use journal_format::number::{JournalId, Lsn, MigrationId, Nonce, Position};
use journal_format::record::{
    Authority, MigrationState, MigrationTerms, Outcome, PeerAnswer, Protocol, Record, RecordBody,
    Role,
};

use crate::examine::Examined;

/// Something that two journals say differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// The migration; none for what concerns a whole journal.
    pub(crate) migration: Option<MigrationId>,
    /// A promise was broken; else a copy is only older.
    pub(crate) is_broken: bool,
    /// How.
    pub(crate) how: String,
}

/// What one journal says of a migration.
#[derive(Clone, Debug, Default)]
struct Story {
    terms: Option<MigrationTerms>,
    /// Its begin was read, so that what is not here did not happen, if nothing is lost.
    from_begin: bool,
    prepared: Option<Nonce>,
    granted: Option<(Lsn, Nonce)>,
    abandoned: Option<Lsn>,
    committed: Option<(Lsn, Option<Nonce>)>,
    started: Option<Lsn>,
    aborted: Option<Lsn>,
    outcome: Option<(Lsn, Outcome, Option<Position>)>,
    /// The record in which the other side said aborted, and where that stood.
    heard_aborted: Option<(Lsn, Option<Position>)>,
    resolved: bool,
}

impl Story {
    fn is(&self, role: Role) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.role == role)
    }
}

/// One journal's part.
#[derive(Debug)]
pub(crate) struct Side {
    label: String,
    journal: Option<JournalId>,
    last: Lsn,
    has_gaps: bool,
    stories: BTreeMap<MigrationId, Story>,
    by_job: BTreeMap<Lsn, MigrationId>,
    /// The furthest that was seen of other journals: the record, and the position.
    seen: BTreeMap<JournalId, (Lsn, Lsn)>,
}

/// All journals together.
#[derive(Debug, Default)]
pub(crate) struct Sides(Vec<Side>);

impl Side {
    /// Takes in a record.
    pub(crate) fn see(&mut self, record: &Record) {
        let lsn = record.lsn;
        match &record.body {
            RecordBody::JobBegun(begun) => {
                if let Some(terms) = &begun.migration {
                    self.by_job.insert(lsn, terms.migration);
                    let story = self.story(terms.migration);
                    story.terms = Some(terms.clone());
                    story.from_begin = true;
                }
            }
            RecordBody::MigrationState(state) => self.restated(lsn, state),
            RecordBody::PeerPrepared(prepared) => {
                self.saw(lsn, Some(prepared.position));
                self.story(prepared.migration).prepared = Some(prepared.nonce);
            }
            RecordBody::PeerHeard(heard) => {
                self.saw(lsn, heard.position);
                if heard.answer == PeerAnswer::Aborted {
                    self.story(heard.migration).heard_aborted = Some((lsn, heard.position));
                }
            }
            RecordBody::MigrationGranted(granted) => {
                let cookie = &granted.cookie;
                self.story(cookie.migration).granted = Some((lsn, cookie.nonce));
            }
            RecordBody::MigrationAbandoned(abandoned) => {
                self.story(abandoned.migration).abandoned = Some(lsn);
            }
            RecordBody::MigrationCommitted(committed) => {
                let nonce = committed.cookie.map(|cookie| cookie.nonce);
                self.story(committed.migration).committed = Some((lsn, nonce));
            }
            RecordBody::MigrationStarted(named) => {
                self.story(named.migration).started = Some(lsn);
            }
            RecordBody::MigrationAborted(named) => {
                self.story(named.migration).aborted = Some(lsn);
            }
            RecordBody::OutcomeLearned(learned) => {
                self.saw(lsn, learned.position);
                self.story(learned.migration).outcome =
                    Some((lsn, learned.outcome, learned.position));
            }
            RecordBody::OperatorResolved(resolved) => {
                if let Some(migration) = self.by_job.get(&resolved.job).copied() {
                    self.story(migration).resolved = true;
                }
            }
            _ => {}
        }
    }

    /// A checkpoint says how a migration stood of which nothing else may be left.
    fn restated(&mut self, lsn: Lsn, state: &MigrationState) {
        self.by_job.insert(state.job, state.terms.migration);
        self.saw(lsn, state.peer_position);
        let story = self.story(state.terms.migration);
        if story.from_begin {
            return;
        }
        let nonce = state.granted.map(|cookie| cookie.nonce);
        story.terms = Some(state.terms.clone());
        story.prepared = story.prepared.or(state.terms.nonce);
        story.granted = story.granted.or(nonce.map(|nonce| (lsn, nonce)));
        story.abandoned = story.abandoned.or(state.abandoned.then_some(lsn));
        story.committed = story.committed.or(state.committed.then_some((lsn, None)));
        story.started = story.started.or(state.started.then_some(lsn));
        story.aborted = story.aborted.or(state.aborted.then_some(lsn));
        let outcome = state.outcome.map(|outcome| (lsn, outcome, None));
        story.outcome = story.outcome.or(outcome);
    }

    fn story(&mut self, migration: MigrationId) -> &mut Story {
        self.stories.entry(migration).or_default()
    }

    fn saw(&mut self, lsn: Lsn, position: Option<Position>) {
        if let Some(position) = position {
            let furthest = self.seen.entry(position.journal).or_insert((lsn, Lsn(0)));
            if position.lsn > furthest.1 {
                *furthest = (lsn, position.lsn);
            }
        }
    }

    /// The journal was read to its end.
    pub(crate) fn end(&mut self, examined: &Examined) {
        self.journal = examined.report.journal;
        self.last = examined.report.last.unwrap_or(Lsn(0));
        self.has_gaps = !examined.report.gaps.is_empty();
    }

    fn is_named(&self) -> String {
        format!("'{}'", self.label)
    }
}

impl Sides {
    pub(crate) fn begin(&self, label: &str) -> Side {
        Side {
            label: label.to_owned(),
            journal: None,
            last: Lsn(0),
            has_gaps: false,
            stories: BTreeMap::new(),
            by_job: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, side: Side) {
        self.0.push(side);
    }

    /// Migrations of which both sides are here.
    pub(crate) fn shared(&self) -> u64 {
        self.pairs().len() as u64
    }

    /// The source and the destination of each migration that both are here of.
    fn pairs(&self) -> Vec<(MigrationId, &Side, &Story, &Side, &Story)> {
        let mut pairs = Vec::new();
        for source in &self.0 {
            let given = source
                .stories
                .iter()
                .filter(|(_, story)| story.is(Role::Source));
            for (migration, story) in given {
                let others = self.0.iter();
                let taken = others.filter_map(|other| Some((other, other.stories.get(migration)?)));
                let taken = taken.filter(|(_, there)| there.is(Role::Destination));
                pairs.extend(taken.map(|(other, there)| (*migration, source, story, other, there)));
            }
        }
        pairs
    }

    /// All that does not fit.
    pub(crate) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = self.older_ones();
        for (migration, source, given, destination, taken) in self.pairs() {
            let mut say = |how: String| {
                found.push(Contradiction {
                    migration: Some(migration),
                    is_broken: true,
                    how: format!(
                        "migration {migration} from {} to {}: {how}",
                        source.is_named(),
                        destination.is_named()
                    ),
                });
            };
            compare_terms(given, taken, &mut say);
            compare_facts(source, given, destination, taken, &mut say);
        }
        found
    }

    /// Journals of which another one saw more than is here.
    fn older_ones(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        for side in &self.0 {
            for (journal, (lsn, seen)) in &side.seen {
                let others = self
                    .0
                    .iter()
                    .filter(|other| other.journal == Some(*journal));
                found.extend(others.filter(|other| other.last < *seen).map(|other| Contradiction {
                    migration: None,
                    is_broken: false,
                    how: format!(
                        "{} ends at lsn {}, but {} saw its lsn {seen} by its own lsn {lsn}: it is an older \
                         copy, or has lost its end",
                        other.is_named(),
                        other.last,
                        side.is_named()
                    ),
                }));
            }
        }
        found
    }
}

fn compare_terms(given: &Story, taken: &Story, say: &mut impl FnMut(String)) {
    let (Some(given), Some(taken)) = (&given.terms, &taken.terms) else {
        return;
    };
    let mut differ = |what: &str, one: &str, other: &str| {
        if one != other {
            say(format!("the {what} is {one} there and {other} here"));
        }
    };
    differ("protocol", given.protocol.name(), taken.protocol.name());
    differ("authority", given.authority.name(), taken.authority.name());
}

fn compare_facts(
    source: &Side,
    given: &Story,
    destination: &Side,
    taken: &Story,
    say: &mut impl FnMut(String),
) {
    let protocol = given.terms.as_ref().map(|terms| terms.protocol);
    let authority = given.terms.as_ref().map(|terms| terms.authority);
    let offered = taken.terms.as_ref().and_then(|terms| terms.nonce);
    if let (Some(prepared), Some(offered)) = (given.prepared, offered)
        && prepared != offered
    {
        say("the source was prepared with another nonce than the destination made".to_owned());
    }
    // In v2 the source's commit is the licence.
    let licence = match protocol {
        Some(Protocol::V2) => given.committed.and_then(|(lsn, nonce)| Some((lsn, nonce?))),
        Some(Protocol::V3) | None => given.granted,
    };
    match (licence, taken.committed) {
        (Some((_, granted)), Some((lsn, Some(shown)))) if granted != shown => say(format!(
            "committed (lsn {lsn}) with another licence than the one that was granted"
        )),
        (None, Some((lsn, Some(_)))) if given.from_begin && !source.has_gaps => say(format!(
            "committed (lsn {lsn}) with a licence that the source never granted"
        )),
        (_, _) => {}
    }
    let ran = taken.started.or(taken.committed.map(|(lsn, _)| lsn));
    if let (Some(abandoned), Some(lsn)) = (given.abandoned, ran) {
        say(format!(
            "the source abandoned it (lsn {abandoned}) and went on, the destination committed (lsn {lsn})"
        ));
    }
    if let (Some((learned, Outcome::Aborted, _)), Some(lsn)) = (given.outcome, taken.started) {
        say(format!(
            "two copies: the source learnt aborted (lsn {learned}) and went on, the destination started \
             (lsn {lsn})"
        ));
    }
    if let (Some((learned, Outcome::Committed, _)), Some(lsn)) = (given.outcome, taken.aborted) {
        say(format!(
            "no copy: the source learnt committed (lsn {learned}) and ended its copy, the destination \
             aborted (lsn {lsn})"
        ));
    }
    let is_whole = taken.from_begin && !destination.has_gaps;
    let covers = |position: Option<Position>| {
        let of_this = position.filter(|position| Some(position.journal) == destination.journal);
        of_this.is_some_and(|position| position.lsn <= destination.last)
    };
    if let Some((heard, position)) = given.heard_aborted
        && is_whole
        && covers(position)
        && taken.aborted.is_none()
    {
        let how = match taken.committed {
            Some((lsn, _)) => format!("after it had committed (lsn {lsn})"),
            None => "without recording it".to_owned(),
        };
        say(format!(
            "the destination answered aborted (heard at lsn {heard}) {how}"
        ));
    }
    let decides = authority == Some(Authority::Destination);
    if let Some((learned, Outcome::Committed, position)) = given.outcome
        && decides
        && is_whole
        && covers(position)
        && taken.started.is_none()
        && !taken.resolved
    {
        say(format!(
            "the source learnt committed (lsn {learned}) of a destination that never started the guest"
        ));
    }
}
