//! Why a server did not start, in its own words: the error lines that it wrote to its log since. Reads a bounded tail and nothing else.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::durable;
use super::state::{ServerProcess, Shared};
use crate::model::instance::Flavor;
use crate::mysql::client::Connection;
use crate::mysql::fault::plain;

/// No more than so much of the log's end is read.
const TAIL: u64 = 64 * 1024;
/// No more than so much of a line is told.
const LINE: usize = 300;
/// How long the server may take to say where its log is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Where the server writes its errors, and how long the file was.
#[derive(Debug)]
pub(super) struct ErrorLog(Vec<(PathBuf, u64)>);

impl ErrorLog {
    /// Before a start: what is in the logs already is of an earlier one.
    pub(super) async fn before_start(shared: &Shared, output: Option<&Path>) -> Self {
        let known = shared.seen().error_log.clone();
        let mut paths: Vec<PathBuf> = known.and_then(|(_, path)| path).into_iter().collect();
        paths.extend(output.map(Path::to_owned).filter(|path| !paths.contains(path)));
        let lengths = spawn_blocking(move || {
            let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
            paths.into_iter().map(|path| (length(&path), path)).map(|(length, path)| (path, length)).collect()
        });
        Self(lengths.await.unwrap_or_default())
    }

    /// What it said since, in a few words that an operator can act on; or where to look.
    pub(super) async fn said(self) -> String {
        let paths: Vec<String> = self.0.iter().map(|(path, _)| path.display().to_string()).collect();
        let read = spawn_blocking(move || {
            self.0.iter().find_map(|(path, from)| errors(&tail(path, *from, TAIL).unwrap_or_default()))
        });
        if let Ok(Some(errors)) = read.await {
            return format!("its error log: {errors}");
        }
        match paths.is_empty() {
            true => "its error log says why (where that is, is not known here)".to_owned(),
            false => format!("no error line in {}; look there", paths.join(", ")),
        }
    }
}

/// What MySQL writes when it is asked to end: by `SHUTDOWN` or a signal, and by `RESTART` (both texts are in the server of 9.7).
const SHUTDOWN: [&str; 2] = ["Received SHUTDOWN from user", "Received RESTART from user"];
/// What it writes when it has started.
const STARTED: &str = "ready for connections";
/// A shutdown is among so much of the log's end: a line follows for each session that it ends.
const LAST_WORDS: u64 = 256 * 1024;
/// The disk of the log may be what killed the server: nobody waits longer for it.
const READ_WITHIN: Duration = Duration::from_millis(50);

/// Whether a server that has ended may have answered commits that waited for an acknowledgement: a MySQL server that was shut down in order
/// has. Where its log is not known, or is not read in time, it may have been; what is read later is taken in then.
pub(super) async fn may_have_answered(shared: &Arc<Shared>) -> bool {
    let known = shared.seen().last_identity;
    if known.is_some_and(|(flavor, _)| flavor == Flavor::MariaDb) {
        return false;
    }
    let Some(path) = shared.seen().error_log.clone().and_then(|(_, path)| path) else { return true };
    let mut read = spawn_blocking(move || {
        tail(&path, 0, LAST_WORDS).map_or(true, |text| may_have_been_shut_down(&text))
    });
    if let Ok(told) = timeout(READ_WITHIN, &mut read).await {
        return told.unwrap_or(true);
    }
    let later = Arc::clone(shared);
    shared.start(async move {
        if matches!(read.await, Ok(false)) {
            later.seen().answered_at_shutdown = false;
        }
    });
    true
}

/// A log that tells neither of a start nor of a shutdown was rotated, or is too long.
fn may_have_been_shut_down(log: &str) -> bool {
    let asked = SHUTDOWN.iter().filter_map(|words| log.rfind(words)).max();
    log.rfind(STARTED).is_none_or(|started| asked.is_some_and(|asked| started < asked))
}

fn tail(path: &Path, from: u64, most: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    // A log that is shorter than before was rotated.
    let from = if from <= end { from } else { 0 };
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(most))))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The first and the last error line. Both families mark them alike, and end with one that says only that they give up.
fn errors(text: &str) -> Option<String> {
    let said = text.lines().filter_map(|line| line.split_once("[ERROR]")).map(|(_, said)| said.trim());
    let mut said = said.filter(|said| !said.is_empty() && !said.ends_with("Aborting"));
    let first = said.next()?;
    let last = said.next_back().filter(|last| *last != first);
    let told = |line: &str| plain(line).chars().take(LINE).collect::<String>();
    Some(match last {
        Some(last) => format!("{}; last: {}", told(first), told(last)),
        None => told(first),
    })
}

/// Asks a server that answers where its error log is, once for each process: a dead one cannot be asked.
pub(super) async fn learn(shared: &Arc<Shared>, conn: &mut Connection) {
    let pid = match &shared.seen().process {
        ServerProcess::Running(watch) => watch.process().pid,
        ServerProcess::Gone(_) | ServerProcess::Unknown(_) => return,
    };
    if shared.seen().error_log.as_ref().is_some_and(|(of, _)| *of == pid) {
        return;
    }
    let sql = "SELECT @@global.log_error AS log, @@global.datadir AS data";
    let Ok(rows) = conn.query(sql, Instant::now() + ANSWER_WITHIN).await else { return };
    let Some(row) = rows.first() else { return };
    let (log, data) = (row.text_or_empty("log"), row.text_or_empty("data"));
    let path = (!log.is_empty() && log != "stderr").then(|| Path::new(data).join(log));
    let known = (pid, path);
    shared.seen().error_log = Some(known.clone());
    let file = known_path(shared);
    if !matches!(spawn_blocking(move || durable::write(&file, &known)).await, Ok(Ok(()))) {
        tracing::warn!("after a restart of the agent it is not known where a dead server wrote its errors");
    }
}

fn known_path(shared: &Shared) -> PathBuf {
    shared.config.data_dir.join("error_log.json")
}

/// Where a server that does not run wrote its errors, as remembered: the agent of a host that was shut down is asked after it has started
/// again. A server that runs is asked anew.
pub(super) fn recall(shared: &Shared) {
    match durable::read(&known_path(shared)) {
        Ok(known) => shared.seen().error_log = known,
        Err(error) => tracing::warn!(%error, "where the server writes its errors is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orderly_end_is_told_from_a_crash() {
        let started =
            "[System] [MY-010931] [Server] /usr/sbin/mysqld: ready for connections. Version: '9.7.4'\n";
        let ended = "[System] [MY-013172] [Server] Received SHUTDOWN from user <via user signal>. Shutting down mysqld\n";
        assert!(may_have_been_shut_down(&format!("{started}{ended}")));
        assert!(may_have_been_shut_down(ended));
        assert!(may_have_been_shut_down(
            "[System] [Server] Received RESTART from user root. Restarting mysqld\n"
        ));
        assert!(!may_have_been_shut_down(&format!("{ended}{started}")));
        assert!(!may_have_been_shut_down(started));
        assert!(may_have_been_shut_down("[Note] [Server] Aborted connection 7\n"), "rotated");
    }

    #[test]
    fn the_error_that_matters_is_told_not_that_it_gave_up() {
        let mariadb = "2026-11-28 7:00:00 0 [Note] Starting\n\
            2026-11-28 7:00:01 0 [ERROR] /usr/sbin/mariadbd: unknown variable 'no_such=1'\n\
            2026-11-28 7:00:01 0 [ERROR] Aborting\n";
        assert_eq!(errors(mariadb).unwrap(), "/usr/sbin/mariadbd: unknown variable 'no_such=1'");
        let mysql = "2026-11-28T07:00:00Z 1 [ERROR] [MY-012526] [InnoDB] Tablespace is damaged\n\
            2026-11-28T07:00:00Z 0 [ERROR] [MY-010020] [Server] Data Dictionary initialization failed.\n\
            2026-11-28T07:00:00Z 0 [ERROR] [MY-010119] [Server] Aborting\n";
        assert_eq!(
            errors(mysql).unwrap(),
            "[MY-012526] [InnoDB] Tablespace is damaged; last: [MY-010020] [Server] Data Dictionary initialization failed."
        );
        assert_eq!(errors("[Note] ready\n"), None);
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let old = "0 [ERROR] old\n";
        std::fs::write(&path, format!("{old}{}0 [ERROR] new\n", "0 [Note] x\n".repeat(20_000))).unwrap();
        assert_eq!(errors(&tail(&path, old.len() as u64, TAIL).unwrap()).as_deref(), Some("new"));
        assert!(tail(&path, 0, TAIL).unwrap().len() as u64 <= TAIL);
        // Rotated since.
        std::fs::write(&path, "0 [ERROR] fresh\n").unwrap();
        assert_eq!(errors(&tail(&path, 1 << 30, TAIL).unwrap()).as_deref(), Some("fresh"));
    }
}
