//! The promote plan, stage by stage: caught up, claimed, armed, opened; then traffic, then redundancy. Who leads and whether anybody may
//! was decided before (`failover`, `proof`, `feeding`): nothing is refused here.

use std::collections::BTreeSet;
use std::time::Duration;

use super::candidate::{Against, Candidate, Ranking};
use super::events;
use super::failover::{Isolation, acks_in_force, next_generation};
use super::feeding::{Feeding, cannot_follow};
use super::plan::{Plan, PlanKind, Proof, Stage, Step, TrafficOrder};
use super::proof::{Promise, promise};
use super::reach;
use super::topology;
use crate::model::ballot::Generation;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::model::observation::Access;
use crate::model::policy::{Durability, WithoutAckers};
use crate::model::report::Report;
use crate::model::view::{ClusterView, Seen};
use crate::model::wishes::Wish;

/// What a planned change adds: the old primary lives, and becomes a replica.
#[derive(Debug)]
pub(super) struct Handover {
    /// Its set, read after writers were blocked.
    pub(super) set: GtidSet,
    /// Those that replicate from the leader already.
    pub(super) turned: Vec<InstanceId>,
}

/// The traffic program is told.
pub(super) fn direct(primary: &InstanceId, order: TrafficOrder, generation: Generation) -> Step {
    Step::Direct { instance: primary.clone(), order, generation }
}

fn shut(instance: &InstanceId, generation: Generation) -> Step {
    Step::Fence { instance: instance.clone(), generation }
}

/// No applier takes less for a transaction: so long the dead server's log can be read without anybody waiting for it.
const APPLYING: Duration = Duration::from_micros(50);

/// Everything the promote plan is made of.
#[derive(Debug)]
pub(super) struct Promotion<'a> {
    view: &'a ClusterView,
    isolation: &'a Isolation,
    candidate: &'a Candidate,
    feeding: Feeding,
    generation: Generation,
    proof: Proof,
    ask: Option<&'a FailoverAsk>,
    handover: Option<Handover>,
    /// Acknowledgements the new primary waits for; 0 when asynchronous or degraded.
    acks: u32,
    /// Registered ackers of the new generation.
    ackers: Vec<InstanceId>,
    /// Those attached before it opens.
    first: Vec<InstanceId>,
    /// Those that follow, ackers or not.
    followers: Vec<InstanceId>,
    /// Those of them that somebody stopped by command.
    woken: Vec<InstanceId>,
    /// Those that answer and are left alone, with the reason.
    left: Vec<(InstanceId, String)>,
    degraded: Option<String>,
}

impl<'a> Promotion<'a> {
    #[expect(clippy::too_many_arguments, reason = "each was decided elsewhere, and all are needed")]
    pub(super) fn new(
        view: &'a ClusterView,
        isolation: &'a Isolation,
        ranking: &'a Ranking,
        candidate: &'a Candidate,
        feeding: Feeding,
        proof: Proof,
        ask: Option<&'a FailoverAsk>,
        handover: Option<Handover>,
    ) -> Self {
        let policy = &view.cluster.policy;
        let mut others: Vec<&Candidate> = ranking
            .candidates
            .iter()
            .filter(|other| {
                other.instance != candidate.instance && isolation.report_of(view, &other.instance).is_some()
            })
            .collect();
        others.sort_by_key(|other| {
            let errant = other.against.iter().any(|against| matches!(against, Against::Errant(_)));
            let far = (other.behind, other.to_apply);
            (!other.can_acknowledge(), errant, far, view.cluster.order(&other.instance))
        });
        let leader_log = isolation.report_of(view, &candidate.instance).map(|report| &report.purged);
        let apart = |other: &Candidate| cannot_follow(other, candidate, &feeding, leader_log);
        let wanted = acks_in_force(view, isolation.report_of(view, &candidate.instance));
        // One that cannot log in at the next primary follows once that is mended; nobody waits for it, and it is no acker before.
        let attaches = |other: &&&Candidate| {
            apart(other).is_none() && reach::refusal(view, &other.instance, &candidate.instance).is_none()
        };
        // What somebody stopped stays stopped, unless nobody could commit without it. In a planned change the old primary is there.
        let ready = others.iter().filter(attaches).filter(|other| other.can_acknowledge()).count();
        let needed = if policy.durability == Durability::Lossless && handover.is_none() { wanted } else { 0 };
        let woken: Vec<InstanceId> = others
            .iter()
            .filter(attaches)
            .filter(|other| other.is_stopped() && other.could_acknowledge())
            .take((needed as usize).saturating_sub(ready))
            .map(|other| other.instance.clone())
            .collect();
        let why_left = |other: &&Candidate| {
            let stopped = other.against.iter().find(|against| matches!(against, Against::Stopped(_)));
            let stays = stopped.filter(|_| !woken.contains(&other.instance));
            stays.map(ToString::to_string).or_else(|| apart(other))
        };
        let left: Vec<(InstanceId, String)> =
            others.iter().filter_map(|other| Some((other.instance.clone(), why_left(other)?))).collect();
        others.retain(|other| why_left(other).is_none());
        let mut ackers: Vec<InstanceId> = match policy.durability {
            Durability::Lossless => others
                .iter()
                .filter(|other| other.can_acknowledge() || woken.contains(&other.instance))
                .filter(attaches)
                .map(|other| other.instance.clone())
                .collect(),
            Durability::Async => Vec::new(),
        };
        // In a planned change those that do not feed the next primary can follow it before anybody waits.
        ackers.sort_by_key(|acker| topology::is_below(view, &candidate.instance, acker));
        let short = policy.durability == Durability::Lossless && ackers.len() < wanted as usize;
        let (acks, degraded) = match (policy.durability, policy.without_ackers) {
            (Durability::Async, WithoutAckers::Block | WithoutAckers::Degrade) => (0, None),
            // In a planned change the old primary is an acker in a moment.
            (Durability::Lossless, WithoutAckers::Degrade) if short && handover.is_none() => {
                let why = format!(
                    "{} acker(s) left of the {wanted} needed at the promotion of {}",
                    ackers.len(),
                    candidate.instance
                );
                (0, Some(why))
            }
            (Durability::Lossless, WithoutAckers::Block | WithoutAckers::Degrade) => (wanted, None),
        };
        let first = ackers.iter().take(acks as usize).cloned().collect();
        let followers = others.iter().map(|other| other.instance.clone()).collect();
        let generation = next_generation(view);
        Self {
            view,
            isolation,
            candidate,
            feeding,
            generation,
            proof,
            ask,
            handover,
            acks,
            ackers,
            first,
            followers,
            woken,
            left,
            degraded,
        }
    }

    pub(super) fn plan(&self) -> Plan {
        let mut stages = vec![self.catch_up()];
        stages.extend(self.let_in());
        stages.extend(self.level());
        stages.push(self.prepare());
        stages.push(self.arm());
        if !self.turn_early() {
            stages.extend(self.attached().map(|attached| Stage::new("attach", vec![attached])));
        }
        let commit = stages.len();
        stages.push(self.open());
        stages.extend(self.traffic());
        stages.extend(self.direct("direct").map(Stage::or_continue));
        stages.extend(self.rest());
        let old = &self.isolation.primary;
        Plan {
            cluster: self.view.cluster.name.clone(),
            kind: PlanKind::Promote,
            title: format!(
                "{} {old} -> {}, generation {}",
                if self.handover.is_some() { "switchover" } else { "failover" },
                self.leader(),
                self.generation
            ),
            stages,
            commit: Some(commit),
            basis: self.basis(),
        }
    }

    fn leader(&self) -> InstanceId {
        self.candidate.instance.clone()
    }

    /// Applying, and waiting until voters may answer, wait for nothing of each other.
    fn catch_up(&self) -> Stage {
        let mut steps = vec![Step::WaitApplied {
            instance: self.feeding.holder.clone(),
            set: self.feeding.target.clone(),
            within: self.view.cluster.policy.catch_up,
        }];
        steps.extend(self.may_be_held_back().then(|| self.claim()));
        steps.extend(self.salvage_on_leader().filter(|_| !self.turn_early() || self.candidate.to_apply > 0));
        Stage::new("catch up", steps)
    }

    /// Whether the first ackers follow the leader before it is armed. Not one that may have what only the dead server's log gives to the leader:
    /// MariaDB refuses it for good. Nor where semi-sync is not loaded yet: MySQL does not count who attached before.
    fn turn_early(&self) -> bool {
        let report = self.isolation.report_of(self.view, &self.candidate.instance);
        let is_loaded = report.is_some_and(|report| report.semi_sync.available);
        self.handover.is_some() || is_loaded && !self.feeding.salvage_required
    }

    /// What only the dead server's log holds, where the leader is the one that had most.
    fn salvage_on_leader(&self) -> Option<Step> {
        self.salvage().filter(|_| self.feeding.holder == self.leader())
    }

    fn claim(&self) -> Step {
        Step::Claim { candidate: self.leader(), generation: self.generation, proof: self.proof }
    }

    /// Voters may answer only when the old primary's grants have run out.
    fn may_be_held_back(&self) -> bool {
        match self.proof {
            Proof::Fenced | Proof::Stonith => false,
            Proof::AckFence
            | Proof::Expired
            | Proof::Operator
            | Proof::TakenBack
            | Proof::AssumedDead
            | Proof::Adoption => true,
        }
    }

    /// A server that led before may follow already and be closed still: nobody could follow it, or catch up from it, through its fence.
    fn let_in(&self) -> Vec<Stage> {
        let closed = |instance: &&InstanceId| {
            let agent = self.view.of(instance).and_then(Seen::agent_now);
            agent.is_some_and(|agent| agent.access == Access::Closed)
        };
        let both: BTreeSet<&InstanceId> = [&self.candidate.instance, &self.feeding.holder].into();
        let closed: Vec<&InstanceId> = both.into_iter().filter(closed).collect();
        let recorded = self.view.record.as_ref().map(|record| record.generation).unwrap_or_default();
        // A former primary that was cut off takes writes as soon as it is reached, and its agent lets nobody in before it does not.
        let writable = |instance: &InstanceId| {
            self.isolation.report_of(self.view, instance).is_some_and(Report::is_writable)
        };
        let hold = closed.iter().copied().filter(|instance| writable(instance)).cloned();
        let hold: Vec<Step> = hold.map(|instance| Step::SetReadOnly { instance, on: true }).collect();
        let admit = closed.iter().map(|instance| Step::Admit { instance: (*instance).clone() }).collect();
        let undo = self.feeds_only().map(|feeder| shut(feeder, recorded)).collect();
        let undone = hold.iter().map(|step| shut(step.instance(), recorded)).collect();
        let stages =
            [Stage::new("hold", hold).with_undo(undone), Stage::new("let in", admit).with_undo(undo)];
        stages.into_iter().filter(|stage| !stage.steps.is_empty()).collect()
    }

    /// Who was let in to be caught up from, and follows nobody: closed again it is what it was, a server that returned.
    fn feeds_only(&self) -> impl Iterator<Item = &InstanceId> {
        let holder = &self.feeding.holder;
        let agent = self.view.of(holder).and_then(Seen::agent_now);
        let closed = agent.is_some_and(|agent| agent.access == Access::Closed);
        let only = closed && *holder != self.candidate.instance && !self.followers.contains(holder);
        only.then_some(holder).into_iter()
    }

    /// A candidate that is behind gets what it lacks from the most advanced one before it leads; what only the dead server's log
    /// holds comes after that, on the leader itself: on the other one it would be nobody's.
    fn level(&self) -> Vec<Stage> {
        if self.feeding.holder == self.leader() {
            return Vec::new();
        }
        let step = Step::CatchUpFrom {
            instance: self.leader(),
            source: self.feeding.holder.clone(),
            set: self.feeding.target.clone(),
            within: self.view.cluster.policy.catch_up,
        };
        let level = Stage::new("level", vec![step]).with_undo(vec![self.back_to_old(&self.leader())]);
        let salvage = self.salvage().map(|step| Stage::new("salvage", vec![step]));
        std::iter::once(level).chain(salvage).collect()
    }

    fn salvage(&self) -> Option<Step> {
        if !self.isolation.log_readable {
            return None;
        }
        let policy = &self.view.cluster.policy;
        let required = self.feeding.salvage_required;
        // Where everything acknowledged is among what was heard, the log only spares the old primary a rebuild.
        let nothing_in_it = matches!(promise(self.view), Promise::Lossless(_))
            && !self.ask.is_some_and(|ask| ask.accept_loss);
        let owed = APPLYING * u32::try_from(self.candidate.to_apply).unwrap_or(u32::MAX);
        let spared = policy.salvage_lossless.max(owed).min(policy.salvage_async);
        let within = if required || !nothing_in_it { policy.salvage_async } else { spared };
        Some(Step::Salvage {
            from: self.isolation.primary.clone(),
            to: self.leader(),
            beyond: self.feeding.target.clone(),
            within,
            required,
        })
    }

    /// Nothing more can come to anybody, so the first ackers turn to the leader at once. Voting, and reading the dead server's log, wait for
    /// none of that.
    fn prepare(&self) -> Stage {
        let turned = self.handover.as_ref().map_or(&[][..], |handover| &handover.turned);
        let first = || self.first.iter().filter(|acker| self.turn_early() && !turned.contains(acker));
        let mut steps = vec![Step::StopReplicating { instance: self.leader() }];
        steps.extend(first().map(|acker| self.follow(acker)));
        steps.extend((!self.may_be_held_back()).then(|| self.claim()));
        steps.extend(self.salvage_on_leader().filter(|_| self.turn_early() && self.candidate.to_apply == 0));
        let back = std::iter::once(self.back_to_old(&self.leader()));
        let undo = back.chain(first().map(|acker| self.back_to_old(acker))).collect();
        Stage::new("prepare", steps).with_undo(undo)
    }

    /// Armed before open, with the first ackers attached: a row acknowledged in its first millisecond must survive it.
    fn arm(&self) -> Stage {
        let mut steps = vec![Step::ArmSource { instance: self.leader(), acks: self.acks }];
        // Only now is the set final: the leader receives nothing more, and a privileged session could still write before that.
        steps.extend(self.handover.as_ref().map(|handover| Step::Unmoved {
            instance: self.isolation.primary.clone(),
            set: handover.set.clone(),
        }));
        let mut undo = vec![Step::ArmSource { instance: self.leader(), acks: 0 }];
        if self.turn_early() {
            steps.extend(self.attached());
        } else {
            steps.extend(self.first.iter().map(|acker| self.follow(acker)));
            undo.extend(self.first.iter().map(|acker| self.back_to_old(acker)));
        }
        Stage::new("arm", steps).with_undo(undo)
    }

    fn attached(&self) -> Option<Step> {
        let acks = self.first.len() as u32;
        (acks > 0).then(|| Step::AckersAttached { instance: self.leader(), acks })
    }

    fn open(&self) -> Stage {
        let register = self.register(self.ackers.clone());
        let open = Step::Open { instance: self.leader(), generation: self.generation, acks: self.acks };
        Stage::new("promote", vec![open, register])
    }

    fn register(&self, ackers: Vec<InstanceId>) -> Step {
        Step::Register {
            primary: self.leader(),
            generation: self.generation,
            ackers,
            acks: self.acks,
            degraded: self.degraded.clone(),
        }
    }

    /// Traffic before redundancy: writers wait for this stage only.
    fn traffic(&self) -> Option<Stage> {
        let vip = self.view.cluster.vip.clone()?;
        let step = Step::HoldVip { instance: self.leader(), generation: self.generation, vip };
        Some(Stage::new("traffic", vec![step]))
    }

    /// The operator's own traffic follows, where there is a program for it.
    fn direct(&self, name: &str) -> Option<Stage> {
        self.view.cluster.traffic.as_ref()?;
        Some(Stage::new(name, vec![direct(&self.leader(), TrafficOrder::Move, self.generation)]))
    }

    fn rest(&self) -> Vec<Stage> {
        let others: Vec<Step> = self
            .followers
            .iter()
            .filter(|instance| !self.first.contains(instance))
            .map(|instance| self.follow(instance))
            .collect();
        let tidy = Step::ForgetSource { instance: self.leader(), discard: None };
        let mut stages = Vec::new();
        stages.extend(self.release());
        if !others.is_empty() {
            stages.push(Stage::new("repoint", others).or_continue());
        }
        stages.extend(events::promoted(self.view, &self.leader()));
        let closed_again = |feeder| Stage::new("close", vec![shut(feeder, self.generation)]).or_continue();
        stages.extend(self.feeds_only().map(closed_again));
        let run = |instance: &InstanceId| Step::Wish { instance: instance.clone(), wish: Wish::Run };
        stages.extend(self.woken.iter().map(|woken| Stage::new("started", vec![run(woken)]).or_continue()));
        stages.push(Stage::new("tidy", vec![tidy]).or_continue());
        // The program is asked again here, where no writer waits for it. If it fails for good the operation fails, and nothing else of it
        // is missing but the old primary's return, which a later plan does.
        stages.extend(self.direct("directed"));
        if self.handover.is_some() {
            stages.extend(self.demote());
        }
        stages
    }

    /// The address answers at its old place, with a reset, until it is announced at the new one; the larger number of ackers is
    /// recorded before the old primary becomes one of them.
    fn release(&self) -> Option<Stage> {
        let old = self.isolation.primary.clone();
        let mut steps = Vec::new();
        if self.isolation.fenced && self.view.cluster.vip.is_some() {
            steps.push(Step::LoseVip { instance: old.clone() });
        }
        let lossless = self.view.cluster.policy.durability == Durability::Lossless;
        let stage = if self.handover.is_some() && lossless {
            steps.push(self.register(self.ackers.iter().cloned().chain([old]).collect()));
            Stage::new("release", steps)
        } else {
            Stage::new("release", steps).or_continue()
        };
        (!stage.steps.is_empty()).then_some(stage)
    }

    /// Clients may read there only once it follows.
    fn demote(&self) -> [Stage; 2] {
        let old = self.isolation.primary.clone();
        let acker = self.view.cluster.policy.durability == Durability::Lossless;
        let point = Step::PointReplica { instance: old.clone(), source: self.leader(), acker };
        [
            Stage::new("demote", vec![point]).or_stop(),
            Stage::new("admit", vec![Step::Admit { instance: old }]).or_stop(),
        ]
    }

    fn follow(&self, instance: &InstanceId) -> Step {
        Step::PointReplica {
            instance: instance.clone(),
            source: self.leader(),
            acker: self.ackers.contains(instance),
        }
    }

    fn back_to_old(&self, instance: &InstanceId) -> Step {
        let acker = self.view.record.as_ref().is_some_and(|record| record.ackers.contains(instance));
        Step::PointReplica { instance: instance.clone(), source: self.isolation.primary.clone(), acker }
    }

    fn basis(&self) -> Vec<String> {
        let old = &self.isolation.primary;
        let mut lines = vec![format!("{old}: {}", self.proof)];
        match &self.handover {
            Some(handover) => lines.push(format!("{old} has {} and takes no writes", handover.set)),
            None => {
                lines.push(format!("{} has the most: {}", self.feeding.holder, self.feeding.target));
            }
        }
        let word = self.view.record.as_ref().and_then(|record| record.wishes.remedy(&self.leader()));
        lines.extend(word.map(|how| {
            format!("an operator asked for {how} of {}: that is off, it leads instead", self.leader())
        }));
        if self.feeding.salvage_required {
            lines.push(format!(
                "acknowledged rows may be in {old}'s log alone: only with that log read to its end"
            ));
        }
        match promise(self.view) {
            // The old primary gave all it had.
            _ if self.handover.is_some() => {}
            Promise::Lossless(_) => {}
            Promise::Local => lines.push(format!(
                "acknowledgements were local: rows that reached no replica are lost unless {old}'s log gives them"
            )),
            Promise::Broken { why, .. } => {
                lines.push(format!("lossless was not in force when {old} was last asked: {why}"));
            }
        }
        if let Some(ask) = self.ask.filter(|ask| ask.accept_loss) {
            let by = if ask.by.is_empty() { "the operator" } else { ask.by.as_str() };
            lines.push(format!("{by} accepts the loss of what is not among the servers heard"));
        }
        lines.extend(self.feeding.given_up.iter().map(|set| format!("given up: {set}")));
        lines.extend(self.woken.iter().map(|instance| {
            format!("{instance} was stopped by command and is started: without it every commit would wait")
        }));
        lines.extend(self.left.iter().map(|(instance, why)| format!("{instance} is left alone: {why}")));
        lines.extend(
            self.degraded.iter().map(|why| format!("lossless is given up until an acker is back: {why}")),
        );
        if self.acks as usize > self.ackers.len() && self.handover.is_none() {
            lines.push(format!(
                "commits on {} wait until {} acker(s) are back (without_ackers = \"block\")",
                self.leader(),
                self.acks as usize - self.ackers.len()
            ));
        }
        lines
    }
}
