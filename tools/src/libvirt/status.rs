//! libvirt's domain status XML: `<domstatus>` around the private data of the QEMU driver and the domain.
//!
//! Invariant: no DTD, so no entities of its own; no more nodes than [`NODES_MAX`]; a word that libvirt does not know is
//! an error that lists those it does.
//! Not here: what libvirt does with it (`table`).

use journal_format::record::Phase;
use roxmltree::{Document, Node, ParsingOptions};

/// Elements, attributes' owners and texts in a file, at the most.
const NODES_MAX: u32 = 1_000_000;

/// Words of libvirt's with their spelling (src/conf/domain_conf.c, src/conf/virdomainjob.c).
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$word_doc])* $word,)+ }

        impl $name {
            const ALL: &'static [$name] = &[$($name::$word,)+];

            pub(crate) const fn name(self) -> &'static str {
                match self { $($name::$word => $text,)+ }
            }

            fn parse(what: &str, text: &str) -> Result<$name, String> {
                Self::ALL.iter().copied().find(|word| word.name() == text).ok_or_else(|| {
                    let words: Vec<&str> = Self::ALL.iter().map(|word| word.name()).collect();
                    format!("there is no {what} '{text}': libvirt writes one of {}", words.join(", "))
                })
            }
        }
    };
}

words!(
    /// virDomainState.
    State {
        Unknown = "nostate",
        Running = "running",
        Blocked = "blocked",
        Paused = "paused",
        Shutdown = "shutdown",
        Shutoff = "shutoff",
        Crashed = "crashed",
        PmSuspended = "pmsuspended",
    }
);

words!(
    /// virDomainAsyncJob.
    AsyncJob {
        None = "none",
        MigrationOut = "migration out",
        MigrationIn = "migration in",
        Save = "save",
        Dump = "dump",
        Snapshot = "snapshot",
        Start = "start",
        Backup = "backup",
    }
);

/// virDomainJob, of which only destroy and none are ever written.
const JOBS: [&str; 9] = [
    "none",
    "query",
    "destroy",
    "suspend",
    "modify",
    "abort",
    "migration operation",
    "modify migration safe",
    "async nested",
];

/// What a status file says, as far as a decision rests on it.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) uuid: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    pub(crate) reason: String,
    pub(crate) job: String,
    pub(crate) async_job: AsyncJob,
    /// Of a migration; `None` for libvirt's `none`.
    pub(crate) phase: Option<Phase>,
}

impl Status {
    /// The guest was split over both sides when this was written.
    pub(crate) fn is_postcopy(&self) -> bool {
        matches!(self.reason.as_str(), "post-copy" | "post-copy failed")
    }

    /// In words.
    pub(crate) fn said(&self) -> String {
        let mut said = format!("{} ({})", self.state.name(), self.reason);
        match (self.async_job, self.phase) {
            (AsyncJob::None, _) if self.job == "none" => said.push_str(", no job"),
            (AsyncJob::None, _) => said.push_str(&format!(", job {}", self.job)),
            (job, None) => said.push_str(&format!(", job {}", job.name())),
            (job, Some(phase)) => said.push_str(&format!(", job {} in {phase}", job.name())),
        }
        said
    }
}

/// Reads a status file.
pub(crate) fn parse(text: &str) -> Result<Status, String> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options)
        .map_err(|why| format!("no XML that libvirt writes: {why}"))?;
    let root = document.root_element();
    match root.tag_name().name() {
        "domstatus" => {}
        "domain" => {
            return Err(
                "a domain's definition, not its status: that is in /run/libvirt/qemu".to_owned(),
            );
        }
        other => return Err(format!("the XML is a <{other}>, not a <domstatus>")),
    }
    let state = State::parse("domain state", attribute(root, "state")?)?;
    let domain = child(root, "domain").ok_or("there is no <domain> in the <domstatus>")?;
    let name = text_of(domain, "name").ok_or("the domain has no <name>")?;
    let pid = match root.attribute("pid") {
        None => None,
        Some(pid) => Some(
            pid.parse()
                .map_err(|_| format!("the pid '{pid}' is not a number"))?,
        ),
    };
    let job = child(root, "job");
    let of_job = |name: &str| job.and_then(|job| job.attribute(name)).unwrap_or("none");
    if !JOBS.contains(&of_job("type")) {
        return Err(format!(
            "there is no job '{}': libvirt writes one of {}",
            of_job("type"),
            JOBS.join(", ")
        ));
    }
    let async_job = AsyncJob::parse("asynchronous job", of_job("async"))?;
    Ok(Status {
        name,
        uuid: text_of(domain, "uuid"),
        pid,
        state,
        reason: root.attribute("reason").unwrap_or("unknown").to_owned(),
        job: of_job("type").to_owned(),
        phase: phase(async_job, of_job("phase"))?,
        async_job,
    })
}

/// Phases have names for migrations only.
fn phase(job: AsyncJob, text: &str) -> Result<Option<Phase>, String> {
    if text == "none" {
        return Ok(None);
    }
    let is_migration = matches!(job, AsyncJob::MigrationOut | AsyncJob::MigrationIn);
    match Phase::from_name(text) {
        Some(phase) if is_migration => Ok(Some(phase)),
        Some(_) => Err(format!(
            "phase {text} belongs to a migration, and the job is {}",
            job.name()
        )),
        None => {
            let phases: Vec<&str> = Phase::ALL.iter().map(|phase| phase.name()).collect();
            Err(format!(
                "there is no migration phase '{text}': libvirt writes none, {}",
                phases.join(", ")
            ))
        }
    }
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, String> {
    node.attribute(name)
        .ok_or_else(|| format!("the <{}> has no {name}", node.tag_name().name()))
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    Some(child(node, name)?.text()?.trim().to_owned()).filter(|text| !text.is_empty())
}
