//! What no replication gives a replica, by what it has and by what its source said when it refused it.

use super::super::extra::Returned;
use super::super::topology;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::report::{Replication, Report, ThreadError, ThreadState};
use crate::model::view::Seen;

/// What a receiver stops with where its source cannot send it what it asks for: as both families say it, and as MySQL 8.0 does.
const CANNOT_SEND: [u32; 2] = [1236, 13114];
/// What MariaDB says with it where its logs begin later.
const TOO_OLD: &str = "Could not find GTID state";
/// What MariaDB says with it where a server that led meanwhile has written what the replica lacks, and the replica has another transaction
/// in its place. Its GTID sets do not show that: of a domain only the last transaction counts.
const REPLACED: &str = "is missing the GTID";
/// What they say where the histories have parted: MariaDB, and MySQL old and new.
const PARTED: [&str; 3] = [
    "which is not in the master's binlog",
    "Slave has more GTIDs than the master has",
    "Replica has more GTIDs than the source has",
];

/// It lacks what no replication gives it: what the logs of its `home` do not hold any more is nobody's to send. A replica passes over
/// transactions that carry its own server id, so what it wrote while it led and has lost since would be left out without a word
/// (`replicate_same_server_id`; MariaDB takes its own back as a semi-sync replica, MDEV-21117). And an empty server cannot tell what
/// it wrote: its disk is another than it was, unless it `joins` for the first time.
pub(super) fn cannot_be_sent(of: Returned<'_>, home: &InstanceId, joins: bool) -> Option<String> {
    let Returned { view, record, instance, report, primary, .. } = of;
    let missing = primary.executed.minus(&report.known());
    if report.known().is_empty() && !missing.is_empty() && !joins {
        return Some(
            "its GTID history is empty, as on a new disk or after a reset of its binary logs".to_owned(),
        );
    }
    let above = view.of(home).and_then(Seen::latest).unwrap_or(primary);
    let purged = missing.intersect(&above.purged);
    if !purged.is_empty() && report.identity.flavor == Flavor::MySql {
        return Some(format!("it lacks {purged}, which the logs of {home} do not hold any more"));
    }
    if let Some(error) = refusal(home, report) {
        // MariaDB does not tell what its logs begin with; it tells whoever asks for less.
        if error.text.contains(TOO_OLD) && !missing.is_empty() {
            return Some(format!("{home} cannot send it what it lacks: {}", error.text));
        }
        if error.text.contains(REPLACED) {
            return Some(format!(
                "it has a transaction that {home} has not, and lacks others: {}",
                error.text
            ));
        }
    }
    let takes_its_own = report.identity.flavor == Flavor::MariaDb
        && topology::would_acknowledge(view, record, (instance, report), home);
    let own = missing.written_by(&report.identity);
    (!takes_its_own && !own.is_empty())
        .then(|| format!("it has lost {own}, which it wrote itself, and replication would pass them over"))
}

/// Its source refused to send it anything, for good.
pub(super) fn refusal<'a>(home: &InstanceId, report: &'a Report) -> Option<&'a ThreadError> {
    let stopped = |c: &&Replication| c.source == *home && c.receiver == ThreadState::Stopped;
    let error = report.channel().filter(stopped)?.receiver_error.as_ref()?;
    CANNOT_SEND.contains(&error.code).then_some(error)
}

/// It was refused for what it has or lacks, and no source sends it anything before that is compared and mended: a receiver that was told
/// so does not try again. It may have been well when it was pointed there, and have got the rest from its old source since.
pub(super) fn refused_for_history(home: &InstanceId, report: &Report) -> bool {
    refusal(home, report).is_some_and(|error| {
        PARTED.iter().chain([&TOO_OLD, &REPLACED]).any(|words| error.text.contains(words))
    })
}
