//! What a reload would change, in sentences. A changed secret is only said to have changed.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::secret::same;
use super::value::show;
use super::{Account, ClusterConfig, ManagerConfig, OnEvent, Tls};
use crate::model::cluster::{Cluster, Member};
use crate::model::policy::Policy;

/// Every difference, each a sentence that begins with whose it is. Empty where nothing would change.
pub fn difference(old: &ManagerConfig, new: &ManagerConfig) -> Vec<String> {
    let mut said = Vec::new();
    let restart = |what: &str| format!("manager: {what} (after a restart)");
    if old.listen != new.listen {
        said.push(restart(&format!("listen {} becomes {}", old.listen, new.listen)));
    }
    if old.data_dir != new.data_dir {
        said.push(restart(&format!(
            "data_dir {} becomes {}",
            old.data_dir.display(),
            new.data_dir.display()
        )));
    }
    if old.failovers_at_once != new.failovers_at_once {
        let (old, new) = (old.failovers_at_once, new.failovers_at_once);
        said.push(restart(&format!("failovers_at_once {old} becomes {new}")));
    }
    if !same_event(old.on_event.as_ref(), new.on_event.as_ref()) {
        said.push("manager: on_event changed".to_owned());
    }
    if !same(old.token.as_ref(), new.token.as_ref()) {
        said.push("manager: token changed".to_owned());
    }
    let vote = |config: &ManagerConfig| {
        config.vote.as_ref().map_or("none".to_owned(), |vote| format!("{} at {}", vote.host, vote.url))
    };
    changed(&mut said, "manager", "vote", &vote(old), &vote(new));
    let by_name = |config: &'_ ManagerConfig| -> BTreeMap<String, ClusterConfig> {
        config.clusters.iter().map(|config| (config.cluster.name.0.clone(), config.clone())).collect()
    };
    let (olds, news) = (by_name(old), by_name(new));
    for (name, old) in &olds {
        match news.get(name) {
            Some(new) => cluster(&mut said, name, old, new),
            None => said.push(format!("cluster {name}: no longer watched")),
        }
    }
    for (name, new) in news.iter().filter(|(name, _)| !olds.contains_key(*name)) {
        said.push(format!("cluster {name}: new, {} instances", new.cluster.members.len()));
    }
    said
}

fn changed(said: &mut Vec<String>, whose: &str, what: &str, old: &str, new: &str) {
    if old != new {
        said.push(format!("{whose}: {what} {old} becomes {new}"));
    }
}

fn cluster(said: &mut Vec<String>, name: &str, old: &ClusterConfig, new: &ClusterConfig) {
    let whose = format!("cluster {name}");
    let Cluster { name: _, mode, members, vip, traffic, voters, policy } = &old.cluster;
    changed(said, &whose, "mode", &word(mode), &word(&new.cluster.mode));
    self::members(said, &whose, members, &new.cluster.members);
    let address = |vip: &Option<crate::model::cluster::VipAddress>| {
        vip.as_ref().map_or("none".to_owned(), ToString::to_string)
    };
    changed(said, &whose, "vip", &address(vip), &address(&new.cluster.vip));
    let program = |traffic: &Option<crate::model::cluster::TrafficProgram>| {
        traffic.as_ref().map_or("none".to_owned(), |traffic| {
            format!("{} within {}", traffic.program.display(), show(traffic.within))
        })
    };
    changed(said, &whose, "traffic", &program(traffic), &program(&new.cluster.traffic));
    let list = |voters: &[crate::model::cluster::Voter]| {
        let voters: Vec<String> =
            voters.iter().map(|voter| format!("{} at {}", voter.host, voter.url)).collect();
        if voters.is_empty() { "none".to_owned() } else { voters.join(", ") }
    };
    changed(said, &whose, "voters", &list(voters), &list(&new.cluster.voters));
    for ((key, old), (_, new)) in thresholds(policy).iter().zip(thresholds(&new.cluster.policy).iter()) {
        changed(said, &whose, key, old, new);
    }
    let accounts = [
        ("admin", &old.accounts.admin, &new.accounts.admin),
        ("replication", &old.accounts.replication, &new.accounts.replication),
        ("heartbeat", &old.accounts.heartbeat, &new.accounts.heartbeat),
    ];
    for (key, old, new) in accounts {
        account(said, &whose, key, old, new);
    }
    if !same(old.agent_token.as_ref(), new.agent_token.as_ref()) {
        said.push(format!("{whose}: agent_token changed"));
    }
    changed(said, &whose, "tls", &tls(&old.tls), &tls(&new.tls));
}

fn members(said: &mut Vec<String>, whose: &str, old: &[Member], new: &[Member]) {
    for member in old {
        let Some(new) = new.iter().find(|other| other.instance == member.instance) else {
            said.push(format!("{whose}: instance {} removed", member.instance));
            continue;
        };
        let whose = format!("{whose}, {}", member.instance);
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        changed(said, &whose, "promotion", &word(&member.promotion), &word(&new.promotion));
        changed(said, &whose, "zone", &text(&member.zone), &text(&new.zone));
        changed(said, &whose, "agent", &text(&member.agent), &text(&new.agent));
    }
    for member in new.iter().filter(|member| !old.iter().any(|other| other.instance == member.instance)) {
        said.push(format!("{whose}: instance {} added", member.instance));
    }
    let order = |members: &[Member], others: &[Member]| -> Vec<String> {
        let both =
            members.iter().filter(|member| others.iter().any(|other| other.instance == member.instance));
        both.map(|member| member.instance.to_string()).collect()
    };
    let (before, after) = (order(old, new), order(new, old));
    changed(said, whose, "order", &before.join(", "), &after.join(", "));
}

fn account(said: &mut Vec<String>, whose: &str, key: &str, old: &Account, new: &Account) {
    changed(said, whose, &format!("{key} user"), &old.user, &new.user);
    if !same(Some(&old.password), Some(&new.password)) {
        said.push(format!("{whose}: {key} password changed"));
    }
}

fn same_event(old: Option<&OnEvent>, new: Option<&OnEvent>) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(OnEvent::Webhook(old)), Some(OnEvent::Webhook(new))) => same(Some(old), Some(new)),
        (Some(OnEvent::Exec(old)), Some(OnEvent::Exec(new))) => old == new,
        (None | Some(OnEvent::Webhook(_) | OnEvent::Exec(_)), _) => false,
    }
}

fn tls(tls: &Tls) -> String {
    match tls {
        Tls::Off => "off".to_owned(),
        Tls::Required => "required".to_owned(),
        Tls::VerifyIdentity { ca } => format!("verify_identity by {}", ca.display()),
    }
}

/// A one-word variant as it is written in the configuration.
fn word(value: &impl Debug) -> String {
    format!("{value:?}").to_ascii_lowercase()
}

/// Every threshold as it would be written. Takes the policy apart, so that a new field cannot be forgotten here.
fn thresholds(policy: &Policy) -> Vec<(&'static str, String)> {
    let Policy {
        silence,
        lease,
        renew_every,
        fence_within,
        clock_error_permille,
        durability,
        without_ackers,
        acks,
        salvage_lossless,
        salvage_async,
        refused_port_grace,
        catch_up,
        statement,
        poll_every,
        ping_every,
        heartbeat_every,
        budget,
        budget_window,
        restart,
        assume_dead_when_refused,
        extra_transactions,
        rebuild_nontransactional,
        events,
        fenced_reads,
        allow_newer_primary,
    } = policy;
    vec![
        ("silence", show(*silence)),
        ("lease", show(*lease)),
        ("renew_every", show(*renew_every)),
        ("fence_within", show(*fence_within)),
        ("clock_error_permille", clock_error_permille.to_string()),
        ("durability", word(durability)),
        ("without_ackers", word(without_ackers)),
        ("acks", acks.to_string()),
        ("salvage_lossless", show(*salvage_lossless)),
        ("salvage_async", show(*salvage_async)),
        ("refused_port_grace", show(*refused_port_grace)),
        ("catch_up", show(*catch_up)),
        ("statement", show(*statement)),
        ("poll_every", show(*poll_every)),
        ("ping_every", show(*ping_every)),
        ("heartbeat_every", show(*heartbeat_every)),
        ("budget failovers", budget.to_string()),
        ("budget window", show(*budget_window)),
        ("restart", restart.to_string()),
        ("assume_dead_when_refused", assume_dead_when_refused.to_string()),
        ("extra_transactions", extra_transactions.to_string()),
        ("rebuild_nontransactional", rebuild_nontransactional.to_string()),
        ("events", word(events)),
        ("fenced_reads", fenced_reads.to_string()),
        ("allow_newer_primary", allow_newer_primary.to_string()),
    ]
}
