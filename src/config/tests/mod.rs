//! Configuration texts and what is said of them. Secrets are real files in a directory of each test's own.

mod agent;
mod conf;
mod fuzz;
mod rules;
mod secrets;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{ConfigErrors, Finding, ManagerConfig, Warning, check_agent_text, check_manager_text};

/// A directory that stands for `/etc/mha`, with every secret the texts below name.
pub(super) struct Etc(tempfile::TempDir);

impl Etc {
    pub(super) fn new() -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for name in ["admin", "repl", "heartbeat", "token", "agent.token", "other"] {
            etc.write(name, &format!("{name}-hunter2\n"), 0o600);
        }
        etc.write("on-event", "#!/bin/sh\n", 0o700);
        etc.write("ca.pem", "-----BEGIN CERTIFICATE-----\n", 0o644);
        etc
    }

    pub(super) fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// The text with `/etc/mha` where this directory is.
    pub(super) fn place(&self, text: &str) -> String {
        text.replace("/etc/mha", &self.0.path().display().to_string())
    }

    pub(super) fn manager(&self, text: &str) -> Result<(ManagerConfig, Vec<Warning>), ConfigErrors> {
        check_manager_text("manager.toml", &self.place(text))
    }

    pub(super) fn agent(&self, text: &str) -> Result<(super::AgentConfig, Vec<Warning>), ConfigErrors> {
        check_agent_text("agent.toml", &self.place(text))
    }
}

/// Three instances, all with agents: nothing to be said against it.
pub(super) const GOOD: &str = r#"
[manager]
listen = "127.0.0.1:8420"
[defaults]
admin = { user = "mha", password = { file = "/etc/mha/admin" } }
replication = { user = "mha_repl", password = { file = "/etc/mha/repl" } }
heartbeat = { user = "mha_heartbeat", password = { file = "/etc/mha/heartbeat" } }
agent_token = { file = "/etc/mha/agent.token" }
[[cluster]]
name = "orders"
mode = "auto"
vip = { address = "10.0.0.100/24", interface = "eth0" }
[[cluster.instance]]
host = "db1"
[[cluster.instance]]
host = "db2"
[[cluster.instance]]
host = "db3"
"#;

pub(super) const GOOD_AGENT: &str = r#"
host = "db1"
token = { file = "/etc/mha/agent.token" }
[server]
socket = "/run/mysqld/mysqld.sock"
service = { unit = "mariadb.service" }
[admin]
user = "mha"
password = { file = "/etc/mha/admin" }
[heartbeat]
user = "mha_heartbeat"
password = { file = "/etc/mha/heartbeat" }
[replication]
user = "mha_repl"
password = { file = "/etc/mha/repl" }
"#;

/// `message | advice` of each finding.
pub(super) fn said<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<String> {
    findings.into_iter().map(|finding| format!("{} | {}", finding.message, finding.advice)).collect()
}

/// Errors and warnings of a check, as [`said`].
pub(super) fn outcome<T>(checked: Result<(T, Vec<Warning>), ConfigErrors>) -> (Vec<String>, Vec<String>) {
    match checked {
        Ok((_, warnings)) => (Vec::new(), said(warnings.iter().map(|warning| &warning.0))),
        Err(ConfigErrors::Wrong { mistakes, warnings }) => {
            (said(&mistakes), said(warnings.iter().map(|warning| &warning.0)))
        }
        Err(other @ ConfigErrors::Unreadable { .. }) => panic!("{other}"),
    }
}

/// What differs where each part in turn is not in the text of the same place, or there is something else.
pub(super) fn differs(case: &str, got: &[String], want: &[&str]) -> Option<String> {
    let same = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| got.contains(want));
    (!same).then(|| format!("{case}:\n  got {got:#?}\n  wanted {want:#?}"))
}

pub(super) fn assert_said(case: &str, got: &[String], want: &[&str]) {
    assert_eq!(differs(case, got, want), None);
}

/// Of many cases all that differ.
pub(super) fn assert_all(differences: Vec<Option<String>>) {
    let differences: Vec<String> = differences.into_iter().flatten().collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn good_texts_have_nothing_said_of_them() {
    let etc = Etc::new();
    assert_eq!(outcome(etc.manager(GOOD)), (vec![], vec![]));
    assert_eq!(outcome(etc.agent(GOOD_AGENT)), (vec![], vec![]));
}

#[test]
fn all_mistakes_are_found_at_once_each_with_its_place() {
    let etc = Etc::new();
    let text = GOOD
        .replace("mode = \"auto\"", "mode = \"atuo\"\nsilense = \"3s\"")
        .replace("host = \"db3\"", "host = \"db2\"\nport = 99999");
    let error = etc.manager(&text).unwrap_err().to_string();
    let want = "\
manager.toml:11:8: error: `mode` cannot be \"atuo\"
11 | mode = \"atuo\"
   |        ^^^^^^
   = did you mean \"auto\"? It may be \"observe\" or \"manual\" or \"auto\"

manager.toml:12:1: error: unknown key `silense` in [[cluster]]
12 | silense = …
   | ^^^^^^^
   = did you mean `silence`?

manager.toml:20:8: error: `port` is out of range
20 | port = 99999
   |        ^^^^^
   = write a whole number from 1 to 65535, without quotes

manager.toml: 3 mistakes; nothing of it was taken over";
    assert_eq!(error, want);
}

#[test]
fn the_design_page_reads_as_it_stands_but_for_the_agents_token() {
    let etc = Etc::new();
    let text = r#"
[manager]
listen   = "127.0.0.1:8420"
data_dir = "/var/lib/mha"
on_event = { webhook = "https://example.org/hook" }
[defaults]
silence        = "3s"
durability     = "lossless"
without_ackers = "block"
admin       = { user = "mha",           password = { file = "/etc/mha/admin" } }
replication = { user = "mha_repl",      password = { file = "/etc/mha/repl" } }
heartbeat   = { user = "mha_heartbeat", password = { file = "/etc/mha/heartbeat" } }
[[cluster]]
name = "orders"
mode = "auto"
vip  = { address = "10.0.0.100/24", interface = "eth0" }
[[cluster.instance]]
host = "db1"
[[cluster.instance]]
host = "db2"
promotion = "prefer"
[[cluster.instance]]
host = "db3"
promotion = "never"
"#;
    assert_said("design", &outcome(etc.manager(text)).0, &["have no `agent_token`"]);
    let text = text.replace("[[cluster]]", "agent_token = { env = \"PATH\" }\n[[cluster]]");
    let (config, warnings) = etc.manager(&text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.clusters[0].cluster.voters.len(), 3);
    assert_eq!(config.clusters[0].cluster.members[2].agent.as_deref(), Some("http://db3:8421"));
}
