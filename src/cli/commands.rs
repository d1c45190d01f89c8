//! What each command does: ask the API, show the answer, and where something is begun, see it to its end.

use std::time::Duration;

use clap::CommandFactory as _;
use tokio::time::{Instant, sleep};

use super::args::{Command, ConfigCommand, Flags};
use super::check::check;
use super::client::{Client, Reply};
use super::direct::Direct;
use super::disaster::{self, Destroyed};
use super::error::{CliError, Exit};
use super::handoff::Handoff;
use super::open::{Where, open};
use super::output::{Screen, Tone, clean_json};
use super::settings::Settings;
use super::{dossier, rebuilding, replica, rolling, status, timeline};
use crate::decide::plan::Plan;
use crate::execute::Outcome;
use crate::execute::journal::{Recovery, What};
use crate::http::contract::{
    AbortRequest, AcknowledgeRequest, AdoptRequest, Begun, Clusters, Done, FailoverRequest, FollowLine,
    History, RejoinRequest, SwitchoverRequest, Topology, UnparkRequest, VotesRequest,
};
use crate::manager::Part;
use crate::manager::event::Proposal;
use crate::manager::snapshot::Snapshot;
use crate::model::instance::InstanceId;
use crate::model::intent::How;

/// How long a manager that went away during a recovery is waited for.
pub(super) const AWAY: Duration = Duration::from_secs(60);
/// Between two looks of `--watch`, and two tries to reach a manager that went away.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

pub(super) type Ended = Result<Exit, CliError>;

pub(super) async fn run(flags: Flags, screen: Screen) -> Ended {
    let Flags { manager, token_file, direct, config, json, command } = flags;
    match command {
        Command::Open { instance, agent, yes } => {
            let at = Where { instance, agent, token_file, config };
            open(at, yes, screen, json).await
        }
        Command::Config { command: ConfigCommand::Check { file, agent } } => check(screen, json, file, agent),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Flags::command(), "mhactl", &mut script);
            screen.print(String::from_utf8_lossy(&script).trim_end());
            Ok(Exit::Done)
        }
        Command::Status { .. }
        | Command::Topology { .. }
        | Command::Adopt { .. }
        | Command::Failover { .. }
        | Command::Votes { .. }
        | Command::Switchover { .. }
        | Command::Handoff { .. }
        | Command::Abort { .. }
        | Command::History { .. }
        | Command::Follow { .. }
        | Command::Ack { .. }
        | Command::Rejoin { .. }
        | Command::Replica { .. }
        | Command::Set { .. }
        | Command::Rolling(_)
        | Command::Unpark { .. } => {
            if !direct {
                return ask(Settings::find(manager, token_file)?, command, screen, json).await;
            }
            if matches!(command, Command::Rolling(_)) {
                let next = "start mha-manager: it leads each server back after its turn";
                return Err(CliError::usage("a rolling change needs a manager that runs", next));
            }
            let part = if command.acts() { Part::Obeys } else { Part::Watches };
            let own = Direct::start(&config, part).await?;
            let ended = ask(own.settings(), command, screen, json).await;
            own.end().await;
            ended
        }
    }
}

/// The commands that ask a manager.
async fn ask(settings: Settings, command: Command, screen: Screen, json: bool) -> Ended {
    let desk = Desk { client: Client::new(settings)?, screen, json };
    match command {
        Command::Config { .. } | Command::Open { .. } | Command::Completions { .. } => {
            Err(CliError::usage("no manager is asked that", ""))
        }
        Command::Status { cluster, watch } => desk.status(cluster.as_deref(), watch).await,
        Command::Topology { cluster } => desk.topology(cluster).await,
        Command::Adopt { cluster, primary, yes } => desk.adopt(cluster, primary, yes).await,
        Command::Failover {
            cluster,
            dry_run,
            to,
            accept_loss,
            old_primary_is_dead,
            without_voters: hosts,
            confirm,
            yes,
        } => {
            let request = FailoverRequest { to, accept_loss, old_primary_is_dead, by: caller(), dry_run };
            disaster::failover(&desk, cluster, request, &Destroyed { hosts, confirm }, yes).await
        }
        Command::Votes { cluster, destroyed, back, confirm } => {
            let request = VotesRequest { destroyed: destroyed.clone(), back, by: caller() };
            disaster::votes(&desk, cluster, &request, &Destroyed { hosts: destroyed, confirm }).await
        }
        Command::Switchover {
            cluster,
            to,
            dry_run,
            write_block,
            wait_lag,
            drain,
            kill_long_transactions,
            yes,
        } => {
            let ms = |span: Duration| u64::try_from(span.as_millis()).ok();
            let request = SwitchoverRequest {
                to,
                write_block_ms: ms(write_block),
                wait_lag_ms: ms(wait_lag),
                drain_ms: ms(drain),
                kill_long_transactions,
                by: caller(),
                dry_run,
            };
            desk.switchover(cluster, request, yes).await
        }
        Command::Abort { cluster } => desk.do_now(cluster, "abort", &AbortRequest { by: caller() }).await,
        Command::History { cluster, id, limit } => desk.history(cluster, id, limit).await,
        Command::Follow { cluster } => {
            let cluster = desk.cluster(cluster).await?;
            desk.follow(&cluster, None, !json).await.map(|_| Exit::Done)
        }
        Command::Ack { cluster } => desk.do_now(cluster, "ack", &AcknowledgeRequest { by: caller() }).await,
        Command::Handoff { instance, cluster, deadline, dry_run, yes } => {
            desk.handoff(cluster, Handoff { instance, within: deadline, dry_run, yes }).await
        }
        Command::Rejoin { instance, cluster, how, from, dry_run, yes, detach } => {
            let request = RejoinRequest { instance, how, from, by: caller(), dry_run };
            desk.rejoin(cluster, request, (yes, detach)).await
        }
        Command::Rolling(ask) => rolling::rolling(&desk, ask).await,
        Command::Replica { command } => replica::replica(&desk, command, caller()).await,
        Command::Set { command } => {
            let (request, manner) = replica::set(command, caller());
            replica::change(&desk, manner.cluster, request, manner.yes).await
        }
        Command::Unpark { instance, cluster } => {
            desk.do_now(cluster, "unpark", &UnparkRequest { instance, by: caller() }).await
        }
    }
}

/// How an operation that is shown before it is begun speaks.
pub(super) struct Words {
    /// The last part of its path.
    pub(super) verb: &'static str,
    /// What is begun or not.
    pub(super) what: &'static str,
    pub(super) if_refused: &'static str,
    /// Before the second plan.
    pub(super) note: &'static str,
    pub(super) question: String,
}

/// What every command that asks the manager works with.
pub(super) struct Desk {
    pub(super) client: Client,
    pub(super) screen: Screen,
    pub(super) json: bool,
}

pub(super) fn path<'a>(cluster: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    ["api", "v1", "clusters", cluster].into_iter().chain(rest.iter().copied()).collect()
}

impl Desk {
    /// The cluster named, or the only one.
    pub(super) async fn cluster(&self, named: Option<String>) -> Result<String, CliError> {
        if let Some(name) = named {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            return if !name.is_empty() && name.len() <= 64 && name.chars().all(plain) {
                Ok(name)
            } else {
                let next = "\"mhactl status\" lists the clusters";
                Err(CliError::usage(format!("{name:?} is no cluster's name"), next))
            };
        }
        let clusters: Clusters = self.client.get(&["api", "v1", "clusters"], &[]).await?.value()?;
        let names: Vec<String> = clusters.clusters.into_iter().map(|of| of.cluster.0).collect();
        match names.as_slice() {
            [only] => Ok(only.clone()),
            [] => {
                Err(CliError::usage("this manager keeps no cluster", "write [[cluster]] in its manager.toml"))
            }
            many => Err(CliError::usage(
                "this manager keeps several clusters, and none was named",
                format!("name one of: {}", many.join(", ")),
            )),
        }
    }

    /// Prints the API's JSON where it is wanted, else the text made of it.
    pub(super) fn show(
        &self,
        reply: &Reply,
        text: impl FnOnce() -> Result<String, CliError>,
    ) -> Result<(), CliError> {
        let text = if self.json { clean_json(&reply.text) } else { text()? };
        self.screen.print(&text);
        Ok(())
    }

    async fn status(&self, cluster: Option<&str>, watch: bool) -> Ended {
        loop {
            let ended = self.status_once(cluster, watch).await;
            if !watch {
                return ended;
            }
            if let Err(error) = ended {
                self.screen.clear();
                self.screen.complain(&error.problem);
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
            }
        }
    }

    async fn status_once(&self, named: Option<&str>, clear: bool) -> Ended {
        let well = |well: bool| Ok(if well { Exit::Done } else { Exit::Unhealthy });
        let name = match named {
            Some(name) => self.cluster(Some(name.to_owned())).await?,
            None => {
                let reply = self.client.get(&["api", "v1", "clusters"], &[]).await?;
                let all: Clusters = reply.value()?;
                match all.clusters.as_slice() {
                    [only] => only.cluster.0.clone(),
                    many => {
                        if clear {
                            self.screen.clear();
                        }
                        self.show(&reply, || Ok(status::many(self.screen, many)))?;
                        return well(many.iter().all(|of| status::is_well(of.verdict)));
                    }
                }
            }
        };
        let reply = self.client.get(&path(&name, &[]), &[]).await?;
        let snapshot: Snapshot = reply.value()?;
        if clear {
            self.screen.clear();
        }
        self.show(&reply, || Ok(status::screen(self.screen, &snapshot)))?;
        well(status::is_well(snapshot.verdict))
    }

    async fn topology(&self, cluster: Option<String>) -> Ended {
        let cluster = self.cluster(cluster).await?;
        let reply = self.client.get(&path(&cluster, &["topology"]), &[]).await?;
        self.show(&reply, || Ok(status::topology(self.screen, &reply.value::<Topology>()?)))?;
        Ok(Exit::Done)
    }

    async fn history(&self, cluster: Option<String>, id: Option<String>, limit: u32) -> Ended {
        let (cluster, id) = match (cluster, id) {
            (Some(named), None) => self.cluster_or_id(named).await?,
            (cluster, id) => (self.cluster(cluster).await?, id),
        };
        if let Some(id) = id {
            let reply = self.client.get(&path(&cluster, &["history", &id]), &[]).await?;
            self.show(&reply, || Ok(timeline::whole(self.screen, &reply.value::<Recovery>()?)))?;
            return Ok(Exit::Done);
        }
        let reply = self.client.get(&path(&cluster, &["history"]), &[("limit", &limit.to_string())]).await?;
        self.show(&reply, || {
            let history: History = reply.value()?;
            let all: Vec<String> =
                history.recoveries.iter().map(|recovery| timeline::whole(self.screen, recovery)).collect();
            Ok(if all.is_empty() { format!("{cluster}: no recovery yet") } else { all.join("\n\n") })
        })?;
        Ok(Exit::Done)
    }

    /// One word is a cluster's name, or where there is only one cluster, the id of a recovery.
    async fn cluster_or_id(&self, named: String) -> Result<(String, Option<String>), CliError> {
        let clusters: Clusters = self.client.get(&["api", "v1", "clusters"], &[]).await?.value()?;
        match clusters.clusters.as_slice() {
            [only] if only.cluster.0 != named => Ok((only.cluster.0.clone(), Some(named))),
            _ => Ok((self.cluster(Some(named)).await?, None)),
        }
    }

    async fn adopt(&self, cluster: Option<String>, primary: Option<InstanceId>, yes: bool) -> Ended {
        let cluster = self.cluster(cluster).await?;
        let named = primary.as_ref().map(ToString::to_string);
        let query: Vec<(&str, &str)> = named.iter().map(|name| ("primary", name.as_str())).collect();
        let reply = self.client.get(&path(&cluster, &["adopt"]), &query).await?;
        let plan: Plan = reply.value()?;
        if !self.json {
            self.screen.print(&plan.to_string());
            self.screen.print("");
        }
        self.agreed(yes, &format!("adopting {cluster}"), &format!("Adopt {cluster} by this plan?"))?;
        let request = AdoptRequest { primary, by: caller() };
        let begun: Begun = self.client.post(&path(&cluster, &["adopt"]), &request).await?.value()?;
        self.see_through(&cluster, &begun.recovery).await
    }

    pub(super) async fn failover(
        &self,
        cluster: Option<String>,
        request: FailoverRequest,
        yes: bool,
    ) -> Ended {
        let cluster = self.cluster(cluster).await?;
        let proposal_of = FailoverRequest { dry_run: true, ..request.clone() };
        let words = Words {
            verb: "failover",
            what: "failover",
            if_refused: "mend what is named, or see --to, --accept-loss and --old-primary-is-dead",
            note: "if nothing more arrives:",
            question: format!("Fail {cluster} over by these plans?"),
        };
        let only_show = request.dry_run;
        self.begin(&cluster, &words, (&proposal_of, &request), only_show, yes).await
    }

    pub(super) async fn switchover(
        &self,
        cluster: Option<String>,
        request: SwitchoverRequest,
        yes: bool,
    ) -> Ended {
        let cluster = self.cluster(cluster).await?;
        let proposal_of = SwitchoverRequest { dry_run: true, ..request.clone() };
        let words = Words {
            verb: "switchover",
            what: "switchover",
            if_refused: "mend what is named, or name another with --to",
            note: "if nothing more is written:",
            question: format!("Change the primary of {cluster} by these plans?"),
        };
        let only_show = request.dry_run;
        self.begin(&cluster, &words, (&proposal_of, &request), only_show, yes).await
    }

    pub(super) async fn rejoin(
        &self,
        cluster: Option<String>,
        request: RejoinRequest,
        (yes, detach): (bool, bool),
    ) -> Ended {
        let cluster = self.cluster(cluster).await?;
        let proposal_of = RejoinRequest { dry_run: true, ..request.clone() };
        let words = Words {
            verb: "rejoin",
            what: "rejoin",
            if_refused: "mend what is named; \"mhactl status\" shows how the member is",
            note: "when the copy is there, which \"mhactl status\" shows:",
            question: format!("Do this about {}?", request.instance),
        };
        let only_show = request.dry_run;
        let ended = self.begin(&cluster, &words, (&proposal_of, &request), only_show, yes).await?;
        if ended == Exit::Done && !only_show && request.how == How::Rebuild {
            return rebuilding::watch(self, &cluster, &request.instance, detach).await;
        }
        Ok(ended)
    }

    /// Shows what would be done, asks, begins, and follows to the end.
    pub(super) async fn begin<R: serde::Serialize>(
        &self,
        cluster: &str,
        words: &Words,
        (proposal_of, request): (&R, &R),
        only_show: bool,
        yes: bool,
    ) -> Ended {
        let Words { verb, what, .. } = words;
        let reply = self.client.post(&path(cluster, &[verb]), proposal_of).await?;
        let proposal: Proposal = reply.value()?;
        if only_show {
            self.show(&reply, || Ok(self.proposed(&proposal, words.note)))?;
            return Ok(if proposal.blockers.is_empty() { Exit::Done } else { Exit::Refused });
        }
        if !self.json {
            self.screen.print(&self.proposed(&proposal, words.note));
            self.screen.print("");
        }
        // With blockers the manager is not asked to begin; it would say the same.
        if !proposal.blockers.is_empty() {
            let message = format!("no {what} of {cluster} was begun");
            let mut error = CliError::new(Exit::Refused, "refused", message, words.if_refused);
            error.problem.reasons = if self.json { proposal.blockers } else { Vec::new() };
            return Err(error);
        }
        self.agreed(yes, &format!("the {what} of {cluster}"), &words.question)?;
        let begun: Begun = self.client.post(&path(cluster, &[verb]), request).await?.value()?;
        self.see_through(cluster, &begun.recovery).await
    }

    pub(super) fn proposed(&self, proposal: &Proposal, note: &str) -> String {
        let mut parts = vec![proposal.sentence.clone()];
        for (index, plan) in proposal.plans.iter().enumerate() {
            let note = if index == 0 { String::new() } else { format!("\n{note}") };
            parts.push(format!("{note}\n{plan}"));
            parts.extend(plan.basis.iter().map(|why| format!("  because {why}")));
        }
        if !proposal.blockers.is_empty() {
            parts.push(format!("\n{}", self.screen.paint(Tone::Bad, "in the way:")));
            parts.extend(proposal.blockers.iter().map(|blocker| format!("  - {blocker}")));
        }
        parts.extend(proposal.dossier.iter().map(|dossier| dossier::text(self.screen, dossier)));
        parts.join("\n")
    }

    /// The operator's word, given before or now.
    pub(super) fn agreed(&self, yes: bool, what: &str, question: &str) -> Result<(), CliError> {
        if yes || (self.screen.asks && !self.json && self.screen.confirm(question)) {
            return Ok(());
        }
        Err(CliError::not_confirmed(what))
    }

    /// Follows what was begun to its end.
    pub(super) async fn see_through(&self, cluster: &str, id: &str) -> Ended {
        let outcome = self.follow(cluster, Some(id), !self.json).await?;
        if self.json {
            let reply = self.client.get(&path(cluster, &["history", id]), &[]).await?;
            self.screen.print(&clean_json(&reply.text));
        }
        Ok(if outcome == Some(Outcome::Done) { Exit::Done } else { Exit::Failed })
    }

    /// Shows a recovery as it goes on, across a restart of the manager. `None`: the stream ended before the recovery.
    async fn follow(&self, cluster: &str, id: Option<&str>, text: bool) -> Result<Option<Outcome>, CliError> {
        let raw = id.is_none() && self.json;
        let (mut id, mut shown) = (id.map(ToOwned::to_owned), 0);
        let mut heard = Instant::now();
        loop {
            match self.follow_once(cluster, &mut id, &mut shown, text, raw, &mut heard).await {
                Ok(Some(outcome)) => return Ok(Some(outcome)),
                Ok(None) => {}
                Err(error) if error.exit == Exit::NotReached && id.is_some() && heard.elapsed() < AWAY => {}
                Err(error) => return Err(error),
            }
            if heard.elapsed() > AWAY {
                return Ok(None);
            }
            sleep(AGAIN).await;
        }
    }

    async fn follow_once(
        &self,
        cluster: &str,
        id: &mut Option<String>,
        shown: &mut usize,
        text: bool,
        raw: bool,
        heard: &mut Instant,
    ) -> Result<Option<Outcome>, CliError> {
        let mut lines = self.client.follow(cluster, id.as_deref()).await?;
        let mut index = 0;
        while let Some((line, value)) = lines.next::<FollowLine>().await? {
            *heard = Instant::now();
            match value {
                FollowLine::Recovery(recovery) => {
                    let first = *shown == 0;
                    if text && first {
                        self.screen.print(&timeline::head(self.screen, &recovery));
                    } else if raw && first {
                        self.screen.print(&clean_json(&line));
                    }
                    *id = Some(recovery.id);
                }
                FollowLine::Entry(entry) => {
                    index += 1;
                    if index > *shown {
                        *shown = index;
                        if text {
                            self.screen.print(&timeline::line(self.screen, &entry));
                        } else if raw {
                            self.screen.print(&clean_json(&line));
                        }
                    }
                    if let What::Ended { outcome } = entry.what {
                        return Ok(Some(outcome));
                    }
                }
            }
        }
        Ok(None)
    }

    pub(super) async fn do_now(
        &self,
        named: Option<String>,
        verb: &str,
        request: &impl serde::Serialize,
    ) -> Ended {
        let cluster = self.cluster(named).await?;
        let reply = self.client.post(&path(&cluster, &[verb]), request).await?;
        self.show(&reply, || Ok(reply.value::<Done>()?.done))?;
        Ok(Exit::Done)
    }
}

/// Who asks, for the history: user and host.
pub(super) fn caller() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.trim())
}
