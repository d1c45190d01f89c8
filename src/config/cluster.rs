//! `[[cluster]]`: its members, address, witnesses and accounts, over what `[defaults]` says. Becomes a
//! [`Cluster`]; what its parts say to each other is `check.rs`.

use std::time::Duration;

use secrecy::SecretString;

use super::findings::{Findings, Span};
use super::read::{Item, Table};
use super::thresholds::Thresholds;
use super::value::{self, base_url, prefixed, refuse, same_host, url};
use super::{AGENT_PORT, Account, Accounts, ClusterConfig, Tls, account, check, secret};
use crate::model::cluster::{
    Cluster, ClusterName, Member, Mode, Promotion, TrafficProgram, VipAddress, Voter,
};
use crate::model::instance::InstanceId;

/// What a layer says: absent, refused (and told), or a value.
#[derive(Debug, Clone)]
pub(super) enum Said<T> {
    Nothing,
    Wrong,
    Value(T),
}

impl<T> Said<T> {
    fn put(&mut self, value: Option<T>) {
        *self = value.map_or(Self::Wrong, Self::Value);
    }
}

/// What may stand in `[defaults]` and in a cluster.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) thresholds: Thresholds,
    admin: Said<Account>,
    replication: Said<Account>,
    heartbeat: Said<Account>,
    agent_token: Said<SecretString>,
    tls: Said<Tls>,
    agents: bool,
}

impl Default for Layer {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            admin: Said::Nothing,
            replication: Said::Nothing,
            heartbeat: Said::Nothing,
            agent_token: Said::Nothing,
            tls: Said::Value(Tls::Off),
            agents: true,
        }
    }
}

impl Layer {
    pub(super) fn overlay(&mut self, table: &Table<'_>) {
        self.thresholds.overlay(table);
        let accounts = [
            ("admin", "`admin`", &mut self.admin),
            ("replication", "`replication`", &mut self.replication),
            ("heartbeat", "`heartbeat`", &mut self.heartbeat),
        ];
        for (key, name, said) in accounts {
            let Some(item) = table.get(key) else { continue };
            let example = format!("{key} = {{ user = \"…\", password = {{ file = \"/etc/mha/{key}\" }} }}");
            said.put(item.table(name, &example).and_then(|table| account::account(&table)));
        }
        if let Some(item) = table.get("agent_token") {
            self.agent_token.put(secret::read(&item));
        }
        if let Some(item) = table.get("tls") {
            self.tls.put(account::tls(&item));
        }
        account::agent_tls(table);
        if let Some(agents) = table.get("agents").and_then(|item| item.bool()) {
            self.agents = agents;
        }
    }
}

/// A member and where it is written.
#[derive(Debug)]
pub(super) struct ReadMember {
    pub(super) member: Member,
    pub(super) at: Span,
}

/// A cluster as read, with the places checks point at.
#[derive(Debug)]
pub(super) struct Read {
    /// Where its name is written, or its header.
    pub(super) at: Span,
    pub(super) name: Option<ClusterName>,
    pub(super) mode: Mode,
    pub(super) members: Vec<ReadMember>,
    pub(super) vip: Option<(VipAddress, Span)>,
    traffic: Option<TrafficProgram>,
    pub(super) voters: Vec<Voter>,
    pub(super) layer: Layer,
    /// A member was refused: nothing may be counted.
    pub(super) partial: bool,
    accounts: Option<Accounts>,
}

impl Read {
    /// What its agents and witnesses want to be shown.
    pub(super) fn token(&self) -> Option<&SecretString> {
        match &self.layer.agent_token {
            Said::Value(token) => Some(token),
            Said::Nothing | Said::Wrong => None,
        }
    }

    /// `None` where something needed was refused.
    pub(super) fn finish(self) -> Option<ClusterConfig> {
        let agent_token = match self.layer.agent_token {
            Said::Value(token) => Some(token),
            Said::Nothing | Said::Wrong => None,
        };
        let tls = match self.layer.tls {
            Said::Value(tls) => tls,
            Said::Nothing | Said::Wrong => return None,
        };
        let cluster = Cluster {
            name: self.name?,
            mode: self.mode,
            members: self.members.into_iter().map(|read| read.member).collect(),
            vip: self.vip.map(|(vip, _)| vip),
            traffic: self.traffic,
            voters: self.voters,
            policy: self.layer.thresholds.policy,
        };
        Some(ClusterConfig { cluster, accounts: self.accounts?, agent_token, tls })
    }
}

/// Reads one cluster. Always gives what could be read, so that rules between clusters see it.
pub(super) fn read(table: &Table<'_>, defaults: &Layer, manager: Option<&Voter>) -> Option<Read> {
    let mut layer = defaults.clone();
    layer.overlay(table);
    let name_item = table.need("name", "write name = \"…\", such as \"orders\"");
    let at = name_item.as_ref().map_or_else(|| table.at.clone(), |item| item.at.clone());
    let name = name_item.and_then(|item| name(&item));
    let mode = table.get("mode").and_then(|item| {
        item.word(&[("observe", Mode::Observe), ("manual", Mode::Manual), ("auto", Mode::Auto)])
    });
    let vip = table.get("vip").and_then(|item| vip(&item));
    let traffic = table.get("traffic").and_then(|item| traffic(&item));
    let witnesses = table.get("witnesses").map(|item| witnesses(&item)).unwrap_or_default();
    let tables = table.tables("instance", "[[cluster.instance]]");
    table.finish();
    if tables.is_empty() && !table.holds("instance") {
        table.findings.error(
            &at,
            "the cluster has no instances",
            "write [[cluster.instance]] with a host for each of its servers",
        );
    }
    let members: Vec<ReadMember> = tables.iter().filter_map(|table| member(table, layer.agents)).collect();
    let partial = members.len() != tables.len() || tables.is_empty();
    let accounts = accounts(&layer, table.findings, &at);
    let voters = check::voters(&members, &witnesses, manager, table.findings);
    let mut read = Read {
        at,
        name,
        mode: mode.unwrap_or_default(),
        members,
        vip,
        traffic,
        voters,
        layer,
        partial,
        accounts,
    };
    needs_token(&read, !witnesses.is_empty(), table.findings);
    check::within(&mut read, &witnesses, manager, table.findings);
    Some(read)
}

fn needs_token(read: &Read, witnesses: bool, findings: &Findings<'_>) {
    let agents = witnesses || read.members.iter().any(|read| read.member.agent.is_some());
    if agents && matches!(read.layer.agent_token, Said::Nothing) {
        findings.error(
            &read.at,
            "the cluster's agents have no `agent_token`: anybody could have them fence a server",
            "write agent_token = { file = \"/etc/mha/agent.token\" } under [defaults], the same as `token` in agent.toml; or agents = false",
        );
    }
}

fn name(item: &Item<'_>) -> Option<ClusterName> {
    let text = item.text()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name = if text.len() > 64 {
        refuse(format!("{text:?} is longer than 64 characters"), "write a shorter name")
    } else if text.chars().all(plain) {
        Ok(ClusterName(text.to_owned()))
    } else {
        refuse(format!("{text:?} is no name of a cluster"), "use letters, digits, '_' and '-'")
    };
    item.checked(name)
}

fn vip(item: &Item<'_>) -> Option<(VipAddress, Span)> {
    let table = item.table("`vip`", "vip = { address = \"10.0.0.100/24\", interface = \"eth0\" }")?;
    let address_item = table.need("address", "write address = \"10.0.0.100/24\"");
    let interface =
        table.need("interface", "write interface = \"eth0\", as the hosts call the clients' network");
    table.finish();
    let interface = interface.and_then(|item| {
        let text = item.text()?;
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
        let checked = if text.len() > 15 {
            refuse(
                format!("{text:?} is longer than the 15 characters an interface's name may have"),
                "write it as `ip link` shows it",
            )
        } else if text.contains(bad) || text == "." || text == ".." {
            refuse(format!("{text:?} is no interface's name"), "write it as `ip link` shows it")
        } else {
            Ok(text.to_owned())
        };
        item.checked(checked)
    });
    let address_item = address_item?;
    let (address, prefix) = address_item.checked(prefixed(address_item.text()?))?;
    Some((VipAddress { address, prefix, interface: interface? }, address_item.at))
}

/// How long a traffic program may take where its line does not say.
const TRAFFIC_WITHIN: Duration = Duration::from_secs(2);

fn traffic(item: &Item<'_>) -> Option<TrafficProgram> {
    const EXAMPLE: &str = "traffic = { exec = \"/etc/mha/traffic\", within = \"2s\" }";
    let table = item.table("`traffic`", EXAMPLE)?;
    let (exec, within) = (table.need("exec", EXAMPLE), table.get("within"));
    table.finish();
    let within = match within {
        Some(item) => item.duration(Duration::from_millis(100), Duration::from_secs(60))?,
        None => TRAFFIC_WITHIN,
    };
    Some(TrafficProgram { program: super::manager::program(&exec?)?, within })
}

fn witnesses(item: &Item<'_>) -> Vec<(Voter, Span)> {
    let items = item.texts().unwrap_or_default();
    let voter = |item: &Item<'_>| {
        let (url, host) = item.checked(base_url(item.as_text()?, AGENT_PORT))?;
        Some((Voter { host, url }, item.at.clone()))
    };
    items.iter().filter_map(voter).collect()
}

fn member(table: &Table<'_>, agents: bool) -> Option<ReadMember> {
    let host = table.need("host", "write host = \"…\", such as \"db1\" or \"db1:3307\"");
    let port = table.get("port");
    let promotion = table.get("promotion").map(|item| {
        item.word(&[("prefer", Promotion::Prefer), ("allow", Promotion::Allow), ("never", Promotion::Never)])
    });
    let zone = table.get("zone").and_then(|item| item.text().map(str::to_owned));
    let agent_item = table.get("agent");
    table.finish();
    let host = host?;
    let instance = instance(&host, port.as_ref())?;
    let agent = match agent_item {
        None => agents.then(|| url(&instance.host, AGENT_PORT)),
        Some(item) => agent(&item, &instance)?,
    };
    let member = Member { instance, promotion: promotion.unwrap_or(Some(Promotion::Allow))?, zone, agent };
    Some(ReadMember { member, at: host.at })
}

fn instance(host: &Item<'_>, port: Option<&Item<'_>>) -> Option<InstanceId> {
    let text = host.text()?;
    let mut id = host.checked(value::instance(text))?;
    if let Some(item) = port {
        let port = item.port()?;
        let in_host = same_host(text) != same_host(&id.host) && !text.starts_with('[') || text.contains("]:");
        if in_host && port != id.port {
            item.error(format!("`port` is {port}, but `host` says {}", id.port), "keep one of the two");
            return None;
        }
        id.port = port;
    }
    Some(id)
}

/// `true`, `false`, or a URL.
fn agent(item: &Item<'_>, instance: &InstanceId) -> Option<Option<String>> {
    if let Some(wanted) = item.as_bool() {
        return Some(wanted.then(|| url(&instance.host, AGENT_PORT)));
    }
    let Some(text) = item.as_text() else {
        item.error(
            "`agent` is neither true, false nor a URL",
            format!("write agent = {:?}", url(&instance.host, AGENT_PORT)),
        );
        return None;
    };
    item.checked(base_url(text, AGENT_PORT)).map(|(url, _)| Some(url))
}

fn accounts(layer: &Layer, findings: &Findings<'_>, at: &Span) -> Option<Accounts> {
    let need = |said: &Said<Account>, key: &str, what: &str| match said {
        Said::Value(account) => Some(account.clone()),
        Said::Wrong => None,
        Said::Nothing => {
            findings.error(
                at,
                format!("the cluster has no `{key}` account, {what}"),
                format!("write {key} = {{ user = \"…\", password = {{ file = \"/etc/mha/{key}\" }} }} under [defaults]"),
            );
            None
        }
    };
    let admin = need(&layer.admin, "admin", "by which the manager watches and commands its servers");
    let replication = need(&layer.replication, "replication", "by which its replicas read from their source");
    let heartbeat = need(&layer.heartbeat, "heartbeat", "which writes mha.heartbeat and may do nothing else");
    let accounts = Accounts { admin: admin?, replication: replication?, heartbeat: heartbeat? };
    check::accounts(&accounts, findings, at);
    Some(accounts)
}
