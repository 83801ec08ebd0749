//! The end of a run: faults stop, and everything must come to rest within bounded time (P4).
//!
//! Invariant: what is judged is what QEMUs do and what sidecars answer; a hold is only taken for right
//! where what it is there for has happened.
//! Not here: the promises that are judged all the while (`qemu`, `guest`, `ledger`, `monitor`).

use journal_format::record::{
    ClaimSeen, Decision, JobKind, MigrationStatus, Outcome, RunState, WantedRunState,
};

use super::host::Waiter;
use super::manager::Heard;
use super::world::{What, World};
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use crate::engine::{
    Answer, ControlRequest, DomainView, Input, JobTarget, JobView, MonitorCommand, Rule,
};

/// How long sidecars have to come to rest: longer than each of their waits, some of which follow each
/// other.
const REST_MAX: Micros = 180_000_000;

/// How often it is looked whether they have.
const LOOK: Micros = 2_000_000;

/// What an operator says of the other side when all is known.
const STATEMENT: &str = "the other side was looked at, and its QEMU is fenced";

impl World {
    /// Faults stop. Everything comes to rest, or a promise is broken.
    pub fn come_to_rest(&mut self) {
        self.calm_down();
        let held = self.rest(true);
        if self.lab.broken.is_some() || held.is_empty() {
            return;
        }
        // What is held for good is a human's, who can see everything.
        for round in 0..4 {
            for one in self.held() {
                // What was said of one side may have settled another: nobody speaks of what he saw before that.
                if !self.held().contains(&one) {
                    continue;
                }
                let (host, guest, rule) = one;
                self.coverage.held(&rule);
                match rule.is_empty() && round % 2 == 0 {
                    true => self.say_whose(host, guest),
                    false => self.resolve(host, guest, round),
                }
            }
            self.run_until(self.now + 10_000_000);
        }
        self.rest(false);
    }

    fn calm_down(&mut self) {
        self.calm = true;
        let under_way: Vec<usize> = self.under_way.keys().copied().collect();
        for number in under_way {
            self.is_over(number);
        }
        for host in 0..self.hosts.len() {
            self.hosts[host].is_off = false;
            self.hosts[host].lose_reply = false;
            let disk = &self.hosts[host].disk;
            disk.limit(None);
            disk.plan_nothing();
            self.after(0, What::Start(host));
        }
        self.network.mishap = None;
        self.store.lose_answer = false;
        self.store.has_foreign_key = false;
        self.settle_moment();
        self.tell_manager(Heard::Calm);
    }

    /// Waits until nothing is open, or until it should have come to rest; what is still held then, and
    /// may be.
    fn rest(&mut self, may_hold: bool) -> Vec<(HostNumber, GuestNumber, String)> {
        let end = self.now + REST_MAX;
        while self.now < end && self.lab.broken.is_none() {
            self.run_until(self.now + LOOK);
            if self.is_at_rest() {
                return Vec::new();
            }
        }
        if self.lab.broken.is_some() {
            return Vec::new();
        }
        let held = self.held();
        self.judge_damage(&held);
        for guest in 0..self.lab.guests.len() {
            let of_guest = || held.iter().filter(|(_, one, _)| *one == guest);
            if of_guest().next().is_none() {
                if let Err(why) = self.is_right(guest) {
                    self.lab.breaks(&why);
                }
                continue;
            }
            let is_permitted = of_guest().any(|(host, _, rule)| {
                self.may_hold(guest, rule) || self.may_be_damaged(*host, guest, rule)
            });
            if !may_hold || !is_permitted {
                let name = &self.lab.guests[guest].name;
                let list: Vec<String> = of_guest()
                    .map(|(host, _, rule)| format!("host {host}: '{rule}'"))
                    .collect();
                let why = format!("P4: {name} never settles ({})", list.join(", "));
                self.lab.breaks(&why);
            }
        }
        held
    }

    /// Is it held for damage that may concern it? Also of a job that had ended before.
    fn may_be_damaged(&self, host: HostNumber, guest: GuestNumber, rule: &str) -> bool {
        let domain = self.lab.guests[guest].domain;
        let ledger = self.hosts[host].ledger.borrow();
        rule == Rule::JournalDamaged.name() && ledger.may_be_damaged(domain)
    }

    /// P6: only what damage may concern is held for it, or what was held there before since QEMU showed more than the journal
    /// knew.
    fn judge_damage(&mut self, held: &[(HostNumber, GuestNumber, String)]) {
        for (host, guest, rule) in held {
            let lacks = self.lab.guests[*guest].older.contains(host);
            let may_be = lacks || self.may_be_damaged(*host, *guest, rule);
            if rule == Rule::JournalDamaged.name() && !may_be {
                let name = &self.lab.guests[*guest].name;
                let why = format!("P6: {name} is held at host {host} for damage of others");
                self.lab.breaks(&why);
            }
        }
    }

    fn is_at_rest(&mut self) -> bool {
        let up = self.hosts.iter().all(|host| host.sidecar.is_some());
        if !up {
            return false;
        }
        // Cheap first: what QEMUs show.
        let guests = 0..self.lab.guests.len();
        let is_right = guests.into_iter().all(|guest| self.is_right(guest).is_ok());
        is_right && self.held().is_empty()
    }

    /// One copy, and what its owner wants of it; or none, and nobody's fault.
    fn is_right(&self, guest: GuestNumber) -> Result<(), String> {
        let one = &self.lab.guests[guest];
        let holds = |number: &QemuNumber| {
            let qemu = &self.lab.qemus[*number];
            qemu.run != RunState::Inmigrate
        };
        let holders: Vec<QemuNumber> = self.lab.living(guest).filter(holds).collect();
        let name = &one.name;
        // What a hand from outside did, or a disk that lied, is looked at by humans.
        if one.is_excused() {
            return Ok(());
        }
        // A journal that is lost leaves what it knew of to a human.
        if one.is_suspect() && one.executes.is_none() {
            return Ok(());
        }
        match holders.as_slice() {
            [] => Ok(()),
            [number] => {
                let runs = self.lab.runs(*number);
                let wants = one.wanted == Some(WantedRunState::Running);
                let may_differ = one.told_otherwise || one.is_suspect();
                let is_as_before = may_differ || self.lab.qemus[*number].is_told_as_before();
                if !may_differ && !self.lab.qemus[*number].is_tidy() {
                    return Err(format!("{name}: a job left something in process {number}"));
                }
                match (wants && !runs, is_as_before) {
                    (true, _) => Err(format!("P4: {name} does not run, in process {number}")),
                    (false, false) => Err(format!(
                        "{name}: process {number} is not told what it was told before"
                    )),
                    (false, true) => Ok(()),
                }
            }
            // A journal that is lost leaves what it knew of to a human.
            _ if one.is_suspect() => Ok(()),
            many => Err(format!("P4: {name} is left in the processes {many:?}")),
        }
    }

    /// Every open job: host, guest, and the rule it is held under, if it is.
    fn held(&mut self) -> Vec<(HostNumber, GuestNumber, String)> {
        let mut held = Vec::new();
        for (host, views) in self.ask_all() {
            for view in views {
                let guest = self.guest_of(view.uuid);
                if let (Some(_), Some(guest)) = (view.job, guest) {
                    let rule = view.held.map_or("", |held| held.rule);
                    held.push((host, guest, rule.to_owned()));
                }
            }
        }
        held
    }

    fn ask_all(&mut self) -> Vec<(HostNumber, Vec<DomainView>)> {
        self.judged.clear();
        for host in 0..self.hosts.len() {
            if let Some(token) = self.hosts[host].token(Waiter::Judge) {
                let request = ControlRequest::QueryDomains { name: None };
                self.feed(host, Input::Control { token, request });
            }
        }
        self.run_until(self.now + 20_000);
        let judged = core::mem::take(&mut self.judged);
        judged
            .into_iter()
            .filter_map(|(host, result)| match result {
                Ok(Answer::Domains(views)) => Some((host, views)),
                _ => None,
            })
            .collect()
    }

    /// The holds that may stay, each only after what it is there for (DESIGN.md, section 7).
    fn may_hold(&self, guest: GuestNumber, rule: &str) -> bool {
        let one = &self.lab.guests[guest];
        let is_ours = |claim: &ClaimSeen| matches!(claim, ClaimSeen::Present(_));
        // A hand from outside did what no migration does, or a disk lied: any state may be the result, and
        // whoever looks at it is human.
        if one.is_excused() {
            return true;
        }
        let Some(rule) = Rule::from_name(rule) else {
            // Its manager goes on with it, and cannot know which copy is the guest.
            // Nor mends a stream that broke in post-copy, in the simulator.
            // Nor ends a source that pushed all of the guest over and was not told that it came.
            let mut living = self.lab.living(guest);
            let is_half = living.any(|number| is_half(&self.lab.qemus[number].status));
            let is_on_both = one.split.is_some() || is_half;
            let may_stay = one.has_died || one.is_suspect() || is_on_both || one.lost;
            return one.is_driven && may_stay;
        };
        match rule {
            // This copy may have run on by itself before it died.
            Rule::SourcePerformDeadUnwatched => one.has_died || one.is_suspect(),
            // The other side can be asked, so it says amnesia.
            Rule::SourcePerformDeadAsking => one.is_suspect() || self.may_say_amnesia(guest),
            // One of the journals is not what it was.
            Rule::SourceGrantedAmnesia | Rule::SourcePerform2Amnesia => {
                one.is_suspect() || self.may_say_amnesia(guest)
            }
            // Or a prepare was on its way for so long that its source had ended it, and the journal behind it is gone.
            Rule::DestinationPrepareAmnesia => {
                let mut open = one.open.values().flatten();
                let is_stray = open.any(|migration| self.is_stray(*migration));
                is_stray || one.is_suspect() || self.may_say_amnesia(guest)
            }
            Rule::JournalDamaged
            | Rule::StoreKeyForeign
            | Rule::SourceStoreOlder
            | Rule::DestinationStoreAmnesia => one.is_suspect(),
            // Also long after a journal was lost, or put back: a migration that its manager drives claims nothing, and
            // is begun beside any claim.
            Rule::JournalOlderThanQemu => {
                let is_beside = one.is_driven && self.is_claimed(guest, is_ours);
                one.is_suspect() || is_beside && self.may_be_forgotten(guest)
            }
            Rule::ClaimedByAnother => {
                let is_theirs = |claim: &ClaimSeen| matches!(claim, ClaimSeen::Foreign(_));
                let is_forgotten = self.may_be_forgotten(guest);
                let is_beside = one.is_driven && is_forgotten && self.is_claimed(guest, is_ours);
                one.is_suspect() || is_beside || self.is_claimed(guest, is_theirs)
            }
            // The winner is gone before the key says that it started, or its journal is: it knows
            // nothing of its commit, which stands in the store, so that nobody moves that on and no
            // aborted can be put there.
            Rule::SourceStoreInDoubt => one.has_died || one.is_suspect(),
            // The source's copy is dead, and the destination's journal is not the one that took the
            // migration: it says amnesia to every question, so nothing it lacks proves anything, and
            // there may be a commit of the lost journal on its way to the store. A dead source never
            // proposes aborted: with the peer gone this hold is named in section 6.
            Rule::SourceStoreDead => one.is_suspect() || self.may_say_amnesia(guest),
            // The stream goes on, or one side says that its half is gone: unless its journal is.
            Rule::SourcePostcopyBroken | Rule::DestinationPostcopyBroken => one.is_suspect(),
            // A source that hangs: its guest stands there whole or half, and nobody knows.
            Rule::SourcePostcopyEnding => one.has_died,
            // A QEMU ended that the manager may have continued before: only a word tells. A source whose destination
            // does not know of it any more refuses the manager's either word.
            Rule::SourceVerdictAwaited | Rule::DestinationVerdictAwaited => {
                one.has_died || one.is_suspect()
            }
            // What an older journal does not know: a stream of its manager's, a job that came further, or one that ended, so
            // that QEMU is on its way with the next one, or was told to be.
            Rule::NoRuleForThis | Rule::SourceGrantedOther => one.is_suspect(),
            // Its stream broke, and this manager does not mend it.
            Rule::DrivenPostcopy => one.is_driven,
            // Likewise where the manager drives both sides itself.
            Rule::DrivenSourceCompleted
            | Rule::DrivenSourceUnproven
            | Rule::DrivenDestinationWhole => one.has_died || one.is_suspect(),
            _ => false,
        }
    }

    /// Does a host that had a copy of it say amnesia where another one would know that there is nothing?
    fn may_say_amnesia(&self, guest: GuestNumber) -> bool {
        let mut been = self.lab.guests[guest].been.iter();
        been.any(|host| self.hosts[*host].says_amnesia)
    }

    /// Was a journal of a host that had a copy of it ever lost, put back, or opened without all of its records?
    fn may_be_forgotten(&self, guest: GuestNumber) -> bool {
        let mut been = self.lab.guests[guest].been.iter();
        been.any(|host| {
            let host = &self.hosts[*host];
            host.journals > 0 || host.says_amnesia || host.may_lack_records
        })
    }

    fn is_claimed(&self, guest: GuestNumber, so: fn(&ClaimSeen) -> bool) -> bool {
        let mut living = self.lab.living(guest);
        living.any(|number| so(&self.lab.qemus[number].claim))
    }

    /// A human says to the sidecar, in the place of a manager that cannot know, which copy is the guest.
    fn say_whose(&mut self, host: HostNumber, guest: GuestNumber) {
        let is_source = self.is_source(host, guest);
        let outcome = match self.is_good(host, guest) == is_source {
            true => Outcome::Aborted,
            false => Outcome::Committed,
        };
        let Some(token) = self.hosts[host].token(Waiter::Judge) else {
            return;
        };
        let request = ControlRequest::Verdict {
            target: JobTarget::Domain(self.lab.guests[guest].name.clone()),
            outcome,
            uid: 0,
        };
        self.say(|_| format!("operator: host {host}, guest {guest}: {outcome}"));
        self.coverage.resolved += 1;
        self.lab.guests[guest].touched(self.now);
        self.judged.clear();
        self.feed(host, Input::Control { token, request });
        self.run_until(self.now + 200_000);
        let is_refused = self.judged.iter().any(|(_, result)| result.is_err());
        // A job that ended meanwhile needs no word, and what is on that host now may be another one's.
        let is_open = |(at, of, _): &(HostNumber, GuestNumber, String)| (*at, *of) == (host, guest);
        if is_refused && self.held().iter().any(is_open) {
            // Half of a guest is none.
            let is_whole = !self.lab.guests[guest].lost;
            let is_good = self.is_good(host, guest) && is_whole;
            self.say_by_hand(host, guest, is_good);
            // Its manager's word stands on record, or that of a hand from outside, and it is the other one; or QEMU shows what no
            // word is for.
            if self.held().iter().any(is_open) {
                self.pass_by(host, guest);
            }
            if self.held().iter().any(is_open) {
                self.take_from_its_manager(host, guest);
            }
        }
    }

    /// A migration whose manager does not come back, and that shows what no word is for: half a guest, or one that was sent on by
    /// a hand from outside. `job-cancel` leaves both as they are, and holds them to be resolved.
    fn take_from_its_manager(&mut self, host: HostNumber, guest: GuestNumber) {
        let is_source = self.is_source(host, guest);
        let takes_no_word = self.lab.living(guest).any(|number| {
            let qemu = &self.lab.qemus[number];
            let has_ended = matches!(
                qemu.status,
                MigrationStatus::Failed | MigrationStatus::Cancelled
            );
            let was_sent_on = match qemu.run {
                RunState::FinishMigrate | RunState::Postmigrate => true,
                // It was saved without success.
                RunState::Paused => has_ended,
                _ => false,
            };
            qemu.host == host && (is_half(&qemu.status) || was_sent_on && !is_source)
        });
        let job = self.open_job(host, guest).filter(|_| takes_no_word);
        // Where two sidecars drive it, no manager's word is waited for.
        let Some(job) = job.filter(|job| job.migration.is_none()) else {
            return;
        };
        self.say(|_| format!("operator: host {host}, guest {guest}: job-cancel"));
        if let Some(token) = self.hosts[host].token(Waiter::Judge) {
            let request = ControlRequest::JobCancel { job: job.job };
            self.feed(host, Input::Control { token, request });
        }
        self.run_until(self.now + 200_000);
    }

    /// Is the open job of that host the one of a migration's source? QEMU alone does not tell: a destination's may have been saved
    /// by a hand from outside.
    fn is_source(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        match self.open_job(host, guest) {
            Some(job) => job.kind == JobKind::MigrationOut,
            // In one statement: what goes over the living ones borrows them until it is dropped.
            None => self.lab.living(guest).any(|number| {
                let qemu = &self.lab.qemus[number];
                qemu.host == host && qemu.is_sender()
            }),
        }
    }

    /// The open job of that guest at that host, as its sidecar names it.
    fn open_job(&mut self, host: HostNumber, guest: GuestNumber) -> Option<JobView> {
        self.judged.clear();
        if let Some(token) = self.hosts[host].token(Waiter::Judge) {
            let name = Some(self.lab.guests[guest].name.clone());
            let request = ControlRequest::QueryJobs { job: None, name };
            self.feed(host, Input::Control { token, request });
        }
        self.run_until(self.now + 20_000);
        let judged = core::mem::take(&mut self.judged);
        judged.into_iter().find_map(|(_, result)| match result {
            Ok(Answer::Jobs(jobs)) => jobs.into_iter().find(|job| job.result.is_none()),
            _ => None,
        })
    }

    /// Of a guest that its manager drove, a copy that takes no word any more is dealt with past its sidecar, on QEMU's own monitor:
    /// ended if the guest is seen to be elsewhere, though it may stand still there, continued if it is this one (a hand from outside
    /// saved it after it had come). Where hands from outside ran both, so that neither is all of it, the other one is kept.
    fn pass_by(&mut self, host: HostNumber, guest: GuestNumber) {
        let one = &self.lab.guests[guest];
        let (is_driven, is_whole) = (one.is_driven, !one.lost);
        let is_kept_paused = one.wanted == Some(WantedRunState::Paused);
        // Also one that its owner paused, or that a hand from outside stopped or saved.
        let is_loaded = |number: &QemuNumber| {
            let qemu = &self.lab.qemus[*number];
            qemu.host != host && qemu.run != RunState::Inmigrate
        };
        let others: Vec<QemuNumber> = self.lab.living(guest).filter(is_loaded).collect();
        let is_elsewhere = others.iter().any(|number| self.lab.carries(*number));
        let ends = match (self.is_good(host, guest), is_elsewhere) {
            (false, true) if is_driven => true,
            (true, false) if is_driven && is_whole => false,
            (false, false) if is_driven && is_whole => !others.is_empty(),
            (_, _) => return,
        };
        let word = if ends { "ends" } else { "continues" };
        self.say(|_| format!("operator: host {host}, guest {guest}: {word} its QEMU"));
        let living: Vec<QemuNumber> = self.lab.living(guest).collect();
        for number in living {
            if self.lab.qemus[number].host != host {
                continue;
            }
            match ends {
                true => self.lab.end(number),
                false => self.lab.foreign_cont(number),
            }
            if is_kept_paused {
                self.lab.foreign_stop(number);
            }
        }
        self.settle_moment();
        self.run_until(self.now + 200_000);
    }

    /// Has that host a copy of it with all that there is of it?
    fn is_good(&self, host: HostNumber, guest: GuestNumber) -> bool {
        let mut living = self.lab.living(guest);
        living.any(|number| self.lab.qemus[number].host == host && self.lab.carries(number))
    }

    /// Likewise, on the monitor that the sidecar offers: what the owner of a guest wants that came by plain commands
    /// is only said by its `cont`.
    fn say_by_hand(&mut self, host: HostNumber, guest: GuestNumber, is_good: bool) {
        let execute = if is_good { "cont" } else { "quit" };
        let Some(token) = self.hosts[host].token(Waiter::Judge) else {
            return;
        };
        let command = MonitorCommand::plain(execute, "{}".to_owned());
        self.say(|_| format!("operator: host {host}, guest {guest}: {execute} on its monitor"));
        let domain = self.lab.guests[guest].domain;
        self.feed(
            host,
            Input::Monitor {
                token,
                domain,
                uid: 0,
                command,
            },
        );
        self.run_until(self.now + 200_000);
    }

    /// An operator who sees everything ends the copies that are not the guest, and says so.
    fn resolve(&mut self, host: HostNumber, guest: GuestNumber, round: usize) {
        let living: Vec<QemuNumber> = self.lab.living(guest).collect();
        let good = living
            .iter()
            .copied()
            .filter(|number| self.lab.carries(*number))
            .max_by_key(|number| {
                let qemu = &self.lab.qemus[*number];
                (
                    self.lab.runs(*number),
                    qemu.memory.is_some(),
                    !qemu.is_sender(),
                )
            });
        for number in &living {
            if Some(*number) != good && self.lab.qemus[*number].host != host {
                self.lab.end(*number);
            }
        }
        self.settle_moment();
        let here = good.is_some_and(|number| self.lab.qemus[number].host == host);
        let any_here = living
            .iter()
            .any(|number| self.lab.qemus[*number].host == host);
        let mut decisions = match (here, any_here) {
            (true, _) => [Decision::Resume, Decision::Confirm],
            (false, true) => [Decision::Kill, Decision::Confirm],
            (false, false) => [Decision::Confirm, Decision::Kill],
        };
        // What was taken and settled nothing is not said again at once.
        decisions.rotate_left(round % 2);
        // Lost with its registration, it is known by its identity alone.
        let names = {
            let one = &self.lab.guests[guest];
            [one.name.clone(), one.domain.to_string()]
        };
        let words = decisions.into_iter();
        for (decision, name) in words.flat_map(|one| names.clone().map(|name| (one, name))) {
            self.judged.clear();
            let Some(token) = self.hosts[host].token(Waiter::Judge) else {
                return;
            };
            let request = ControlRequest::Resolve {
                name,
                decision,
                force: true,
                statement: STATEMENT.to_owned(),
                uid: 0,
            };
            self.say(|_| format!("operator: host {host}, guest {guest}: {decision}"));
            self.coverage.resolved += 1;
            // What a human does is no more judged by these rules.
            self.lab.guests[guest].touched(self.now);
            self.feed(host, Input::Control { token, request });
            self.run_until(self.now + 200_000);
            if self.judged.iter().any(|(_, result)| result.is_ok()) {
                return;
            }
        }
    }
}

/// Does QEMU show a guest that is split over both sides?
fn is_half(status: &MigrationStatus) -> bool {
    matches!(
        status,
        MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecoverSetup
            | MigrationStatus::PostcopyRecover
    )
}
