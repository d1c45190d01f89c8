//! Whether a restarted primary still has everything: its set against every reachable member's. It is asked only where no
//! manager has spoken since the restart; whoever cannot be reached cannot be asked.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::sql::fresh_report;
use super::state::Shared;
use crate::decide::lease::holder::Input;
use crate::model::report::Report;

/// How long one member may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Asks, and tells the lease's machine.
pub(super) async fn ask(shared: Arc<Shared>, incarnation: u64) {
    let contains_all = contains_all(&shared).await;
    if let Err(why) = &contains_all {
        tracing::warn!(why, "stays closed");
    }
    let input = Input::Compared { incarnation, contains_all: contains_all.is_ok() };
    // The agent is stopping: nobody needs the answer.
    let _ = shared.order(input).await;
}

async fn contains_all(shared: &Shared) -> Result<(), String> {
    let Some(membership) = shared.seen().membership.clone() else { return Err("no membership".to_owned()) };
    let deadline = Instant::now() + ANSWER_WITHIN;
    let own = fresh_report(shared, &shared.spare, deadline).await.map_err(|unseen| unseen.to_string())?;
    let own = Report::known(&own);
    let others = membership.members.iter().filter(|member| member.instance != membership.instance);
    let answers = join_all(others.filter_map(|member| Some((member, member.agent.as_ref()?))).map(
        |(member, url)| async move {
            let client = shared.peer(&member.instance.host, url);
            client.known(ANSWER_WITHIN).await
        },
    ))
    .await;
    for answer in answers.into_iter().flatten() {
        if !own.contains(&answer.known) {
            return Err(format!(
                "{} has transactions that this server lacks; a manager or `mhactl open` must decide",
                answer.instance
            ));
        }
    }
    Ok(())
}
