//! Whether an acker still has everything that it acknowledged. A restart of its server, a reset of its replication, and on MariaDB a start
//! of both its threads throw away what it had received and not applied. From then on its word proves nothing, until it has been level
//! with a living primary again. A manager believes what it saw itself and what the record says; anything else is doubt. No IO, no clock.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::gtid::GtidSet;
use super::instance::{Identity, InstanceId};
use super::report::Report;
use super::restrictions::Setting;
use super::time::Moment;

/// A server tells its uptime in whole seconds, and looks take time. A difference below this is no restart.
pub const RESTART_SLACK: Duration = Duration::from_secs(2);

/// By so much a server rounds its uptime.
const WHOLE_SECOND: Duration = Duration::from_secs(1);

/// Two starts of a server that lie closer together than this are one start, told by two managers or at two times.
const SAME_START: TimeDelta = TimeDelta::seconds(4);

/// The recorded start is written again when it has moved by more than this: clocks drift.
const MOVED_START: TimeDelta = TimeDelta::seconds(2);

/// A look is no older than this when it comes in.
const OLDER_LOOK: Duration = Duration::from_secs(3);

/// What ended the standing of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Nothing was seen: this manager did not watch it before.
    Unwatched,
    /// Its server restarted.
    Restarted,
    /// Its server ran on, and has less than it was seen to have.
    FellBack,
    /// Its server ran on, and somebody restarted, pointed or reset its replication: what came and went between two looks was seen by nobody.
    Touched,
    /// The same while no manager looked.
    Unseen,
}

/// What is known of the time between two answers of one server.
#[derive(Debug, Clone, Copy)]
pub struct Between {
    pub elapsed: Duration,
    /// A connection that answered at both times shows that it has not restarted.
    pub same_run: bool,
    /// Statements that were counted meanwhile may be this manager's own, which throw nothing away.
    pub ours: bool,
}

/// Which servers this manager itself may have given statements, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnStatements {
    /// Of the operation that runs.
    running: Vec<InstanceId>,
    /// When the last operation that may have given it some ended.
    ended: BTreeMap<InstanceId, Moment>,
}

impl OwnStatements {
    /// An operation runs from now on that may give some to `instances`.
    pub fn begin(&mut self, instances: Vec<InstanceId>) {
        self.running = instances;
    }

    /// The operation that runs may have given some to `instances` too.
    pub fn extend(&mut self, instances: impl IntoIterator<Item = InstanceId>) {
        for instance in instances {
            if !self.running.contains(&instance) {
                self.running.push(instance);
            }
        }
    }

    /// It has ended.
    pub fn end(&mut self, now: Moment) {
        let ended = std::mem::take(&mut self.running);
        self.ended.extend(ended.into_iter().map(|instance| (instance, now)));
    }

    /// Some may have been given to `instance` after a look at `then`, and before now.
    pub fn may_be_since(&self, instance: &InstanceId, then: Moment) -> bool {
        self.running.contains(instance) || self.ended_since(instance, then)
    }

    /// The same of operations that have ended.
    pub fn ended_since(&self, instance: &InstanceId, then: Moment) -> bool {
        self.ended.get(instance).is_some_and(|ended| then <= *ended)
    }
}

/// Why a server may lack what it acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    pub since: Moment,
    pub loss: Loss,
    /// What it was seen to have before, where it does not have all of that now.
    #[serde(default)]
    pub had: Option<GtidSet>,
    /// What the primary had when it was first asked after that: everything that this server may have acknowledged before.
    #[serde(default)]
    pub to_reach: Option<GtidSet>,
}

impl Doubt {
    /// The first answer of a server that this manager hears; an earlier manager may have seen what it `had`.
    pub(super) fn unwatched(since: Moment, had: Option<GtidSet>) -> Self {
        Self { since, loss: Loss::Unwatched, had, to_reach: None }
    }

    /// A loss was seen where perhaps doubted it was already; `had` is what the server had before. Everything it may have acknowledged must
    /// be proven again.
    pub(super) fn after(before: Option<Self>, since: Moment, loss: Loss, had: GtidSet) -> Self {
        let Some(before) = before else { return Self { since, loss, had: Some(had), to_reach: None } };
        let loss = if matches!(loss, Loss::FellBack | Loss::Touched) { before.loss } else { loss };
        let had = before.had.and_then(|known| known.try_union(&had).ok()).unwrap_or(had);
        Self { since, loss, had: Some(had), to_reach: None }
    }

    /// Two looks at a server may be taken in another order than they come in. Then it has all of that again at once.
    pub(super) fn was_an_older_look(&self, at: Moment, report: &Report) -> bool {
        self.may_be_an_older_look(at) && self.had.as_ref().is_some_and(|had| has(report, had))
    }

    pub(super) fn may_be_an_older_look(&self, at: Moment) -> bool {
        self.loss == Loss::FellBack && at.since(self.since) < OLDER_LOOK
    }

    /// Only an answer that the primary gives after the loss tells what has to be there. That one answer stands: under load no two looks
    /// at two servers ever show the same.
    pub(super) fn is_cleared(&mut self, report: &Report, primary: Option<&(Moment, GtidSet)>) -> bool {
        if self.to_reach.is_none() {
            let later = primary.filter(|(at, _)| *at > self.since);
            self.to_reach = later.map(|(_, logged)| logged.newest());
        }
        self.to_reach.as_ref().is_some_and(|all| {
            report.executed.contains(all)
                || report.replication.iter().any(|channel| channel.received.contains(all))
                || report.known().contains(all)
        })
    }
}

/// More ackers are connected than may be, for longer than one that connects anew is counted twice.
pub const CROWDED: Duration = Duration::from_secs(1);

/// More ackers were connected to a primary than members may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    pub since: Moment,
    /// Until it was last seen.
    #[serde(with = "super::time::millis")]
    pub lasts: Duration,
    /// So many, when it was last seen.
    pub clients: u32,
}

impl Crowd {
    /// After a look `at` which `clients` were connected: more than may be, or as many as say that they are. One that nobody knows is still
    /// there when a registered one has lost its connection; one that was counted twice for a moment is not.
    pub(super) fn after(
        before: Option<Self>,
        at: Moment,
        clients: u32,
        (crowded, explained): (bool, bool),
    ) -> Option<Self> {
        let since = before.map_or(at, |crowd| crowd.since);
        match (crowded, explained) {
            (true, _) => Some(Self { since, lasts: at.since(since), clients }),
            (false, true) => None,
            (false, false) => before.filter(|crowd| crowd.lasts >= CROWDED),
        }
    }
}

/// What a manager has seen of the servers, and one that starts later cannot see any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Which runs of the ackers' servers have lost nothing of what they acknowledged.
    pub ackers: Vec<AckerEvidence>,
    pub resets: Vec<KnownReset>,
    pub filtered_logs: Vec<FilteredLog>,
    /// Of the primary.
    pub answered_alone: Option<AnsweredAlone>,
    pub rows_left_out: Vec<RowsLeftOut>,
    pub identities: Vec<MemberIdentity>,
    /// Why the primary's acknowledgements did not prove that another server has the row, at some time since its base was recorded.
    pub lapse: Option<String>,
}

/// Who a member's server was when it last answered. What it wrote is told by that, also while it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberIdentity {
    pub instance: InstanceId,
    pub identity: Identity,
}

/// A server that was seen to have forgotten its own history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownReset {
    pub instance: InstanceId,
    /// What it had executed before, which its binary log does not hold any more.
    pub had: GtidSet,
}

/// A server whose binary log leaves something out: who followed it would miss that. It may not be asked while a failover is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilteredLog {
    pub instance: InstanceId,
    pub filters: Vec<Setting>,
}

/// A replica that was seen applying with settings that leave rows out or pass over errors, since its data was last replaced. Its GTID set
/// names transactions whose rows it may lack, so that nothing that can be read later shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsLeftOut {
    pub instance: InstanceId,
    pub by: Vec<Setting>,
}

/// Commits of a primary that its clients were told of, and that nobody acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredAlone {
    pub commits: u64,
    /// What the primary had when it told of them.
    pub had: GtidSet,
}

impl AnsweredAlone {
    /// Between two answers of one run, both given by an armed source; with those counted `before`.
    pub(super) fn between(before: &Report, report: &Report, told: Option<Self>) -> Option<Self> {
        if report.channel().is_some_and(|channel| !channel.is_stopped()) {
            return None;
        }
        let armed = |report: &Report| report.semi_sync.not_armed_for(1).is_none();
        let more = report.semi_sync.unacknowledged.saturating_sub(before.semi_sync.unacknowledged);
        if more == 0 || !armed(before) || !armed(report) {
            return told;
        }
        let commits = told.map_or(0, |told| told.commits) + more;
        Some(Self { commits, had: report.executed.clone() })
    }
}

/// What happened to a server between two of its answers that may have lost what it had received.
pub fn loss_between(before: &Report, report: &Report, between: Between) -> Option<Loss> {
    let Between { elapsed, same_run, ours } = between;
    // A server tells its uptime by the wall clock, which may be set forward after it has started. It counts its statements from its start.
    let counts = before.replication_statements.zip(report.replication_statements);
    let counts_anew = counts.is_some_and(|(before, now)| now < before);
    if !same_run && (counts_anew || may_have_restarted(before.uptime, report.uptime, elapsed)) {
        return Some(Loss::Restarted);
    }
    if !still_has(report, before) {
        return Some(Loss::FellBack);
    }
    let given = counts.is_some_and(|(before, now)| now > before) && report.channel().is_some();
    (given && !ours).then_some(Loss::Touched)
}

/// Two uptimes tell a restart between them only where the first one is longer than the slack. A server that had just started may have
/// started once more, so that one counts as restarted until its second uptime rules that out.
fn may_have_restarted(before: Duration, after: Duration, elapsed: Duration) -> bool {
    let had_just_started = before <= RESTART_SLACK + WHOLE_SECOND;
    after.saturating_add(RESTART_SLACK) < before.saturating_add(elapsed)
        || had_just_started && after <= elapsed.saturating_add(RESTART_SLACK)
}

/// Sets are long, and most looks find a server that only went forward: nothing is copied for one.
fn still_has(report: &Report, before: &Report) -> bool {
    has(report, &before.executed) && before.replication.iter().all(|channel| has(report, &channel.received))
}

/// Whether the server has all of that set, received or executed.
pub fn has(report: &Report, set: &GtidSet) -> bool {
    report.executed.is_as_far_as(set)
        || report.replication.iter().any(|channel| channel.received.is_as_far_as(set))
        || report.known().is_as_far_as(set)
}

/// One run of a server's process, so that another manager can tell whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRun {
    /// By the wall clock of the manager that wrote it.
    pub started_at: DateTime<Utc>,
    /// Where an agent beside the server told it.
    #[serde(default)]
    pub pid: Option<u32>,
}

impl ServerRun {
    /// The server has not restarted between the two.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_within(other, SAME_START)
    }

    /// At `now` it has gone on for so long that a later run cannot pass for it. A younger one is not written down: its server may be
    /// restarted within what passes for the same start.
    pub(super) fn is_told_from_the_next(&self, now: DateTime<Utc>) -> bool {
        now - self.started_at > SAME_START + TimeDelta::from_std(RESTART_SLACK).unwrap_or_default()
    }

    fn is_within(&self, other: &Self, slack: TimeDelta) -> bool {
        let other_process = self.pid.zip(other.pid).is_some_and(|(ours, theirs)| ours != theirs);
        !other_process && (self.started_at - other.started_at).abs() <= slack
    }
}

/// What the record says of one acker: in this run its server has lost nothing of what it acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckerEvidence {
    pub instance: InstanceId,
    pub run: ServerRun,
    /// [`Report::replication_statements`] by then. Any of them may throw away what was received and not applied.
    #[serde(default)]
    pub statements: Option<u64>,
    /// What it had when a failover was refused. It is less than it has while a primary serves, and never more.
    #[serde(default)]
    pub had: Option<GtidSet>,
}

impl AckerEvidence {
    /// Whether a manager that starts with this evidence would learn the same.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.instance == other.instance
            && self.run.pid.is_some() == other.run.pid.is_some()
            && self.run.is_within(&other.run, MOVED_START)
            && self.statements == other.statements
            && self.had == other.had
    }
}

/// Why the standing of an acker ended, with what it had and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing<'v> {
    pub loss: Loss,
    pub had: Option<&'v GtidSet>,
    pub has: &'v Report,
}

impl fmt::Display for Standing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.loss {
            Loss::Unwatched => {
                "this manager has not seen it level with the primary, and the record does not show that its server ran on since it was"
            }
            Loss::Restarted => "its server restarted and may have lost what it had received",
            Loss::FellBack => "its replication was restarted or reset, which threw received transactions away",
            Loss::Touched => {
                "somebody restarted, pointed or reset its replication, which may have thrown received transactions away"
            }
            Loss::Unseen => {
                "its replication was restarted, pointed or reset while no manager looked, which may have thrown received transactions away"
            }
        })?;
        match self.had {
            Some(had) => write!(f, ": it had {}, and has {}", had.newest(), self.has.known().newest()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: i64, pid: Option<u32>) -> ServerRun {
        ServerRun { started_at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(seconds), pid }
    }

    #[test]
    fn a_run_is_told_by_its_start_and_its_process() {
        assert!(run(100, None).is_same(&run(103, None)));
        assert!(run(100, Some(7)).is_same(&run(99, None)));
        assert!(!run(100, None).is_same(&run(105, None)));
        // A clock that was set forward or back looks like a restart: that is the safe side.
        assert!(!run(100, Some(7)).is_same(&run(40, Some(7))));
        assert!(!run(100, Some(7)).is_same(&run(101, Some(8))));
    }

    /// A server that is restarted while it is young: two uptimes near zero do not show it.
    #[test]
    fn two_starts_in_a_moment_are_a_restart() {
        let seconds = Duration::from_secs_f64;
        let looks = [
            // Started 0.6 s before the first look, again 0.3 s before the second one.
            (0.0, 0.0, 0.95, true),
            (3.0, 1.0, 2.0, true),
            (4.0, 1.0, 1.0, true),
            (10.0, 0.0, 1.0, true),
            // Told late, or rounded.
            (10.0, 9.0, 0.5, false),
            (3.0, 4.0, 1.0, false),
            (3.0, 6.0, 3.0, false),
            (0.0, 5.0, 2.0, false),
        ];
        for (before, after, elapsed, restarted) in looks {
            let told = may_have_restarted(seconds(before), seconds(after), seconds(elapsed));
            assert_eq!(told, restarted, "{before} s, {elapsed} s later {after} s");
        }
    }

    #[test]
    fn a_run_is_written_down_when_no_later_one_passes_for_it() {
        let started = run(100, None);
        let after = |seconds| started.started_at + TimeDelta::seconds(seconds);
        assert!(!started.is_told_from_the_next(after(6)));
        assert!(started.is_told_from_the_next(after(7)));
    }

    #[test]
    fn what_a_manager_would_learn_anew_is_written() {
        let evidence = |run, had: Option<&str>| AckerEvidence {
            instance: InstanceId::new("db2", 3306),
            run,
            statements: Some(4),
            had: had.map(|had| GtidSet::parse(crate::model::instance::Flavor::MariaDb, had).unwrap()),
        };
        let told = evidence(run(100, Some(7)), None);
        assert!(told.says_the_same(&evidence(run(101, Some(7)), None)));
        assert!(!told.says_the_same(&evidence(run(103, Some(7)), None)));
        assert!(!told.says_the_same(&evidence(run(100, None), None)));
        assert!(!told.says_the_same(&evidence(run(100, Some(7)), Some("0-1-5"))));
        let restarted = AckerEvidence { statements: Some(6), ..told.clone() };
        assert!(!told.says_the_same(&restarted));
    }
}
