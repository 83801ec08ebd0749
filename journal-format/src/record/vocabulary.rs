//! The words of the journal: roles, phases, QEMU's states, effects, decisions.
//! Invariant: a word, once released, keeps its number on disk; new ones are added at the end.
//! Not here: what follows from them (the engine), how they are encoded (`codec`).

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::number::{BootId, DomainId, Epoch, JournalId, Lsn, MigrationId, Nonce, Position};

/// Defines an enum of plain words with one spelling for text, JSON and logs.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $text)] $word,)+
        }

        impl $name {
            /// Every word, in the order of their numbers on disk.
            pub const ALL: &'static [$name] = &[$($name::$word,)+];

            /// The word as people and programs read it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$word => $text,)+
                }
            }

            /// The word of that spelling.
            #[must_use]
            pub fn from_name(name: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|word| word.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(super) use words;

words!(
    /// What is done to a domain (libvirt's jobs and asynchronous jobs).
    JobKind {
        /// This side gives the guest away.
        MigrationOut = "migration-out",
        /// This side takes the guest.
        MigrationIn = "migration-in",
        /// Saving to a file.
        Save = "save",
        /// Dumping the guest's memory.
        Dump = "dump",
        /// Taking a snapshot.
        Snapshot = "snapshot",
        /// Starting a new QEMU.
        Start = "start",
        /// Restoring from a file.
        Restore = "restore",
        /// A backup block job.
        Backup = "backup",
        /// Ending a domain.
        Destroy = "destroy",
        /// Stopping or continuing the guest.
        Suspend = "suspend",
        /// Changing devices or settings.
        Modify = "modify",
        /// Reading only.
        Query = "query",
        /// Ending another job.
        Abort = "abort",
    }
);

words!(
    /// Which side of a migration.
    Role {
        /// The side that runs the guest first.
        Source = "source",
        /// The side that shall run it afterwards.
        Destination = "destination",
    }
);

impl Role {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Role {
        match self {
            Role::Source => Role::Destination,
            Role::Destination => Role::Source,
        }
    }
}

words!(
    /// The migration protocol, as libvirt numbers them.
    Protocol {
        /// Prepare, perform, finish; the source kills itself at the end of perform.
        V2 = "v2",
        /// Begin, prepare, perform, finish, confirm.
        V3 = "v3",
    }
);

words!(
    /// The phases of a migration, as libvirt names them.
    Phase {
        /// v3 source: the description is made, nothing has been done to QEMU.
        Begin3 = "begin3",
        /// v2 source: QEMU sends.
        Perform2 = "perform2",
        /// v3 source: QEMU sends.
        Perform3 = "perform3",
        /// v3 source: QEMU has sent everything; the destination may own the guest.
        Perform3Done = "perform3_done",
        /// v3 source: the destination runs the guest; this copy is ended.
        Confirm3 = "confirm3",
        /// v3 source: the migration failed; this copy is resumed.
        Confirm3Cancelled = "confirm3_cancelled",
        /// Destination: ready for, or receiving, the stream.
        Prepare = "prepare",
        /// v2 destination: the guest is taken over.
        Finish2 = "finish2",
        /// v3 destination: the guest is taken over.
        Finish3 = "finish3",
        /// Either: the post-copy stream broke.
        PostcopyFailed = "postcopy_failed",
        /// Source: resuming a broken post-copy.
        BeginResume = "begin_resume",
        /// Source: sending the rest of a broken post-copy.
        PerformResume = "perform_resume",
        /// Source: the resumed post-copy is complete.
        ConfirmResume = "confirm_resume",
        /// Destination: resuming a broken post-copy.
        PrepareResume = "prepare_resume",
        /// Destination: the resumed post-copy is complete.
        FinishResume = "finish_resume",
    }
);

words!(
    /// The one place where a migration's outcome is decided.
    Authority {
        /// The destination's journal.
        Destination = "destination",
        /// A key in a store with compare-and-swap.
        Store = "store",
        /// The source's journal (protocol v2).
        Source = "source",
        /// The manager, which drives both sides itself.
        Manager = "manager",
    }
);

words!(
    /// A migration's outcome.
    Outcome {
        /// The destination runs, or may run, the guest; the source never again.
        Committed = "committed",
        /// The destination never runs the guest.
        Aborted = "aborted",
    }
);

words!(
    /// What the guest's owner wants of it.
    WantedRunState {
        /// The guest shall run.
        Running = "running",
        /// The guest shall stay paused.
        Paused = "paused",
    }
);

words!(
    /// What recovery does with a copy of a guest.
    Decision {
        /// End this copy's QEMU.
        Kill = "kill",
        /// Restore the wanted run state of this copy.
        Resume = "resume",
        /// Keep what is, and close or carry on the job.
        Confirm = "confirm",
        /// Keep an in-doubt copy as it is until there is evidence.
        Hold = "hold",
    }
);

words!(
    /// How a job ended.
    JobResult {
        /// It did what it was for.
        Completed = "completed",
        /// It did not, and the guest is where it was.
        Failed = "failed",
        /// It was ended on request, and the guest is where it was.
        Cancelled = "cancelled",
        /// The domain's QEMU died.
        Crashed = "crashed",
    }
);

words!(
    /// What is known of a QEMU process.
    Process {
        /// This instance answers.
        Alive = "alive",
        /// This instance lives but does not answer.
        Mute = "mute",
        /// This instance is gone, or belongs to another boot of the host.
        Dead = "dead",
        /// Another process answers on the socket.
        OtherInstance = "other-instance",
    }
);

/// One QEMU process: a pid alone may be reused, these three together are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Instance {
    /// The boot of the host it runs in.
    pub boot: BootId,
    /// Its process id.
    pub pid: u32,
    /// Its start, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pid {} started at tick {} of boot {}",
            self.pid, self.start_time, self.boot
        )
    }
}

/// Defines a word of QEMU's: known ones by name, unknown ones (of a newer QEMU) kept as text.
macro_rules! qemu_words {
    ($(#[$doc:meta])* $name:ident { $($word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("QEMU's `", $text, "`.")] $word,)+
            /// A word this version does not know; never guessed at.
            Other(String),
        }

        impl $name {
            /// Every word that is known by name.
            pub const KNOWN: &'static [$name] = &[$($name::$word,)+];

            /// The word as QEMU writes it.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $($name::$word => $text,)+
                    $name::Other(text) => text,
                }
            }

            /// The word for QEMU's text.
            #[must_use]
            pub fn from_qemu(text: &str) -> $name {
                match text {
                    $($text => $name::$word,)+
                    other => $name::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        // As text on disk too: QEMU adds words, and a number would be ours to keep in step.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$name, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        Ok($name::from_qemu(text))
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

pub(super) use qemu_words;

qemu_words!(
    /// QEMU's run state (`query-status`; qapi/run-state.json).
    RunState {
        Debug = "debug",
        Inmigrate = "inmigrate",
        InternalError = "internal-error",
        IoError = "io-error",
        Paused = "paused",
        Postmigrate = "postmigrate",
        Prelaunch = "prelaunch",
        FinishMigrate = "finish-migrate",
        RestoreVm = "restore-vm",
        Running = "running",
        SaveVm = "save-vm",
        Shutdown = "shutdown",
        Suspended = "suspended",
        Watchdog = "watchdog",
        GuestPanicked = "guest-panicked",
        Colo = "colo",
    }
);

qemu_words!(
    /// QEMU's migration status (`query-migrate`; qapi/migration.json). QEMU leaves it out while no
    /// migration was ever begun; that is [`MigrationStatus::None`] here too.
    MigrationStatus {
        None = "none",
        Setup = "setup",
        Cancelling = "cancelling",
        Cancelled = "cancelled",
        Active = "active",
        PostcopyActive = "postcopy-active",
        PostcopyPaused = "postcopy-paused",
        PostcopyRecoverSetup = "postcopy-recover-setup",
        PostcopyRecover = "postcopy-recover",
        Completed = "completed",
        Failed = "failed",
        Colo = "colo",
        PreSwitchover = "pre-switchover",
        Device = "device",
        WaitUnplug = "wait-unplug",
    }
);

/// What a sidecar writes into a QEMU before its first effect: a QOM object that only one can create
/// and that does not travel with a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Claim {
    /// The claiming sidecar's journal.
    pub journal: JournalId,
    /// Its opening.
    pub epoch: Epoch,
    /// The migration it is for.
    pub migration: MigrationId,
    /// The side.
    pub role: Role,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "journal={} epoch={} migration={} role={}",
            self.journal, self.epoch, self.migration, self.role
        )
    }
}

impl Claim {
    /// Reads what [`Display`](fmt::Display) writes; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Claim> {
        let mut values = text.split(' ');
        let mut value = |key: &str| values.next()?.strip_prefix(key)?.strip_prefix('=');
        let journal = JournalId(crate::number::Id128::parse(value("journal")?)?);
        let epoch = Epoch(value("epoch")?.parse().ok()?);
        let migration = MigrationId(crate::number::Id128::parse(value("migration")?)?);
        let role = Role::from_name(value("role")?)?;
        let claim = Claim {
            journal,
            epoch,
            migration,
            role,
        };
        (claim.to_string() == text).then_some(claim)
    }
}

/// The claim found in a QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum ClaimSeen {
    /// It could not be read, or was not looked for.
    Unread,
    /// There is none.
    Absent,
    /// There is one that this version can read.
    Present(Claim),
    /// There is one whose text is nobody's we know.
    Foreign(String),
}

/// QEMU as it was seen in one look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observed {
    /// The process.
    pub process: Process,
    /// The instance that answered, or, for another instance, the one found on the socket.
    pub instance: Option<Instance>,
    /// `query-status`, if it answered.
    pub run_state: Option<RunState>,
    /// `query-migrate`, if it answered.
    pub migration: Option<MigrationStatus>,
    /// The claim, if it answered.
    pub claim: ClaimSeen,
}

/// A QMP command (or a signal) that can change a guest or a job. Reading is no effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum EffectCommand {
    /// `object-add` of the claim.
    Claim(Claim),
    /// `object-del` of the claim.
    Unclaim,
    /// `migrate-set-capabilities` as this side of a migration needs them.
    SetCapabilities {
        /// The side.
        role: Role,
        /// Those of post-copy too.
        postcopy: bool,
    },
    /// `migrate-set-parameters`; absent values are left as they are.
    SetParameters {
        /// Bytes per second.
        max_bandwidth: Option<u64>,
        /// Milliseconds.
        downtime_limit: Option<u64>,
    },
    /// `migrate-incoming`.
    MigrateIncoming {
        /// QEMU's migration URI.
        uri: String,
    },
    /// `migrate`.
    Migrate {
        /// QEMU's migration URI.
        uri: String,
    },
    /// `migrate-continue` out of pre-switchover.
    MigrateContinue,
    /// `migrate_cancel`.
    MigrateCancel,
    /// `cont`.
    Cont,
    /// `stop`.
    Stop,
    /// The end of the process, by its pidfd.
    Kill,
    /// `migrate-start-postcopy`: at the next switchover the guest goes over with what it has.
    StartPostcopy,
    /// `migrate-recover`: destination, listens once more for a stream that broke in post-copy.
    MigrateRecover {
        /// QEMU's migration URI.
        uri: String,
    },
    /// `migrate` with `resume`: source, goes on with a stream that broke in post-copy.
    MigrateResume {
        /// QEMU's migration URI.
        uri: String,
    },
    /// `migrate-pause`: destination, gives up a stream of post-copy that is broken at its other end.
    MigratePause,
    /// A command as QMP has it: the manager's own, or one that sets what a migration is told.
    Monitor {
        /// The command's name as QMP has it.
        execute: String,
        /// Its arguments: the JSON text of an object, without what is secret.
        arguments: String,
        /// Something secret was left out of the arguments.
        redacted: bool,
    },
}

impl EffectCommand {
    /// The command's name as QMP has it (`kill` for the signal).
    #[must_use]
    pub const fn name(&self) -> &str {
        match self {
            EffectCommand::Claim(_) => "object-add",
            EffectCommand::Unclaim => "object-del",
            EffectCommand::SetCapabilities { .. } => "migrate-set-capabilities",
            EffectCommand::SetParameters { .. } => "migrate-set-parameters",
            EffectCommand::MigrateIncoming { .. } => "migrate-incoming",
            EffectCommand::Migrate { .. } | EffectCommand::MigrateResume { .. } => "migrate",
            EffectCommand::MigrateContinue => "migrate-continue",
            EffectCommand::MigrateCancel => "migrate_cancel",
            EffectCommand::Cont => "cont",
            EffectCommand::Stop => "stop",
            EffectCommand::Kill => "kill",
            EffectCommand::StartPostcopy => "migrate-start-postcopy",
            EffectCommand::MigrateRecover { .. } => "migrate-recover",
            EffectCommand::MigratePause => "migrate-pause",
            EffectCommand::Monitor { execute, .. } => execute.as_str(),
        }
    }
}

/// An effect as it leaves the process: its intent is the record at `intent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Effect {
    /// The record of its intent; names the effect.
    pub intent: Lsn,
    /// The domain.
    pub domain: DomainId,
    /// The only process it may reach.
    pub instance: Instance,
    /// What to do.
    pub command: EffectCommand,
}

/// What became of an effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum EffectResult {
    /// QEMU answered success; for a kill: the process is gone.
    Done,
    /// QEMU answered an error.
    Refused {
        /// The error's class.
        class: String,
        /// The error's text. Shown to people, never interpreted.
        description: String,
    },
    /// Provably nothing was sent.
    NotSent {
        /// Why.
        why: String,
    },
    /// It was sent, or may have been, and no answer came: it counts as having happened.
    Unknown {
        /// Why.
        why: String,
    },
}

/// What the source gives to the destination when QEMU has sent everything: the licence to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cookie {
    /// The migration.
    pub migration: MigrationId,
    /// The destination's own nonce, from prepare.
    pub nonce: Nonce,
    /// Where the source recorded `granted`.
    pub granted: Position,
    /// Who decides.
    pub authority: Authority,
    /// What the guest's owner wanted last.
    pub wanted: WantedRunState,
}

words!(
    /// What the other side said, as it matters to a decision.
    PeerAnswer {
        /// It was not asked yet, or not since the last restart.
        NotAsked = "not-asked",
        /// It could not be reached.
        Unreachable = "unreachable",
        /// It lacks records that this side saw it have.
        Amnesia = "amnesia",
        /// It has all it ever had and knows no such migration.
        NoSuchMigration = "no-such-migration",
        /// Source: it is still performing; wait.
        Performing = "performing",
        /// Source: granted; the cookie is on its way.
        Granted = "granted",
        /// Source: granted, its QEMU alive, postmigrate and completed.
        GrantedAndSafe = "granted-and-safe",
        /// Source: abandoned, for good.
        Abandoned = "abandoned",
        /// Destination: nothing decided, its copy is not whole.
        NotWhole = "not-whole",
        /// Destination: nothing decided, its copy is whole.
        Whole = "whole",
        /// Destination: committed, not known to have started. Source: granted and safe, and the manager's
        /// committed waits there for the destination to take it.
        Deciding = "deciding",
        /// Destination: committed and started.
        Started = "started",
        /// Destination: aborted, its copy is gone.
        Aborted = "aborted",
        /// Destination, in post-copy: started, and memory is still on its way.
        Split = "split",
        /// Either, after post-copy began: its QEMU is gone, and with it its part of the guest.
        Lost = "lost",
        /// Source: granted, and the manager's verdict that it took is committed: its copy never runs again.
        Committed = "committed",
    }
);

words!(
    /// What the key of a migration in the store says, as it matters to a decision.
    StoreAnswer {
        /// It was not read, or not since the last restart.
        NotRead = "not-read",
        /// The store gave no answer, or there is none: proves nothing.
        Unreachable = "unreachable",
        /// There is no such key: proves nothing, a request may still be on its way.
        Absent = "absent",
        /// Committed by the destination of this migration.
        Committed = "committed",
        /// Committed by another journal, or for another prepare.
        Foreign = "foreign",
        /// The destination runs the guest, or ran it.
        Started = "started",
        /// The destination never runs the guest.
        Aborted = "aborted",
        /// There is no such key, though there was one: the store was put back. Proves nothing.
        Older = "older",
    }
);

words!(
    /// How a manager gave its verdict.
    VerdictBy {
        /// By a command to the sidecar.
        Command = "command",
        /// By continuing the guest itself.
        Cont = "cont",
        /// By ending QEMU itself.
        Quit = "quit",
    }
);

words!(
    /// Where the destination's `cont` intents stand.
    ContIntent {
        /// None was ever recorded.
        Never = "never",
        /// Exactly one, and provably nothing was sent.
        NotSent = "not-sent",
        /// Exactly one, and QEMU itself answered an error.
        Refused = "refused",
        /// At least one that may have happened.
        Unknown = "unknown",
        /// One that succeeded.
        Done = "done",
    }
);

/// The durable facts of a migration that a decision looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, recorded or not"
)]
pub struct Facts {
    /// Source: `migrate` was intended.
    pub migrate_intended: bool,
    /// Source: `migrate-continue` was intended after `migrate-start-postcopy`: there may be no way
    /// back. Destination: post-copy is allowed.
    pub postcopy: bool,
    /// Source: QEMU said completed (or post-copy began) and the cookie may go out.
    pub granted: bool,
    /// Source: it runs on; never forward.
    pub abandoned: bool,
    /// Destination: the cookie was taken.
    pub committed: bool,
    /// Destination: the guest ran here, or may stay paused as wanted.
    pub started: bool,
    /// Destination: it never runs here.
    pub aborted: bool,
    /// Source: the outcome, as the authority told it (committed only with started).
    pub outcome: Option<Outcome>,
    /// Destination: where its `cont` stands.
    pub cont: ContIntent,
    /// Authority store: a change of the key that this side asked for may have happened.
    pub proposed: bool,
    /// Authority manager: its verdict.
    pub verdict: Option<Outcome>,
}

/// Everything a decision may look at; recorded with it, so that it can be made again offline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::struct_excessive_bools, reason = "each is evidence of its own")]
pub struct Evidence {
    /// This side.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// Who decides.
    pub authority: Authority,
    /// The last durable phase.
    pub phase: Phase,
    /// The durable facts.
    pub facts: Facts,
    /// QEMU as last seen.
    pub observed: Observed,
    /// The claim that this journal recorded for this domain, if any.
    pub claim: Option<Claim>,
    /// What the other side said last.
    pub peer: PeerAnswer,
    /// The source was watched without a break from STOP to its end, saw no RESUME, and no cancel or
    /// cont was ever intended. With a manager's authority, a destination: since the job began nothing that was done to its
    /// QEMU can have been missed. Lost in a restart.
    pub watched: bool,
    /// The sidecar was restarted in this job and has not carried it on yet.
    pub recovering: bool,
    /// Records that may concern this domain are damaged.
    pub journal_damaged: bool,
    /// What the guest's owner wants.
    pub wanted: WantedRunState,
    /// What the key in the store said last.
    pub store: StoreAnswer,
    /// Source: the licence has been out without an outcome for as long as was set.
    pub overdue: bool,
    /// Source: cancel or cont was intended, or the guest was seen running, after it was given away or
    /// given up.
    pub source_touched: bool,
}
