//! Hosts that are destroyed vote no more, by an operator's word: without a majority of voters nobody could lead. The word is in the
//! record until it is taken back; every manager and agent counts by it.

use std::time::Duration;

use super::cluster_task::ClusterTask;
use crate::clock;
use crate::model::record::RecordChange;
use crate::model::view::Seen;

/// A host that answered as a voter so long ago is not destroyed. While a primary is not heard, each is asked twice a second.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

impl ClusterTask {
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
        self.follow_members();
        // Those that are left have not said yet that they obey.
        (self.led, self.to_resume) = (Err("the voters were changed a moment ago".to_owned()), false);
        self.take_lead(std::time::Duration::ZERO);
        Ok(left)
    }
}
