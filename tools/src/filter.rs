//! Which records of a journal are asked for.
//!
//! Invariant: a name that no record has is an error, and not an empty answer; what can be told from a
//! record's header is told from it, so that most records need not be decoded.
//! Not here: reading them (`past`), showing them (`dump`).

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use journal_format::batch::BatchHeader;
use journal_format::number::{BootId, DomainId, Id128, Lsn, MigrationId};
use journal_format::record::{Decision, Decoded, Phase, RecordBody};
use phase_journal::journal::decoded::Head;

use crate::error::ToolError;
use crate::indexed::Of;
use crate::past::{Choose, Known, Recorded, Teaches, is_job_told_before};
use crate::when;

/// The number of the type of effects' results.
const EFFECT_FINISHED: u16 = 11;

/// Which records to show; of several filters all must hold.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only this domain, by name or UUID (may be given again)
    #[arg(long, value_name = "NAME")]
    domain: Vec<String>,
    /// Only this job (the LSN of its first record)
    #[arg(long, value_name = "LSN")]
    job: Option<u64>,
    /// Only this migration
    #[arg(long, value_name = "UUID")]
    migration: Option<String>,
    /// Only records of this type, by name or number (may be given again); `list` shows the types
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) kind: Vec<String>,
    /// Only what a job recorded while it was in this phase (may be given again)
    #[arg(long, value_name = "PHASE", value_delimiter = ',')]
    phase: Vec<String>,
    /// Only decisions, of recovery and of operators, to kill, resume, confirm or hold (may be given again)
    #[arg(long, value_name = "DECISION", value_delimiter = ',')]
    decision: Vec<String>,
    /// From this LSN on
    #[arg(long, value_name = "LSN")]
    pub(crate) from: Option<u64>,
    /// Up to this LSN
    #[arg(long, value_name = "LSN")]
    pub(crate) to: Option<u64>,
    /// Written at this time or later: 'YYYY-MM-DD HH:MM', yesterday, '2 hours ago', @SECONDS, all in UTC
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Written at this time or before
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only this boot of the host: its id, 0 for the last in the journal, -1 for the one before, ...
    #[arg(
        short,
        long,
        value_name = "BOOT",
        num_args = 0..=1,
        default_missing_value = "0",
        allow_negative_numbers = true
    )]
    boot: Option<String>,
}

/// Somebody asked for a domain.
#[derive(Clone, Debug)]
struct WantedDomain {
    name: String,
    id: Option<DomainId>,
    is_found: bool,
    /// The domains of that name, and which version of names that is of.
    named: (u64, Vec<DomainId>),
}

impl WantedDomain {
    fn is(&mut self, domain: DomainId, known: &Known) -> bool {
        if self.named.0 != known.names_version() {
            self.named = (known.names_version(), known.named(&self.name).to_vec());
        }
        self.id == Some(domain) || self.named.1.contains(&domain)
    }
}

/// Which boot.
#[derive(Clone, Debug)]
enum WantedBoot {
    Any,
    Id(BootId),
    /// Counted from the last one backwards.
    Back(usize),
}

/// What was asked for, understood.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    domains: Vec<WantedDomain>,
    job: Option<Lsn>,
    job_found: bool,
    /// The domain of that job, once it is known.
    job_domain: Option<DomainId>,
    migration: Option<MigrationId>,
    migration_found: bool,
    kinds: Vec<u16>,
    phases: Vec<Phase>,
    decisions: Vec<Decision>,
    from: Lsn,
    to: Lsn,
    since: u64,
    until: u64,
    boot: WantedBoot,
    /// Is it shown in which phase of its job a record is?
    shows_phase: bool,
}

fn wrong<T>(what: &str, value: &str, good: &[&str]) -> Result<T, ToolError> {
    let why = format!("'{value}' is no {what}; there are {}", good.join(", "));
    Err(ToolError::Argument(why))
}

impl Filter {
    /// Understands what was asked for.
    ///
    /// # Errors
    /// A word that is none, with those that are.
    pub(crate) fn new(args: &FilterArgs) -> Result<Filter, ToolError> {
        let phases: Vec<&str> = Phase::ALL.iter().map(|phase| phase.name()).collect();
        let decisions: Vec<&str> = Decision::ALL.iter().map(|word| word.name()).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
        let time = |text: &Option<String>, default| match text {
            Some(text) => when::parse(text, now).map_err(ToolError::Argument),
            None => Ok(default),
        };
        let id = |text: &str, what: &str| {
            let why = || ToolError::Argument(format!("'{text}' is no UUID of a {what}"));
            Id128::parse(text).ok_or_else(why)
        };
        let domain = |name: &String| WantedDomain {
            name: name.clone(),
            id: Id128::parse(name).map(DomainId),
            is_found: false,
            named: (0, Vec::new()),
        };
        let boot = match args.boot.as_deref() {
            None => WantedBoot::Any,
            Some(text) => match (text.parse::<i64>(), Id128::parse(text)) {
                (_, Some(id)) => WantedBoot::Id(BootId(id)),
                (Ok(back @ ..=0), None) => {
                    WantedBoot::Back(usize::try_from(back.unsigned_abs()).unwrap_or(usize::MAX))
                }
                (_, None) => {
                    let why = format!("'{text}' is no boot: its id, 0 for the last, -1, ...");
                    return Err(ToolError::Argument(why));
                }
            },
        };
        Ok(Filter {
            domains: args.domain.iter().map(domain).collect(),
            job: args.job.map(Lsn),
            job_found: false,
            job_domain: None,
            migration: match &args.migration {
                Some(text) => Some(MigrationId(id(text, "migration")?)),
                None => None,
            },
            migration_found: false,
            kinds: args
                .kind
                .iter()
                .map(|kind| kind_of(kind))
                .collect::<Result<_, _>>()?,
            phases: words(&args.phase, "phase", Phase::from_name, &phases)?,
            decisions: words(&args.decision, "decision", Decision::from_name, &decisions)?,
            from: Lsn(args.from.unwrap_or(0)),
            to: Lsn(args.to.unwrap_or(u64::MAX)),
            since: time(&args.since, 0)?,
            until: time(&args.until, u64::MAX)?,
            boot,
            shows_phase: true,
        })
    }

    /// The first LSN that is asked for.
    pub(crate) fn from(&self) -> Lsn {
        // A job's records do not come before it.
        self.from.max(self.job.unwrap_or(Lsn(0)))
    }

    /// What lies before was looked at already.
    pub(crate) fn begin_at(&mut self, from: Lsn) {
        self.from = self.from.max(from);
    }

    /// The last LSN that is asked for.
    pub(crate) fn to(&self) -> Lsn {
        self.to
    }

    /// The same where the phase of a record's job is not shown.
    pub(crate) fn without_phase(self) -> Filter {
        Filter {
            shows_phase: false,
            ..self
        }
    }

    /// Does anything of what is asked for depend on the job that records before tell?
    fn needs_jobs(&self) -> bool {
        let is_any_told_before = self.kinds.iter().any(|kind| is_job_told_before(*kind));
        self.shows_phase
            || self.kinds.is_empty()
            || is_any_told_before
            || self.job.is_some()
            || self.migration.is_some()
            || !self.phases.is_empty()
    }

    /// Is a boot asked for by a count from the last one?
    pub(crate) fn counts_boots(&self) -> bool {
        matches!(self.boot, WantedBoot::Back(_))
    }

    /// Which boot a count from the last one backwards means, of those in the journal, oldest first.
    ///
    /// # Errors
    /// There are not so many.
    pub(crate) fn settle_boot(&mut self, boots: &[BootId]) -> Result<(), ToolError> {
        let WantedBoot::Back(back) = self.boot else {
            return Ok(());
        };
        let index = boots
            .len()
            .checked_sub(1)
            .and_then(|last| last.checked_sub(back));
        match index.and_then(|index| boots.get(index)) {
            Some(boot) => {
                self.boot = WantedBoot::Id(*boot);
                Ok(())
            }
            None => Err(ToolError::Argument(format!(
                "there is no boot -{back}: the journal tells of {}",
                crate::text::count(boots.len() as u64, "boot")
            ))),
        }
    }

    /// What was asked for by name and was not seen; `None` if all was.
    pub(crate) fn not_found(&self) -> Option<String> {
        let mut domains = self.domains.iter();
        if let Some(domain) = domains.find(|domain| !domain.is_found) {
            return Some(format!(
                "there is no domain '{}' in the journal",
                domain.name
            ));
        }
        match (self.job, self.migration) {
            (Some(job), _) if !self.job_found => {
                Some(format!("there is no job {job} in the journal"))
            }
            (_, Some(migration)) if !self.migration_found => {
                Some(format!("there is no migration {migration} in the journal"))
            }
            (_, _) => None,
        }
    }

    /// The time from which on records are asked for, in nanoseconds since 1970.
    pub(crate) fn since(&self) -> Option<u64> {
        Some(self.since).filter(|since| *since > 0)
    }

    /// The domain whose records are asked for, if they are of just one.
    pub(crate) fn only_of(&self) -> Option<Of> {
        match (self.domains.as_slice(), self.job) {
            ([one], _) => Some(Of::Domain(one.name.clone())),
            ([], Some(job)) => Some(Of::Job(job)),
            (_, _) => None,
        }
    }

    /// Takes over what another one with the same questions has found.
    pub(crate) fn learn(&mut self, other: &Filter) {
        for (mine, theirs) in self.domains.iter_mut().zip(&other.domains) {
            mine.is_found |= theirs.is_found;
        }
        self.job_found |= other.job_found;
        self.migration_found |= other.migration_found;
    }
}

fn words<T>(
    texts: &[String],
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
    good: &[&str],
) -> Result<Vec<T>, ToolError> {
    let word = |text: &String| parse(text).map_or_else(|| wrong(what, text, good), Ok);
    texts.iter().map(word).collect()
}

fn kind_of(text: &str) -> Result<u16, ToolError> {
    let named = RecordBody::TYPES.iter().find(|(_, name)| *name == text);
    match (named, text.parse()) {
        (Some((number, _)), _) => Ok(*number),
        // Types of a newer writer have no name here.
        (None, Ok(number)) => Ok(number),
        (None, Err(_)) => Err(ToolError::Argument(format!(
            "there is no record type '{text}'; `--type list` shows them"
        ))),
    }
}

impl Filter {
    /// Is it about a domain that is asked for, as far as is known?
    fn is_of_wanted(&mut self, domain: Option<DomainId>, known: &Known) -> bool {
        let mut domains = self.domains.iter_mut();
        domains.len() == 0
            || domain.is_some_and(|domain| domains.any(|wanted| wanted.is(domain, known)))
    }
}

impl Choose for Filter {
    fn may_learn(&mut self, head: &Head, teaches: Teaches, known: &Known) -> bool {
        match teaches {
            // It may be the very name that is asked for.
            Teaches::Name => true,
            Teaches::Job => self.needs_jobs() && self.is_of_wanted(head.domain, known),
            Teaches::Effect => {
                let shown = self.kinds.is_empty() || self.kinds.contains(&EFFECT_FINISHED);
                shown && self.is_of_wanted(head.domain, known)
            }
        }
    }

    fn may_want(&mut self, batch: &BatchHeader, head: &Head, known: &Known) -> bool {
        let Head { lsn, domain, kind } = *head;
        if let Some(id) = domain {
            for wanted in &mut self.domains {
                wanted.is_found |= wanted.id == Some(id);
            }
        }
        let of_boot = match &self.boot {
            WantedBoot::Any => true,
            WantedBoot::Id(boot) => batch.boot == *boot,
            // It was not settled which.
            WantedBoot::Back(_) => false,
        };
        (self.from..=self.to).contains(&lsn)
            && (self.since..=self.until).contains(&batch.wall)
            && of_boot
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
            && self.is_of_wanted(domain, known)
            && self.job.is_none_or(|job| lsn >= job)
            && (self.job_domain.is_none() || self.job_domain == domain)
    }

    fn wants(&mut self, recorded: &Recorded) -> bool {
        for wanted in &mut self.domains {
            wanted.is_found |= recorded.name.as_ref() == Some(&wanted.name);
        }
        let of_job = self.job.is_none_or(|job| recorded.job == Some(job));
        if self.job.is_some() && of_job {
            self.job_found = true;
            self.job_domain = recorded.record.domain();
        }
        let of_migration = self
            .migration
            .is_none_or(|one| recorded.migration == Some(one));
        self.migration_found |= of_migration;
        let in_phase = || {
            recorded
                .phase
                .is_some_and(|phase| self.phases.contains(&phase))
        };
        let decides =
            || decision(&recorded.record).is_some_and(|one| self.decisions.contains(&one));
        of_job
            && of_migration
            && (self.phases.is_empty() || in_phase())
            && (self.decisions.is_empty() || decides())
    }
}

/// What a record decides.
fn decision(record: &Decoded) -> Option<Decision> {
    match record {
        Decoded::Known(record) => match &record.body {
            RecordBody::Decided(decided) => Some(decided.decision),
            RecordBody::OperatorResolved(resolved) => Some(resolved.decision),
            _ => None,
        },
        Decoded::Unknown { .. } => None,
    }
}
