//! Every rule of `agent.toml`.

use super::super::Service;
use super::{Etc, GOOD_AGENT, assert_all, assert_said, differs, outcome};

const SOCKET: &str = "socket = \"/run/mysqld/mysqld.sock\"";
const SERVICE: &str = "service = { unit = \"mariadb.service\" }";
const HOST: &str = "host = \"db1\"";

#[test]
fn every_mistake_is_refused_with_what_to_write_instead() {
    let etc = Etc::new();
    let cases: &[(&str, &str, &[&str])] = &[
        (HOST, "", &["the file has no `host` | write host = \"…\", this host's name as manager.toml has it"]),
        (HOST, "host = \"http://db1\"", &["is a URL, not a host"]),
        (HOST, "host = \"db1\"\nlisten = \"8421\"", &["\"8421\" is no address and port"]),
        (
            HOST,
            "host = \"db1\"\nsocket = \"/x\"",
            &["unknown key `socket` in the file | `socket` belongs in [server]"],
        ),
        (
            HOST,
            "host = \"db1\"\nrun_dir = \"/var/lib/mha-agent\"",
            &["`data_dir` and `run_dir` are both /var/lib/mha-agent"],
        ),
        (
            HOST,
            "host = \"db1\"\nwitness = true",
            &[
                "a witness has no [server]",
                "a witness has no [admin]",
                "a witness has no [heartbeat]",
                "a witness has no [replication]",
            ],
        ),
        ("token = { file = \"/etc/mha/agent.token\" }", "", &["the file has no `token`"]),
        (SOCKET, "", &["[server] has no `socket`"]),
        (SOCKET, "socket = \"mysqld.sock\"", &["`socket` = \"mysqld.sock\" depends on where"]),
        (SOCKET, "socket = \"/x\"\nport = 0", &["`port` is out of range"]),
        (SOCKET, "socket = \"/x\"\nbinlog_tool = []", &["`binlog_tool` names no program"]),
        (
            SOCKET,
            "socket = \"/x\"\nbinlog_tool = [\"a\", 1]",
            &["`binlog_tool` is a whole number, not a text"],
        ),
        (
            SERVICE,
            "service = { unit = \"mariadb\" }",
            &["\"mariadb\" does not end in .service | write \"mariadb.service\""],
        ),
        (SERVICE, "service = { unit = \"a b.service\" }", &["\"a b.service\" is no unit's name"]),
        (SERVICE, "service = {}", &["`service` says neither `unit` nor `command`"]),
        (
            SERVICE,
            "service = { command = [\"/usr/sbin/mariadbd\"] }",
            &["`service` has a `command` and no `log`"],
        ),
        (
            SERVICE,
            "service = { command = [\"mariadbd\"], log = \"/l\" }",
            &["names its program without its place"],
        ),
        (SERVICE, "service = { unit = \"a.service\", log = \"/l\" }", &["`service` has more than a `unit`"]),
        (SOCKET, "socket = \"/x\"\non_stop = \"wait\"", &["`on_stop`"]),
        (SOCKET, "socket = \"/x\"\nhandoff_within = \"1h\"", &["`handoff_within`"]),
        (SOCKET, "socket = \"/x\"\nrestart_window = \"0s\"", &["`restart_window`"]),
        ("[admin]\nuser = \"mha\"", "[admin]", &["[admin] has no `user`"]),
        ("\"mha_heartbeat\"", "\"mha\"", &["[heartbeat] and [admin] are both \"mha\""]),
        (
            "[replication]",
            "[relication]",
            &[
                "there is no [replication]",
                "unknown key `relication` in the file | did you mean `replication`?",
            ],
        ),
    ];
    let check = |(from, to, want): &(&str, &str, &[&str])| {
        assert!(GOOD_AGENT.contains(from), "{from}");
        differs(to, &outcome(etc.agent(&GOOD_AGENT.replacen(from, to, 1))).0, want)
    };
    assert_all(cases.iter().map(check).collect());
    let local = GOOD_AGENT.replace(HOST, "host = \"db1\"\nlisten = \"127.0.0.1:8421\"");
    assert_said(
        "loopback",
        &outcome(etc.agent(&local)).1,
        &["no other host can ask an agent on a loopback address"],
    );
    let (errors, warnings) = outcome(etc.agent(&GOOD_AGENT.replace(SERVICE, "")));
    assert_said("no service", &errors, &[]);
    assert_said("no service", &warnings, &["[server] has no `service`: a dead server stays dead"]);
}

#[test]
fn a_command_starts_the_server_too() {
    let text = GOOD_AGENT
        .replace(SERVICE, "service = { command = [\"/usr/sbin/mariadbd\", \"-u\"], log = \"/var/log/x\" }");
    let (config, warnings) = Etc::new().agent(&text).unwrap();
    assert!(warnings.is_empty());
    let want = Service::Command {
        command: vec!["/usr/sbin/mariadbd".to_owned(), "-u".to_owned()],
        log: "/var/log/x".into(),
    };
    assert_eq!(config.server.unwrap().service, Some(want));
}
