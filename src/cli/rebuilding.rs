//! What follows when a copy was begun for `rejoin --how rebuild`: it is a job of its host, and is watched here until the member
//! replicates with it. Ending the command ends the watching only.

use tokio::time::{Duration, Instant, sleep};

use super::commands::{AGAIN, AWAY, Desk, Ended, path};
use super::error::{CliError, Exit};
use crate::manager::snapshot::{MemberSnapshot, Snapshot};
use crate::model::instance::InstanceId;
use crate::model::job::{Job, Phase};
use crate::model::report::ThreadState;

/// How often it is told how far a copy is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What is seen of it now.
enum Sight {
    Goes(Job),
    /// It has still to begin, or failed and is tried again.
    Waits(String),
    /// Nothing of it is seen: it has not begun, or it has ended.
    Nothing {
        replicates: bool,
    },
    Ended(String),
}

/// Says that it goes on by itself; then, unless `detach`, tells how far it is until the member replicates.
pub(super) async fn watch(desk: &Desk, cluster: &str, instance: &InstanceId, detach: bool) -> Ended {
    say(
        desk,
        &format!(
            "the rebuild of {instance} has begun and goes on by itself: \"mhactl status\" shows how far it is, \"mhactl abort\" ends it"
        ),
    );
    if detach {
        return Ok(Exit::Done);
    }
    let mut heard = Instant::now();
    let (mut seen, mut quiet_since) = (false, Instant::now());
    let mut told: Option<(Job, Instant)> = None;
    let mut waits: Option<String> = None;
    loop {
        let answer = match desk.client.get(&path(cluster, &[]), &[]).await {
            Ok(reply) => reply.value::<Snapshot>(),
            Err(error) => Err(error),
        };
        match answer {
            Ok(snapshot) => {
                heard = Instant::now();
                match sight(&snapshot, instance) {
                    Sight::Ended(why) => return Err(not_rebuilt(why)),
                    Sight::Goes(job) => {
                        (seen, quiet_since) = (true, Instant::now());
                        let due = told
                            .as_ref()
                            .is_none_or(|(last, at)| last.phase != job.phase || at.elapsed() >= TELL_EVERY);
                        if due {
                            say(desk, &format!("{instance} is {job}"));
                            told = Some((job, Instant::now()));
                        }
                    }
                    Sight::Waits(why) if quiet_since.elapsed() > AWAY => {
                        return Err(CliError::new(
                            Exit::Failed,
                            "not_rebuilt",
                            format!("{instance} is not rebuilt yet: {why}"),
                            "it is begun as soon as it can be; \"mhactl abort\" calls that off",
                        ));
                    }
                    Sight::Waits(why) => {
                        seen = true;
                        if waits.as_ref() != Some(&why) {
                            say(desk, &format!("{instance} is not rebuilt yet: {why}"));
                        }
                        waits = Some(why);
                    }
                    // A small copy may be done between two looks; one that was just begun may not be shown yet.
                    Sight::Nothing { replicates: true } if seen || quiet_since.elapsed() > AGAIN * 3 => {
                        say(desk, &format!("{instance} replicates with its new data"));
                        return Ok(Exit::Done);
                    }
                    Sight::Nothing { .. } if quiet_since.elapsed() > AWAY => {
                        let why = format!("{instance} does not replicate: {}", snapshot.sentence);
                        return Err(not_rebuilt(why));
                    }
                    Sight::Nothing { .. } => {}
                }
            }
            Err(error) if error.exit == Exit::NotReached && heard.elapsed() < AWAY => {}
            Err(error) => return Err(error),
        }
        sleep(AGAIN).await;
    }
}

fn sight(snapshot: &Snapshot, instance: &InstanceId) -> Sight {
    if let Some(parked) = snapshot.parked.iter().find(|parked| parked.instance == *instance) {
        return Sight::Ended(format!("{instance} is parked: {}", parked.why));
    }
    let Some(member) = snapshot.members.iter().find(|member| member.instance == *instance) else {
        return Sight::Ended(format!("{instance} is no member any more"));
    };
    if snapshot.primary.as_ref() == Some(instance) {
        return Sight::Ended(format!("{instance} leads now, and is not rebuilt"));
    }
    let job = member.job.as_ref().filter(|job| job.is_rebuild());
    if let Some(waiting) = snapshot.waiting.iter().find(|waiting| waiting.instance == *instance) {
        return Sight::Waits(match job {
            Some(Job { phase: Phase::Failed { why }, .. }) => {
                format!("the copy failed ({why}); {}", waiting.why)
            }
            Some(_) | None => waiting.why.clone(),
        });
    }
    match job {
        Some(Job { phase: Phase::Failed { why }, .. }) => {
            Sight::Ended(format!("{instance} was not rebuilt: {why}"))
        }
        Some(job) => Sight::Goes(job.clone()),
        None => Sight::Nothing { replicates: replicates(member) },
    }
}

fn replicates(member: &MemberSnapshot) -> bool {
    let runs = |state: Option<ThreadState>| state == Some(ThreadState::Running);
    runs(member.receiver) && runs(member.applier)
}

fn say(desk: &Desk, text: &str) {
    if !desk.json {
        desk.screen.print(text);
    }
}

fn not_rebuilt(why: String) -> CliError {
    let next = "\"mhactl status\" shows how it is; mend what is named and ask again";
    CliError::new(Exit::Failed, "not_rebuilt", why, next)
}
