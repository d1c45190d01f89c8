//! Secrets, read from where the configuration points while it is checked. A secret written into the configuration
//! itself is refused: the file is copied, shown and versioned. Never puts one into a message.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::read::Item;
use super::value::{Refusal, refuse};

/// No password, token or URL is longer; what is, is another file.
const LONGEST: u64 = 16 * 1024;

/// `{ file = "…" }` or `{ env = "…" }`. A mistake is recorded at its line.
pub(super) fn read(item: &Item<'_>) -> Option<SecretString> {
    let key = item.key;
    let example = format!("write {key} = {{ file = \"/etc/mha/{key}\" }} or {{ env = \"NAME\" }}");
    if !item.is_table() {
        item.findings.hide(&item.at);
        item.error(
            format!("`{key}` must not be written here: this file is copied, shown and versioned"),
            format!("{example}, and change the secret if this file left the host"),
        );
        return None;
    }
    let table = item.table(&format!("`{key}`"), &example)?;
    let (file, env) = (table.get("file"), table.get("env"));
    table.finish();
    match (file, env) {
        (Some(file), None) => {
            let path = file.path()?;
            file.checked(from_file(&path))
        }
        (None, Some(env)) => {
            let name = env.text()?;
            env.checked(from_env(name))
        }
        (Some(_), Some(_)) => {
            item.error(format!("`{key}` has both `file` and `env`"), "keep one of the two");
            None
        }
        (None, None) => {
            item.error(format!("`{key}` says neither `file` nor `env`"), example);
            None
        }
    }
}

/// Reads a regular file that not everybody may read.
fn from_file(path: &Path) -> Result<SecretString, Refusal> {
    let shown = path.display();
    let create =
        format!("create it: install -m 0600 /dev/null {shown}, owned by the user this program runs as");
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) => return refuse(format!("cannot read {shown}: {error}"), create),
    };
    if !meta.is_file() {
        return refuse(format!("{shown} is no regular file"), "name the file that holds the secret");
    }
    if meta.permissions().mode() & 0o007 != 0 {
        let mode = meta.permissions().mode() & 0o7777;
        return refuse(
            format!("{shown} is open to everybody (mode {mode:04o})"),
            format!("chmod o-rwx {shown}, and consider the secret known"),
        );
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    if let Err(error) = file {
        return refuse(
            format!("cannot read {shown}: {error}"),
            format!("let the user this program runs as read {shown}"),
        );
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return refuse(
            format!("{shown} holds bytes that are no text"),
            "write the secret as one line of text",
        );
    };
    one_line(text.into(), &shown.to_string())
}

fn from_env(name: &str) -> Result<SecretString, Refusal> {
    if name.contains(['=', '\0']) {
        return refuse(
            format!("{name:?} is no name of an environment variable"),
            "write its name, such as \"MHA_TOKEN\"",
        );
    }
    match std::env::var(name) {
        Ok(text) => one_line(text.into(), name),
        Err(_) => refuse(
            format!("the environment has no variable {name}"),
            format!("set {name} in the service's environment, or write {{ file = \"…\" }}"),
        ),
    }
}

/// Without the newline an editor leaves at the end.
fn one_line(text: SecretString, place: &str) -> Result<SecretString, Refusal> {
    let exposed = text.expose_secret();
    let line = exposed.strip_suffix('\n').unwrap_or(exposed);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if exposed.len() as u64 > LONGEST {
        return refuse(
            format!("{place} is longer than a secret can be"),
            "name the file that holds only the secret",
        );
    }
    if line.is_empty() {
        return refuse(format!("{place} is empty"), "write the secret into it, as one line");
    }
    if line.contains(char::is_control) {
        return refuse(
            format!("{place} holds more than one line, or control characters"),
            "write the secret as one line of text",
        );
    }
    Ok(SecretString::from(line))
}

/// Whether two secrets are the same, without showing either.
pub(super) fn same(a: Option<&SecretString>, b: Option<&SecretString>) -> bool {
    a.map(ExposeSecret::expose_secret) == b.map(ExposeSecret::expose_secret)
}
