//! `agent.toml`: one host, its server, how it is opened and started; or a witness, which has none of these.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::manager::{host_name, listen};
use super::read::{Item, Table};
use super::value::refuse;
use super::{AGENT_PORT, AgentConfig, OnStop, ServerConfig, Service, Tls, account, secret};
use crate::model::instance::InstanceId;

const PARTS: [&str; 4] = ["server", "admin", "heartbeat", "replication"];

/// Reads the whole file. `None`, with the mistakes recorded, where something needed is not there.
pub(super) fn read(root: &Table<'_>) -> Option<AgentConfig> {
    let listen = match root.get("listen") {
        Some(item) => {
            let address = listen(&item);
            if address.is_some_and(|address| address.ip().is_loopback()) {
                item.warn(
                    "no other host can ask an agent on a loopback address, nor be given its vote",
                    format!(
                        "write listen = \"0.0.0.0:{AGENT_PORT}\", or an address of the network you trust"
                    ),
                );
            }
            address
        }
        None => Some(SocketAddr::from(([0, 0, 0, 0], AGENT_PORT))),
    };
    let host = root
        .need("host", "write host = \"…\", this host's name as manager.toml has it")
        .and_then(|item| host_name(&item));
    let token = root
        .need(
            "token",
            "write token = { file = \"/etc/mha/agent.token\" }, the same as `agent_token` in manager.toml",
        )
        .and_then(|item| secret::read(&item));
    let data_dir = path_or(root, "data_dir", "/var/lib/mha-agent");
    let run_dir = path_or(root, "run_dir", "/run/mha-agent");
    account::agent_tls(root);
    let witness = root.get("witness");
    let is_witness = match &witness {
        Some(item) => item.bool(),
        None => Some(false),
    };
    let parts = PARTS.map(|key| (key, root.get(key)));
    root.finish();
    let server = match is_witness? {
        true => {
            for (key, item) in parts.iter().filter_map(|(key, item)| item.as_ref().map(|item| (key, item))) {
                item.error(
                    format!("a witness has no [{key}]: it only votes"),
                    format!("remove [{key}], or witness = true"),
                );
            }
            None
        }
        false => Some(server(root, &parts)),
    };
    let server = match server {
        None => None,
        Some(server) => Some(server?),
    };
    let (data_dir, run_dir) = (data_dir?, run_dir?);
    if data_dir == run_dir {
        root.findings.error(
            &root.at,
            format!("`data_dir` and `run_dir` are both {}", data_dir.display()),
            "give run_dir a directory that a reboot empties, such as \"/run/mha-agent\"",
        );
    }
    Some(AgentConfig { listen: listen?, host: host?, token: token?, data_dir, run_dir, server })
}

fn path_or(table: &Table<'_>, key: &'static str, default: &str) -> Option<PathBuf> {
    match table.get(key) {
        Some(item) => item.path(),
        None => Some(PathBuf::from(default)),
    }
}

/// The server and the three accounts, every mistake in any of them recorded.
fn server(root: &Table<'_>, parts: &[(&'static str, Option<Item<'_>>); 4]) -> Option<ServerConfig> {
    let [server, admin, heartbeat, replication] = parts;
    let admin = need(root, admin, "user and password, by which the agent commands its server")
        .map(|table| (table.at.clone(), account::account(&table)));
    let heartbeat =
        need(root, heartbeat, "user and password, which writes mha.heartbeat and may do nothing else")
            .map(|table| (table.at.clone(), account::account(&table)));
    let replication =
        need(root, replication, "user and password, by which this server follows another").map(|table| {
            let tls = match table.get("tls") {
                Some(item) => account::tls(&item),
                None => Some(Tls::Off),
            };
            (account::account(&table), tls)
        });
    let part = need(root, server, "at least its socket").and_then(|table| part(&table));
    let (admin, heartbeat) = (admin?, heartbeat?);
    let (admin, heartbeat_at, heartbeat) = (admin.1?, heartbeat.0, heartbeat.1?);
    if admin.user == heartbeat.user {
        root.findings.error(
            &heartbeat_at,
            format!(
                "[heartbeat] and [admin] are both {:?}: an account that may set read_only also ignores it",
                admin.user
            ),
            "give the heartbeat a user of its own, which may write mha.heartbeat and nothing else",
        );
    }
    let (replication, replication_tls) = replication?;
    let (replication, replication_tls) = (replication?, replication_tls?);
    let Part { port, socket, pid_file, data_dir, binlog_index, binlog_tool, service, stop } = part?;
    let Stop { on_stop, handoff_within, restart_window } = stop;
    Some(ServerConfig {
        port,
        socket,
        pid_file,
        data_dir,
        binlog_index,
        binlog_tool,
        service,
        on_stop,
        handoff_within,
        restart_window,
        admin,
        heartbeat,
        replication,
        replication_tls,
    })
}

/// The table of one of the parts; recorded where it is missing.
fn need<'d>(
    root: &Table<'d>,
    (key, item): &(&'static str, Option<Item<'d>>),
    what: &str,
) -> Option<Table<'d>> {
    let Some(item) = item else {
        root.findings.error(
            &root.at,
            format!("there is no [{key}]"),
            format!("write [{key}] with {what}; or witness = true for a host that only votes"),
        );
        return None;
    };
    item.table(&format!("[{key}]"), &format!("[{key}]"))
}

/// What `[server]` says.
struct Part {
    port: u16,
    socket: PathBuf,
    pid_file: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    binlog_index: Option<PathBuf>,
    binlog_tool: Vec<String>,
    service: Option<Service>,
    stop: Stop,
}

/// What is done before the service manager stops the server.
struct Stop {
    on_stop: OnStop,
    handoff_within: Duration,
    restart_window: Duration,
}

fn part(table: &Table<'_>) -> Option<Part> {
    let port = match table.get("port") {
        Some(item) => item.port(),
        None => Some(InstanceId::DEFAULT_PORT),
    };
    let socket = table
        .need(
            "socket",
            "write socket = \"/run/mysqld/mysqld.sock\", as the server's `socket` variable has it",
        )
        .and_then(|item| item.path());
    let pid_file = table.get("pid_file").and_then(|item| item.path());
    let data_dir = table.get("data_dir").and_then(|item| item.path());
    let binlog_index = table.get("binlog_index").and_then(|item| item.path());
    let binlog_tool = match table.get("binlog_tool") {
        Some(item) => item.words(),
        None => Some(vec!["mysqlbinlog".to_owned()]),
    };
    let service_item = table.get("service");
    let stop = stop(table);
    table.finish();
    if service_item.is_none() {
        table.findings.warn(
            &table.at,
            "[server] has no `service`: a dead server stays dead until somebody else starts it",
            "write service = { unit = \"mariadb.service\" }, or { command = [\"…\"], log = \"/var/log/…\" }",
        );
    }
    let service = match service_item {
        Some(item) => Some(service(&item)?),
        None => None,
    };
    Some(Part {
        port: port?,
        socket: socket?,
        pid_file,
        data_dir,
        binlog_index,
        binlog_tool: binlog_tool?,
        service,
        stop: stop?,
    })
}

fn stop(table: &Table<'_>) -> Option<Stop> {
    let on_stop = match table.get("on_stop") {
        Some(item) => item.word(&[("handoff", OnStop::Handoff), ("planned-restart", OnStop::PlannedRestart)]),
        None => Some(OnStop::Handoff),
    };
    let span = |key, default, most: u64| match table.get(key) {
        Some(item) => item.duration(Duration::from_secs(1), Duration::from_secs(most)),
        None => Some(Duration::from_secs(default)),
    };
    let (handoff_within, restart_window) =
        (span("handoff_within", 30, 600), span("restart_window", 60, 3_600));
    Some(Stop { on_stop: on_stop?, handoff_within: handoff_within?, restart_window: restart_window? })
}

fn service(item: &Item<'_>) -> Option<Service> {
    const EXAMPLE: &str = "service = { unit = \"mariadb.service\" } or { command = [\"/usr/sbin/mariadbd\"], log = \"/var/log/mysql/start.log\" }";
    let table = item.table("`service`", EXAMPLE)?;
    let (unit_item, command, log) = (table.get("unit"), table.get("command"), table.get("log"));
    table.finish();
    match (unit_item, command, log) {
        (Some(item), None, None) => unit(&item).map(Service::Unit),
        (None, Some(command), Some(log)) => {
            let (words, log) = (command.words(), log.path());
            let words = words?;
            if words.first().is_some_and(|program| program.starts_with('/')) {
                return Some(Service::Command { command: words, log: log? });
            }
            command.error(
                "`command` names its program without its place",
                "write the program's whole path, such as \"/usr/sbin/mariadbd\"",
            );
            None
        }
        (None, Some(_), None) => {
            item.error(
                "`service` has a `command` and no `log`",
                "write log = \"/var/log/…\", the file that takes what the program says",
            );
            None
        }
        (None, None, _) => {
            item.error("`service` says neither `unit` nor `command`", format!("write {EXAMPLE}"));
            None
        }
        (Some(_), _, _) => {
            item.error("`service` has more than a `unit`", format!("write {EXAMPLE}"));
            None
        }
    }
}

fn unit(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '-' | '_' | '.' | ':' | '\\');
    let unit = if !text.chars().all(plain) || text.starts_with('-') {
        refuse(
            format!("{text:?} is no unit's name"),
            "write it as `systemctl list-units` shows it, such as \"mariadb.service\"",
        )
    } else if text.ends_with(".service") {
        Ok(text.to_owned())
    } else {
        refuse(format!("{text:?} does not end in .service"), format!("write \"{text}.service\""))
    };
    item.checked(unit)
}
