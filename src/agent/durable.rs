//! Small files that must be whole after any crash: written beside, synced, renamed, and the directory synced. One that
//! cannot be understood is an error and never "nothing": what was forgotten may have been a promise.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a file was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    #[error(
        "{doing} {path}: {source}; nothing that depends on this file is done until it works: make room on that disk, or mend it"
    )]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error(
        "{path} is damaged ({source}); restore it from this host's backup, or move it away only when this host's vote \
         and role may be forgotten"
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// Writes `value` so that after a crash either it or what was there before is found. Blocks on the disk.
///
/// # Errors
/// When the disk refuses; the old content is then still there.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), DurableError> {
    put(path, value, true)
}

/// The same without syncing, for directories a reboot empties.
///
/// # Errors
/// As [`write()`].
pub fn write_volatile<T: Serialize>(path: &Path, value: &T) -> Result<(), DurableError> {
    put(path, value, false)
}

fn put<T: Serialize>(path: &Path, value: &T, sync: bool) -> Result<(), DurableError> {
    let failed = |doing| move |source| DurableError::Io { path: path.to_owned(), doing, source };
    let bytes = serde_json::to_vec(value).map_err(io::Error::other).map_err(failed("encoding"))?;
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside).map_err(failed("opening the new"))?;
    file.write_all(&bytes).map_err(failed("writing"))?;
    if sync {
        file.sync_all().map_err(failed("syncing"))?;
    }
    fs::rename(&beside, path).map_err(failed("renaming"))?;
    match path.parent() {
        Some(directory) if sync => {
            File::open(directory).and_then(|open| open.sync_all()).map_err(failed("syncing the directory of"))
        }
        Some(_) | None => Ok(()),
    }
}

/// So much is tried: what this host keeps of its role and of one cluster's votes is smaller, beside what it replaces.
const TRIED: usize = 16 << 10;

/// Whether a new file at `path` could be written and synced now. Nothing is left of it. Blocks on the disk.
///
/// # Errors
/// Why not.
pub fn try_write(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let tried =
        options.write(true).create(true).truncate(true).mode(0o600).open(path).and_then(|mut file| {
            file.write_all(&[0; TRIED])?;
            file.sync_all()
        });
    match fs::remove_file(path) {
        // It could not even be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => tried,
        removed @ (Ok(()) | Err(_)) => tried.and(removed),
    }
}

/// Reads a value; `None` when there is no such file.
///
/// # Errors
/// When it cannot be read or understood.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DurableError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DurableError::Io { path: path.to_owned(), doing: "reading", source }),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| DurableError::Damaged { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_leaves_nothing_and_says_why_it_failed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("writable.new");
        try_write(&path).unwrap();
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        assert_eq!(try_write(&path).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert!(try_write(&directory.path().join("nowhere/file")).is_err());
        // Every write to this device fails as on a full disk.
        let full = directory.path().join("full");
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        assert_eq!(try_write(&full).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
