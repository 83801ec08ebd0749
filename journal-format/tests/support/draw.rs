//! Records of any shape, drawn from bytes: a shorter or smaller input gives a simpler record.

use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::*;

/// Bytes to draw from; beyond their end everything is zero.
pub(crate) struct Draw<'a>(pub(crate) &'a [u8]);

impl Draw<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Small numbers and the largest ones.
    pub(crate) fn number(&mut self) -> u64 {
        let (small, class) = (u64::from(self.byte()), self.byte());
        match class % 4 {
            0 => small,
            1 => small << 32,
            2 => u64::MAX - small,
            _ => small.wrapping_mul(0x0101_0101_0101_0101),
        }
    }

    fn number32(&mut self) -> u32 {
        u32::try_from(self.number() >> 32).unwrap_or(u32::MAX)
    }

    fn lsn(&mut self) -> Lsn {
        Lsn(self.number())
    }

    fn id(&mut self) -> Id128 {
        Id128([self.byte(); 16])
    }

    /// Text with characters of one to four bytes.
    fn text(&mut self) -> String {
        let length = self.byte() % 24;
        let characters = ['a', ' ', '"', '\0', '\u{e9}', '\u{20ac}', '\u{1f4d3}', '\n'];
        (0..length)
            .map(|_| characters[usize::from(self.byte()) % characters.len()])
            .collect()
    }

    fn word<T: Copy>(&mut self, words: &[T]) -> T {
        words[usize::from(self.byte()) % words.len()]
    }

    pub(crate) fn perhaps<T>(&mut self, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| draw(self))
    }

    fn several<T>(&mut self, mut draw: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.byte() % 6;
        (0..count).map(|_| draw(self)).collect()
    }

    fn migration(&mut self) -> MigrationId {
        MigrationId(self.id())
    }

    fn opening(&mut self) -> Opening {
        Opening {
            epoch: Epoch(self.number32()),
            opening: OpeningId(self.id()),
            first: self.lsn(),
        }
    }

    fn position(&mut self) -> Position {
        Position {
            journal: JournalId(self.id()),
            epoch: Epoch(self.number32()),
            opening: OpeningId(self.id()),
            lsn: self.lsn(),
        }
    }

    fn instance(&mut self) -> Instance {
        Instance {
            boot: BootId(self.id()),
            pid: self.number32(),
            start_time: self.number(),
        }
    }

    fn claim(&mut self) -> Claim {
        Claim {
            journal: JournalId(self.id()),
            epoch: Epoch(self.number32()),
            migration: self.migration(),
            role: self.word(Role::ALL),
        }
    }

    fn cookie(&mut self) -> Cookie {
        Cookie {
            migration: self.migration(),
            nonce: Nonce(self.id()),
            granted: self.position(),
            authority: self.word(Authority::ALL),
            wanted: self.word(WantedRunState::ALL),
        }
    }

    fn observed(&mut self) -> Observed {
        Observed {
            process: self.word(Process::ALL),
            instance: self.perhaps(Self::instance),
            run_state: self.perhaps(|draw| match draw.byte() {
                0 => RunState::from_qemu(&draw.text()),
                other => RunState::KNOWN[usize::from(other) % RunState::KNOWN.len()].clone(),
            }),
            migration: self.perhaps(|draw| match draw.byte() {
                0 => MigrationStatus::from_qemu(&draw.text()),
                other => MigrationStatus::KNOWN[usize::from(other) % MigrationStatus::KNOWN.len()]
                    .clone(),
            }),
            claim: match self.byte() % 4 {
                0 => ClaimSeen::Unread,
                1 => ClaimSeen::Absent,
                2 => ClaimSeen::Present(self.claim()),
                _ => ClaimSeen::Foreign(self.text()),
            },
        }
    }

    fn command(&mut self) -> EffectCommand {
        match self.byte() % 16 {
            0 => EffectCommand::Claim(self.claim()),
            1 => EffectCommand::Unclaim,
            2 => EffectCommand::SetCapabilities {
                role: self.word(Role::ALL),
                postcopy: self.yes(),
            },
            3 => EffectCommand::SetParameters {
                max_bandwidth: self.perhaps(Self::number),
                downtime_limit: self.perhaps(Self::number),
            },
            4 => EffectCommand::MigrateIncoming { uri: self.text() },
            5 => EffectCommand::Migrate { uri: self.text() },
            6 => EffectCommand::MigrateContinue,
            7 => EffectCommand::MigrateCancel,
            8 => EffectCommand::Cont,
            9 => EffectCommand::Stop,
            10 => EffectCommand::Kill,
            11 => EffectCommand::StartPostcopy,
            12 => EffectCommand::MigrateRecover { uri: self.text() },
            13 => EffectCommand::MigrateResume { uri: self.text() },
            14 => EffectCommand::MigratePause,
            _ => EffectCommand::Monitor {
                execute: self.text(),
                arguments: self.text(),
                redacted: self.yes(),
            },
        }
    }

    fn result(&mut self) -> EffectResult {
        match self.byte() % 4 {
            0 => EffectResult::Done,
            1 => EffectResult::Refused {
                class: self.text(),
                description: self.text(),
            },
            2 => EffectResult::NotSent { why: self.text() },
            _ => EffectResult::Unknown { why: self.text() },
        }
    }

    fn ended_job(&mut self) -> EndedJob {
        EndedJob {
            job: self.lsn(),
            kind: self.word(JobKind::ALL),
            migration: self.perhaps(Self::migration),
            phase: self.perhaps(|draw| draw.word(Phase::ALL)),
            result: self.word(JobResult::ALL),
            detail: self.text(),
        }
    }

    fn domain_state(&mut self) -> DomainState {
        DomainState {
            name: self.text(),
            qmp: self.text(),
            instance: self.instance(),
            wanted: self.word(WantedRunState::ALL),
            definition: self.perhaps(Self::lsn),
            claim: self.perhaps(Self::claim),
            dead: self.yes(),
            damaged: self.yes(),
            last_job: self.perhaps(Self::ended_job),
        }
    }

    fn terms(&mut self) -> MigrationTerms {
        MigrationTerms {
            migration: self.migration(),
            role: self.word(Role::ALL),
            protocol: self.word(Protocol::ALL),
            authority: self.word(Authority::ALL),
            peer: self.text(),
            peer_domain: self.text(),
            uri: self.text(),
            max_bandwidth: self.perhaps(Self::number),
            downtime_limit: self.perhaps(Self::number),
            postcopy: self.yes(),
            nonce: self.perhaps(|draw| Nonce(draw.id())),
            store: self.perhaps(Self::text),
            in_doubt_limit: self.perhaps(Self::number),
        }
    }

    fn facts(&mut self) -> Facts {
        Facts {
            migrate_intended: self.yes(),
            postcopy: self.yes(),
            granted: self.yes(),
            abandoned: self.yes(),
            committed: self.yes(),
            started: self.yes(),
            aborted: self.yes(),
            outcome: self.perhaps(|draw| draw.word(Outcome::ALL)),
            cont: self.word(ContIntent::ALL),
            proposed: self.yes(),
            verdict: self.perhaps(|draw| draw.word(Outcome::ALL)),
        }
    }

    fn key_value(&mut self) -> KeyValue {
        match self.byte() % 3 {
            0 => KeyValue::Committed {
                journal: JournalId(self.id()),
                nonce: Nonce(self.id()),
            },
            1 => KeyValue::Started,
            _ => KeyValue::Aborted,
        }
    }

    fn key_change(&mut self) -> KeyChange {
        match self.byte() % 3 {
            0 => KeyChange::Create(self.key_value()),
            1 => KeyChange::Replace {
                expected: self.key_value(),
                new: self.key_value(),
            },
            _ => KeyChange::Delete,
        }
    }

    fn migration_state(&mut self) -> MigrationState {
        let facts = self.facts();
        MigrationState {
            job: self.lsn(),
            open: self.yes(),
            terms: self.terms(),
            phase: self.word(Phase::ALL),
            migrate_intended: facts.migrate_intended,
            postcopy_intended: self.yes(),
            postcopy: facts.postcopy,
            source_touched: self.yes(),
            granted: self.perhaps(Self::cookie),
            abandoned: facts.abandoned,
            cancel_asked: self.yes(),
            committed: facts.committed,
            started: facts.started,
            aborted: facts.aborted,
            outcome: facts.outcome,
            cont: facts.cont,
            cont_count: self.number32(),
            in_flight: self.perhaps(|draw| (draw.lsn(), draw.command())),
            peer_position: self.perhaps(Self::position),
            peer_answer: self.word(PeerAnswer::ALL),
            last_rule: self.perhaps(Self::text),
            key_intent: self.perhaps(Self::key_change),
            licence: self.perhaps(Self::cookie),
            key_read: self.perhaps(Self::key_value),
            verdict: facts.verdict,
        }
    }

    fn history(&mut self) -> MigrationHistory {
        MigrationHistory {
            open: self.yes(),
            later: self.yes(),
            resolved: self.yes(),
            phase: self.word(Phase::ALL),
            facts: self.facts(),
            source_touched: self.yes(),
            wanted: self.word(WantedRunState::ALL),
        }
    }

    fn decided(&mut self) -> Decided {
        Decided {
            job: self.lsn(),
            rule: self.text(),
            decision: self.word(Decision::ALL),
            evidence: Evidence {
                role: self.word(Role::ALL),
                protocol: self.word(Protocol::ALL),
                authority: self.word(Authority::ALL),
                phase: self.word(Phase::ALL),
                facts: self.facts(),
                observed: self.observed(),
                claim: self.perhaps(Self::claim),
                peer: self.word(PeerAnswer::ALL),
                watched: self.yes(),
                recovering: self.yes(),
                journal_damaged: self.yes(),
                wanted: self.word(WantedRunState::ALL),
                store: self.word(StoreAnswer::ALL),
                overdue: self.yes(),
                source_touched: self.yes(),
            },
            based_on: self.several(Self::lsn),
        }
    }

    /// A body of the type of that number.
    fn body_of(&mut self, kind: u16) -> RecordBody {
        match kind {
            1 => RecordBody::CheckpointBegun(CheckpointBegun {
                records: self.number32(),
                openings: self.several(Self::opening),
            }),
            2 => RecordBody::CheckpointEnded(CheckpointEnded {
                records: self.number32(),
            }),
            3 => RecordBody::DomainAdded(Box::new(self.domain_state())),
            4 => RecordBody::DomainState(Box::new(self.domain_state())),
            5 => RecordBody::DomainRemoved,
            6 => RecordBody::DefinitionPart(DefinitionPart {
                first: self.lsn(),
                index: u16::from(self.byte()),
                count: u16::from(self.byte()) << 8,
                text: self.text().repeat(usize::from(self.byte() % 64)),
            }),
            7 => RecordBody::WantedChanged(WantedChanged {
                wanted: self.word(WantedRunState::ALL),
                why: self.word(&[
                    WantedReason::Asked,
                    WantedReason::Seen,
                    WantedReason::Carried,
                ]),
            }),
            8 => RecordBody::JobBegun(Box::new(JobBegun {
                kind: self.word(JobKind::ALL),
                migration: self.perhaps(Self::terms),
            })),
            9 => RecordBody::PhaseEntered(PhaseEntered {
                job: self.lsn(),
                phase: self.word(Phase::ALL),
            }),
            10 => RecordBody::EffectIntended(EffectIntended {
                job: self.perhaps(Self::lsn),
                instance: self.instance(),
                command: self.command(),
            }),
            11 => RecordBody::EffectFinished(EffectFinished {
                effect: self.lsn(),
                result: self.result(),
            }),
            12 => RecordBody::QemuObserved(Box::new(QemuObserved {
                job: self.perhaps(Self::lsn),
                observed: self.observed(),
            })),
            other => self.body_of_migration(other),
        }
    }

    fn body_of_migration(&mut self, kind: u16) -> RecordBody {
        let migration = self.migration();
        let named = MigrationNamed { migration };
        match kind {
            13 => RecordBody::PeerHeard(PeerHeard {
                migration,
                position: self.perhaps(Self::position),
                answer: self.word(PeerAnswer::ALL),
            }),
            14 => RecordBody::PeerPrepared(PeerPrepared {
                migration,
                nonce: Nonce(self.id()),
                position: self.position(),
            }),
            15 => RecordBody::MigrationGranted(MigrationGranted {
                cookie: self.cookie(),
            }),
            16 => RecordBody::MigrationAbandoned(MigrationAbandoned {
                migration,
                why: self.text(),
                asked: self.yes(),
            }),
            17 => RecordBody::MigrationCommitted(MigrationCommitted {
                cookie: self.perhaps(Self::cookie),
                migration,
            }),
            18 => RecordBody::MigrationStarted(named),
            19 => RecordBody::MigrationAborted(named),
            20 => RecordBody::OutcomeLearned(OutcomeLearned {
                migration,
                outcome: self.word(Outcome::ALL),
                position: self.perhaps(Self::position),
            }),
            21 => RecordBody::Decided(Box::new(self.decided())),
            22 => RecordBody::OperatorResolved(OperatorResolved {
                job: self.lsn(),
                decision: self.word(Decision::ALL),
                force: self.yes(),
                statement: self.text(),
                uid: self.number32(),
            }),
            23 => RecordBody::JobEnded(JobEnded {
                job: self.lsn(),
                result: self.word(JobResult::ALL),
                detail: self.text(),
            }),
            24 => RecordBody::MigrationForgotten(named),
            25 => RecordBody::MigrationState(Box::new(self.migration_state())),
            27 => RecordBody::MigrationHistories(MigrationHistories {
                job: self.lsn(),
                nonce_known: self.yes(),
                histories: self.several(Self::history),
            }),
            28 => RecordBody::StoreIntended(Box::new(StoreIntended {
                migration,
                change: self.key_change(),
                cookie: self.perhaps(Self::cookie),
            })),
            29 => RecordBody::StoreRead(StoreRead {
                migration,
                key: self.key_value(),
            }),
            30 => RecordBody::VerdictGiven(VerdictGiven {
                migration,
                outcome: self.word(Outcome::ALL),
                by: self.word(VerdictBy::ALL),
                uid: self.perhaps(Self::number32),
            }),
            31 => RecordBody::JobPhaseEntered(JobPhaseEntered {
                job: self.lsn(),
                phase: self.word(JobPhase::ALL),
                time: self.number(),
                cookie: self.perhaps(Self::text),
                other_side: self.perhaps(Self::position),
                recognised: self.yes(),
                listens: self.yes(),
            }),
            32 => RecordBody::JobDecided(Box::new(JobDecided {
                job: self.lsn(),
                rule: self.text(),
                decision: self.word(Decision::ALL),
                evidence: self.job_evidence(),
                based_on: self.several(Self::lsn),
            })),
            33 => RecordBody::JobState(Box::new(self.job_state())),
            34 => RecordBody::MigrationSettings(MigrationSettings {
                job: self.lsn(),
                time: self.number(),
                settings: self.settings(),
                postcopy_after: self.perhaps(|draw| match draw.byte() % 2 {
                    0 => PostcopyAfter::Seconds(draw.number()),
                    _ => PostcopyAfter::Passes(draw.number()),
                }),
                deadline: self.perhaps(Self::number),
            }),
            35 => RecordBody::SettingsKept(SettingsKept {
                job: self.lsn(),
                changed: self.yes(),
                settings: self.settings(),
            }),
            36 => RecordBody::MigrationDisks(MigrationDisks {
                job: self.lsn(),
                nbd: self.perhaps(Self::text),
                sync: self.word(DiskSync::ALL),
                disks: self.several(|draw| DiskCopy {
                    source: draw.text(),
                    destination: draw.text(),
                    size: draw.number(),
                }),
                settled: self.yes(),
            }),
            37 => RecordBody::GuestSent(GuestSent {
                is_here: self.yes(),
            }),
            _ => RecordBody::Sealed,
        }
    }

    fn job_evidence(&mut self) -> JobEvidence {
        JobEvidence {
            kind: self.word(JobKind::ALL),
            phase: self.word(JobPhase::ALL),
            facts: JobFacts {
                stream: self.word(EffectStanding::ALL),
                main: self.word(EffectStanding::ALL),
                end: self.word(EffectStanding::ALL),
            },
            observed: self.observed(),
            dump: self.perhaps(|draw| DumpStatus::from_qemu(&draw.text())),
            qemu_jobs: self.perhaps(|draw| {
                draw.several(|draw| QemuJobSeen {
                    id: draw.text(),
                    status: draw.perhaps(|draw| QemuJobStatus::from_qemu(&draw.text())),
                    error: draw.perhaps(Self::text),
                })
            }),
            nodes: self.word(NodesSeen::ALL),
            claim: self.perhaps(Self::claim),
            recovering: self.yes(),
            recognised: self.yes(),
            journal_damaged: self.yes(),
            wanted: self.word(WantedRunState::ALL),
            peer: self.word(PeerAnswer::ALL),
        }
    }

    fn settings(&mut self) -> Settings {
        Settings {
            capabilities: self.several(|draw| Capability {
                name: draw.text(),
                state: draw.yes(),
            }),
            parameters: self.several(|draw| Parameter {
                name: draw.text(),
                value: match draw.byte() % 3 {
                    0 => ParameterValue::Bool(draw.yes()),
                    1 => ParameterValue::Number(draw.number()),
                    _ => ParameterValue::Text(draw.text()),
                },
            }),
        }
    }

    fn count(&mut self) -> EffectCount {
        EffectCount {
            done: self.number32(),
            unknown: self.number32(),
        }
    }

    fn job_state(&mut self) -> JobState {
        JobState {
            job: self.lsn(),
            kind: self.word(JobKind::ALL),
            begun: self.number(),
            phase: self.word(JobPhase::ALL),
            cookie: self.perhaps(Self::text),
            other_side: self.perhaps(Self::position),
            recognised: self.yes(),
            stream: self.count(),
            main: self.count(),
            end: self.count(),
            nodes: self.several(Self::text),
            qemu_jobs: self.several(Self::text),
            leftovers: self.several(Self::command),
            in_flight: self.perhaps(|draw| (draw.lsn(), draw.command())),
            last_rule: self.perhaps(Self::text),
        }
    }

    /// Any record.
    pub(crate) fn draft(&mut self) -> Draft {
        let types = RecordBody::TYPES;
        let (kind, _) = types[usize::from(self.byte()) % types.len()];
        // All zeros would stand for no domain.
        let domain = self.perhaps(|draw| DomainId(Id128([draw.byte() | 1; 16])));
        Draft {
            domain,
            body: self.body_of(kind),
        }
    }
}
