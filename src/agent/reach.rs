//! Whether this host's server could replicate from each other member: a login there with the replication account, as the receiver
//! would log in, closed at once. A stream that runs proves nothing of that: it was let in before the account was locked. It changes
//! nothing and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::host::resolve;
use super::sql::{mysql_account, mysql_tls};
use super::state::Shared;
use crate::clock;
use crate::config;
use crate::model::instance::InstanceId;
use crate::model::observation::Unseen;
use crate::model::reach::Reach;
use crate::model::time::Moment;
use crate::mysql::client::{Connection, Target, Tls};

/// Between two tests of a login that worked.
const EVERY: Duration = Duration::from_secs(60);
/// The same while it fails: what was mended must count soon.
const WHILE_FAILING: Duration = Duration::from_secs(10);
/// A first failure is confirmed so much later before it is shown.
const CONFIRMED_AFTER: Duration = Duration::from_secs(2);
/// How long one login may take.
const WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The newest test of one member.
#[derive(Debug, Clone)]
pub struct Tested {
    outcome: Result<(), Unseen>,
    at: Moment,
    failures: u32,
    /// When it was last known to work or to fail, and how.
    shown: Option<(Result<(), Unseen>, Moment)>,
}

impl Tested {
    fn is_due(&self, now: Moment) -> bool {
        let pause = match self.failures {
            0 => EVERY,
            1 => CONFIRMED_AFTER,
            2.. => WHILE_FAILING,
        };
        now.since(self.at) >= pause
    }
}

/// Takes in one more test. A single failure (a restart, a lost packet) is shown only when the next test fails too.
fn after(before: Option<&Tested>, outcome: Result<(), Unseen>, at: Moment) -> Tested {
    let failures = match outcome {
        Ok(()) => 0,
        Err(_) => before.map_or(0, |before| before.failures).saturating_add(1),
    };
    let shown = match failures {
        1 => before.and_then(|before| before.shown.clone()),
        _ => Some((outcome.clone(), at)),
    };
    Tested { outcome, at, failures, shown }
}

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        look(&shared).await;
        sleep(LOOK_EVERY).await;
    }
}

async fn look(shared: &Shared) {
    let Some(server) = &shared.config.server else { return };
    let now = clock::now();
    let due: Vec<InstanceId> = {
        let mut seen = shared.seen();
        let others: Vec<InstanceId> = match &seen.membership {
            Some(membership) => membership.members.iter().map(|member| member.instance.clone()).collect(),
            None => Vec::new(),
        };
        let own = seen.membership.as_ref().map(|membership| membership.instance.clone());
        seen.reach.retain(|instance, _| others.contains(instance));
        let is_due = |instance: &InstanceId| seen.reach.get(instance).is_none_or(|tested| tested.is_due(now));
        others.into_iter().filter(|instance| Some(instance) != own.as_ref() && is_due(instance)).collect()
    };
    let due = not_blocked_here(shared, due).await;
    let tests = due.into_iter().map(async |instance| {
        let outcome = log_in(server, &instance).await;
        (instance, outcome)
    });
    let tested = join_all(tests).await;
    let mut changed = false;
    for (instance, outcome) in tested {
        let mut seen = shared.seen();
        let before = seen.reach.get(&instance);
        let next = after(before, outcome, clock::now());
        let failed = |tested: &Tested| matches!(tested.shown, Some((Err(_), _)));
        if failed(&next) != before.is_some_and(failed) {
            changed = true;
            match &next.outcome {
                Ok(()) => tracing::info!(to = %instance, "a receiver here could log in there again"),
                Err(unseen) => tracing::warn!(
                    to = %instance, user = server.replication.user,
                    "a receiver here could not log in there: {unseen}"
                ),
            }
        }
        seen.reach.insert(instance, next);
    }
    if changed {
        shared.announce_change();
    }
}

/// A source that replication here was taken from stays blocked on this host until a replica here is pointed at it again, which lifts
/// that first. Meanwhile nothing is known of the way to it.
async fn not_blocked_here(shared: &Shared, due: Vec<InstanceId>) -> Vec<InstanceId> {
    let (Ok((_, hands)), false) = (shared.server(), due.is_empty()) else { return due };
    let Ok(filter) = hands.filter().await else { return due };
    let mut open = Vec::with_capacity(due.len());
    for instance in due {
        let mut blocked = false;
        for address in resolve((instance.host.as_str(), instance.port)).await {
            blocked |= filter.is_blocked(address).await.unwrap_or(false);
        }
        match blocked {
            true => drop(shared.seen().reach.remove(&instance)),
            false => open.push(instance),
        }
    }
    open
}

async fn log_in(server: &config::ServerConfig, to: &InstanceId) -> Result<(), Unseen> {
    let tls = mysql_tls(&server.replication_tls);
    let first = one_login(server, to, &tls).await;
    match (&first, tls) {
        // The account may require encryption that the channel was given by hand.
        (Err(Unseen::AccessDenied(_)), Tls::Off) => one_login(server, to, &Tls::Unverified).await.or(first),
        (Ok(()) | Err(_), Tls::Off | Tls::Unverified | Tls::Identity { .. }) => first,
    }
}

async fn one_login(server: &config::ServerConfig, to: &InstanceId, tls: &Tls) -> Result<(), Unseen> {
    let deadline = Instant::now() + WITHIN;
    let account = mysql_account(&server.replication);
    let conn = Connection::open(&Target::from(to), &account, tls, None, deadline).await?;
    conn.close(deadline).await;
    Ok(())
}

/// What is known now, for the agent's status.
pub(super) fn shown(tested: &BTreeMap<InstanceId, Tested>, user: &str, now: Moment) -> Vec<Reach> {
    let shown = |(to, tested): (&InstanceId, &Tested)| {
        let (outcome, at) = tested.shown.clone()?;
        Some(Reach { to: to.clone(), user: user.to_owned(), outcome, age: now.since(at) })
    };
    tested.iter().filter_map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_confirmed_before_it_is_shown() {
        let at = |secs| Moment::default() + Duration::from_secs(secs);
        let works = after(None, Ok(()), at(0));
        assert!(!works.is_due(at(59)) && works.is_due(at(60)));
        let once = after(Some(&works), Err(Unseen::Refused), at(60));
        assert_eq!(once.shown, Some((Ok(()), at(0))));
        assert!(once.is_due(at(62)));
        let twice = after(Some(&once), Err(Unseen::Refused), at(62));
        assert_eq!(twice.shown, Some((Err(Unseen::Refused), at(62))));
        assert!(!twice.is_due(at(71)) && twice.is_due(at(72)));
        assert_eq!(after(Some(&twice), Ok(()), at(72)).shown, Some((Ok(()), at(72))));
        // Nothing is known of one whose first test failed.
        assert_eq!(after(None, Err(Unseen::Lost), at(0)).shown, None);
    }
}
