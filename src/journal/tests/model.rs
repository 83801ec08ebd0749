//! Random lives of a journal against a model of what must be found.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    /// Append so many records as one batch (or more).
    Append(u64),
    /// Roll to a new segment.
    Roll,
    /// Plan a fault so many operations ahead.
    Fault(u64, Fault),
    /// Plan a fault at the witness so many operations ahead.
    WitnessFault(u64, Fault),
    /// End the process and open again.
    Reopen,
    /// Crash and open again.
    Crash(Survival),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Error(5)),
        Just(Fault::Error(28)),
        (0usize..5000).prop_map(Fault::Short),
        Just(Fault::LostSync(5)),
        Just(Fault::CrashBefore),
        (0usize..40).prop_map(Fault::CrashTorn),
        Just(Fault::CrashAfter),
    ]
}

fn survival() -> impl Strategy<Value = Survival> {
    prop_oneof![
        Just(Survival::Everything),
        Just(Survival::Nothing),
        any::<u64>().prop_map(Survival::Some),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop_oneof![4 => 0u64..4, 1 => 100u64..300].prop_map(Action::Append),
        1 => Just(Action::Roll),
        1 => (0u64..12, fault()).prop_map(|(at, fault)| Action::Fault(at, fault)),
        1 => (0u64..4, fault()).prop_map(|(at, fault)| Action::WitnessFault(at, fault)),
        1 => Just(Action::Reopen),
        2 => survival().prop_map(Action::Crash),
    ]
}

/// What the model knows.
struct Model {
    place: Place,
    log: Option<Log<TestDisk>>,
    /// What must be found, in order.
    durable: Vec<(Lsn, u64)>,
    /// What may be found behind it: the records of calls that failed.
    in_flight: Vec<u64>,
    tag: u64,
    boot: u8,
}

impl Model {
    fn run(actions: &[Action]) {
        let mut model = Model {
            place: Place::new(),
            log: None,
            durable: Vec::new(),
            in_flight: Vec::new(),
            tag: 0,
            boot: 8,
        };
        model.open();
        for action in actions {
            model.step(action);
        }
        // At the end everything is well again.
        model.crash(Survival::Nothing);
        model.open();
        assert!(model.log.is_some(), "a healthy disk takes the journal");
        model.check_found();
    }

    fn step(&mut self, action: &Action) {
        let disk = &self.place.journal;
        match action {
            Action::Append(count) => self.append(*count),
            Action::Roll => {
                if let Some(log) = &mut self.log {
                    let _ = roll(log);
                }
            }
            Action::Fault(ahead, fault) => {
                disk.plan(disk.operations() + ahead, *fault);
            }
            Action::WitnessFault(ahead, fault) => {
                self.place
                    .run
                    .plan(self.place.run.operations() + ahead, *fault);
            }
            Action::Reopen => {
                self.crash(Survival::Everything);
                self.open();
            }
            Action::Crash(survival) => {
                self.crash(*survival);
                self.open();
            }
        }
        if self.place.journal.is_crashed() || self.place.run.is_crashed() {
            self.crash(Survival::Everything);
            self.open();
        }
    }

    fn append(&mut self, count: u64) {
        let Some(log) = &mut self.log else {
            return;
        };
        let first = log.next_lsn();
        let poisoned = log.poisoned().is_some();
        match append(log, self.tag..self.tag + count) {
            Ok(()) => {
                assert!(!poisoned, "a poisoned journal acknowledges nothing");
                let new = (0..count).map(|i| (Lsn(first.0 + i), self.tag + i));
                self.durable.extend(new);
            }
            Err(_) if poisoned => {}
            Err(_) => self.in_flight = (self.tag..self.tag + count).collect(),
        }
        self.tag += count;
    }

    fn crash(&mut self, survival: Survival) {
        self.log = None;
        self.place.journal.restart(survival);
        self.place.run.restart(survival);
        if survival != Survival::Everything {
            self.boot = self.boot.wrapping_add(1);
        }
    }

    /// Opens, if the planned faults let it; what is found then is what counts from now on.
    fn open(&mut self) {
        for _ in 0..40 {
            let boot = BootId(Id128([self.boot; 16]));
            let options = OpenOptions { boot, ..options() };
            match self.place.open_with(&options) {
                Err(
                    OpenError::Io { .. } | OpenError::Witness(witness::WitnessError::Io { .. }),
                ) => {}
                Err(error) => panic!("a good journal was refused: {error}"),
                Ok(opened) => {
                    self.check_opened(&opened);
                    if let Ok(log) = begin(opened) {
                        self.check_found();
                        self.log = Some(log);
                        return;
                    }
                }
            }
            self.crash(Survival::Everything);
        }
    }

    fn check_opened(&self, opened: &Resumed) {
        assert_ne!(opened.ending(), Ending::Damaged);
        let gap = opened
            .history()
            .iter()
            .find(|past| matches!(past, Past::Gap(_)));
        assert_eq!(gap, None);
        if let Some((last, _)) = self.durable.last() {
            assert!(opened.first_lsn() > *last);
        }
    }

    fn check_found(&mut self) {
        let entries = self.place.read();
        let gap = entries.iter().find(|entry| matches!(entry, Entry::Gap(_)));
        assert_eq!(gap, None, "a gap without damage");
        let records = records(&entries);
        let tagged = |record: &Record| Some((record.lsn, *tags([record]).first()?));
        let found: Vec<(Lsn, u64)> = records.iter().filter_map(tagged).collect();
        let known = self.durable.len();
        assert!(found.len() >= known, "acknowledged records are missing");
        assert_eq!(found[..known], self.durable[..]);
        let rest: Vec<u64> = found[known..].iter().map(|(_, tag)| *tag).collect();
        // A large append is several batches, of which the first may be there.
        assert!(
            self.in_flight.starts_with(&rest),
            "{rest:?} of {:?}",
            self.in_flight
        );
        self.durable = found;
        self.in_flight.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn what_was_acknowledged_is_found(actions in prop::collection::vec(action(), 1..30)) {
        Model::run(&actions);
    }
}
