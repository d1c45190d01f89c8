//! One operation, with its manager killed at a chosen command of it: before the command left, after its effect and before its
//! answer, or once its effect is in the journal. The next manager has the store's file, or an older copy of it, and nothing else.

use std::path::Path;

use mha::decide::plan::{Evidence, Plan, PlanKind, Step};
use mha::execute::Outcome;
use mha::execute::journal::{Entry, Recovery};
use mha::execute::world::Token;
use mha::model::ballot::Ballot;
use mha::model::record::ClusterRecord;
use mha::store::{Store as Disk, StoreError};

use super::faults::Fault;
use super::state::{Event, Sim};
use super::world::evidence_of;

/// Where the older copy of a store is, below its directory.
const OLDER: &str = "older";

/// What befalls the cluster, and where its manager dies.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    /// At 4 s.
    pub(crate) fault: Option<Fault>,
    /// What follows, so many ms later.
    pub(crate) later: Vec<(u64, Event)>,
    /// Everything is mended so many ms later.
    pub(crate) lasts: u64,
    /// Commands of recoveries of this kind are counted.
    pub(crate) kind: PlanKind,
    /// The command its manager dies at, from 1.
    pub(crate) nth: usize,
    pub(crate) fate: Fate,
    pub(crate) successor: Successor,
}

/// The manager that comes after one that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Successor {
    /// It has the store as the first one left it.
    SameStore,
    /// It has that store and dies at its own first command; the third one lives.
    DiesToo,
    /// Its store is a copy from before the operation began, as a backup of the manager's host is.
    OlderStore,
}

/// What happens at the chosen command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    /// The manager dies before the command leaves.
    NotSent,
    /// The manager dies after the effect, before the answer.
    NotAnswered,
    /// The manager dies as soon as its journal holds what the command did.
    Recorded,
    /// It lives; the effect is done and the answer is lost.
    AnswerLost,
    /// It lives; the command is done twice.
    SentTwice,
    /// It lives; the server the command is for hangs when it comes.
    ServerHangs,
}

/// What became of a story.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Commands of the kind so far.
    pub(crate) commands: usize,
    pub(crate) died_at: Option<String>,
    pub(crate) struck_at: u64,
    /// Ms from the fault until a server opened for a later generation.
    pub(crate) opened_after: Option<u64>,
    /// Who served clients when the manager died, and at the end of the time without one.
    pub(crate) served: Option<(Vec<usize>, Vec<usize>)>,
    /// Outcomes of what the next manager resumed.
    pub(crate) resumed: Vec<Outcome>,
    /// The manager dies at the end of its next write to the journal.
    pub(crate) dies_at_write: bool,
    /// The successor has died as well.
    pub(crate) died_again: bool,
}

/// The real store, asked from a thread of its own: virtual time stands still meanwhile.
pub(crate) fn now<T: Send>(asked: impl Future<Output = Result<T, StoreError>> + Send) -> T {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().build().expect("a runtime needs nothing");
            runtime.block_on(asked).expect("the store's directory is there and writable")
        });
        asking.join().expect("the store does not panic")
    })
}

pub(crate) fn disk(directory: &Path) -> Disk {
    Disk::open(directory).expect("a new store in a directory of the test's own")
}

impl Sim {
    /// Whether the manager lives through this command.
    pub(crate) fn fate(&mut self, m: usize, token: &Token, step: &Step) -> Fate {
        let Some(story) = self.opts.story.clone() else { return Fate::Lives };
        let kind = self.stores[m].recoveries.iter().find(|r| r.id == token.recovery).map(|r| r.kind);
        if kind != Some(story.kind) {
            return Fate::Lives;
        }
        if self.told.died_at.is_some() {
            let dies = story.successor == Successor::DiesToo && !self.told.died_again;
            self.told.died_again = true;
            return if dies { Fate::NotAnswered } else { Fate::Lives };
        }
        self.told.commands += 1;
        if self.told.commands != story.nth {
            return Fate::Lives;
        }
        self.told.died_at = Some(step.to_string());
        match story.fate {
            Fate::ServerHangs => self.hit(&Fault::Hang(self.index(step.instance()))),
            Fate::Recorded => self.told.dies_at_write = true,
            Fate::Lives | Fate::NotSent | Fate::NotAnswered | Fate::AnswerLost | Fate::SentTwice => {}
        }
        story.fate
    }

    pub(crate) fn manager_is_killed(&mut self, m: usize) {
        self.say(format!("m{m} dies"));
        self.manager_up[m] = false;
        self.told.served = Some((self.serving(), Vec::new()));
        self.wake.notify_one();
        if let Some(back) = self.manager_is_back_after() {
            self.after(back, Event::Succeed(m));
        }
    }

    /// A new process with the old one's store.
    pub(crate) fn succeed(&mut self, m: usize) {
        if let Some(directory) = &self.directory {
            // A process that is gone holds no lock.
            self.stores[m].disk = None;
            let older = directory.path().join(OLDER);
            let disk = disk(if older.exists() { &older } else { directory.path() });
            let cluster = self.cluster.name.clone();
            let store = &mut self.stores[m];
            store.record = now(disk.record(&cluster));
            store.recoveries = now(disk.unfinished(&cluster)).into_iter().collect();
            store.ballot = now(disk.ballot()).number;
            store.disk = Some(disk);
        }
        self.manager_up[m] = true;
        self.wake.notify_one();
    }

    // === what is kept on the disk, too ===

    pub(crate) fn keep_ballot(&self, m: usize) {
        if let Some(disk) = &self.stores[m].disk {
            let ballot = Ballot { number: self.stores[m].ballot, manager: self.stores[m].id.clone() };
            now(disk.save_ballot(&ballot));
        }
    }

    /// The store's files as they are now, for a successor that has an older store.
    fn copy_store(&self) {
        let Some(directory) = &self.directory else { return };
        let older = directory.path().join(OLDER);
        std::fs::create_dir_all(&older).expect("the directory is the test's own");
        for entry in std::fs::read_dir(directory.path()).expect("it is there") {
            let path = entry.expect("it can be read").path();
            if path.is_file() && path.extension().is_none_or(|end| end != "lock") {
                let name = path.file_name().expect("a file has a name");
                std::fs::copy(&path, older.join(name)).expect("there is room");
            }
        }
    }

    pub(crate) fn keep_recovery(&self, m: usize, recovery: &Recovery) {
        let story = self.opts.story.as_ref().filter(|_| self.told.died_at.is_none());
        if story.is_some_and(|it| it.successor == Successor::OlderStore && it.kind == recovery.kind) {
            self.copy_store();
        }
        if let Some(disk) = &self.stores[m].disk {
            now(disk.begin(recovery));
        }
    }

    pub(crate) fn keep_entries(&self, m: usize, recovery: &str, entries: &[Entry]) {
        if let Some(disk) = &self.stores[m].disk {
            now(disk.append(recovery, entries.to_vec()));
        }
    }

    pub(crate) fn keep_record(&self, m: usize, record: &ClusterRecord) {
        if let Some(disk) = &self.stores[m].disk {
            now(disk.save_record(&self.cluster.name, record));
        }
    }

    /// A recovery that says it was taken back was: what each begun stage's undo asks for is so.
    pub(crate) fn check_undone(&mut self, m: usize, recovery: &Recovery) {
        let begun = |kind| {
            let stages = recovery.stage_begun(kind).map_or(0, |index| index + 1);
            let undo =
                |plan: &Plan| plan.stages.iter().take(stages).flat_map(|stage| stage.undo.clone()).collect();
            recovery.plan(kind).map_or_else(Vec::new, undo)
        };
        use PlanKind::{Isolate, Promote, Repair, Switchover, Topology};
        // A claim that was won shows in what was opened by it.
        let shows = |step: &Step| !matches!(step, Step::Claim { .. });
        for step in [Promote, Isolate, Switchover, Repair, Topology].into_iter().flat_map(begun).filter(shows)
        {
            let h = self.index(step.instance());
            let record = self.stores[m].record.clone();
            if self.answers(h) && !step.is_satisfied(&Evidence { record, ..evidence_of(self, h) }) {
                self.violate(format!("I12: taken back, and it is not so that {step}"));
            }
        }
    }
}
