//! `manager.toml` from the top: `[manager]`, `[defaults]`, and the clusters held against each other.
//! What is inside a cluster is `cluster.rs`.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use secrecy::SecretString;

use super::cluster::{self, Layer};
use super::read::{Item, Table};
use super::value::{self, base_url, refuse, url};
use super::{ManagerConfig, OnEvent, VOTE_PORT, check, secret};
use crate::model::cluster::Voter;

/// The most automatic failovers of all clusters within a minute, where the file says nothing.
const FAILOVERS_AT_ONCE: u32 = 10;

/// What `[manager]` says.
struct Service {
    listen: SocketAddr,
    data_dir: PathBuf,
    failovers_at_once: u32,
    on_event: Option<OnEvent>,
    token: Option<SecretString>,
    vote: Option<Voter>,
}

/// Reads the whole file. `None`, with the mistakes recorded, where something needed is not there.
pub(super) fn read(root: &Table<'_>) -> Option<ManagerConfig> {
    let service = match root.get("manager") {
        Some(item) => item.table("[manager]", "[manager]").and_then(|table| service(&table)),
        None => Some(Service {
            listen: default_listen(),
            data_dir: PathBuf::from("/var/lib/mha"),
            failovers_at_once: FAILOVERS_AT_ONCE,
            on_event: None,
            token: None,
            vote: None,
        }),
    };
    let mut defaults = Layer::default();
    if let Some(table) = root.get("defaults").and_then(|item| item.table("[defaults]", "[defaults]")) {
        defaults.overlay(&table);
        table.finish();
    }
    let tables = root.tables("cluster", "[[cluster]]");
    root.finish();
    if tables.is_empty() && !root.holds("cluster") {
        root.findings.error(
            &root.at,
            "there is no cluster to watch",
            "write [[cluster]] with a name, and [[cluster.instance]] with a host for each server",
        );
    }
    let vote = service.as_ref().and_then(|service| service.vote.as_ref());
    let clusters: Vec<_> = tables.iter().filter_map(|table| cluster::read(table, &defaults, vote)).collect();
    check::between(&clusters, vote, root.findings);
    let clusters: Option<Vec<_>> = clusters.into_iter().map(cluster::Read::finish).collect();
    let Service { listen, data_dir, failovers_at_once, on_event, token, vote } = service?;
    Some(ManagerConfig { listen, data_dir, failovers_at_once, on_event, token, vote, clusters: clusters? })
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8420))
}

fn service(table: &Table<'_>) -> Option<Service> {
    let listen_item = table.get("listen");
    let listen = match &listen_item {
        Some(item) => listen(item),
        None => Some(default_listen()),
    };
    let data_dir = match table.get("data_dir") {
        Some(item) => item.path(),
        None => Some(PathBuf::from("/var/lib/mha")),
    };
    let failovers_at_once = match table.get("failovers_at_once") {
        Some(item) => item.number(1..=1_000),
        None => Some(FAILOVERS_AT_ONCE),
    };
    let on_event = table.get("on_event").and_then(|item| on_event(&item));
    let token_item = table.get("token");
    if let (Some(listen), Some(item), None) = (listen, &listen_item, &token_item)
        && !listen.ip().is_loopback()
    {
        item.error(
            format!("`listen` = \"{listen}\" lets other hosts command the manager, and there is no `token`"),
            "write token = { file = \"/etc/mha/token\" }, or listen = \"127.0.0.1:8420\"",
        );
    }
    let token = token_item.and_then(|item| secret::read(&item));
    let vote = vote(table);
    table.finish();
    Some(Service {
        listen: listen?,
        data_dir: data_dir?,
        failovers_at_once: failovers_at_once?,
        on_event,
        token,
        vote,
    })
}

/// An address of this host and a port.
pub(super) fn listen(item: &Item<'_>) -> Option<SocketAddr> {
    let text = item.text()?;
    let address = match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            refuse(format!("{text:?} has no fixed port"), "write a port from 1 to 65535")
        }
        Ok(address) => Ok(address),
        Err(_) => refuse(
            format!("{text:?} is no address and port"),
            "write an IP address and a port, such as \"127.0.0.1:8420\", \"0.0.0.0:8420\" or \"[::]:8420\"",
        ),
    };
    item.checked(address)
}

/// `{ webhook = "https://…" }`, the URL also as `{ file }` or `{ env }`; or `{ exec = "/path" }`.
fn on_event(item: &Item<'_>) -> Option<OnEvent> {
    const EXAMPLE: &str = "on_event = { webhook = \"https://…\" } or { exec = \"/etc/mha/on-event\" }";
    let table = item.table("`on_event`", EXAMPLE)?;
    let (webhook, exec) = (table.get("webhook"), table.get("exec"));
    table.finish();
    match (webhook, exec) {
        (Some(webhook), None) => {
            if webhook.is_table() {
                return secret::read(&webhook).map(OnEvent::Webhook);
            }
            webhook.findings.hide(&webhook.at);
            let text = webhook.text()?;
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            if rest.is_some_and(|rest| {
                !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace)
            }) {
                return Some(OnEvent::Webhook(SecretString::from(text)));
            }
            webhook.error("`webhook` is no URL", "write webhook = \"https://…\"");
            None
        }
        (None, Some(exec)) => program(&exec).map(OnEvent::Exec),
        (Some(_), Some(_)) => {
            item.error(
                "`on_event` has both `webhook` and `exec`",
                "keep one of the two; the program can post as well",
            );
            None
        }
        (None, None) => {
            item.error("`on_event` tells nobody", format!("write {EXAMPLE}"));
            None
        }
    }
}

/// The whole path of a program that is there.
pub(super) fn program(item: &Item<'_>) -> Option<PathBuf> {
    let path = item.path()?;
    let shown = path.display();
    let checked = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => refuse(format!("{shown} is no program"), format!("chmod +x {shown}, or name another")),
        Err(error) => {
            refuse(format!("cannot find {shown}: {error}"), "write the whole path of a program that is there")
        }
    };
    item.checked(checked)?;
    Some(path)
}

/// The vote of the manager's own host: `host`, `vote`, or both.
fn vote(table: &Table<'_>) -> Option<Voter> {
    let (host, vote) = (table.get("host"), table.get("vote"));
    let named = host.as_ref().map(host_name);
    match (named, vote) {
        (None, None) | (Some(None), _) => None,
        (Some(Some(host)), None) => Some(Voter { url: url(&host, VOTE_PORT), host }),
        (named, Some(vote)) => {
            let (url, in_url) = vote.checked(base_url(vote.text()?, VOTE_PORT))?;
            Some(Voter { host: named.flatten().unwrap_or(in_url), url })
        }
    }
}

/// A host's name or address, without a port.
pub(super) fn host_name(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let host = value::instance(text).and_then(|id| {
        // An IPv6 address in brackets is only an address, but not as voters' lists have it.
        if id.host == text {
            Ok(id.host)
        } else {
            refuse(format!("{text:?} is more than a host's name"), format!("write {:?}", id.host))
        }
    });
    item.checked(host)
}
