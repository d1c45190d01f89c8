//! The agent's own look at its server: one connection through the socket, kept open. A ping in between tells a hang early; a
//! full report comes at the policy's pace. It never waits behind a plan's statements.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::durable;
use super::error_log;
use super::hanging;
use super::host::heard::Heard;
use super::ordered_stop;
use super::sql::connect_admin;
use super::state::Shared;
use crate::clock;
use crate::decide::lease::holder::Role;
use crate::model::events::EventsPolicy;
use crate::model::observation::{Access, Unseen};
use crate::model::report::{Replication, Report, ThreadState};
use crate::model::time::Moment;
use crate::mysql::client::Connection;
use crate::mysql::{events, probe};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// One report for so many questions.
const REPORT_EVERY: u32 = 4;
/// How long a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a stream's progress is judged by.
type Progress = (u64, String, Option<String>);

/// The stream as it was when it was last looked at.
#[derive(Debug, Default)]
struct Stream {
    progress: Option<Progress>,
    /// `None` where the kernel gives no socket: then the server's counters alone tell, to the second.
    heard: Option<Heard>,
}

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(ASK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut conn = None;
    let mut stream = Stream { progress: None, heard: Heard::open().ok() };
    let mut round = 0_u32;
    loop {
        every.tick().await;
        let asked = clock::now();
        shared.seen().asked_at = Some(asked);
        let report = round.is_multiple_of(REPORT_EVERY) || conn.is_none();
        let outcome = ask(&shared, &mut conn, report).await;
        round = round.wrapping_add(1);
        let before = shared.seen().last_identity;
        let came = came_at(&mut stream, &outcome).await;
        if let (Ok(Some(report)), Some(conn)) = (&outcome, &mut conn)
            && runs_unasked(&shared, report)
        {
            no_events(conn).await;
        }
        if let (Ok(Some(report)), Some(conn)) = (&outcome, &mut conn) {
            ordered_stop::look(&shared, report);
            hanging::look(&shared, conn, report, Instant::now() + ANSWER_WITHIN).await;
            error_log::learn(&shared, conn).await;
        }
        take_in(&shared, asked, outcome, (&mut stream.progress, came));
        let after = shared.seen().last_identity;
        if let Some(identity) = after.filter(|_| before != after) {
            let path = identity_path(&shared);
            let written = tokio::task::spawn_blocking(move || durable::write(&path, &identity)).await;
            if !matches!(written, Ok(Ok(()))) {
                tracing::warn!("after a restart of the agent it is not known how a dead server is started");
            }
        }
    }
}

/// Where the server's family and version are remembered.
pub(super) fn identity_path(shared: &Shared) -> PathBuf {
    shared.config.data_dir.join("server.json")
}

/// `Ok(None)` for an answered ping.
async fn ask(shared: &Shared, slot: &mut Option<Connection>, report: bool) -> Result<Option<Report>, Unseen> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let mut conn = match slot.take().filter(Connection::is_open) {
        Some(conn) => conn,
        None => connect_admin(shared, deadline).await.map_err(|error| error.unseen)?,
    };
    let outcome = if report {
        probe::report(&mut conn, deadline).await.map(Some)
    } else {
        conn.ping(deadline).await.map(|()| None).map_err(|error| error.unseen)
    };
    if conn.is_open() {
        *slot = Some(conn);
    }
    outcome
}

/// A closed server that does not lead, somebody's hand or another program having started it, or fenced a moment ago: its own events
/// would still write there (MariaDB lets those of a privileged definer write to a read-only server).
fn runs_unasked(shared: &Shared, report: &Report) -> bool {
    let seen = shared.seen();
    let follow =
        seen.membership.as_ref().is_some_and(|membership| membership.policy.events == EventsPolicy::Follow);
    let leads = matches!(seen.kept.role, Role::Primary { .. });
    follow && !leads && seen.access == Access::Closed && report.settings.event_scheduler
}

async fn no_events(conn: &mut Connection) {
    match events::stop(conn, Instant::now() + ANSWER_WITHIN).await {
        Ok(()) => tracing::info!("the server is fenced and its event scheduler was on: it is off now"),
        Err(error) => tracing::warn!(error = %error, "the fenced server's event scheduler is still on"),
    }
}

fn take_in(
    shared: &Shared,
    asked: Moment,
    outcome: Result<Option<Report>, Unseen>,
    (progress, came): (&mut Option<Progress>, Option<Moment>),
) {
    let mut seen = shared.seen();
    seen.asked_at = None;
    if asked < seen.polled_at {
        // A step has read it since.
        return;
    }
    let was_ok = seen.server.is_ok();
    match outcome {
        Ok(report) => {
            seen.unanswered_since = None;
            if let Some(report) = report {
                let channel = report.channel().filter(|channel| channel.receiver != ThreadState::Stopped);
                if channel.is_none() {
                    seen.stream_moved_at = None;
                } else if channel
                    .is_some_and(|channel| has_heard(channel.receiver, progress.as_ref(), &measure(channel)))
                {
                    let came = came.map_or(asked, |came| came.min(asked));
                    seen.stream_moved_at = seen.stream_moved_at.max(Some(came));
                }
                *progress = channel.map(measure);
                seen.last_identity = Some((report.identity.flavor, report.identity.version));
                seen.server = Ok(report);
                seen.polled_at = asked;
            }
        }
        Err(unseen) => {
            let silent = matches!(unseen, Unseen::SilentBeforeGreeting | Unseen::HungAfterLogin);
            if silent {
                seen.unanswered_since.get_or_insert(asked);
            } else {
                seen.unanswered_since = None;
            }
            seen.server = Err(unseen);
            seen.polled_at = asked;
        }
    }
    let changed = was_ok != seen.server.is_ok();
    drop(seen);
    if changed {
        shared.announce_change();
    }
}

/// When the stream last brought a byte, if it has moved since it was last looked at and the kernel tells.
async fn came_at(stream: &mut Stream, outcome: &Result<Option<Report>, Unseen>) -> Option<Moment> {
    let report = outcome.as_ref().ok()?.as_ref()?;
    let channel = report.channel().filter(|channel| channel.receiver == ThreadState::Running)?;
    if stream.progress.as_ref() == Some(&measure(channel)) {
        return None;
    }
    let ago = stream.heard.as_mut()?.from(&channel.source).await?;
    Some(clock::now().back(ago))
}

/// Whether the receiver has heard from its source since `before`. One that connects, or was started just now, has heard nothing: its
/// counters begin again, which is no sign of life.
fn has_heard(receiver: ThreadState, before: Option<&Progress>, now: &Progress) -> bool {
    match (receiver, before) {
        (ThreadState::Running, before) => before != Some(now),
        // It lost its source since it was last looked at: what had come until then counts.
        (ThreadState::Connecting, Some(before)) => {
            now.0 > before.0 || (now.0 == before.0 && now.1 != before.1)
        }
        (ThreadState::Connecting, None) | (ThreadState::Stopped, _) => false,
    }
}

fn measure(channel: &Replication) -> Progress {
    let read_to = channel.read_to.as_ref().map(|place| format!("{}:{}", place.file, place.position));
    (channel.heartbeats, channel.received.to_string(), read_to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_was_just_started_has_heard_nothing() {
        let progress = |heartbeats, received: &str| (heartbeats, received.to_owned(), None);
        let (before, fresh) = (progress(7, "0-1-100"), progress(0, "0-1-90"));
        assert!(!has_heard(ThreadState::Connecting, None, &fresh));
        assert!(!has_heard(ThreadState::Connecting, Some(&before), &fresh));
        assert!(!has_heard(ThreadState::Stopped, Some(&before), &fresh));
        // Connected, it has been answered.
        assert!(has_heard(ThreadState::Running, None, &fresh));
        assert!(has_heard(ThreadState::Running, Some(&before), &fresh));
        assert!(!has_heard(ThreadState::Running, Some(&before), &before));
        // What had come before it lost its source is news.
        assert!(has_heard(ThreadState::Connecting, Some(&before), &progress(8, "0-1-100")));
        assert!(has_heard(ThreadState::Connecting, Some(&before), &progress(7, "0-1-101")));
    }
}
