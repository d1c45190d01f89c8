//! Where the manager is and which token opens it: flags and environment, then the user's file, then the host's, then loopback.
//! A token from a file goes only to the manager that file names.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

use super::error::CliError;

const DEFAULT_MANAGER: &str = "http://127.0.0.1:8420";

/// `mhactl.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    manager: Option<String>,
    token_file: Option<PathBuf>,
}

/// What to ask, and how.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) manager: String,
    pub(super) token: Option<SecretString>,
}

impl Settings {
    pub(super) fn find(manager: Option<String>, token_file: Option<PathBuf>) -> Result<Self, CliError> {
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/mha/mhactl.toml"));
        let places = home.into_iter().chain([PathBuf::from("/etc/mha/mhactl.toml")]);
        Self::from_files(manager, token_file, places)
    }

    fn from_files(
        mut manager: Option<String>,
        mut token_file: Option<PathBuf>,
        places: impl Iterator<Item = PathBuf>,
    ) -> Result<Self, CliError> {
        for place in places {
            if manager.is_some() && token_file.is_some() {
                break;
            }
            let Some(file) = read(&place)? else { continue };
            let meant = match (&manager, &file.manager) {
                (Some(chosen), Some(named)) => trim(chosen) == trim(named),
                (Some(_), None) | (None, _) => true,
            };
            if meant {
                manager = manager.or(file.manager);
                token_file = token_file.or(file.token_file);
            }
        }
        let manager = trim(&manager.unwrap_or_else(|| DEFAULT_MANAGER.to_owned())).to_owned();
        if manager.starts_with("https://") {
            let next = "name it with http://, over a network you trust or a tunnel";
            return Err(CliError::usage("this mhactl does not speak TLS yet", next));
        }
        let token = token_file.as_deref().map(token).transpose()?;
        Ok(Self { manager, token })
    }
}

fn trim(url: &str) -> &str {
    url.trim().trim_end_matches('/')
}

fn read(path: &Path) -> Result<Option<File>, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            return Err(CliError::usage(message, "mend its permissions"));
        }
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        let message = format!("{} is not understood: {}", path.display(), error.message());
        CliError::usage(message, "it holds manager = \"http://…\" and token_file = \"/path\", nothing else")
    })
}

pub(super) fn token(path: &Path) -> Result<SecretString, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the token file {}: {error}", path.display());
        CliError::usage(message, "name another with --token-file, or mend its permissions")
    })?;
    let token = text.trim();
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        let message = format!("the token file {} holds no token", path.display());
        return Err(CliError::usage(message, "it holds one line of printable characters without spaces"));
    }
    Ok(SecretString::from(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(manager: Option<&str>, files: &[&str]) -> Result<Settings, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "s3cret\n").unwrap();
        let places: Vec<PathBuf> = files
            .iter()
            .enumerate()
            .map(|(index, text)| {
                let path = dir.path().join(index.to_string());
                std::fs::write(&path, text.replace("SECRET", &secret.display().to_string())).unwrap();
                path
            })
            .collect();
        Settings::from_files(manager.map(ToOwned::to_owned), None, places.into_iter())
    }

    #[test]
    fn the_nearest_word_counts() {
        assert_eq!(find(None, &[]).unwrap().manager, DEFAULT_MANAGER);
        let files = ["manager = \"http://user:1\"", "manager = \"http://host:1\""];
        assert_eq!(find(None, &files).unwrap().manager, "http://user:1");
        assert_eq!(find(Some("http://flag:1/"), &files).unwrap().manager, "http://flag:1");
    }

    #[test]
    fn a_token_is_not_shown_to_another_manager() {
        let file = ["manager = \"http://mine:1\"\ntoken_file = \"SECRET\""];
        assert!(find(None, &file).unwrap().token.is_some());
        assert!(find(Some("http://mine:1/"), &file).unwrap().token.is_some());
        assert!(find(Some("http://other:1"), &file).unwrap().token.is_none());
    }

    #[test]
    fn mistakes_are_usage() {
        assert!(find(None, &["managr = \"http://x\""]).is_err());
        assert!(find(Some("https://x"), &[]).is_err());
    }
}
