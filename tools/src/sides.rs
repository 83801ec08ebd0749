//! Journals of several hosts laid beside each other: what each side of a migration recorded must fit to what
//! the other one did.
//!
//! Invariant: only what two journals say is compared; where records are missing, nothing follows from their
//! absence. A journal that is older than what another one saw of it is told of as that, and not as wrong.
//! Not here: what one journal alone must keep (`phase_journal::engine::laws`); where parts of it wait that are compared
//! later (`parts`); how it is shown (`verify`, `diff`).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use journal_format::number::{Epoch, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position};
use journal_format::record::{
    Cookie, JobResult, MigrationState, MigrationTerms, Outcome, PeerAnswer, Record, RecordBody,
    Role,
};

mod compare;
#[cfg(test)]
mod tests;

/// Something that two journals say differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// The migration; none for what concerns a whole journal.
    pub(crate) migration: Option<MigrationId>,
    /// A promise was broken; else a copy is only older.
    pub(crate) is_broken: bool,
    /// The source's journal and the destination's, or nothing where it concerns a whole journal.
    between: String,
    /// How.
    how: String,
}

impl Contradiction {
    /// With the migration and the journals.
    pub(crate) fn text(&self) -> String {
        match self.migration {
            Some(migration) => {
                format!("migration {migration} {}: {}", self.between, self.how)
            }
            None => self.how.clone(),
        }
    }

    /// Where it stands under its migration already.
    pub(crate) fn how(&self) -> &str {
        &self.how
    }
}

/// The first so many of what does not fit, in the order of the migrations, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct Contradictions {
    first: Vec<Contradiction>,
    /// A promise was broken.
    pub(crate) broken: u64,
    /// A copy is only older.
    pub(crate) only_older: u64,
}

impl Contradictions {
    /// More are not told one by one.
    pub(crate) const FIRST_MAX: usize = 1000;

    /// Adds one, in any order of the migrations: of one migration, in the order in which they are to be told.
    pub(crate) fn add(&mut self, one: Contradiction) {
        match one.is_broken {
            true => self.broken += 1,
            false => self.only_older += 1,
        }
        self.first.push(one);
        if self.first.len() >= 2 * Contradictions::FIRST_MAX {
            self.cut();
        }
    }

    fn cut(&mut self) {
        // Stable. Which part a migration is of is drawn anew each time.
        self.first.sort_by_key(|one| one.migration);
        self.first.truncate(Contradictions::FIRST_MAX);
    }

    /// The first ones.
    pub(crate) fn first(&mut self) -> &[Contradiction] {
        self.cut();
        &self.first
    }

    /// All there are.
    pub(crate) fn count(&self) -> u64 {
        self.broken + self.only_older
    }
}

/// Bytes that are kept at once of what all journals together say of migrations.
const KEPT_MAX: usize = 32 * 1024 * 1024;

/// What a story takes beside its texts, with its places in maps: some 1 KiB.
const STORY_SIZE: usize = 1024;

/// Lives of other journals that a journal tells of and that are kept: of more, what it saw of them is not compared.
const LIVES_MAX: usize = 64 * 1024;

/// Of which migrations a side keeps what its journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Of one of 2^`bits` parts of about the same size, whatever there is.
    Share {
        /// 0 for all.
        bits: u32,
        /// Which part, from 0.
        index: u64,
    },
    /// Of these.
    Only(BTreeSet<MigrationId>),
}

impl Part {
    /// Everything.
    pub(crate) const ALL: Part = Part::Share { bits: 0, index: 0 };

    /// Which of 2^`bits` parts a migration is of.
    pub(crate) fn index_of(migration: MigrationId, bits: u32) -> u64 {
        // Drawn by each process, so that nobody can choose identities that are all of one part.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = KEY.hash_one(migration);
        hash.checked_shr(u64::BITS - bits).unwrap_or(0)
    }

    fn has(&self, migration: MigrationId) -> bool {
        match self {
            Part::Share { bits, index } => Part::index_of(migration, *bits) == *index,
            Part::Only(wanted) => wanted.contains(&migration),
        }
    }
}

/// Whom a record that [`Side::see`] looks at is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A migration.
    Migration(MigrationId),
    /// A migration, and it is this job, which is open.
    Job(MigrationId, Lsn),
    /// The migration that this job is, if it is one.
    OfJob(Lsn),
    /// The same, and the job ends with it.
    EndOf(Lsn),
}

impl About {
    /// Of which migration a record tells something that is compared.
    pub(crate) fn of(record: &Record) -> Option<About> {
        Some(match &record.body {
            RecordBody::JobBegun(begun) => {
                About::Job(begun.migration.as_ref()?.migration, record.lsn)
            }
            RecordBody::MigrationState(state) if state.open => {
                About::Job(state.terms.migration, state.job)
            }
            RecordBody::MigrationState(state) => About::Migration(state.terms.migration),
            RecordBody::PeerPrepared(prepared) => About::Migration(prepared.migration),
            RecordBody::PeerHeard(heard) => {
                // Who is heard of without a position said nothing.
                heard.position?;
                About::Migration(heard.migration)
            }
            RecordBody::MigrationGranted(granted) => About::Migration(granted.cookie.migration),
            RecordBody::MigrationAbandoned(abandoned) => About::Migration(abandoned.migration),
            RecordBody::MigrationCommitted(committed) => About::Migration(committed.migration),
            RecordBody::MigrationStarted(named) | RecordBody::MigrationAborted(named) => {
                About::Migration(named.migration)
            }
            RecordBody::OutcomeLearned(learned) => About::Migration(learned.migration),
            RecordBody::OperatorResolved(resolved) => About::OfJob(resolved.job),
            RecordBody::JobEnded(ended) => About::EndOf(ended.job),
            _ => return None,
        })
    }
}

/// The types of records that [`Side::see`] looks at.
static LOOKED_AT: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let is_one = |name: &str| match name {
        "job-begun" | "job-ended" | "outcome-learned" | "operator-resolved" => true,
        _ => name.starts_with("migration-") || name.starts_with("peer-"),
    };
    let types = RecordBody::TYPES.iter();
    let looked_at = types.filter(|(_, name)| is_one(name));
    looked_at.map(|(number, _)| *number).collect()
});

/// What one journal says of a migration.
#[derive(Clone, Debug, Default)]
struct Story {
    terms: Option<MigrationTerms>,
    /// The job that it was last.
    job: Option<Lsn>,
    /// Its begin was read, so that what is not here did not happen, if nothing is lost.
    from_begin: bool,
    prepared: Option<Nonce>,
    granted: Option<(Lsn, Cookie)>,
    abandoned: Option<Lsn>,
    committed: Option<(Lsn, Option<Cookie>)>,
    started: Option<Lsn>,
    aborted: Option<Lsn>,
    outcome: Option<(Lsn, Outcome, Option<Position>)>,
    ended: Option<(Lsn, JobResult)>,
    /// Of each answer that was heard, the one that the other side gave first: the record, and where that
    /// side stood.
    heard: Vec<(PeerAnswer, Lsn, Position)>,
    resolved: bool,
}

impl Story {
    /// Bytes of its texts.
    fn texts(&self) -> usize {
        let terms = self.terms.as_ref();
        terms.map_or(0, |terms| {
            terms.uri.capacity() + terms.store.as_ref().map_or(0, String::capacity)
        })
    }

    fn is(&self, role: Role) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.role == role)
    }

    fn hear(&mut self, lsn: Lsn, answer: PeerAnswer, position: Position) {
        let known = self.heard.iter_mut().find(|(known, _, _)| *known == answer);
        match known {
            Some((_, _, first)) if first.lsn <= position.lsn => {}
            Some(known) => *known = (answer, lsn, position),
            None => self.heard.push((answer, lsn, position)),
        }
    }

    fn ended(&self, results: &[JobResult]) -> Option<Lsn> {
        let (lsn, result) = self.ended?;
        results.contains(&result).then_some(lsn)
    }
}

/// One journal's part.
#[derive(Debug)]
pub(crate) struct Side {
    label: String,
    journal: Option<JournalId>,
    openings: BTreeMap<Epoch, OpeningId>,
    last: Lsn,
    has_gaps: bool,
    part: Part,
    /// Bytes of the stories.
    kept: usize,
    /// More are too many.
    kept_max: usize,
    /// Boxed: a map's nodes have room for twice as many.
    stories: BTreeMap<MigrationId, Box<Story>>,
    /// What is said of migrations that are not kept.
    elsewhere: Story,
    /// The last job of each migration that is kept: a sound journal has one.
    by_job: BTreeMap<Lsn, MigrationId>,
    /// The furthest that was seen of each life of other journals: the record, and the LSN.
    seen: BTreeMap<(JournalId, Epoch, OpeningId), (Lsn, Lsn)>,
    /// It tells of more lives than are kept.
    has_more_lives: bool,
}

/// What is known of a journal when it was read to its end.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Its identity, if that can be read.
    pub(crate) journal: Option<JournalId>,
    /// Its openings, as far as they are told.
    pub(crate) openings: BTreeMap<Epoch, OpeningId>,
    /// Its last record.
    pub(crate) last: Lsn,
    /// Something of it is lost.
    pub(crate) has_gaps: bool,
}

/// All journals together.
#[derive(Debug, Default)]
pub(crate) struct Sides(Vec<Side>);

impl Side {
    /// Of one of so many journals. Where that is all of it, it becomes a smaller part when it is too large.
    pub(crate) fn begin(label: &str, part: Part, journals: usize) -> Side {
        Side {
            label: label.to_owned(),
            journal: None,
            openings: BTreeMap::new(),
            last: Lsn(0),
            has_gaps: false,
            part,
            kept: 0,
            kept_max: KEPT_MAX / journals.max(1),
            stories: BTreeMap::new(),
            elsewhere: Story::default(),
            by_job: BTreeMap::new(),
            seen: BTreeMap::new(),
            has_more_lives: false,
        }
    }

    /// Does [`Side::see`] look at records of that type?
    pub(crate) fn looks_at(kind: u16) -> bool {
        LOOKED_AT.contains(&kind)
    }

    /// Takes in a record.
    pub(crate) fn see(&mut self, record: &Record) {
        let lsn = record.lsn;
        // What one record adds is less than may be kept.
        while self.kept > self.kept_max
            && self.stories.len() > 1
            && let Part::Share { bits, index: 0 } = self.part
        {
            self.narrow(bits + 1);
        }
        match &record.body {
            RecordBody::JobBegun(begun) => {
                if let Some(terms) = &begun.migration {
                    self.name_job(lsn, terms.migration);
                    self.set_terms(terms);
                    self.story(terms.migration).from_begin = true;
                }
            }
            RecordBody::MigrationState(state) => self.restated(lsn, state),
            RecordBody::PeerPrepared(prepared) => {
                self.saw(lsn, Some(prepared.position));
                self.story(prepared.migration).prepared = Some(prepared.nonce);
            }
            RecordBody::PeerHeard(heard) => {
                self.saw(lsn, heard.position);
                if let Some(position) = heard.position {
                    self.story(heard.migration)
                        .hear(lsn, heard.answer, position);
                }
            }
            RecordBody::MigrationGranted(granted) => {
                let cookie = granted.cookie;
                self.story(cookie.migration).granted = Some((lsn, cookie));
            }
            RecordBody::MigrationAbandoned(abandoned) => {
                self.story(abandoned.migration).abandoned = Some(lsn);
            }
            RecordBody::MigrationCommitted(committed) => {
                self.saw(lsn, committed.cookie.map(|cookie| cookie.granted));
                self.story(committed.migration).committed = Some((lsn, committed.cookie));
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
            RecordBody::JobEnded(ended) => {
                if let Some(migration) = self.by_job.get(&ended.job).copied() {
                    self.story(migration).ended = Some((lsn, ended.result));
                }
            }
            _ => {}
        }
    }

    /// A checkpoint says how a migration stood of which nothing else may be left.
    fn restated(&mut self, lsn: Lsn, state: &MigrationState) {
        self.name_job(state.job, state.terms.migration);
        self.saw(lsn, state.peer_position);
        if self.story(state.terms.migration).from_begin {
            return;
        }
        self.set_terms(&state.terms);
        let story = self.story(state.terms.migration);
        let granted = state.granted.map(|cookie| (lsn, cookie));
        story.prepared = story.prepared.or(state.terms.nonce);
        story.granted = story.granted.or(granted);
        story.abandoned = story.abandoned.or(state.abandoned.then_some(lsn));
        story.committed = story.committed.or(state.committed.then_some((lsn, None)));
        story.started = story.started.or(state.started.then_some(lsn));
        story.aborted = story.aborted.or(state.aborted.then_some(lsn));
        let outcome = state.outcome.map(|outcome| (lsn, outcome, None));
        story.outcome = story.outcome.or(outcome);
    }

    fn story(&mut self, migration: MigrationId) -> &mut Story {
        if !self.part.has(migration) {
            return &mut self.elsewhere;
        }
        let kept = &mut self.kept;
        self.stories.entry(migration).or_insert_with(|| {
            *kept += STORY_SIZE;
            Box::default()
        })
    }

    fn set_terms(&mut self, terms: &MigrationTerms) {
        // Texts of other parts are as long.
        if !self.part.has(terms.migration) {
            return;
        }
        let story = self.story(terms.migration);
        let before = story.texts();
        story.terms = Some(compared(terms));
        let after = story.texts();
        self.kept = self.kept - before + after;
    }

    fn name_job(&mut self, job: Lsn, migration: MigrationId) {
        if self.part.has(migration) {
            let before = self.story(migration).job.replace(job);
            if let Some(before) = before {
                self.by_job.remove(&before);
            }
            self.by_job.insert(job, migration);
        }
    }

    /// Keeps the first of 2^`bits` parts.
    fn narrow(&mut self, bits: u32) {
        let part = Part::Share { bits, index: 0 };
        self.stories.retain(|migration, _| part.has(*migration));
        self.by_job.retain(|_, migration| part.has(*migration));
        let sizes = self
            .stories
            .values()
            .map(|story| STORY_SIZE + story.texts());
        self.kept = sizes.sum();
        self.part = part;
    }

    fn saw(&mut self, lsn: Lsn, position: Option<Position>) {
        let Some(position) = position else { return };
        let life = (position.journal, position.epoch, position.opening);
        if self.seen.len() >= LIVES_MAX && !self.seen.contains_key(&life) {
            self.has_more_lives = true;
            return;
        }
        let furthest = self.seen.entry(life).or_insert((lsn, Lsn(0)));
        if position.lsn > furthest.1 {
            *furthest = (lsn, position.lsn);
        }
    }

    /// The journal was read to its end.
    pub(crate) fn end(&mut self, end: End) {
        let End {
            journal,
            openings,
            last,
            has_gaps,
        } = end;
        self.journal = journal;
        self.openings = openings;
        self.last = last;
        self.has_gaps = has_gaps;
    }

    fn is_named(&self) -> String {
        format!("'{}'", self.label)
    }

    /// Was all of the migration read, so that what is not here did not happen?
    fn is_whole(&self, story: &Story) -> bool {
        story.from_begin && !self.has_gaps
    }

    /// Does a position lie within what was read?
    fn covers(&self, position: &Position) -> bool {
        Some(position.journal) == self.journal && position.lsn <= self.last
    }
}

impl Sides {
    pub(crate) fn add(&mut self, side: Side) {
        self.0.push(side);
    }

    /// Brings all to the same part, and says into how many such parts that makes it: what the others hold is to
    /// be read again.
    pub(crate) fn settle(&mut self) -> (u32, u64) {
        let bits = self.0.iter().map(|side| match side.part {
            Part::Share { bits, .. } => bits,
            Part::Only(_) => 0,
        });
        let bits = bits.max().unwrap_or(0);
        for side in &mut self.0 {
            if matches!(side.part, Part::Share { bits: before, .. } if before < bits) {
                side.narrow(bits);
            }
        }
        (bits, 1 << bits)
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
                let taken = others
                    .filter_map(|other| Some((other, other.stories.get(migration)?.as_ref())));
                let taken = taken.filter(|(_, there)| there.is(Role::Destination));
                pairs.extend(
                    taken.map(|(other, there)| (*migration, source, story.as_ref(), other, there)),
                );
            }
        }
        pairs
    }

    /// Tells all that does not fit.
    pub(crate) fn contradictions(&self, mut tell: impl FnMut(Contradiction)) {
        self.older_ones(&mut tell);
        self.contradicted(tell);
    }

    /// Tells what does not fit between the sides of migrations.
    pub(crate) fn contradicted(&self, mut tell: impl FnMut(Contradiction)) {
        for (migration, source, given, destination, taken) in self.pairs() {
            let between = format!("from {} to {}", source.is_named(), destination.is_named());
            let mut say = |how: String| {
                tell(Contradiction {
                    migration: Some(migration),
                    is_broken: true,
                    between: between.clone(),
                    how,
                });
            };
            compare::terms(given, taken, &mut say);
            compare::licences(source, given, taken, &mut say);
            compare::facts(given, taken, &mut say);
            compare::words(source, given, destination, taken, &mut say);
        }
    }

    /// Tells of journals of which another one saw more than is here.
    fn older_ones(&self, tell: &mut impl FnMut(Contradiction)) {
        let mut tell = |how: String| {
            tell(Contradiction {
                migration: None,
                is_broken: false,
                between: String::new(),
                how,
            });
        };
        for side in &self.0 {
            if side.has_more_lives {
                tell(format!(
                    "{} tells of more than {LIVES_MAX} lives of other journals: of the rest it is not known \
                     whether a copy is older",
                    side.is_named()
                ));
            }
            for ((journal, epoch, opening), (lsn, seen)) in &side.seen {
                let is_it = |other: &&Side| other.journal == Some(*journal);
                for other in self.0.iter().filter(is_it) {
                    let known = other.openings.get(epoch);
                    let lacks = match known {
                        _ if other.last < *seen => format!("ends at lsn {}", other.last),
                        Some(known) if known != opening => {
                            format!("had another life in epoch {epoch}")
                        }
                        // Old segments are let go.
                        Some(_) | None => continue,
                    };
                    tell(format!(
                        "{} {lacks}, but {} saw its lsn {seen} by its own lsn {lsn}: it is an older copy, or \
                         has lost its end",
                        other.is_named(),
                        side.is_named()
                    ));
                }
            }
        }
    }
}

/// Terms without what nothing is compared with: there may be many of them.
fn compared(terms: &MigrationTerms) -> MigrationTerms {
    MigrationTerms {
        peer: String::new(),
        peer_domain: String::new(),
        ..terms.clone()
    }
}
