//! Accounts, tokens and TLS: what both `manager.toml` and `agent.toml` say of getting into a server or an agent.

use secrecy::ExposeSecret;

use super::read::{Item, Table};
use super::value::refuse;
use super::{Account, Tls, secret};

const TLS: &str = "tls = \"off\", \"required\" or { mode = \"verify_identity\", ca = \"/etc/mha/ca.pem\" }";

/// `{ user = "…", password = { file = "…" } }`, or the table of that header.
pub(super) fn account(table: &Table<'_>) -> Option<Account> {
    let user = table.need("user", "write user = \"mha\"").and_then(|item| user(&item));
    let password = table
        .need("password", "write password = { file = \"/etc/mha/…\" } or { env = \"NAME\" }")
        .and_then(|item| secret::read(&item).map(|password| (item, password)));
    table.finish();
    let (item, password) = password?;
    check_length(table, &item, &password);
    Some(Account { user: user?, password })
}

/// `CHANGE REPLICATION SOURCE` of MySQL takes at most 32 characters; told before a repoint fails in the middle of a failover.
fn check_length(table: &Table<'_>, item: &Item<'_>, password: &secrecy::SecretString) {
    if table.name.contains("replication") && password.expose_secret().chars().count() > 32 {
        item.error(
            "a replication password of more than 32 characters is refused by MySQL's CHANGE REPLICATION SOURCE",
            "use one of at most 32 characters",
        );
    }
}

fn user(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let user = if text.chars().count() > 32 {
        refuse(format!("{text:?} is longer than the 32 characters MySQL allows"), "use a shorter name")
    } else if text.contains('@') {
        refuse(
            format!("{text:?} holds a host"),
            "write only what stands before the @; the host part is the server's",
        )
    } else if text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        refuse(format!("{text:?} holds a character we never quote"), "use letters, digits, '_', '-' and '.'")
    };
    item.checked(user)
}

/// `"off"`, `"required"`, or a table with `mode` and `ca`.
pub(super) fn tls(item: &Item<'_>) -> Option<Tls> {
    #[derive(Clone, Copy)]
    enum Mode {
        Off,
        Required,
        Verify,
    }
    let modes = [("off", Mode::Off), ("required", Mode::Required), ("verify_identity", Mode::Verify)];
    let table = if item.is_table() { Some(item.table("`tls`", TLS)?) } else { None };
    let (mode, ca) = match &table {
        None => (Some(item.clone()), None),
        Some(table) => (table.need("mode", &format!("write {TLS}")), table.get("ca")),
    };
    if let Some(table) = &table {
        table.finish();
    }
    let mode = mode?.word(&modes)?;
    match (mode, ca) {
        (Mode::Off, None) => Some(Tls::Off),
        (Mode::Required, None) => Some(Tls::Required),
        (Mode::Off | Mode::Required, Some(ca)) => {
            ca.error(
                "`ca` is used only with mode = \"verify_identity\"",
                "remove `ca`, or write mode = \"verify_identity\"",
            );
            None
        }
        (Mode::Verify, None) => {
            item.error("\"verify_identity\" needs the authority to trust", format!("write {TLS}"));
            None
        }
        (Mode::Verify, Some(ca)) => {
            let path = ca.path()?;
            match std::fs::read(&path) {
                Ok(bytes) if bytes.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") => {
                    Some(Tls::VerifyIdentity { ca: path })
                }
                Ok(_) => {
                    ca.error(
                        format!("{} holds no PEM certificate", path.display()),
                        "name the authority's certificate in PEM form",
                    );
                    None
                }
                Err(error) => {
                    ca.error(
                        format!("cannot read {}: {error}", path.display()),
                        "name the authority's certificate in PEM form",
                    );
                    None
                }
            }
        }
    }
}

/// Reserved for agents with certificates. Refused rather than ignored: who writes it counts on it.
pub(super) fn agent_tls(table: &Table<'_>) {
    if let Some(item) = table.get("agent_tls") {
        item.error(
            format!("`agent_tls` is not supported by mha {}", env!("CARGO_PKG_VERSION")),
            "remove it; keep the agents' port to a network you trust and set `agent_token`",
        );
    }
}
