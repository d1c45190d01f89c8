//! Remembers since when a replica's threads do not obey, look by look.

use tokio::time::Instant;

use super::state::Shared;
use crate::clock;
use crate::model::report::{Replication, Report, ThreadState};
use crate::mysql::client::Connection;
use crate::mysql::hanging;

/// The statements that stopped replication, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stops {
    /// At the last look.
    counted: Option<u64>,
    /// Before a thread was last seen to run.
    while_running: Option<u64>,
}

impl Stops {
    /// Takes in a report and the count read after it. Answers whether a thread ended without such a statement: it was killed.
    fn note(&mut self, channel: &Replication, count: u64) -> bool {
        let stands = [channel.receiver, channel.applier].contains(&ThreadState::Stopped);
        if !stands {
            // A statement that came after the report is not among those counted before it.
            self.while_running = self.counted;
        }
        self.counted = Some(count);
        stands && self.while_running == Some(count)
    }
}

/// After a report: what hangs, of a server that replicates.
pub(super) async fn look(shared: &Shared, conn: &mut Connection, report: &Report, deadline: Instant) {
    let Some(channel) = report.channel() else {
        let mut seen = shared.seen();
        (seen.stop_hangs_since, seen.applier_waits_since, seen.stops) = (None, None, Stops::default());
        seen.threads_killed = false;
        return;
    };
    // A look that fails says nothing; the one after the next report does.
    let Ok(found) = hanging::look(conn, deadline).await else { return };
    let now = clock::now();
    let mut seen = shared.seen();
    seen.stop_hangs_since = found.stop.then(|| seen.stop_hangs_since.unwrap_or(now));
    seen.applier_waits_since = found.applier.then(|| seen.applier_waits_since.unwrap_or(now));
    seen.threads_killed = seen.stops.note(channel, found.stops);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gtid::GtidSet;
    use crate::model::instance::{Flavor, InstanceId};
    use std::time::Duration;

    fn channel(receiver: ThreadState, applier: ThreadState) -> Replication {
        Replication {
            channel: String::new(),
            source: InstanceId::new("db1", 3306),
            receiver,
            applier,
            receiver_error: None,
            applier_error: None,
            seconds_behind: None,
            received: GtidSet::empty(Flavor::MySql),
            read_to: None,
            applied_to: None,
            heartbeats: 0,
            heartbeat_every: None,
            gtid: true,
            delay: Duration::ZERO,
            filters: Vec::new(),
        }
    }

    #[test]
    fn a_thread_that_nobody_stopped_was_killed() {
        let runs = channel(ThreadState::Running, ThreadState::Running);
        let stands = channel(ThreadState::Stopped, ThreadState::Stopped);
        let mut killed = Stops::default();
        assert!(!killed.note(&runs, 3) && !killed.note(&runs, 3));
        assert!(killed.note(&stands, 3));
        // By an operator's statement, however it falls between the looks.
        let mut stopped = Stops::default();
        assert!(!stopped.note(&runs, 3) && !stopped.note(&runs, 3) && !stopped.note(&stands, 4));
        let mut between = Stops::default();
        assert!(!between.note(&runs, 3) && !between.note(&runs, 4) && !between.note(&stands, 4));
        // Nothing is known of what was before the first look.
        assert!(!Stops::default().note(&stands, 3));
    }
}
