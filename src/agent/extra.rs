//! Transactions this host's server has and the primary lacks: saved from its log before anything is done about them, and taken
//! back when that is ordered. What is saved, and a rewind that was begun, is known again after a restart of the agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::durable;
use super::host::extra::{self, Contents};
use super::host::tail::{Limits, Tail, Transaction, scan};
use super::host::values;
use super::salvage::index_path;
use super::sql::{connect_admin, fresh_report};
use super::state::{ServerProcess, Shared};
use super::steps::step_error;
use crate::clock;
use crate::execute::world::StepError;
use crate::model::extra::{Dossier, MOST_TABLES, Saved, Told, Touched};
use crate::model::gtid::GtidSet;
use crate::model::instance::Flavor;
use crate::mysql::control::{self, ControlError};

/// How many of the newest logs are looked into, one try after another.
const LOOKS: [usize; 4] = [2, 8, 64, usize::MAX];
/// The most log that is looked through, in bytes.
const MOST_LOG: u64 = 1 << 40;
/// How long the log tool may take to show values.
const SHOW_WITHIN: Duration = Duration::from_secs(10);

fn directory(shared: &Shared) -> PathBuf {
    shared.config.data_dir.join("extra")
}

fn current(shared: &Shared) -> PathBuf {
    directory(shared).join("current.json")
}

/// What an earlier agent saved here.
///
/// # Errors
/// When its file cannot be read.
pub(super) fn known(shared: &Shared) -> Result<Option<Saved>, durable::DurableError> {
    // What was settled is written as nothing.
    durable::read::<Option<Saved>>(&current(shared)).map(Option::flatten)
}

/// What is in the transactions that are saved here now.
///
/// # Errors
/// That there are none, or that what was written of them cannot be read.
pub(super) async fn dossier(shared: &Shared) -> Result<Dossier, String> {
    let saved = shared.seen().extra.clone().ok_or("no extra transactions are saved here")?;
    let path = PathBuf::from(&saved.file).with_extension("json");
    let read = spawn_blocking(move || durable::read::<Dossier>(&path)).await;
    let read = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let dossier = read.ok_or_else(|| format!("what is in {} was not written down", saved.file))?;
    Ok(Dossier { saved, ..dossier })
}

/// Saves the transactions of `wanted`, unless they are saved: raw, with a checksum, and what is in them beside that.
///
/// # Errors
/// Why not all of them are saved.
pub(super) async fn save(shared: &Shared, wanted: &GtidSet, within: Duration) -> Result<(), String> {
    let known = shared.seen().extra.clone();
    if let Some(saved) = known {
        if saved.rewinding.is_some() {
            return Err(format!(
                "the server is being set back from what {} holds; that is ended first",
                saved.file
            ));
        }
        if saved.set == *wanted && intact(&saved).await {
            return Ok(());
        }
    }
    let deadline = Instant::now() + within;
    let (server, _) = shared.server()?;
    let flavor = wanted.flavor();
    let (tail, missing) = find(flavor, &index_path(shared)?, wanted, deadline).await?;
    let now = clock::wall();
    let name = format!("{}-{}.binlog", now.format("%Y%m%d-%H%M%S%3f"), shared.config.host);
    let (folder, file) = (directory(shared), directory(shared).join(name));
    let copied = {
        let file = file.clone();
        spawn_blocking(move || {
            std::fs::create_dir_all(&folder)
                .map_err(|error| format!("creating {}: {error}", folder.display()))?;
            let (_, sha256) = extra::copy(&tail, &missing, &file).map_err(|error| error.to_string())?;
            let contents = extra::read(flavor, &file).map_err(|error| error.to_string())?;
            Ok::<_, String>((sha256, contents))
        })
        .await
    };
    let (sha256, contents) = copied.map_err(|error| error.to_string())??;
    let left = deadline.saturating_duration_since(Instant::now()).min(SHOW_WITHIN);
    let (changes, undecoded) = values::changes(&server.binlog_tool, &file, &contents.groups, left).await;
    let saved = summary(wanted.clone(), &contents, &file, sha256);
    let shown = contents.groups.iter().zip(changes).map(|(group, changes)| Told {
        gtid: group.gtid.clone(),
        at: at(group.at).unwrap_or_default(),
        changes,
    });
    let dossier = Dossier {
        host: shared.config.host.clone(),
        flavor,
        saved_at: now,
        saved: saved.clone(),
        shown: shown.collect(),
        left_out: contents.left_out,
        undecoded,
    };
    let beside = file.with_extension("json");
    let written = spawn_blocking(move || durable::write(&beside, &dossier)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    tracing::warn!(what = %saved, obstacle = saved.obstacle, "extra transactions are saved");
    keep(shared, Some(saved)).await
}

/// Whether the file is there as it was written.
async fn intact(saved: &Saved) -> bool {
    let (file, sum) = (PathBuf::from(&saved.file), saved.sha256.clone());
    spawn_blocking(move || extra::sha256(&file).is_ok_and(|found| found == sum)).await.unwrap_or(false)
}

/// Looks for the wanted transactions, further back each time, until nothing of them can be in an older log.
async fn find(
    flavor: Flavor,
    index: &Path,
    wanted: &GtidSet,
    deadline: Instant,
) -> Result<(Tail, Vec<Transaction>), String> {
    for files in LOOKS {
        let time = deadline.saturating_duration_since(Instant::now());
        let limits = Limits { files, bytes: MOST_LOG, time };
        let tail = scan(flavor, index, None, limits).await.map_err(|error| error.to_string())?;
        let before = tail.previous.as_deref().map(|text| GtidSet::parse(flavor, text)).transpose();
        let before = before.map_err(|error| error.to_string())?;
        let whole = before.is_some_and(|before| before.intersect(wanted).is_empty());
        if !whole && tail.files.len() == files {
            continue;
        }
        if !whole {
            return Err(format!("the logs of this host no longer hold all of {wanted}: they were purged"));
        }
        let mut missing = Vec::new();
        for transaction in &tail.transactions {
            let single = GtidSet::single(flavor, &transaction.gtid);
            if single.is_ok_and(|single| wanted.contains(&single)) {
                missing.push(transaction.clone());
            }
        }
        if missing.is_empty() {
            return Err(format!("nothing of {wanted} is in the logs of this host"));
        }
        return Ok((tail, missing));
    }
    Err(format!("{wanted} was not found in the logs of this host"))
}

fn at(seconds: u32) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::from(seconds), 0).filter(|_| seconds > 0)
}

fn summary(set: GtidSet, contents: &Contents, file: &Path, sha256: String) -> Saved {
    let mut tables: Vec<Touched> = contents
        .tables
        .iter()
        .map(|((schema, name), [inserted, updated, deleted])| Touched {
            table: format!("{schema}.{name}"),
            inserted: *inserted,
            updated: *updated,
            deleted: *deleted,
        })
        .collect();
    tables.sort_by_key(|table| std::cmp::Reverse(table.inserted + table.updated + table.deleted));
    tables.truncate(MOST_TABLES);
    Saved {
        set,
        transactions: contents.transactions,
        tables,
        statements: contents.statements,
        first_at: at(contents.first_at),
        last_at: at(contents.last_at),
        benign: contents.benign,
        obstacle: contents.obstacle.clone(),
        file: file.display().to_string(),
        sha256,
        rewinding: None,
    }
}

/// Remembers it, and says so.
async fn keep(shared: &Shared, saved: Option<Saved>) -> Result<(), String> {
    let (path, value) = (current(shared), saved.clone());
    let written = spawn_blocking(move || durable::write(&path, &value)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    shared.seen().extra = saved;
    shared.announce_change();
    Ok(())
}

/// The server has other data now: what is saved stays where it is, and is nobody's extra any more.
pub(super) async fn settle(shared: &Shared) -> Result<(), String> {
    let saved = shared.seen().extra.clone();
    match saved {
        Some(_) => keep(shared, None).await,
        None => Ok(()),
    }
}

/// Takes the server back to the history `keep`: the rows of `wanted` put back first where `rows`, then the history. Each part is
/// done once, however often and after whatever death this is asked.
///
/// # Errors
/// Why it is not done. Rows that cannot be put back are remembered as such.
pub(super) async fn rewind(
    shared: &Shared,
    wanted: &GtidSet,
    keep_set: &GtidSet,
    rows: bool,
    deadline: Instant,
) -> Result<(), StepError> {
    let failed = |why: String| StepError::Failed(why);
    guarded(shared).map_err(failed)?;
    let seen = fresh_report(shared, &shared.spare, deadline).await;
    let report = seen.map_err(|unseen| failed(format!("cannot be seen: {unseen}")))?;
    let Some(mut saved) = shared.seen().extra.clone().filter(|saved| saved.set == *wanted) else {
        if report.executed == *keep_set {
            return Ok(());
        }
        return Err(failed(format!("{wanted} is not saved here: nothing is undone before it is")));
    };
    match &saved.rewinding {
        Some(begun) if begun != keep_set => {
            return Err(failed(format!("a rewind to {begun} was begun; that is ended first")));
        }
        Some(_) => {}
        None => {
            let left = report.executed.minus(wanted);
            if left != *keep_set || !report.executed.contains(wanted) || !report.replication.is_empty() {
                return Err(failed(format!("its history is {}: not what was judged", report.executed)));
            }
            if !intact(&saved).await {
                return Err(failed(format!("{} is gone or not as it was saved", saved.file)));
            }
            if rows {
                put_back(shared, &mut saved, deadline).await?;
            }
            saved.rewinding = Some(keep_set.clone());
            keep(shared, Some(saved.clone())).await.map_err(failed)?;
        }
    }
    let conn = connect_admin(shared, deadline).await.map_err(|error| failed(error.to_string()))?;
    let late = |error: ControlError| step_error(&error, deadline.saturating_duration_since(Instant::now()));
    control::reset(conn, keep_set, deadline).await.map_err(late)?;
    tracing::warn!(what = %saved, history = %keep_set, "the server was set back");
    keep(shared, None).await.map_err(failed)
}

async fn put_back(shared: &Shared, saved: &mut Saved, deadline: Instant) -> Result<(), StepError> {
    let failed = |why: String| StepError::Failed(why);
    let (flavor, file) = (saved.set.flavor(), PathBuf::from(&saved.file));
    let read = spawn_blocking(move || extra::read(flavor, &file)).await;
    let contents =
        read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    if let Some(obstacle) = contents.obstacle {
        return Err(failed(obstacle));
    }
    let tables: Vec<(String, String)> = contents.tables.into_keys().collect();
    let undo = control::Undo {
        format: &contents.format,
        events: &contents.inverse,
        tables: &tables,
        mark: &saved.sha256,
    };
    let conn = connect_admin(shared, deadline).await.map_err(|error| failed(error.to_string()))?;
    match control::undo(conn, &undo, deadline).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // The server said no, and kept nothing: asking again would end the same way. A person decides.
            if error.is_refusal() {
                saved.obstacle = Some(format!("putting them back failed, and changed nothing: {error}"));
                keep(shared, Some(saved.clone())).await.map_err(failed)?;
            }
            Err(step_error(&error, deadline.saturating_duration_since(Instant::now())))
        }
    }
}

/// Only a server no client reaches, whose host was fenced.
fn guarded(shared: &Shared) -> Result<(), String> {
    let seen = shared.seen();
    if !seen.is_fenced() {
        return Err("only a server that is fenced is set back".to_owned());
    }
    match &seen.process {
        ServerProcess::Running(_) => Ok(()),
        ServerProcess::Gone(_) | ServerProcess::Unknown(_) => Err("no server runs here".to_owned()),
    }
}
