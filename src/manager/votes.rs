//! Who votes. The configuration's list is taken over one host at a time. Hosts that are destroyed vote no more, by an operator's word: without a
//! majority of voters nobody could lead. Both are in the record; every manager and agent counts by it.

use std::time::Duration;

use super::Part;
use super::cluster_task::ClusterTask;
use super::record::AGAIN;
use crate::clock;
use crate::decide::Decision;
use crate::decide::electorate::{NextVoters, next_voters};
use crate::model::record::RecordChange;
use crate::model::time::Moment;
use crate::model::view::Seen;

/// A host that answered as a voter so long ago is not destroyed. While a primary is not heard, each is asked twice a second.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

impl ClusterTask {
    /// Takes over the next change of the configured voters, where it may be made now.
    pub(super) async fn follow_voters(&mut self, decision: &Decision, now: Moment) {
        let leads = self.part == Part::Leads && self.led.is_ok() && !self.to_resume;
        let failed = self.voters_failed_at.is_some_and(|at| now.since(at) < AGAIN);
        if !leads || failed || self.operations.is_running() {
            return;
        }
        let verdict = decision.diagnosis.verdict;
        let NextVoters::Change { voters, what } = next_voters(&self.view, verdict, now) else { return };
        let cluster = self.view.cluster.name.clone();
        if let Err(why) = self.amend(RecordChange::Voters { voters }).await {
            tracing::error!(%cluster, what, why, "a change of the voters could not be recorded");
            self.voters_failed_at = Some(now);
            // It may have been written, and too few voters told.
            self.read_record().await;
        } else {
            tracing::warn!(%cluster, "{what}");
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
        let configured: Vec<&str> =
            self.config.cluster.voters.iter().map(|voter| voter.host.as_str()).collect();
        if let Some(unknown) = destroyed.iter().chain(back).find(|host| !configured.contains(&host.as_str()))
        {
            return Err(format!(
                "{unknown} has no vote in {}; its voters are {}",
                self.view.cluster.name,
                configured.join(", ")
            ));
        }
        let is_heard = |host: &String| {
            let mut members = self.view.cluster.members.iter();
            let member = members.find(|member| member.instance.host == *host);
            let agent = member.and_then(|member| self.view.of(&member.instance)).and_then(Seen::agent_now);
            // A witness is no member: it is heard where it is asked to look at the primary.
            let voted = self.view.grants.get(host).map(|granted| clock::now().since(granted.at));
            agent.is_some() || voted.is_some_and(|age| age <= HEARD_WITHIN)
        };
        if let Some(heard) = destroyed.iter().find(|host| is_heard(host)) {
            return Err(format!(
                "the agent on {heard} answers: that host is not destroyed; leave it out, or power it off first"
            ));
        }
        let record = self.view.record.as_ref().ok_or("the cluster is not adopted")?;
        let mut without = record.without_vote.clone();
        without.retain(|host| !back.contains(host));
        without.extend(destroyed.iter().filter(|host| !record.without_vote.contains(host)).cloned());
        let left: Vec<&str> =
            configured.into_iter().filter(|host| !without.iter().any(|lost| lost == host)).collect();
        if left.is_empty() {
            return Err("no voter would be left; name at least one host less".to_owned());
        }
        let left = left.join(", ");
        self.amend(RecordChange::Votes { without }).await?;
        tracing::warn!(cluster = %self.view.cluster.name, voters = left, "the voters are changed by an operator's word");
        self.count_anew();
        Ok(left)
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
