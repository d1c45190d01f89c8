//! Who votes. The configuration's list is taken over one host at a time. Hosts that are destroyed vote no more, by an operator's word: without a
//! majority of voters nobody could lead. Both are in the record; every manager and agent counts by it.

use std::time::Duration;

use super::Part;
use super::cluster_task::ClusterTask;
use super::record::AGAIN;
use crate::clock;
use crate::decide::Decision;
use crate::decide::electorate::{NextVoters, cannot_vote, counted, next_voters};
use crate::model::record::{ClusterRecord, RecordChange};
use crate::model::time::Moment;
use crate::model::view::Seen;

/// A host that answered as a voter so long ago is not destroyed. Each that is no member's is asked every five seconds at the latest.
const HEARD_WITHIN: Duration = Duration::from_secs(6);

impl ClusterTask {
    /// Takes over the next change of the configured voters, where it may be made now.
    pub(super) async fn follow_voters(&mut self, decision: &Decision, now: Moment) {
        let leads = self.part == Part::Leads && self.led.is_ok() && !self.to_resume;
        let failed = self.voters_failed_at.is_some_and(|at| now.since(at) < AGAIN);
        if !leads || failed || self.operations.is_running() {
            return;
        }
        let verdict = decision.diagnosis.verdict;
        // A list that too few voters have been told of is told once more before it is changed again.
        let untold = self.voters_failed_at.and_then(|_| Some(self.view.record.as_ref()?.voters.clone()));
        let (voters, what) = match (untold, next_voters(&self.view, verdict, now)) {
            (Some(voters), _) if !voters.is_empty() => (voters, "the voters know of their list".to_owned()),
            (_, NextVoters::Change { voters, what }) => (voters, what),
            (_, NextVoters::Settled | NextVoters::Waits { .. }) => return,
        };
        let cluster = self.view.cluster.name.clone();
        if let Err(why) = self.amend(RecordChange::Voters { voters }).await {
            tracing::error!(%cluster, what, why, "a change of the voters could not be recorded");
            self.voters_failed_at = Some(now);
            // It may have been written, and too few voters told.
            self.read_record().await;
        } else {
            tracing::warn!(%cluster, "{what}");
            self.voters_failed_at = None;
        }
        self.count_anew();
    }

    /// Takes the vote of `destroyed` hosts away, and gives that of hosts that are `back` again. Answers what the votes are then.
    ///
    /// # Errors
    /// With the reason, and nothing changed.
    pub(super) async fn change_votes(
        &mut self,
        destroyed: &[String],
        back: &[String],
    ) -> Result<String, String> {
        let record = self.view.record.clone().ok_or("the cluster is not adopted")?;
        let named = record.voters.iter().chain(&self.config.cluster.voters);
        let mut known: Vec<&str> = Vec::new();
        for voter in named {
            if !known.contains(&voter.host.as_str()) {
                known.push(&voter.host);
            }
        }
        if let Some(unknown) = destroyed.iter().chain(back).find(|host| !known.contains(&host.as_str())) {
            return Err(format!(
                "{unknown} has no vote in {}; its voters are {}",
                self.view.cluster.name,
                known.join(", ")
            ));
        }
        let is_heard = |host: &String| {
            let mut members = self.view.cluster.members.iter();
            let member = members.find(|member| member.instance.host == *host);
            let agent = member.and_then(|member| self.view.of(&member.instance)).and_then(Seen::agent_now);
            let answered = self.view.voters_heard.get(host).map(|(at, _)| clock::now().since(*at));
            agent.is_some() || answered.is_some_and(|age| age <= HEARD_WITHIN)
        };
        if let Some(heard) = destroyed.iter().find(|host| is_heard(host)) {
            return Err(format!(
                "the agent on {heard} answers: that host is not destroyed; leave it out, or power it off first"
            ));
        }
        let mut without = record.without_vote.clone();
        without.retain(|host| !back.contains(host));
        without.extend(destroyed.iter().filter(|host| !record.without_vote.contains(host)).cloned());
        let after = ClusterRecord { without_vote: without.clone(), ..record };
        let left = counted(&self.config.cluster.voters, Some(&after));
        if left.is_empty() {
            return Err("no voter would be left; name at least one host less".to_owned());
        }
        let left = left.iter().map(|voter| voter.host.as_str()).collect::<Vec<_>>().join(", ");
        if let [host] = back {
            self.may_come_back(host, &after)?;
        } else if !back.is_empty() {
            return Err(
                "give one host its vote back at a time, and the next when the primary serves with it"
                    .to_owned(),
            );
        }
        if let Err(why) = self.amend(RecordChange::Votes { without }).await {
            // It may have been written, and too few voters told: then it counts all the same.
            self.read_record().await;
            self.count_anew();
            let written =
                self.view.record.as_ref().is_some_and(|record| record.without_vote == after.without_vote);
            let said = if written {
                "the votes are recorded so, and not all that is to know of it does yet: "
            } else {
                ""
            };
            return Err(format!("{said}{why}"));
        }
        tracing::warn!(cluster = %self.view.cluster.name, voters = left, "the voters are changed by an operator's word");
        self.count_anew();
        Ok(left)
    }

    /// A host that comes back must be able to vote, and leave a majority that can: else the primary would close.
    fn may_come_back(&self, host: &str, after: &ClusterRecord) -> Result<(), String> {
        let next = counted(&self.config.cluster.voters, Some(after));
        match cannot_vote(&self.view, &next, None, clock::now()) {
            Some(why) => {
                Err(format!("{host} does not vote before {why}; start its agent, and ask again then"))
            }
            None => Ok(()),
        }
    }

    /// Those that vote by now have not said yet that they obey.
    fn count_anew(&mut self) {
        let before = self.view.cluster.voters.clone();
        self.follow_members();
        if self.view.cluster.voters == before {
            return;
        }
        (self.led, self.to_resume) = (Err("the voters were changed a moment ago".to_owned()), false);
        self.take_lead(Duration::ZERO);
    }
}
