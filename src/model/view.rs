//! The only thing about the world that `decide` is given: the newest observations by instance and vantage.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::ballot::Generation;
use super::cluster::{Cluster, Voter};
use super::events::ServerEvents;
use super::gtid::GtidSet;
use super::history::HistoryReset;
use super::instance::{Identity, InstanceId};
use super::inventory::Inventory;
use super::job::Phase;
use super::observation::{Access, AgentSeen, AgentStatus, Observation, Probe, Process, Unseen, Vantage};
use super::overtaken::LedBefore;
use super::reached::{KnownIdentity, connected, has_heard};
use super::record::ClusterRecord;
use super::report::{Report, SemiSync, ThreadState};
use super::restrictions::Setting;
use super::standing::{
    AckerEvidence, AnsweredAlone, Between, Crowd, Doubt, FilteredLog, KnownReset, Loss, MemberIdentity,
    OwnStatements, RESTART_SLACK, RowsLeftOut, ServerRun, Standing, has, loss_between,
};
use super::time::Moment;

/// Probes kept per instance.
const PROBES_KEPT: usize = 32;
/// A voter that has not answered for so long is not heard: it is asked three times meanwhile.
const VOTER_HEARD: Duration = Duration::from_secs(16);

/// Everything known of one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The last answer, whoever got it, kept after the server fell silent.
    pub last_report: Option<(Moment, Report)>,
    /// The manager's newest own look, good or bad.
    pub manager: Option<Observation>,
    /// Since when every own look has failed.
    pub failing_since: Option<Moment>,
    /// When its executed set was last seen to grow: commits make progress.
    pub moved_at: Option<Moment>,
    /// When its replication stream was last seen to bring something, event or heartbeat, by our own looks (S2).
    pub stream_moved_at: Option<Moment>,
    /// Why it may lack what it acknowledged, by this manager's own looks. `None` while it is proven to have all of that.
    #[serde(default)]
    pub doubt: Option<Doubt>,
    /// Replication domains that only its position names: no member's log holds anything of them, and they are compared with nobody.
    #[serde(default)]
    pub foreign: BTreeSet<u32>,
    /// Transactions it executed that the primary, asked later, did not have.
    pub errant: Option<GtidSet>,
    /// When it last said what it has, and the primary, asked later, had all of that: what it has beyond came to it since.
    #[serde(default)]
    pub held_in_common_at: Option<Moment>,
    /// When its agent last said that clients get in there.
    #[serde(default)]
    pub open_at: Option<Moment>,
    /// Who its server is, and how that is known.
    #[serde(default)]
    pub identity: Option<KnownIdentity>,
    pub agent: Option<AgentSeen>,
    /// That another host's agent answers where its own should.
    #[serde(default)]
    pub agent_elsewhere: Option<String>,
    /// Since when the agent's stream is broken. `None` while it is up, or without an agent.
    pub agent_lost_at: Option<Moment>,
    pub probes: VecDeque<Probe>,
    /// From where every look since then found no way in.
    #[serde(default)]
    pub no_way_in: Vec<(Vantage, Moment)>,
    /// Its scheduled events as the manager last read them, kept after the server fell silent; not over a recovery.
    #[serde(default)]
    pub events: Option<(Moment, ServerEvents)>,
    /// What is read of it now and then, kept after the server fell silent.
    #[serde(default)]
    pub inventory: Option<(Moment, Inventory)>,
    /// It was seen to have forgotten its own history, and nothing has mended that since.
    #[serde(default)]
    pub reset: Option<HistoryReset>,
    /// Settings with which it was seen applying, and that leave rows out or pass over errors; until its data is replaced or an operator has
    /// looked.
    #[serde(default)]
    pub rows_left_out_by: Vec<Setting>,
    /// Both sides of semi-sync when it last took writes, until it replicates again.
    #[serde(default)]
    pub served: Option<SemiSync>,
    /// As a primary: more ackers are connected to it than members may be.
    #[serde(default)]
    pub crowd: Option<Crowd>,
    /// As a primary: commits that were answered without an acknowledgement, until lossless is in force anew.
    #[serde(default)]
    pub answered_alone: Option<AnsweredAlone>,
    /// Connections on which it has answered, with the first time: this manager's, and its agent's.
    #[serde(skip)]
    answered_on: Vec<(u64, Moment)>,
    /// The last answer to an own look, while later ones failed and nothing has explained another history since.
    #[serde(skip)]
    pub(super) answered_before: Option<Report>,
    /// When promoting it failed, and why, until an operation about the primary succeeds.
    #[serde(default)]
    pub promotion_failed: Option<(Moment, String)>,
}

/// So many settings of one server that leave rows out are remembered.
const LEFT_OUT_KEPT: usize = 8;

/// So many connections to one server are remembered.
const CONNECTIONS_KEPT: usize = 8;

impl Seen {
    /// What the record has of that server. It has it of one that left too, and may come back.
    fn recorded(record: Option<&ClusterRecord>, instance: &InstanceId, since: Moment) -> Self {
        let mut seen = Self::default();
        let Some(record) = record else { return seen };
        let reset = record.history_resets.iter().find(|known| known.instance == *instance);
        seen.reset = reset.map(|known| HistoryReset { at: since, had: known.had.clone() });
        let log = record.filtered_logs.iter().find(|log| log.instance == *instance);
        seen.inventory = log.map(|log| {
            let binlog_filters = Some(log.filters.clone());
            (since, Inventory { binlog_filters, ..Inventory::default() })
        });
        let left_out = record.rows_left_out.iter().find(|left_out| left_out.instance == *instance);
        seen.rows_left_out_by = left_out.map(|left_out| left_out.by.clone()).unwrap_or_default();
        seen.answered_alone = record.answered_alone.clone().filter(|_| record.primary == *instance);
        seen
    }

    /// Nobody has tried to hear its agent yet.
    pub fn agent_untried(&self) -> bool {
        self.agent.is_none() && self.agent_lost_at.is_none()
    }

    /// Takes in a new answer, noting what changed since the last one.
    fn take_report(&mut self, at: Moment, report: &Report, own: (&OwnStatements, &InstanceId)) {
        self.compare_runs(at, report, own);
        self.note_rows_left_out(report);
        if let Some(connection) = report.connection
            && self.answered_on.iter().all(|(known, _)| *known != connection)
        {
            self.answered_on.push((connection, at));
            let excess = self.answered_on.len().saturating_sub(CONNECTIONS_KEPT);
            self.answered_on.drain(..excess);
        }
        self.last_report = Some((at, report.clone()));
    }

    fn compare_runs(&mut self, at: Moment, report: &Report, (own, instance): (&OwnStatements, &InstanceId)) {
        if let Some((before_at, before)) = &self.last_report {
            let answered_then =
                |(known, first): &(u64, Moment)| report.connection == Some(*known) && first <= before_at;
            let same_run = self.answered_on.iter().any(answered_then);
            let between = Between {
                elapsed: at.since(*before_at),
                same_run,
                ours: own.may_be_since(instance, *before_at),
            };
            if let Some(loss) = loss_between(before, report, between) {
                self.doubt = Some(Doubt::after(self.doubt.take(), at, loss, before.known()));
            } else if self.doubt.as_ref().is_some_and(|doubt| doubt.was_an_older_look(at, report)) {
                self.doubt = None;
            }
            if report.executed != before.executed {
                self.moved_at = Some(at);
            }
            self.answered_alone = AnsweredAlone::between(before, report, self.answered_alone.take());
            if has_heard(before, report) {
                self.stream_moved_at = Some(at);
            }
        } else {
            self.moved_at = Some(at);
            self.stream_moved_at = connected(report).then_some(at);
            let had = self.doubt.take().and_then(|doubt| doubt.had);
            self.doubt = Some(Doubt::unwatched(at, had));
        }
        if report.is_writable() {
            self.served = Some(report.semi_sync.clone());
        } else if report.channel().is_some_and(|channel| !channel.is_stopped()) {
            self.served = None;
        }
    }

    fn note_rows_left_out(&mut self, report: &Report) {
        if report.channel().is_none_or(|channel| channel.applier == ThreadState::Stopped) {
            return;
        }
        for setting in report.filters().into_iter().chain(report.restrictions.skips.iter().cloned()) {
            let known = self.rows_left_out_by.contains(&setting);
            if !known && self.rows_left_out_by.len() < LEFT_OUT_KEPT {
                self.rows_left_out_by.push(setting);
            }
        }
    }

    /// It has all that it may have acknowledged, once it has what a living primary had after the doubt arose.
    fn note_level(&mut self, primary: Option<&(Moment, GtidSet)>) {
        let Some((_, report)) = &self.last_report else { return };
        if self.doubt.as_mut().is_some_and(|doubt| doubt.is_cleared(report, primary)) {
            self.doubt = None;
        }
    }

    /// The run of its server that answered last, `at` on the manager's wall clock.
    fn run(&self, at: DateTime<Utc>, report: &Report) -> ServerRun {
        let uptime = TimeDelta::from_std(report.uptime).unwrap_or_default();
        let started_at = at.checked_sub_signed(uptime).unwrap_or(at);
        let pid = self.agent_now().and_then(|agent| match agent.process {
            Process::Running { pid, .. } => Some(pid),
            Process::Gone { .. } | Process::Unknown { .. } => None,
        });
        ServerRun { started_at, pid }
    }

    /// It has run without a restart since then at least, by its own word.
    pub fn runs_since(&self, then: Moment) -> bool {
        let runs = |(at, report): &(Moment, Report)| report.uptime > at.since(then) + RESTART_SLACK;
        self.last_report.as_ref().is_some_and(runs)
    }

    fn note_way_in(&mut self, from: &Vantage, at: Moment, unseen: Option<&Unseen>) {
        if !unseen.is_some_and(Unseen::lets_nobody_in) {
            self.no_way_in.retain(|(vantage, _)| vantage != from);
        } else if self.no_way_in_since(from).is_none() {
            self.no_way_in.push((from.clone(), at));
        }
    }

    /// Since when every look from there found no way in.
    pub fn no_way_in_since(&self, from: &Vantage) -> Option<Moment> {
        self.no_way_in.iter().find(|(vantage, _)| vantage == from).map(|(_, since)| *since)
    }

    /// The last answer if the newest own look was one.
    pub fn report(&self) -> Option<&Report> {
        self.manager.as_ref().and_then(|look| look.seen.as_ref().ok())
    }

    /// How the newest own look failed.
    pub fn unseen(&self) -> Option<&Unseen> {
        self.manager.as_ref().and_then(|look| look.seen.as_ref().err())
    }

    /// The agent's word while its stream is up.
    pub fn agent_now(&self) -> Option<&AgentStatus> {
        match self.agent_lost_at {
            None => self.agent.as_ref().map(|seen| &seen.status),
            Some(_) => None,
        }
    }

    /// The newest answer by whichever way: own look, or the agent's socket.
    pub fn latest(&self) -> Option<&Report> {
        self.report().or_else(|| self.agent_now().and_then(|agent| agent.server.as_ref().ok()))
    }
}

/// A voter's word about its grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// When it was said.
    pub at: Moment,
    /// The highest generation it knows.
    pub generation: Generation,
    /// How long before that it last granted; `None` if it never did.
    pub ago: Option<Duration>,
}

/// The world as this manager sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    pub cluster: Cluster,
    pub record: Option<ClusterRecord>,
    pub seen: BTreeMap<InstanceId, Seen>,
    /// The voters that the configuration names. Those that count are the cluster's.
    #[serde(default)]
    pub wanted_voters: Vec<Voter>,
    /// When a voter's host that is no member last granted the lease, by its own word.
    #[serde(default)]
    pub grants: BTreeMap<String, Granted>,
    /// When voters' hosts that are no members answered last, with the highest generation that they know.
    #[serde(default)]
    pub voters_heard: BTreeMap<String, (Moment, Generation)>,
    /// What the voters told this manager when it took the lead.
    #[serde(default)]
    pub led_before: LedBefore,
    /// The primary whose failover a dead manager had begun. Everything that it acknowledged before this manager looked is among the set, as that
    /// one had proven before it pointed the ackers elsewhere.
    #[serde(default)]
    pub recalled: Option<(InstanceId, GtidSet)>,
    /// When this manager's operations gave statements to servers.
    #[serde(default)]
    pub own_statements: OwnStatements,
    /// When this manager began to look: it acts only on evidence gathered since.
    pub since: Moment,
    /// The same moment on its wall clock: what is recorded for another manager is told by that.
    #[serde(default)]
    pub since_wall: DateTime<Utc>,
}

impl ClusterView {
    /// Nothing seen yet.
    pub fn new(
        cluster: Cluster,
        record: Option<ClusterRecord>,
        since: Moment,
        since_wall: DateTime<Utc>,
    ) -> Self {
        let known = |instance: &InstanceId| Seen::recorded(record.as_ref(), instance, since);
        let members = cluster.members.iter().map(|member| &member.instance);
        let seen = members.map(|instance| (instance.clone(), known(instance))).collect();
        Self {
            wanted_voters: cluster.voters.clone(),
            cluster,
            record,
            seen,
            grants: BTreeMap::new(),
            voters_heard: BTreeMap::new(),
            led_before: LedBefore::default(),
            recalled: None,
            own_statements: OwnStatements::default(),
            since,
            since_wall,
        }
    }

    /// Promoting that one failed: whoever else may lead is tried before it is tried again.
    pub fn note_promotion_failed(&mut self, instance: &InstanceId, at: Moment, why: &str) {
        if let Some(seen) = self.seen.get_mut(instance) {
            seen.promotion_failed = Some((at, why.to_owned()));
        }
    }

    /// Somebody leads: earlier failures say nothing of the next outage.
    pub fn forget_promotions_failed(&mut self) {
        for seen in self.seen.values_mut() {
            seen.promotion_failed = None;
        }
    }

    /// Other members: what is known of those that stay is kept.
    pub fn follow_members(&mut self, cluster: Cluster) {
        self.seen.retain(|instance, _| cluster.member(instance).is_some());
        let (record, since) = (self.record.as_ref(), self.since);
        for instance in cluster.members.iter().map(|member| &member.instance) {
            let known = || Seen::recorded(record, instance, since);
            self.seen.entry(instance.clone()).or_insert_with(known);
        }
        self.cluster = cluster;
    }

    /// What is known of that member; nothing for a stranger.
    pub fn of(&self, instance: &InstanceId) -> Option<&Seen> {
        self.seen.get(instance)
    }

    /// Takes in one look. Looks at strangers are dropped: the configuration decides who is a member.
    pub fn record_look(&mut self, look: Observation) {
        let mut look = self.of_the_member(look);
        if let Ok(report) = &mut look.seen {
            self.leave_out_foreign(&look.of, report);
        }
        let Some(seen) = self.seen.get_mut(&look.of) else { return };
        let instance = look.of.clone();
        seen.note_history(&look);
        seen.note_way_in(&look.from, look.at, look.seen.as_ref().err());
        match &look.seen {
            Ok(report) => {
                seen.take_report(look.at, report, (&self.own_statements, &look.of));
                seen.failing_since = None;
            }
            Err(_) => {
                seen.failing_since.get_or_insert(look.at);
            }
        }
        seen.manager = Some(look);
        self.compare(&instance);
    }

    /// After a new report of `instance`: what the others have that the primary, asked later, has not, and who is level again.
    fn compare(&mut self, instance: &InstanceId) {
        self.trust_newcomer(instance);
        self.trust_proven(instance);
        let Some(primary) = self.primary().cloned() else { return };
        // Sets are long: they are copied only where something is compared with them.
        if *instance != primary && self.of(instance).is_none_or(|seen| seen.doubt.is_none()) {
            return;
        }
        let told = self.seen.get(&primary).and_then(|seen| seen.last_report.as_ref());
        let Some((told_at, told)) = told else { return };
        let doubts = self.seen.values().any(|seen| seen.doubt.is_some());
        let logged = doubts.then(|| (*told_at, told.logged()));
        if *instance != primary {
            if let Some(seen) = self.seen.get_mut(instance) {
                seen.note_level(logged.as_ref());
            }
            return;
        }
        let clients = told.semi_sync.clients;
        let crowded = clients as usize > self.possible_ackers();
        let explained = clients as usize <= self.connected_ackers();
        let told = (*told_at, told.executed.clone());
        if let Some(seen) = self.seen.get_mut(&primary) {
            seen.crowd = Crowd::after(seen.crowd, told.0, clients, (crowded, explained));
        }
        for (_, seen) in self.seen.iter_mut().filter(|(other, _)| **other != primary) {
            let Some((at, report)) = &seen.last_report else { continue };
            if *at <= told.0 {
                let extra = report.executed.minus(&told.1);
                if extra.is_empty() && told.1.contains(&report.known()) {
                    seen.held_in_common_at = Some(*at);
                }
                seen.errant = (!extra.is_empty()).then_some(extra);
            }
            seen.note_level(logged.as_ref());
        }
    }

    /// How many members may be connected to the primary as ackers. The stream of one that is gone counts as connected until its host's
    /// kernel, or the primary's, gives it up.
    fn possible_ackers(&self) -> usize {
        let registered = |instance: &InstanceId| {
            self.record.as_ref().is_some_and(|record| record.ackers.contains(instance))
        };
        self.replicas().filter(|(instance, seen)| registered(instance) || seen.latest().is_none()).count()
    }

    /// How many registered members say that they hear the primary.
    fn connected_ackers(&self) -> usize {
        let Some(record) = &self.record else { return 0 };
        let hears = |acker: &&InstanceId| {
            self.of(acker).and_then(Seen::latest).is_some_and(|report| report.hears(&record.primary))
        };
        record.ackers.iter().filter(hears).count()
    }

    /// Domains that only the position of that server names. Such a position says where replication from another cluster goes on, or once
    /// went on. The transactions are in no log here, and nobody could fetch them.
    pub fn foreign_domains(&self, report: &Report) -> BTreeSet<u32> {
        let mut foreign = report.purged.domains();
        if foreign.is_empty() {
            return foreign;
        }
        let logged = |report: &Report| report.logged().domains();
        let primary = self.primary().and_then(|primary| self.of(primary)?.last_report.as_ref());
        if primary.is_none_or(|(_, primary)| logged(primary).is_empty()) {
            return BTreeSet::new();
        }
        let members = self.seen.values().filter_map(|seen| seen.last_report.as_ref());
        for (_, other) in members {
            foreign.retain(|domain| !logged(other).contains(domain));
        }
        foreign.retain(|domain| !logged(report).contains(domain));
        foreign
    }

    fn leave_out_foreign(&mut self, instance: &InstanceId, report: &mut Report) {
        let foreign = self.foreign_domains(report);
        let Some(seen) = self.seen.get_mut(instance) else { return };
        if !foreign.is_empty() {
            report.leave_out(&foreign);
        }
        if seen.foreign != foreign {
            // What it said before is seen in the same way: nothing is lost by leaving more out.
            if let Some((_, before)) = &mut seen.last_report {
                before.leave_out(&foreign);
            }
            seen.foreign = foreign;
        }
    }

    /// An earlier manager wrote down that this server had all of `set`, when it began what it did not end.
    pub fn recall_received(&mut self, instance: &InstanceId, set: &GtidSet) {
        let since = self.since;
        let Some(seen) = self.seen.get_mut(instance) else { return };
        seen.doubt = match &seen.last_report {
            None => Some(Doubt::unwatched(since, Some(set.clone()))),
            Some((_, report)) if has(report, set) => return,
            Some((at, _)) => Some(Doubt::after(seen.doubt.take(), *at, Loss::FellBack, set.clone())),
        };
    }

    /// An earlier manager proved that everything acknowledged by `primary` is among `set`, and then cut the ackers from it. Who has all of that
    /// has lost nothing before this manager looked, whatever the statements of that failover did to its replication; its server runs on since.
    pub fn recall_proven(&mut self, primary: &InstanceId, set: &GtidSet) {
        self.recalled = Some((primary.clone(), set.clone()));
        let members: Vec<InstanceId> = self.seen.keys().cloned().collect();
        members.iter().for_each(|instance| self.trust_proven(instance));
    }

    /// What an earlier manager had proven of the present primary.
    pub fn proven_before(&self) -> Option<&GtidSet> {
        self.recalled.as_ref().filter(|(primary, _)| self.primary() == Some(primary)).map(|(_, set)| set)
    }

    fn trust_proven(&mut self, instance: &InstanceId) {
        let Some(set) = self.proven_before() else { return };
        let standing = self.doubt_of(instance);
        if standing.is_some_and(|standing| standing.loss == Loss::Unseen && has(standing.has, set))
            && let Some(seen) = self.seen.get_mut(instance)
        {
            seen.doubt = None;
        }
    }

    /// A server that is no acker when this manager first sees it has acknowledged nothing that it could have lost.
    fn trust_newcomer(&mut self, instance: &InstanceId) {
        let registered = self.record.as_ref().is_some_and(|record| record.ackers.contains(instance));
        let Some(seen) = self.seen.get_mut(instance).filter(|_| !registered) else { return };
        if seen.doubt.as_ref().is_some_and(|doubt| doubt.loss == Loss::Unwatched) {
            seen.doubt = None;
        }
    }

    /// Why that server may lack what it acknowledged. `None`: this manager saw that it has all of that, or the record shows it.
    pub fn doubt_of(&self, instance: &InstanceId) -> Option<Standing<'_>> {
        let seen = self.of(instance)?;
        let doubt = seen.doubt.as_ref()?;
        let (at, report) = seen.last_report.as_ref()?;
        let standing = |loss, had| Standing { loss, had, has: report };
        if doubt.loss != Loss::Unwatched {
            return Some(standing(doubt.loss, doubt.had.as_ref().filter(|had| !has(report, had))));
        }
        let Some(evidence) = self.evidence_of(instance) else { return Some(standing(doubt.loss, None)) };
        let had = [&evidence.had, &doubt.had].into_iter().flatten().find(|had| !has(report, had));
        if !evidence.run.is_same(&seen.run(self.wall(*at), report)) {
            return Some(standing(Loss::Restarted, had));
        }
        if had.is_some() {
            return Some(standing(Loss::FellBack, had));
        }
        let statements = evidence.statements.zip(report.replication_statements);
        let none_since = statements.is_some_and(|(then, now)| then == now);
        (!none_since).then(|| standing(Loss::Unseen, None))
    }

    fn evidence_of(&self, instance: &InstanceId) -> Option<&AckerEvidence> {
        let record = self.record.as_ref()?;
        record.ackers_proven.iter().find(|evidence| evidence.instance == *instance)
    }

    /// What the record should say of an acker, for a manager that starts later. `refused`: a failover is due and must not be, so that what
    /// the acker has now is the least it may ever have.
    pub fn evidence(&self, instance: &InstanceId, refused: bool) -> Option<AckerEvidence> {
        let recorded = self.evidence_of(instance).cloned();
        let seen = self.of(instance)?;
        let Some((at, report)) = &seen.last_report else { return recorded };
        match (&seen.doubt, self.doubt_of(instance)) {
            (Some(doubt), _) if doubt.may_be_an_older_look(*at) => return recorded,
            (Some(doubt), _) if doubt.loss != Loss::Unwatched => return None,
            // Its server is another than the recorded one, or nothing is recorded: what was recorded stays, for whoever reads it.
            (Some(_), Some(_)) => return recorded,
            (Some(_), None) | (None, _) => {}
        }
        let mut run = seen.run(self.wall(*at), report);
        if !run.is_told_from_the_next(self.wall(*at)) {
            return recorded;
        }
        let known = recorded.as_ref().filter(|evidence| evidence.run.is_same(&run));
        run.pid = run.pid.or_else(|| known.and_then(|evidence| evidence.run.pid));
        let had = recorded.and_then(|evidence| evidence.had);
        let told = had.as_ref().is_some_and(|had| had.is_as_far_as(&report.known()));
        let had = if refused && !told { Some(report.known()) } else { had };
        let statements = report.replication_statements;
        Some(AckerEvidence { instance: instance.clone(), run, statements, had })
    }

    /// What was seen of the servers, beside the ackers, that a manager which starts later cannot see any more.
    pub fn resets(&self) -> Vec<KnownReset> {
        let reset = |(instance, seen): (&InstanceId, &Seen)| {
            let had = seen.reset.as_ref()?.had.clone();
            Some(KnownReset { instance: instance.clone(), had })
        };
        let gone = self.recorded_of_others(|record| &record.history_resets, |known| &known.instance);
        self.seen.iter().filter_map(reset).chain(gone).collect()
    }

    /// What the record has of servers that are no members by now: it counts again where they come back.
    fn recorded_of_others<T: Clone>(
        &self,
        of: impl Fn(&ClusterRecord) -> &Vec<T>,
        instance: impl Fn(&T) -> &InstanceId,
    ) -> Vec<T> {
        let known = self.record.iter().flat_map(|record| of(record).iter());
        known.filter(|known| !self.seen.contains_key(instance(known))).cloned().collect()
    }

    /// Servers whose own binary log leaves something out.
    pub fn filtered_logs(&self) -> Vec<FilteredLog> {
        let filtered = |(instance, seen): (&InstanceId, &Seen)| {
            let filters = seen.inventory.as_ref()?.1.binlog_filters.clone().filter(|it| !it.is_empty())?;
            Some(FilteredLog { instance: instance.clone(), filters })
        };
        let gone = self.recorded_of_others(|record| &record.filtered_logs, |log| &log.instance);
        self.seen.iter().filter_map(filtered).chain(gone).collect()
    }

    /// Replicas that may lack rows whose transactions they have.
    pub fn rows_left_out(&self) -> Vec<RowsLeftOut> {
        let left_out = self.seen.iter().filter(|(_, seen)| !seen.rows_left_out_by.is_empty());
        let named = |(instance, seen): (&InstanceId, &Seen)| RowsLeftOut {
            instance: instance.clone(),
            by: seen.rows_left_out_by.clone(),
        };
        let gone = self.recorded_of_others(|record| &record.rows_left_out, |left_out| &left_out.instance);
        left_out.map(named).chain(gone).collect()
    }

    /// Who the members' servers are, or were when they last answered.
    pub fn identities(&self) -> Vec<MemberIdentity> {
        let of = |instance: &InstanceId| {
            let identity = self.identity_of(instance)?.clone();
            Some(MemberIdentity { instance: instance.clone(), identity })
        };
        self.seen.keys().filter_map(of).collect()
    }

    /// The same of one.
    pub fn identity_of(&self, instance: &InstanceId) -> Option<&Identity> {
        let answered = self.of(instance).and_then(|seen| Some(&seen.last_report.as_ref()?.1.identity));
        answered.or_else(|| {
            let mut recorded = self.record.iter().flat_map(|record| &record.identities);
            recorded.find(|known| known.instance == *instance).map(|known| &known.identity)
        })
    }

    /// An operator vouches for the rows of that server.
    pub fn trust_rows(&mut self, instance: &InstanceId) {
        if let Some(seen) = self.seen.get_mut(instance) {
            seen.rows_left_out_by.clear();
        }
    }

    /// The primary's commits that were answered without an acknowledgement since lossless was last put in force.
    pub fn answered_alone(&self) -> Option<&AnsweredAlone> {
        let record = self.record.as_ref()?;
        let alone = self.of(&record.primary)?.answered_alone.as_ref()?;
        let based = record.base.as_ref().is_some_and(|base| base.is_as_far_as(&alone.had));
        (!based).then_some(alone)
    }

    fn wall(&self, at: Moment) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(at.since(self.since)).unwrap_or_default();
        self.since_wall.checked_add_signed(elapsed).unwrap_or(self.since_wall)
    }

    /// Takes in one agent's word.
    pub fn record_agent(&mut self, instance: &InstanceId, at: Moment, mut status: AgentStatus) {
        if let Ok(report) = &mut status.server {
            self.know_by_agent(instance, &report.identity);
            self.leave_out_foreign(instance, report);
        }
        let Some(seen) = self.seen.get_mut(instance) else { return };
        if status.job.as_ref().is_some_and(|job| job.is_rebuild() && job.phase == Phase::Exchanged) {
            seen.rows_left_out_by.clear();
        }
        if let Ok(report) = &status.server {
            let asked_at = at.back(status.server_age);
            // What another server said under this name is nothing to compare with.
            seen.last_report.take_if(|(_, last)| !last.identity.is_same_server(&report.identity));
            if seen.last_report.as_ref().is_none_or(|(when, _)| *when <= asked_at) {
                seen.take_report(asked_at, report, (&self.own_statements, instance));
            }
        }
        let heard = seen.agent.as_ref().filter(|_| seen.agent_lost_at.is_none());
        let since =
            heard.filter(|said| at.since(said.at) <= self.cluster.policy.silence).map(|said| said.since);
        seen.agent_lost_at = None;
        seen.agent_elsewhere = None;
        if status.access != Access::Closed && matches!(status.process, Process::Running { .. }) {
            seen.open_at = Some(at);
        }
        seen.agent = Some(AgentSeen { at, status, since: since.unwrap_or(at) });
        self.compare(instance);
    }

    /// The agent's stream broke.
    pub fn record_agent_lost(&mut self, instance: &InstanceId, at: Moment) {
        if let Some(seen) = self.seen.get_mut(instance) {
            seen.agent_lost_at.get_or_insert(at);
        }
    }

    /// Whether another host's agent answers where that of `instance` should, and which.
    pub fn record_agent_elsewhere(&mut self, instance: &InstanceId, elsewhere: Option<String>) {
        if let Some(seen) = self.seen.get_mut(instance) {
            seen.agent_elsewhere = elsewhere;
        }
    }

    /// Takes in one probe from another host.
    pub fn record_probe(&mut self, probe: Probe) {
        let Some(seen) = self.seen.get_mut(&probe.of) else { return };
        seen.note_way_in(&probe.from, probe.at, probe.outcome.as_ref().err());
        seen.probes.retain(|old| old.from != probe.from);
        seen.probes.push_back(probe);
        while seen.probes.len() > PROBES_KEPT {
            seen.probes.pop_front();
        }
    }

    /// Takes in what a server said of its scheduled events.
    pub fn record_events(&mut self, of: &InstanceId, at: Moment, events: ServerEvents) {
        if let Some(seen) = self.seen.get_mut(of) {
            seen.events = Some((at, events));
        }
    }

    /// Takes in what was read of a server now and then.
    pub fn record_inventory(&mut self, of: &InstanceId, at: Moment, inventory: Inventory) {
        let Some(seen) = self.seen.get_mut(of) else { return };
        // What could not be read now is what it was before.
        let before = seen.inventory.take().and_then(|(_, before)| before.binlog_filters);
        let binlog_filters = inventory.binlog_filters.or(before);
        seen.inventory = Some((at, Inventory { binlog_filters, ..inventory }));
    }

    /// An operator has said who leads: what was reset before is theirs to know.
    pub fn forget_resets(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.reset = None);
    }

    /// A recovery has ended: what was said of events before is no news.
    pub fn forget_events(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.events = None);
    }

    /// Takes in what a voter's host says of its grants. Members' agents say it in their status.
    pub fn record_grant(&mut self, host: &str, granted: Granted) {
        self.record_voter(host, granted.at, granted.generation);
        if self.cluster.voters.iter().any(|voter| voter.host == host) {
            self.grants.insert(host.to_owned(), granted);
        }
    }

    /// A voter's host that is no member's answered, or one that is to vote.
    pub fn record_voter(&mut self, host: &str, at: Moment, generation: Generation) {
        if self.cluster.voters.iter().chain(&self.wanted_voters).any(|voter| voter.host == host) {
            self.voters_heard.insert(host.to_owned(), (at, generation));
        }
    }

    /// For how long such a host has not answered, where that is too long: it is asked every few seconds.
    pub fn voter_silent_for(&self, host: &str, now: Moment) -> Option<Duration> {
        let heard = self.voters_heard.get(host).map_or(self.since, |(at, _)| *at);
        Some(now.since(heard)).filter(|silent| *silent > VOTER_HEARD)
    }

    /// The highest generation that the voter on `host` knows, where it has answered lately: 0 of one that cannot vote yet.
    pub fn voter_knows(&self, host: &str, now: Moment) -> Option<Generation> {
        let mut here = self.cluster.members.iter().filter(|member| member.instance.host == host).peekable();
        if here.peek().is_some() {
            let agents = here.filter_map(|member| self.of(&member.instance)?.agent_now());
            return agents.map(|agent| agent.generation).max();
        }
        let (_, generation) = self.voters_heard.get(host)?;
        self.voter_silent_for(host, now).is_none().then_some(*generation)
    }

    /// The primary: the recorded one; before adoption, the single writable server that others replicate from.
    pub fn primary(&self) -> Option<&InstanceId> {
        if let Some(record) = &self.record {
            return Some(&record.primary);
        }
        let mut writable =
            self.seen.iter().filter(|(_, seen)| seen.latest().is_some_and(Report::is_writable));
        match (writable.next(), writable.next()) {
            (Some((only, _)), None) => Some(only),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Every member but the primary, in configuration order.
    pub fn replicas(&self) -> impl Iterator<Item = (&InstanceId, &Seen)> {
        let primary = self.primary();
        self.cluster
            .members
            .iter()
            .map(|member| &member.instance)
            .filter(move |instance| Some(*instance) != primary)
            .filter_map(|instance| self.seen.get_key_value(instance))
    }

    /// The newest probe of `of` from `from`, if it is younger than `age`.
    pub fn fresh_probe(&self, of: &InstanceId, from: &Vantage, now: Moment, age: Duration) -> Option<&Probe> {
        let seen = self.seen.get(of)?;
        seen.probes.iter().find(|probe| probe.from == *from && now.since(probe.at) <= age)
    }
}
