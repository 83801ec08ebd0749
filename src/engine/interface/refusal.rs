//! Why something that was asked is not done, in one line for people.

use core::fmt;

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{Authority, JobKind, JobPhase, JobResult, Outcome, Protocol};

use super::{AnyPhase, DisksRefused};

use crate::engine::monitor::Why;
use crate::engine::settings::SettingsError;

/// Why a request is refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No domain of that name.
    NoSuchDomain(String),
    /// No job of that number is open.
    NoSuchJob(Lsn),
    /// The domain has no open job.
    NoOpenJob(String),
    /// A domain of that name lives.
    DomainExists {
        /// The name.
        name: String,
        /// Its living process.
        pid: u32,
    },
    /// A domain of that UUID lives under another name.
    UuidTaken {
        /// The UUID.
        uuid: DomainId,
        /// The other name.
        name: String,
    },
    /// The domain has an open job.
    Busy {
        /// The domain.
        name: String,
        /// The job.
        job: Lsn,
        /// What it is.
        kind: JobKind,
        /// Where it stands.
        phase: AnyPhase,
        /// Seconds since it began, where that is known.
        age: Option<u64>,
    },
    /// A command that does not belong into a phase of a job.
    NotInThisPhase {
        /// The command.
        execute: String,
        /// The job.
        kind: JobKind,
        /// The phase.
        phase: JobPhase,
        /// What does.
        allowed: &'static [&'static str],
    },
    /// A command whose arguments are not taken.
    Command {
        /// The command.
        execute: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A command without an argument that tells afterwards whether it happened.
    CommandNeeds {
        /// The command.
        execute: String,
        /// The argument.
        argument: &'static str,
    },
    /// A command with an argument that would let something end unseen.
    CommandMust {
        /// The command.
        execute: String,
        /// The argument.
        argument: &'static str,
        /// What it must be.
        value: bool,
    },
    /// A phase that cannot be entered from where the job stands.
    NoWayBack {
        /// The job.
        job: Lsn,
        /// Where it stands.
        phase: JobPhase,
        /// What was asked for.
        wanted: JobPhase,
    },
    /// A migration that the two sidecars drive: no manager's phases.
    NotAManagersJob(JobKind),
    /// What a manager brought from another sidecar is not taken.
    PeerCookie {
        /// The job.
        job: Lsn,
        /// Why.
        why: &'static str,
    },
    /// A job that is being ended or cancelled, or held.
    JobNotOpen {
        /// The job.
        job: Lsn,
        /// Why nothing more is done in it.
        why: String,
    },
    /// An effect of the job is under way.
    EffectOpen {
        /// The job.
        job: Lsn,
        /// The effect.
        effect: String,
    },
    /// The job has ended.
    JobOver {
        /// The job.
        job: Lsn,
        /// How.
        result: JobResult,
        /// More, for people.
        detail: String,
    },
    /// Something of the job's is left in QEMU.
    JobLeft {
        /// The job.
        job: Lsn,
        /// What.
        what: String,
    },
    /// An effect of a phase was not carried out.
    PhaseEffect {
        /// The job.
        job: Lsn,
        /// The phase.
        phase: JobPhase,
        /// Which one, from 1.
        number: usize,
        /// Of so many.
        count: usize,
        /// The effect, and what became of it.
        what: String,
    },
    /// The domain's QEMU is not in a state for it.
    WrongState {
        /// The domain.
        name: String,
        /// What was asked.
        wish: &'static str,
        /// As seen.
        seen: String,
    },
    /// A QEMU that another sidecar or an older or newer life of this one has claimed.
    Claimed {
        /// The domain.
        name: String,
        /// The claim.
        claim: String,
    },
    /// The peer is this sidecar itself.
    MigrationToItself(String),
    /// Post-copy was asked for with a protocol that has none.
    PostcopyNeedsV3,
    /// Post-copy was asked for with an authority that may keep the split guest waiting.
    PostcopyNeedsDestination(Authority),
    /// A protocol and an authority that do not go together.
    NoSuchAuthority {
        /// The protocol.
        protocol: Protocol,
        /// The authority.
        authority: Authority,
    },
    /// Authority store, and this sidecar has none.
    NoStore,
    /// A limit that only the authority store has.
    NotTheStores,
    /// A verdict on a migration that another authority decides.
    NotTheManagers {
        /// The job.
        job: Lsn,
        /// Who decides.
        authority: Authority,
    },
    /// A verdict against the evidence.
    Verdict {
        /// The job.
        job: Lsn,
        /// The verdict.
        outcome: Outcome,
        /// What speaks against it.
        why: &'static str,
    },
    /// The job is past the point where it can be cancelled.
    TooLate {
        /// The job.
        job: Lsn,
        /// Where it stands.
        phase: AnyPhase,
    },
    /// There is nothing to resolve.
    NotHeld(String),
    /// Nor is there while its manager may go on.
    NotHeldYet {
        /// The domain.
        name: String,
        /// The job.
        job: Lsn,
    },
    /// It could make a second copy run, or end the last one.
    NeedsForce {
        /// The domain.
        name: String,
        /// What could happen.
        danger: &'static str,
    },
    /// Damaged records may have been about the domain.
    Damaged {
        /// The domain.
        name: String,
    },
    /// So little is known of the domain that it can only be closed as it is.
    OnlyConfirm {
        /// The domain, or its UUID.
        name: String,
    },
    /// A value is too long.
    TooLong {
        /// Which.
        what: &'static str,
        /// In bytes.
        size_max: usize,
    },
    /// A value is empty or has control characters.
    NotVisible {
        /// Which.
        what: &'static str,
    },
    /// A migration URI that is not passed on to QEMU.
    UnknownUri {
        /// How those begin that are.
        schemes: &'static [&'static str],
    },
    /// A limit on the number of domains is reached.
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        count_max: usize,
    },
    /// The journal has no room for what would follow.
    NoRoom {
        /// What it lacks.
        why: String,
    },
    /// A command of a client of the monitor does not go to QEMU.
    Monitor {
        /// The domain.
        name: String,
        /// The command.
        command: String,
        /// Why.
        why: Why,
    },
    /// What a migration is not told.
    Settings {
        /// The domain.
        name: String,
        /// Why.
        why: SettingsError,
    },
    /// A definition that is not the one that its checksum was made of.
    DefinitionChecksum,
    /// Disks that cannot be copied.
    Disks {
        /// The domain.
        name: String,
        /// Why.
        why: DisksRefused,
    },
    /// QEMU refused an effect or it could not be sent.
    Effect {
        /// The domain.
        name: String,
        /// What became of it.
        result: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoSuchDomain(name) => write!(f, "no domain named '{name}' is registered"),
            Refusal::NoSuchJob(job) => write!(f, "no open job {job}"),
            Refusal::NoOpenJob(name) => write!(f, "domain '{name}' has no open job"),
            Refusal::DomainExists { name, pid } => {
                write!(
                    f,
                    "domain '{name}' is already registered and its QEMU (pid {pid}) lives"
                )
            }
            Refusal::UuidTaken { uuid, name } => {
                write!(f, "UUID {uuid} is already registered as domain '{name}'")
            }
            Refusal::Busy {
                name,
                job,
                kind,
                phase,
                age,
            } => {
                write!(f, "domain '{name}' is busy: job {job} ({kind}, phase {phase}")?;
                match age {
                    Some(age) => write!(f, ", for {age} s) is open"),
                    None => f.write_str(") is open"),
                }
            }
            Refusal::NotInThisPhase {
                execute,
                kind,
                phase,
                allowed,
            } => match allowed.is_empty() {
                true => write!(f, "{execute} is not for phase {phase} of a {kind} job, in which nothing is run"),
                false => write!(
                    f,
                    "{execute} is not for phase {phase} of a {kind} job, but {}",
                    allowed.join(", ")
                ),
            },
            Refusal::Command { execute, why } => write!(f, "{execute} {why}"),
            Refusal::CommandNeeds { execute, argument } => write!(
                f,
                "{execute} needs '{argument}': without it nobody can tell afterwards whether it happened"
            ),
            Refusal::CommandMust {
                execute,
                argument,
                value,
            } => write!(
                f,
                "{execute}: '{argument}' must be {value}, so that nothing ends unseen"
            ),
            Refusal::NoWayBack { job, phase, wanted } => {
                write!(
                    f,
                    "job {job} is in phase {phase}, from which {wanted} cannot be entered"
                )?;
                match (phase, wanted) {
                    (JobPhase::Confirm3, JobPhase::Confirm3Cancelled)
                    | (JobPhase::Confirm3Cancelled, JobPhase::Confirm3) => f.write_str(
                        " (the other word was said, or seen, before; if it is wrong: resolve)",
                    ),
                    (_, _) => Ok(()),
                }
            }
            Refusal::NotAManagersJob(kind) => write!(
                f,
                "the two sidecars drive this {kind} job (migrate-domain): no phase of it is entered from outside"
            ),
            Refusal::PeerCookie { job, why } => {
                write!(f, "job {job} does not take this peer-cookie: {why}")
            }
            Refusal::JobNotOpen { job, why } => write!(f, "nothing more is done in job {job}: {why}"),
            Refusal::EffectOpen { job, effect } => {
                write!(f, "an effect of job {job} is under way: {effect}")
            }
            Refusal::JobOver {
                job,
                result,
                detail,
            } => write!(f, "job {job} has ended: {result}, {detail}"),
            Refusal::JobLeft { job, what } => write!(
                f,
                "job {job} cannot end yet: {what}; finish that, or cancel the job"
            ),
            Refusal::PhaseEffect {
                job,
                phase,
                number,
                count,
                what,
            } => write!(
                f,
                "job {job}, phase {phase}: effect {number} of {count}, {what}"
            ),
            Refusal::WrongState { name, wish, seen } => {
                write!(f, "domain '{name}' cannot {wish}: its QEMU is {seen}")
            }
            Refusal::Claimed { name, claim } => {
                // Whoever can reach the QEMU wrote that: it stays one line.
                let claim = claim.replace(char::is_control, "\u{fffd}");
                write!(
                    f,
                    "domain '{name}': its QEMU is claimed by another sidecar ({claim})"
                )
            }
            Refusal::MigrationToItself(name) => {
                write!(
                    f,
                    "domain '{name}' cannot migrate to the sidecar that already has it"
                )
            }
            Refusal::PostcopyNeedsV3 => f.write_str(
                "post-copy needs protocol v3: in v2 the source ends its copy before the other one runs",
            ),
            Refusal::PostcopyNeedsDestination(authority) => write!(
                f,
                "post-copy needs the authority destination: with authority {authority} a guest that is split already could wait without end"
            ),
            Refusal::NoSuchAuthority {
                protocol,
                authority,
            } => write!(
                f,
                "protocol {protocol} has no authority {authority}: v2 has source; v3 has destination, store and manager"
            ),
            Refusal::NoStore => {
                f.write_str("authority store: this sidecar was started without a store")
            }
            Refusal::NotTheStores => {
                f.write_str("in-doubt-limit goes with authority store only")
            }
            Refusal::NotTheManagers { job, authority } => write!(
                f,
                "job {job}: its authority is {authority}, so that a manager's verdict decides nothing"
            ),
            Refusal::Verdict { job, outcome, why } => {
                write!(f, "job {job} cannot be {outcome}: {why}")
            }
            Refusal::TooLate { job, phase } => {
                write!(
                    f,
                    "job {job} is in phase {phase}: its outcome is no longer ours to choose"
                )?;
                match phase {
                    // Where its manager was to say it, and does not.
                    AnyPhase::Job(
                        JobPhase::Perform3Done
                        | JobPhase::Confirm3
                        | JobPhase::Confirm3Cancelled
                        | JobPhase::Finish3,
                    ) => f.write_str(" (but its manager's, or an operator's: resolve)"),
                    AnyPhase::Job(_) | AnyPhase::Migration(_) => Ok(()),
                }
            }
            Refusal::NotHeld(name) => {
                write!(
                    f,
                    "domain '{name}' is not held: there is nothing to resolve"
                )
            }
            Refusal::NotHeldYet { name, job } => write!(
                f,
                "domain '{name}' is not held: job {job} is its manager's until job-cancel; what that cannot settle can be resolved then"
            ),
            Refusal::NeedsForce { name, danger } => {
                write!(
                    f,
                    "domain '{name}': this {danger}; state that the other side is fenced (statement) and use force"
                )
            }
            Refusal::Damaged { name } => write!(
                f,
                "domain '{name}': records that may concern it are damaged; see query-domains and resolve"
            ),
            Refusal::OnlyConfirm { name } => write!(
                f,
                "domain '{name}': of its job not enough is known for that; resolve with confirm, or register its QEMU with domain-add"
            ),
            Refusal::TooLong { what, size_max } => {
                write!(f, "{what} is longer than {size_max} bytes")
            }
            Refusal::NotVisible { what } => {
                write!(f, "{what} must not be empty or have control characters")
            }
            Refusal::UnknownUri { schemes } => {
                write!(f, "uri must begin with one of: {}", schemes.join(" "))
            }
            Refusal::TooMany { what, count_max } => {
                write!(
                    f,
                    "there are already {count_max} {what}, the most this sidecar keeps"
                )
            }
            Refusal::NoRoom { why } => write!(f, "the journal takes nothing new: {why}"),
            Refusal::Monitor { name, command, why } => {
                let command = command.replace(char::is_control, "\u{fffd}");
                write!(f, "domain '{name}' cannot {command} now: {why}")
            }
            Refusal::Settings { name, why } => write!(f, "domain '{name}' cannot migrate so: {why}"),
            Refusal::DefinitionChecksum => f.write_str(
                "the definition is not the one that was sent: its checksum is another, or missing",
            ),
            Refusal::Disks { name, why } => write!(f, "domain '{name}': {why}"),
            Refusal::Effect { name, result } => write!(f, "domain '{name}': {result}"),
        }
    }
}

impl core::error::Error for Refusal {}
