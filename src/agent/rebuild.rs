//! Rebuilding this host's server: a copy of another's data is made beside its own, in the background, while its own is left as it
//! is. Putting the copy in place is a step of its own ([`super::exchange`]). What was begun ends with the agent: the next one
//! removes it and says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::carry::{Begin, End, Piece};
use super::client::{AgentClient, Donation};
use super::donate;
use super::durable::DurableError;
use super::host::copy::{self, Place};
use super::host::hexadecimal;
use super::jobs::{self, Jobs, Rebuild};
use super::sql::{connect_admin, mysql_account};
use super::state::{ServerProcess, Shared};
use super::streams::unblock;
use super::wire::DonateRequest;
use crate::execute::world::Token;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::job::Phase;
use crate::model::observation::Access;
use crate::mysql::control::{self, CloneOrder};

/// How long the giving agent may take to begin.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// How long it may be silent after that: it gives a sign of life every two seconds.
const SILENT: Duration = Duration::from_secs(20);
/// So long may copying bring nothing.
const STILL: Duration = Duration::from_secs(900);
/// How long making a copy usable may take.
const PREPARE_WITHIN: Duration = Duration::from_secs(6 * 3_600);
/// The longest a server may copy.
const CLONE_WITHIN: Duration = Duration::from_secs(7 * 86_400);
/// How long a question to the server may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How long a rebuild that failed is shown of a server that is well.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// How long a server may take to end a copy.
const END_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks how far it is, and whether the old data is still needed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes up what an earlier agent left.
///
/// # Errors
/// When its file cannot be read.
pub(super) fn known(shared: &Shared) -> Result<(), DurableError> {
    let Some(mut rebuild) = jobs::kept(shared)? else { return Ok(()) };
    if matches!(rebuild.phase, Phase::Copying | Phase::Preparing) {
        let why = "the agent was restarted in the middle of it".to_owned();
        rebuild.phase = Phase::Failed { why };
    }
    shared.jobs.adopt(rebuild, shared.cancel.child_token());
    Ok(())
}

/// Begins a rebuild, unless that one is under way.
///
/// # Errors
/// Why none can be, what else the host is busy with among it.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    token: &Token,
    from: &InstanceId,
    keep: bool,
) -> Result<(), String> {
    let before = shared.jobs.rebuild();
    let goes_on = |rebuild: &Rebuild| match rebuild.phase {
        Phase::Copying | Phase::Preparing | Phase::Ready | Phase::Exchanging => rebuild.from == *from,
        Phase::Exchanged | Phase::Failed { .. } => false,
    };
    if before.as_ref().is_some_and(goes_on) {
        return Ok(());
    }
    let (server, _) = shared.server()?;
    if server.service.is_none() {
        return Err("agent.toml says no `service`, and a rebuilt server must be started".to_owned());
    }
    let donor = donor(shared, from)?;
    let place = place(shared).await?;
    let data = place.data.clone();
    if let Some(old) = before.and_then(|before| before.old) {
        tracing::warn!(old = %old.display(), "the old data of the rebuild before this one is left where it is; remove it when nobody needs it");
    }
    let rebuild = Rebuild { from: from.clone(), phase: Phase::Copying, keep, data, history: None, old: None };
    let cancel = shared.jobs.begin(shared, rebuild)?;
    Jobs::amend(shared, |_| {}).await?;
    let (shared, request) =
        (Arc::clone(shared), DonateRequest { token: token.clone(), to: own_name(shared)? });
    shared.tracker.clone().spawn(async move {
        let copied = tokio::select! {
            copied = make(&shared, &donor, request, &place) => copied,
            () = cancel.cancelled() => Err(shared.jobs.reason()),
        };
        end(&shared, &place, copied, &cancel).await;
    });
    Ok(())
}

fn own_name(shared: &Shared) -> Result<InstanceId, String> {
    let seen = shared.seen();
    let membership = seen.membership.as_ref().ok_or("this host is told of no cluster yet")?;
    Ok(membership.instance.clone())
}

fn donor(shared: &Shared, from: &InstanceId) -> Result<AgentClient, String> {
    shared.agent_of(from).ok_or_else(|| format!("{from} is no member with an agent"))
}

/// Where a rebuild is to be made here: as configured, else as the server says.
async fn place(shared: &Shared) -> Result<Place, String> {
    let (server, _) = shared.server()?;
    let deadline = Instant::now() + ASK_WITHIN;
    let runs = matches!(shared.seen().process, ServerProcess::Running(_));
    let mut data = server.data_dir.clone();
    if runs {
        let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
        let said = control::data_directory(&mut conn, deadline).await.map_err(|error| error.to_string())?;
        let outside =
            control::outside(&mut conn, &said, deadline).await.map_err(|error| error.to_string())?;
        if !outside.is_empty() {
            return Err(format!(
                "part of its data is outside of {said} ({}): a copy in its place would leave that behind; rebuild it by hand",
                outside.join(", ")
            ));
        }
        data.get_or_insert(PathBuf::from(said.trim_end_matches('/')));
    }
    let data = data.ok_or("its server does not run, and agent.toml says no `data_dir`")?;
    // A link to the directory is no directory that could be put aside.
    let data = std::fs::canonicalize(&data).map_err(|error| format!("{}: {error}", data.display()))?;
    Place::of(&data).map_err(|error| error.to_string())
}

/// What the copy's history is, where the server has to be told.
async fn make(
    shared: &Shared,
    donor: &AgentClient,
    request: DonateRequest,
    place: &Place,
) -> Result<Option<GtidSet>, String> {
    let mut donation = donor.donate(&request, BEGIN_WITHIN).await.map_err(|error| error.to_string())?;
    let begin = match donation.next(BEGIN_WITHIN).await.map_err(|error| error.to_string())? {
        Piece::Begin(begin) => begin,
        Piece::End(End { error: Some(why), .. }) => return Err(why),
        Piece::Data(_) | Piece::Alive | Piece::End(_) => return Err("the stream has no beginning".to_owned()),
    };
    let flavor = begin.executed.flavor();
    if flavor == Flavor::MySql {
        // One that an agent before this one had begun would write into the same directory.
        end_clones(shared).await?;
    }
    let (clear, total) = (place.clone(), begin.total.unwrap_or_default());
    let cleared = spawn_blocking(move || {
        clear.clear(flavor == Flavor::MySql)?;
        clear.has_room(total)
    })
    .await;
    cleared.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    match flavor {
        Flavor::MySql => clone(shared, &mut donation, place).await.map(|()| None),
        Flavor::MariaDb => receive(shared, &mut donation, begin, place).await.map(Some),
    }
}

/// MariaDB: unpacked as it comes, then made usable.
async fn receive(
    shared: &Shared,
    donation: &mut Donation,
    begin: Begin,
    place: &Place,
) -> Result<GtidSet, String> {
    let text = |error: copy::CopyError| error.to_string();
    let mut tool = copy::unpack(place).map_err(text)?;
    let mut input = tool.child.stdin.take().ok_or("the unpacking tool takes nothing")?;
    let (mut hash, mut bytes, mut moved) = (Context::new(&SHA256), 0, Instant::now());
    let end = loop {
        match donation.next(SILENT).await.map_err(|error| error.to_string())? {
            Piece::Data(data) => {
                hash.update(&data);
                bytes += data.len() as u64;
                let writing = timeout(STILL, input.write_all(&data)).await;
                if !matches!(writing, Ok(Ok(()))) {
                    drop(input);
                    tool.end().await.map_err(text)?;
                    return Err("the unpacking tool took no more".to_owned());
                }
                moved = Instant::now();
                shared.jobs.progress(bytes, begin.total);
            }
            Piece::Alive if moved.elapsed() > STILL => {
                return Err(format!("nothing has come for {} s", STILL.as_secs()));
            }
            Piece::Alive => {}
            Piece::End(end) => break end,
            Piece::Begin(_) => return Err("the stream begins twice".to_owned()),
        }
    };
    drop(input);
    if let Some(why) = end.error {
        return Err(why);
    }
    tool.end().await.map_err(text)?;
    if (end.bytes, end.sha256) != (bytes, hexadecimal(hash.finish().as_ref())) {
        return Err("what came is not what was sent: the checksum differs".to_owned());
    }
    let after = end.executed.ok_or("the giving server does not say what it has")?;
    Jobs::amend(shared, |rebuild| rebuild.phase = Phase::Preparing).await?;
    let prepared = timeout(PREPARE_WITHIN, copy::prepare(place).map_err(text)?.end()).await;
    prepared.map_err(|_| "making the copy usable took too long".to_owned())?.map_err(text)?;
    let at = place.clone();
    let position = spawn_blocking(move || copy::position(&at)).await;
    let position = position.map_err(|error| error.to_string())?.map_err(text)?;
    let position = GtidSet::parse(Flavor::MariaDb, &position).map_err(|error| error.to_string())?;
    Ok(position.history_between(&begin.executed, &after))
}

/// MySQL: the server itself copies, into a directory beside its own.
async fn clone(shared: &Shared, donation: &mut Donation, place: &Place) -> Result<(), String> {
    let (server, _) = shared.server()?;
    let from = shared.jobs.rebuild().ok_or("no rebuild is known here")?.from;
    // A failover may have made this host deaf to it.
    unblock(shared, &from, Instant::now() + ASK_WITHIN).await.map_err(|error| error.to_string())?;
    let deadline = Instant::now() + ASK_WITHIN;
    let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    let mut looks = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    control::load_clone(&mut conn, deadline).await.map_err(|error| error.to_string())?;
    let (account, directory) = (mysql_account(&server.admin), place.copy().display().to_string());
    let order = CloneOrder { from: &from, account: &account, directory: &directory };
    let copying = control::clone(&mut conn, order, Instant::now() + CLONE_WITHIN);
    tokio::pin!(copying);
    let mut every = interval(LOOK_EVERY);
    let (mut last, mut moved, mut measured) = (0, Instant::now(), false);
    loop {
        tokio::select! {
            done = &mut copying => return done.map_err(|error| error.to_string()),
            piece = donation.next(SILENT) => match piece.map_err(|error| error.to_string())? {
                Piece::End(end) => return Err(end.error.unwrap_or_else(|| "it was ended there".to_owned())),
                Piece::Alive | Piece::Begin(_) | Piece::Data(_) => {}
            },
            _ = every.tick() => {
                let by = Instant::now() + ASK_WITHIN;
                // The copy itself says when the server is gone.
                if let Ok((done, total)) = control::clone_progress(&mut looks, by).await {
                    shared.jobs.progress(done, total);
                    if let Some(total) = total.filter(|_| !std::mem::replace(&mut measured, true)) {
                        place.has_room(total.saturating_sub(done)).map_err(|error| error.to_string())?;
                    }
                    if done != last {
                        (last, moved) = (done, Instant::now());
                    }
                }
                if moved.elapsed() > STILL {
                    return Err(format!("nothing has come for {} s", STILL.as_secs()));
                }
            }
        }
    }
}

/// The copy is ready, or nothing of it is left.
async fn end(
    shared: &Arc<Shared>,
    place: &Place,
    copied: Result<Option<GtidSet>, String>,
    cancel: &CancellationToken,
) {
    let phase = match &copied {
        Ok(_) if !cancel.is_cancelled() => Phase::Ready,
        Ok(_) => Phase::Failed { why: shared.jobs.reason() },
        Err(why) => Phase::Failed { why: why.clone() },
    };
    if let Phase::Failed { why } = &phase {
        tracing::error!(why, "the server is not rebuilt");
        stop_clone(shared).await;
        let new = place.copy();
        if let Ok(Err(error)) = spawn_blocking(move || copy::remove(&new)).await {
            tracing::warn!(error = %error, "something of the copy is left");
        }
    } else {
        tracing::warn!(copy = %place.copy().display(), "the copy is ready");
    }
    // An agent that stops leaves the rest to the next one.
    let amended = Jobs::amend(shared, |rebuild| {
        rebuild.phase = phase;
        rebuild.history = copied.ok().flatten();
    })
    .await;
    if let Err(error) = amended {
        tracing::error!(error, "how the rebuild went is not written down");
    }
}

/// A statement whose asker is gone would go on.
async fn stop_clone(shared: &Shared) {
    let is_mysql = shared.seen().last_identity.is_some_and(|(flavor, _)| flavor == Flavor::MySql);
    if !is_mysql || !matches!(shared.seen().process, ServerProcess::Running(_)) {
        return;
    }
    if let Err(error) = end_clones(shared).await {
        tracing::warn!(error, "the server may go on copying for a while");
    }
}

async fn end_clones(shared: &Shared) -> Result<(), String> {
    let deadline = Instant::now() + END_WITHIN;
    let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    control::end_clone(&mut conn, deadline).await.map_err(|error| error.to_string())
}

/// Ends the copy that is being made or waits.
pub(super) async fn call_off(shared: &Shared, why: &str) -> Result<String, String> {
    let waits = shared.jobs.rebuild().filter(|rebuild| rebuild.phase == Phase::Ready);
    let task = shared.jobs.call_off(why).ok_or("nothing here can be called off")?;
    if let Some(rebuild) = waits {
        discard(shared, &rebuild, why.to_owned()).await?;
    }
    Ok(task)
}

/// A copy that waits will not take the data's place. Written down first: one half removed must never do so.
async fn discard(shared: &Shared, rebuild: &Rebuild, why: String) -> Result<(), String> {
    let place = Place::of(&rebuild.data).map_err(|error| error.to_string())?;
    Jobs::amend(shared, |rebuild| rebuild.phase = Phase::Failed { why }).await?;
    remove(&place.copy()).await
}

/// What is known of a server since its rebuild failed.
#[derive(Debug, Default)]
struct Failure {
    /// It was seen not to serve.
    broken: bool,
}

impl Failure {
    /// One look more. Of a server that is well all the while it is told for a while, or until an operator wanted it so; where the server
    /// was not, and was mended in another way, it does not matter any more.
    fn is_over(&mut self, serves: bool, told: bool) -> bool {
        self.broken |= !serves;
        serves && (self.broken || told)
    }
}

/// Runs until cancelled: once the server replicates and is open for reads, or leads, nothing of its rebuild is left to look after.
pub(super) async fn run(shared: Arc<Shared>) {
    tidy(&shared).await;
    let mut every = interval(LOOK_EVERY);
    let mut failure = Failure::default();
    loop {
        every.tick().await;
        let Some(rebuild) = shared.jobs.rebuild() else { continue };
        let settled = match rebuild.phase {
            Phase::Exchanged => serves(&shared),
            Phase::Failed { .. } => {
                let told = shared.jobs.shown().is_none_or(|job| job.age > TOLD_FOR);
                // Of one that leads nobody wants it any more.
                failure.is_over(serves(&shared), told || shared.jobs.called_off().is_some() || leads(&shared))
            }
            Phase::Copying | Phase::Preparing | Phase::Ready | Phase::Exchanging => {
                failure = Failure::default();
                let no_more = || leads(&shared).then(|| "its server leads".to_owned());
                if rebuild.phase == Phase::Ready
                    && let Some(why) = shared.jobs.called_off().or_else(no_more)
                    && let Err(error) = discard(&shared, &rebuild, why).await
                {
                    tracing::warn!(error, "something of the copy is left");
                }
                false
            }
        };
        if settled && let Err(error) = settle(&shared, &rebuild).await {
            tracing::warn!(error, "old data is left beside the server's");
        }
    }
}

/// What an agent that was killed left: a copy half made here, the login of one that was given.
async fn tidy(shared: &Shared) {
    donate::tidy(shared).await;
    let failed = || shared.jobs.rebuild().filter(|rebuild| matches!(rebuild.phase, Phase::Failed { .. }));
    if failed().is_none() {
        return;
    }
    stop_clone(shared).await;
    // Another may have been begun meanwhile, and has seen to it.
    let Some(place) = failed().and_then(|rebuild| Place::of(&rebuild.data).ok()) else { return };
    if let Err(error) = remove(&place.copy()).await {
        tracing::warn!(error, "something of the copy is left");
    }
}

/// It replicates and is open for reads, or leads.
fn serves(shared: &Shared) -> bool {
    let seen = shared.seen();
    let channel = seen.server.as_ref().ok().and_then(|report| report.channel());
    match seen.access {
        Access::Admitted => channel.is_some_and(|channel| channel.is_running()),
        Access::Held { .. } => true,
        Access::Closed => false,
    }
}

fn leads(shared: &Shared) -> bool {
    matches!(shared.seen().access, Access::Held { .. })
}

async fn settle(shared: &Shared, rebuild: &Rebuild) -> Result<(), String> {
    let place = Place::of(&rebuild.data).map_err(|error| error.to_string())?;
    if let Some(old) = rebuild.old.as_ref().filter(|_| rebuild.keep) {
        tracing::warn!(old = %old.display(), "the server replicates; its old data is kept, remove it when nobody needs it");
    }
    let old = rebuild.old.clone().filter(|_| !rebuild.keep);
    let settled = spawn_blocking(move || place.settle(old.as_deref())).await;
    settled.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Jobs::forget(shared).await
}

async fn remove(path: &Path) -> Result<(), String> {
    let path = path.to_owned();
    let removed = spawn_blocking(move || copy::remove(&path)).await;
    removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_until_it_does_not_matter_any_more() {
        let mut of_one_that_is_well = Failure::default();
        assert!(!of_one_that_is_well.is_over(true, false));
        assert!(of_one_that_is_well.is_over(true, true));
        let mut of_one_that_is_not = Failure::default();
        assert!(!of_one_that_is_not.is_over(false, true));
        assert!(of_one_that_is_not.is_over(true, false));
    }
}
