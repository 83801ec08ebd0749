//! Journals that contradict each other, and more of them than is kept.

use super::*;
use journal_format::number::Id128;
use journal_format::record::{
    Authority, JobBegun, JobEnded, JobKind, MigrationAbandoned, MigrationNamed, Protocol,
};

use crate::parts::Parts;

const MIGRATIONS: u64 = 200;

fn migration(number: u64) -> MigrationId {
    let mut bytes = [0x22; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    MigrationId(Id128(bytes))
}

fn records(role: Role) -> Vec<Record> {
    let mut bodies = Vec::new();
    for number in 0..MIGRATIONS {
        let migration = migration(number);
        let terms = MigrationTerms {
            migration,
            role,
            protocol: Protocol::V3,
            authority: Authority::Destination,
            peer: "peer".to_owned(),
            peer_domain: "web-1".to_owned(),
            uri: "unix:/run/qemu/web-1.migrate".to_owned(),
            max_bandwidth: None,
            downtime_limit: None,
            postcopy: false,
            nonce: None,
            store: None,
            in_doubt_limit: None,
        };
        bodies.push(RecordBody::JobBegun(Box::new(JobBegun {
            kind: JobKind::MigrationOut,
            migration: Some(terms),
        })));
        // Every third one contradicts.
        bodies.push(match role {
            Role::Source if number % 3 == 0 => RecordBody::MigrationAbandoned(MigrationAbandoned {
                migration,
                why: String::new(),
                asked: true,
            }),
            Role::Source => RecordBody::Sealed,
            Role::Destination => RecordBody::MigrationStarted(MigrationNamed { migration }),
        });
    }
    let numbered = (1..).map(Lsn).zip(bodies);
    let record = |(lsn, body)| Record {
        lsn,
        domain: None,
        previous: None,
        body,
    };
    numbered.map(record).collect()
}

fn sides(part: &Part, kept_max: usize) -> Sides {
    let mut sides = Sides::default();
    for role in [Role::Source, Role::Destination] {
        let mut side = Side::begin(role.name(), part.clone(), 2);
        side.kept_max = kept_max;
        for record in records(role) {
            assert!(side.kept <= kept_max.saturating_add(2 * STORY_SIZE));
            side.see(&record);
        }
        sides.add(side);
    }
    sides
}

fn sorted(mut all: Vec<Contradiction>) -> Vec<Contradiction> {
    all.sort_by_key(|one| one.migration);
    all
}

fn contradictions(sides: &Sides) -> Vec<Contradiction> {
    let mut all = Vec::new();
    sides.contradictions(|one| all.push(one));
    all
}

#[test]
fn in_parts_the_same_is_found() {
    let whole = sides(&Part::ALL, usize::MAX);
    let all = sorted(contradictions(&whole));
    assert_eq!((all.len(), whole.shared()), (67, MIGRATIONS));

    let mut first = sides(&Part::ALL, 60 * STORY_SIZE);
    let (bits, parts) = first.settle();
    assert!(bits >= 2, "{bits}");
    let (mut found, mut shared) = (contradictions(&first), first.shared());
    for index in 1..parts {
        let part = sides(&Part::Share { bits, index }, usize::MAX);
        part.contradicted(|one| found.push(one));
        shared += part.shared();
    }
    assert_eq!((sorted(found), shared), (all.clone(), MIGRATIONS));

    // And where they were put down meanwhile, some parts at a time.
    let (mut found, mut shared) = (contradictions(&first), first.shared());
    for begin in (1..parts).step_by(2) {
        let roles = [Role::Source, Role::Destination];
        let put_down = roles.map(|role| {
            let mut put_down = Parts::new(bits, begin, 2.min(parts - begin)).unwrap();
            records(role).iter().for_each(|record| put_down.put(record));
            put_down.done().unwrap()
        });
        for index in begin..parts.min(begin + 2) {
            let mut sides = Sides::default();
            for (role, put_down) in roles.iter().zip(&put_down) {
                let part = Part::Share { bits, index };
                let mut side = Side::begin(role.name(), part, 2);
                put_down.read(index, |record| side.see(record)).unwrap();
                sides.add(side);
            }
            sides.contradicted(|one| found.push(one));
            shared += sides.shared();
        }
    }
    assert_eq!((sorted(found), shared), (all, MIGRATIONS));
}

/// Long texts are counted: fewer migrations are kept of a journal that has them.
#[test]
fn what_is_kept_is_bounded_by_its_bytes() {
    const KEPT: usize = 256 * 1024;
    let mut side = Side::begin("a", Part::ALL, 1);
    side.kept_max = KEPT;
    for mut record in records(Role::Source) {
        if let RecordBody::JobBegun(begun) = &mut record.body
            && let Some(terms) = &mut begun.migration
        {
            terms.uri = "u".repeat(3500);
            terms.store = Some("s".repeat(3500));
        }
        side.see(&record);
        let texts = side.stories.values().map(|story| story.texts());
        assert_eq!(
            side.kept,
            side.stories.len() * STORY_SIZE + texts.sum::<usize>()
        );
        assert!(side.kept <= KEPT + 8 * 1024, "{}", side.kept);
    }
    assert!(side.stories.len() < KEPT / 7000, "{}", side.stories.len());
    assert_eq!(side.by_job.len(), side.stories.len());
}

/// A migration that began again and again is one, whose last job is kept.
#[test]
fn jobs_of_one_migration_are_kept_once() {
    let mut side = Side::begin("a", Part::ALL, 1);
    for mut record in records(Role::Source) {
        if let RecordBody::JobBegun(begun) = &mut record.body
            && let Some(terms) = &mut begun.migration
        {
            terms.migration = migration(0);
        }
        side.see(&record);
        assert!(side.by_job.len() <= 1);
    }
    assert_eq!(side.by_job.into_values().next(), Some(migration(0)));
}

/// Lives of other journals that are not kept are told of: what was seen of them is not compared.
#[test]
fn lives_beyond_those_kept_are_told_of() {
    let mut side = Side::begin("a", Part::ALL, 1);
    let position = |epoch| Position {
        journal: JournalId(Id128([0xC0; 16])),
        epoch: Epoch(epoch),
        opening: OpeningId(Id128([0xC1; 16])),
        lsn: Lsn(7),
    };
    let lives = u32::try_from(LIVES_MAX).unwrap();
    (1..=lives).for_each(|epoch| side.saw(Lsn(9), Some(position(epoch))));
    side.saw(Lsn(9), Some(position(1)));
    assert!(!side.has_more_lives);
    side.saw(Lsn(9), Some(position(lives + 1)));
    assert_eq!(side.seen.len(), LIVES_MAX);
    let sides = Sides(vec![side]);
    let told = contradictions(&sides);
    assert_eq!(told.len(), 1);
    assert!(!told[0].is_broken && told[0].text().contains("more than 65536 lives"));
}

/// Of many, the first by their migrations are told, whatever the order in which they were found.
#[test]
fn the_first_of_many_are_told() {
    let one = |number| Contradiction {
        migration: Some(migration(number)),
        is_broken: number % 2 == 0,
        between: String::new(),
        how: String::new(),
    };
    let many = 3 * Contradictions::FIRST_MAX as u64;
    let told = |numbers: &mut dyn Iterator<Item = u64>| {
        let mut all = Contradictions::default();
        numbers.for_each(|number| all.add(one(number)));
        assert!(all.first.len() < 2 * Contradictions::FIRST_MAX);
        assert_eq!((all.count(), all.broken), (many, many / 2));
        all.first().to_vec()
    };
    let first = told(&mut (0..many));
    assert_eq!(first.len(), Contradictions::FIRST_MAX);
    assert_eq!(first, told(&mut (0..many).rev()));
    let mut expected: Vec<_> = (0..many).map(one).collect();
    expected.sort_by_key(|one| one.migration);
    expected.truncate(Contradictions::FIRST_MAX);
    assert_eq!(first, expected);
}

/// What ends a job is put down with its migration, though it does not name it.
#[test]
fn the_end_of_a_job_is_of_its_migration() {
    let ended = |job| {
        RecordBody::JobEnded(JobEnded {
            job: Lsn(job),
            result: JobResult::Completed,
            detail: String::new(),
        })
    };
    let mut all = records(Role::Source);
    let count = all.len() as u64;
    for number in 0..MIGRATIONS {
        all.push(Record {
            lsn: Lsn(count + number + 1),
            domain: None,
            previous: None,
            body: ended(2 * number + 1),
        });
    }
    let mut put_down = Parts::new(3, 0, 8).unwrap();
    all.iter().for_each(|record| put_down.put(record));
    let put_down = put_down.done().unwrap();
    let mut read_back = Vec::new();
    for index in 0..8 {
        let mut begun = BTreeSet::new();
        put_down
            .read(index, |record| match &record.body {
                RecordBody::JobBegun(_) => assert!(begun.insert(record.lsn)),
                RecordBody::JobEnded(ended) => assert!(begun.contains(&ended.job)),
                _ => {}
            })
            .unwrap();
        put_down
            .read(index, |record| read_back.push(record.clone()))
            .unwrap();
    }
    // What says nothing of a migration is left out; nothing else is.
    all.retain(|record| record.body != RecordBody::Sealed);
    read_back.sort_by_key(|record| record.lsn);
    assert_eq!(read_back, all);
}

#[test]
fn only_what_is_asked_for_is_kept() {
    let wanted = BTreeSet::from([migration(3), migration(4)]);
    let some = sides(&Part::Only(wanted), usize::MAX);
    assert_eq!(some.shared(), 2);
    let found = contradictions(&some);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].migration, Some(migration(3)));
}
