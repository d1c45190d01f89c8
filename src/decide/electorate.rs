//! PURE. Who votes in a cluster: the voters that the record names. The configuration says who is wanted; the list goes there one host at a
//! time, and only while all agents are heard. Two lists that differ in one host have no two majorities without a common host, so that
//! nobody can be let in by a majority of each. Two lists that differ in more may have such majorities.

use crate::model::ballot::Generation;
use crate::model::cluster::Voter;
use crate::model::observation::AgentStatus;
use crate::model::record::ClusterRecord;
use crate::model::time::Moment;
use crate::model::verdict::Verdict;
use crate::model::view::ClusterView;

/// What becomes of the list of voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NextVoters {
    /// It is the one that the configuration wants.
    Settled,
    /// It may be replaced by this one now.
    Change { voters: Vec<Voter>, what: String },
    /// A change is wanted and must wait.
    Waits { what: String, why: String },
}

/// The voters that count: those of the record, without those that an operator vouches are destroyed. Before the record names any, the
/// configured ones. Where a voter is reached is what the configuration says of its host.
pub(crate) fn counted(configured: &[Voter], record: Option<&ClusterRecord>) -> Vec<Voter> {
    let Some(record) = record else { return configured.to_vec() };
    let named = if record.voters.is_empty() { configured } else { &record.voters };
    let counts = |voter: &&Voter| record.has_vote(&voter.host);
    named
        .iter()
        .filter(counts)
        .map(|voter| by_host(configured, &voter.host).unwrap_or(voter).clone())
        .collect()
}

/// The next list of voters, where the record does not name the configured ones yet.
pub(crate) fn next_voters(view: &ClusterView, verdict: Verdict, now: Moment) -> NextVoters {
    let Some(record) = &view.record else { return NextVoters::Settled };
    let (named, wanted) = (&record.voters, &view.wanted_voters);
    if named.is_empty() {
        let what = format!("the voters are {}", hosts(wanted));
        return if wanted.is_empty() {
            NextVoters::Settled
        } else {
            NextVoters::Change { voters: wanted.clone(), what }
        };
    }
    let is_new = |voter: &&Voter| by_host(named, &voter.host).is_none() && record.has_vote(&voter.host);
    let added = wanted.iter().filter(is_new).map(|added| {
        let voters: Vec<Voter> = named.iter().chain([added]).cloned().collect();
        let why = not_heard(view, &added.host, now).or_else(|| must_wait(view, verdict));
        let why = why.or_else(|| cannot_vote(view, &voters, None, now));
        (format!("{} becomes a voter", added.host), voters, why)
    });
    let removed = named.iter().filter(|voter| by_host(wanted, &voter.host).is_none()).map(|removed| {
        let leaves = removed.host.as_str();
        let voters: Vec<Voter> = named.iter().filter(|voter| voter.host != leaves).cloned().collect();
        let why = must_wait(view, verdict).or_else(|| cannot_vote(view, &voters, Some(leaves), now));
        (format!("{leaves} is no voter any more"), voters, why)
    });
    // Those that are added come first: the list is never shorter than it must be.
    let mut steps: Vec<_> = added.collect();
    if steps.is_empty() {
        steps.extend(removed);
    }
    if steps.is_empty() {
        return NextVoters::Settled;
    }
    // One that must wait holds up none of the others.
    let next = steps.iter().position(|(.., why)| why.is_none()).unwrap_or(0);
    let (what, voters, why) = steps.swap_remove(next);
    match why {
        Some(why) => NextVoters::Waits { what, why },
        None => NextVoters::Change { voters, what },
    }
}

/// The next list needs a majority of hosts that answer and can vote: one that has just been added cannot for a minute, until it has learned
/// what the others have promised. Nor is another step taken before it has.
pub(crate) fn cannot_vote(
    view: &ClusterView,
    next: &[Voter],
    leaves: Option<&str>,
    now: Moment,
) -> Option<String> {
    let has_vote = |host: &str| view.record.as_ref().is_none_or(|record| record.has_vote(host));
    let knows = |voter: &&Voter| view.voter_knows(&voter.host, now);
    let staying = view.cluster.voters.iter().filter(|voter| leaves != Some(voter.host.as_str()));
    if let Some(blank) = staying.into_iter().find(|voter| knows(voter) == Some(Generation(0))) {
        return Some(format!(
            "{} has learned from the other voters what was promised (a minute)",
            blank.host
        ));
    }
    let counts: Vec<&Voter> = next.iter().filter(|voter| has_vote(&voter.host)).collect();
    let able = counts.iter().filter(|voter| knows(voter).is_some_and(|known| known > Generation(0))).count();
    (able <= counts.len() / 2).then(|| format!("a majority of {} can vote", hosts(next)))
}

/// A change that waits, for the operator.
pub(super) fn issue(view: &ClusterView, verdict: Verdict, now: Moment) -> Option<String> {
    let record = view.record.as_ref()?;
    let NextVoters::Waits { what, why } = next_voters(view, verdict, now) else { return None };
    Some(format!(
        "the voters that count are {}, and the configuration wants {}: {what} as soon as {why}; where a host is destroyed, run \"mhactl votes --destroyed HOST\"",
        hosts(&record.voters),
        hosts(&view.wanted_voters)
    ))
}

/// Everybody who may hold a lease must count by the present list before another one may follow it.
fn must_wait(view: &ClusterView, verdict: Verdict) -> Option<String> {
    if !verdict.serves() {
        return Some("the primary serves".to_owned());
    }
    let counts = sorted(view.cluster.voters.iter().map(|voter| &voter.host));
    let there = |host: &str| view.record.as_ref().is_none_or(|record| record.has_vote(host));
    let mut agents =
        view.cluster.members.iter().filter(|member| member.agent.is_some() && there(&member.instance.host));
    agents.find_map(|member| {
        let host = &member.instance.host;
        match view.of(&member.instance).and_then(|seen| seen.agent_now()) {
            None => Some(format!("the agent on {host} is heard")),
            Some(AgentStatus { voters, .. }) if sorted(voters.iter()) != counts => {
                Some(format!("the agent on {host} counts by the present voters"))
            }
            Some(_) => None,
        }
    })
}

/// A host without a member's server is heard where it is asked for its vote.
fn not_heard(view: &ClusterView, host: &str, now: Moment) -> Option<String> {
    view.voter_knows(host, now).is_none().then(|| format!("the agent on {host} is heard"))
}

fn by_host<'v>(voters: &'v [Voter], host: &str) -> Option<&'v Voter> {
    voters.iter().find(|voter| voter.host == host)
}

fn hosts(voters: &[Voter]) -> String {
    voters.iter().map(|voter| voter.host.as_str()).collect::<Vec<_>>().join(", ")
}

fn sorted<'v>(hosts: impl Iterator<Item = &'v String>) -> Vec<&'v str> {
    let mut hosts: Vec<&str> = hosts.map(String::as_str).collect();
    hosts.sort_unstable();
    hosts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;
    use crate::model::cluster::{Cluster, ClusterName, Mode};
    use crate::model::policy::Policy;
    use crate::model::record::RecordChange;

    fn voters(hosts: &BTreeSet<u8>) -> Vec<Voter> {
        let voter = |host| Voter { host: format!("h{host}"), url: format!("http://h{host}:8421") };
        hosts.iter().map(voter).collect()
    }

    fn adopted(recorded: &BTreeSet<u8>, wanted: &BTreeSet<u8>) -> ClusterView {
        let primary = "h0".parse().unwrap();
        let mut record = ClusterRecord::new(primary, Generation(1), DateTime::<Utc>::UNIX_EPOCH);
        record.voters = voters(recorded);
        let cluster = Cluster {
            name: ClusterName("orders".to_owned()),
            mode: Mode::Auto,
            members: Vec::new(),
            vip: None,
            traffic: None,
            voters: voters(recorded),
            policy: Policy::default(),
        };
        let mut view =
            ClusterView::new(cluster, Some(record), Moment::from_micros(0), DateTime::<Utc>::UNIX_EPOCH);
        view.wanted_voters = voters(wanted);
        let all = recorded.union(wanted);
        all.for_each(|host| view.record_voter(&format!("h{host}"), Moment::from_micros(0), Generation(1)));
        view
    }

    /// Some majority of one list has no host in common with some majority of the other.
    fn can_be_apart(one: &[Voter], other: &[Voter]) -> bool {
        let mut hosts = sorted(one.iter().map(|voter| &voter.host));
        hosts.extend(
            sorted(other.iter().map(|voter| &voter.host))
                .into_iter()
                .filter(|host| by_host(one, host).is_none()),
        );
        let all: u32 = (1 << hosts.len()) - 1;
        let wins = |set: u32, voters: &[Voter]| {
            let votes = hosts
                .iter()
                .enumerate()
                .filter(|(at, host)| set >> at & 1 == 1 && by_host(voters, host).is_some());
            votes.count() > voters.len() / 2
        };
        (0..=all).any(|set| wins(set, one) && wins(all & !set, other))
    }

    proptest! {
        #[test]
        fn each_list_shares_a_host_of_every_majority_with_the_next_until_it_is_the_wanted_one(
            recorded in prop::collection::btree_set(0_u8..8, 1..6),
            wanted in prop::collection::btree_set(0_u8..8, 1..6),
        ) {
            let mut view = adopted(&recorded, &wanted);
            for _ in 0..20 {
                let now = Moment::from_micros(0);
                let next = next_voters(&view, Verdict::Healthy, now);
                let NextVoters::Change { voters: next, .. } = next else {
                    prop_assert_eq!(next, NextVoters::Settled);
                    let hosts = |voters: &[Voter]| sorted(voters.iter().map(|voter| &voter.host)).join(" ");
                    prop_assert_eq!(hosts(&view.cluster.voters), hosts(&voters(&wanted)));
                    return Ok(());
                };
                prop_assert!(!can_be_apart(&view.cluster.voters, &next), "{:?} and {next:?}", view.cluster.voters);
                let change = RecordChange::Voters { voters: next };
                view.record = Some(ClusterRecord::apply(view.record.as_ref(), &change, DateTime::<Utc>::UNIX_EPOCH)?);
                view.cluster.voters = counted(&view.wanted_voters, view.record.as_ref());
            }
            prop_assert!(false, "it comes to no end");
        }
    }

    #[test]
    fn lists_that_differ_in_two_hosts_can_be_apart() {
        assert!(can_be_apart(&voters(&BTreeSet::from([0, 1, 2])), &voters(&BTreeSet::from([0, 3, 4]))));
        assert!(!can_be_apart(&voters(&BTreeSet::from([0, 1, 2])), &voters(&BTreeSet::from([0, 1, 2, 3]))));
    }

    #[test]
    fn nothing_changes_while_the_primary_does_not_serve_or_a_new_voter_is_not_heard() {
        let (recorded, wanted) = (BTreeSet::from([0, 1, 2]), BTreeSet::from([0, 1, 3]));
        let mut view = adopted(&recorded, &wanted);
        let now = Moment::from_micros(0);
        assert!(matches!(next_voters(&view, Verdict::Healthy, now), NextVoters::Change { .. }));
        assert!(matches!(next_voters(&view, Verdict::SilentPrimary, now), NextVoters::Waits { .. }));
        view.voters_heard.clear();
        assert!(matches!(next_voters(&view, Verdict::Healthy, now), NextVoters::Waits { .. }));
    }

    #[test]
    fn one_that_was_added_learns_before_the_next_step() {
        let mut view = adopted(&BTreeSet::from([0, 1, 2]), &BTreeSet::from([0, 1, 3, 4]));
        let now = Moment::from_micros(0);
        let step = |view: &mut ClusterView| {
            let NextVoters::Change { voters, .. } = next_voters(view, Verdict::Healthy, now) else {
                return false;
            };
            view.record.as_mut().unwrap().voters.clone_from(&voters);
            view.cluster.voters = voters;
            true
        };
        ["h3", "h4"].iter().for_each(|host| view.record_voter(host, now, Generation(0)));
        assert!(step(&mut view), "it is added to learn");
        assert!(!step(&mut view), "it cannot vote yet");
        view.record_voter("h3", now, Generation(1));
        assert!(step(&mut view));
        view.record_voter("h4", now, Generation(1));
        assert!(step(&mut view));
        assert_eq!(next_voters(&view, Verdict::Healthy, now), NextVoters::Settled);
    }

    #[test]
    fn a_blank_witness_does_not_hold_up_a_host_that_can_vote() {
        let mut view = adopted(&BTreeSet::from([0]), &BTreeSet::from([0, 1, 2]));
        let now = Moment::from_micros(0);
        view.record_voter("h1", now, Generation(0));
        let next = next_voters(&view, Verdict::Healthy, now);
        let NextVoters::Change { voters: next, .. } = next else { panic!("{next:?}") };
        assert_eq!(next, voters(&BTreeSet::from([0, 2])));
    }

    #[test]
    fn a_list_without_a_majority_that_answers_is_not_taken_over() {
        let mut view = adopted(&BTreeSet::from([0, 1, 2, 3, 4]), &BTreeSet::from([0, 1, 3, 4]));
        let now = Moment::from_micros(0);
        view.voters_heard.remove("h3");
        view.voters_heard.remove("h4");
        assert!(matches!(next_voters(&view, Verdict::Healthy, now), NextVoters::Waits { .. }));
        // An operator vouches that one of them is destroyed: three of the four that are left by then answer.
        view.record.as_mut().unwrap().without_vote = vec!["h4".to_owned()];
        assert!(matches!(next_voters(&view, Verdict::Healthy, now), NextVoters::Change { .. }));
    }

    #[test]
    fn who_is_destroyed_does_not_count_and_an_address_is_the_configured_one() {
        let mut view = adopted(&BTreeSet::from([0, 1, 2]), &BTreeSet::from([0, 1, 2]));
        let record = view.record.as_mut().unwrap();
        record.without_vote = vec!["h2".to_owned()];
        record.voters[0].url = "http://elsewhere:1".to_owned();
        assert_eq!(counted(&view.wanted_voters, view.record.as_ref()), voters(&BTreeSet::from([0, 1])));
    }
}
