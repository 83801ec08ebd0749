//! Why something that was asked is not done, in one line for people.

use core::fmt;

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{Authority, JobKind, Outcome, Phase, Protocol};

use crate::engine::monitor::Why;

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
        phase: Phase,
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
        phase: Phase,
    },
    /// There is nothing to resolve.
    NotHeld(String),
    /// It could make a second copy run, or end the last one.
    NeedsForce {
        /// The domain.
        name: String,
        /// What could happen.
        danger: &'static str,
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
            } => {
                write!(
                    f,
                    "domain '{name}' is busy: job {job} ({kind}, phase {phase}) is open"
                )
            }
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
                )
            }
            Refusal::NotHeld(name) => {
                write!(
                    f,
                    "domain '{name}' is not held: there is nothing to resolve"
                )
            }
            Refusal::NeedsForce { name, danger } => {
                write!(
                    f,
                    "domain '{name}': this {danger}; state that the other side is fenced (statement) and use force"
                )
            }
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
            Refusal::Effect { name, result } => write!(f, "domain '{name}': {result}"),
        }
    }
}

impl core::error::Error for Refusal {}
