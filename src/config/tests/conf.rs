//! The committed examples: they read, their commented-out keys are the true defaults, and no key is missing.

use super::super::{AgentConfig, ManagerConfig, difference};
use super::Etc;
use crate::model::cluster::{Mode, Voter};
use crate::model::policy::Policy;

const MANAGER: &str = include_str!("../../../conf/manager.toml");
const AGENT: &str = include_str!("../../../conf/agent.toml");

/// With every `#key = …` taken for written; prose begins with `# `.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic()) => format!("{rest}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn manager(etc: &Etc, text: &str) -> ManagerConfig {
    let (config, warnings) = etc.manager(text).unwrap_or_else(|error| panic!("{error}"));
    assert!(warnings.is_empty(), "{}", warnings[0]);
    config
}

fn agent(etc: &Etc, text: &str) -> AgentConfig {
    let (config, warnings) = etc.agent(text).unwrap_or_else(|error| panic!("{error}"));
    assert!(warnings.is_empty(), "{}", warnings[0]);
    config
}

#[test]
fn the_managers_example_shows_the_true_defaults() {
    let etc = Etc::new();
    let (plain, full) = (manager(&etc, MANAGER), manager(&etc, &uncommented(MANAGER)));
    assert_eq!(difference(&plain, &full), [""; 0]);
    assert_eq!(format!("{plain:?}"), format!("{full:?}"));
    let cluster = &plain.clusters[0].cluster;
    assert_eq!((&cluster.policy, cluster.mode), (&Policy::default(), Mode::Observe));
    assert_eq!(plain.vote, Some(Voter { host: "mgr".to_owned(), url: "http://mgr:8422".to_owned() }));
}

#[test]
fn the_managers_example_has_every_key() {
    let full = uncommented(MANAGER);
    for key in [
        "listen",
        "data_dir",
        "token",
        "on_event",
        "host",
        "vote",
        "admin",
        "replication",
        "heartbeat",
        "tls",
        "agents",
        "agent_token",
        "silence",
        "poll_every",
        "ping_every",
        "heartbeat_every",
        "statement",
        "lease",
        "renew_every",
        "fence_within",
        "clock_error_permille",
        "durability",
        "acks",
        "without_ackers",
        "salvage_lossless",
        "salvage_async",
        "refused_port_grace",
        "catch_up",
        "fenced_reads",
        "failovers_at_once",
        "budget",
        "restart",
        "extra_transactions",
        "rebuild_nontransactional",
        "events",
        "assume_dead_when_refused",
        "allow_newer_primary",
        "name",
        "mode",
        "vip",
        "witnesses",
        "promotion",
        "zone",
        "agent",
    ] {
        assert!(
            full.lines().any(|line| line.starts_with(&format!("{key} = "))),
            "conf/manager.toml lacks {key}"
        );
    }
}

#[test]
fn the_agents_example_shows_the_true_defaults() {
    let etc = Etc::new();
    let (plain, full) = (agent(&etc, AGENT), agent(&etc, &uncommented(AGENT)));
    assert_eq!(format!("{plain:?}"), format!("{full:?}"));
    for key in [
        "listen",
        "data_dir",
        "run_dir",
        "witness",
        "port",
        "pid_file",
        "binlog_index",
        "binlog_tool",
        "tls",
        "on_stop",
        "handoff_within",
        "restart_window",
    ] {
        let full = uncommented(AGENT);
        assert!(
            full.lines().any(|line| line.starts_with(&format!("{key} = "))),
            "conf/agent.toml lacks {key}"
        );
    }
}

#[test]
fn a_witness_needs_two_lines() {
    let text = "host = \"w1\"\nwitness = true\ntoken = { file = \"/etc/mha/agent.token\" }\n";
    assert!(agent(&Etc::new(), text).server.is_none());
}
