//! A copy of a server's data as files: MariaDB's backup tool at the giving end and the receiving one, and where a copy lies beside
//! the data it is to replace. It never touches the data itself, and no secret is in a tool's arguments.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::disk;

/// How much of a tool's words an error quotes.
const QUOTE: usize = 600;
/// What the backup tool writes for itself.
const ITS_OWN: [&str; 3] = ["xtrabackup_", "mariadb_backup_", "backup-my.cnf"];
/// Where what the tools say is kept, beside a copy: of unpacking it, and of making it usable.
const TOOLS_LOGS: [&str; 2] = ["unpack.log", "prepare.log"];
/// Where it writes the position of the copy, by its version.
const POSITIONS: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{doing} {path}: {source}")]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("{program} could not be run: {source}; install the package mariadb-backup on this host")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} ended with {status}; it said last: {said}")]
    Failed { program: &'static str, status: String, said: String },
    #[error(
        "{data} is a mount point, so no copy can take its place; move the data one level down, such as to {data}/data"
    )]
    MountPoint { data: PathBuf },
    #[error("the copy needs about {need} MiB and {path} has {free} MiB free")]
    Space { path: PathBuf, need: u64, free: u64 },
    #[error("the backup tool left no position in {0}")]
    Position(PathBuf),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io { path, doing, source }
}

/// The places of a rebuild.
#[derive(Debug, Clone)]
pub struct Place {
    /// What is to be replaced.
    pub data: PathBuf,
    /// Beside it, on the same disk: what is made, and what was.
    pub beside: PathBuf,
}

impl Place {
    /// Beside that data directory.
    ///
    /// # Errors
    /// When nothing there can take its place by being renamed.
    pub fn of(data: &Path) -> Result<Self, CopyError> {
        let mut name = data.file_name().unwrap_or_default().to_owned();
        name.push(".mha");
        let beside = data.with_file_name(name);
        if disk::is_mount_point(data) {
            return Err(CopyError::MountPoint { data: data.to_owned() });
        }
        Ok(Self { data: data.to_owned(), beside })
    }

    /// Where the copy is made.
    pub fn copy(&self) -> PathBuf {
        self.beside.join("new")
    }

    /// Where a copy is put that the server did not start with.
    fn failed(&self) -> PathBuf {
        self.beside.join("failed")
    }

    /// Removes what a rebuild left that is over, and `old` data that nobody needs any more. What an earlier rebuild has kept stays.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn settle(&self, old: Option<&Path>) -> Result<(), CopyError> {
        for left in [self.copy(), self.failed()].iter().map(PathBuf::as_path).chain(old) {
            remove(left)?;
        }
        for log in TOOLS_LOGS.map(|log| self.beside.join(log)) {
            match fs::remove_file(&log) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(io_error("removing", &log)(error))?
                }
                Ok(()) | Err(_) => {}
            }
        }
        match fs::remove_dir(&self.beside) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                Ok(())
            }
            removed => removed.map_err(io_error("removing", &self.beside)),
        }
    }

    /// Makes room for a copy: nothing of an earlier one is left, old data is. `for_server`: the server itself is to write there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear(&self, for_server: bool) -> Result<(), CopyError> {
        let new = self.copy();
        remove(&new)?;
        if !self.beside.exists() {
            let made = fs::DirBuilder::new().mode(0o700).create(&self.beside);
            made.map_err(io_error("creating", &self.beside))?;
        }
        own_as(&self.data, &self.beside)?;
        if !for_server {
            fs::DirBuilder::new().mode(0o700).create(&new).map_err(io_error("creating", &new))?;
        }
        Ok(())
    }

    /// Whether so many bytes fit, with a tenth to spare.
    ///
    /// # Errors
    /// That they do not.
    pub fn has_room(&self, bytes: u64) -> Result<(), CopyError> {
        let parent = self.data.parent().unwrap_or(Path::new("/"));
        let free = disk::free(parent).map_err(io_error("looking at the disk of", parent))?;
        let need = bytes / 10 * 11;
        if free < need {
            return Err(CopyError::Space { path: parent.to_owned(), need: need >> 20, free: free >> 20 });
        }
        Ok(())
    }
}

/// Removes a directory and all in it, if it is there.
///
/// # Errors
/// When the disk refuses.
pub fn remove(path: &Path) -> Result<(), CopyError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("removing", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same owner as the data, where there is data.
fn own_as(data: &Path, path: &Path) -> Result<(), CopyError> {
    let Ok(like) = fs::metadata(data) else { return Ok(()) };
    let now = fs::metadata(path).map_err(io_error("looking at", path))?;
    if (now.uid(), now.gid()) != (like.uid(), like.gid()) {
        chown(path, Some(like.uid()), Some(like.gid())).map_err(io_error("giving the server", path))?;
    }
    Ok(())
}

/// Gives a copy to the owner of the data, all of it.
///
/// # Errors
/// When the disk refuses.
pub fn give(place: &Place, path: &Path) -> Result<(), CopyError> {
    own_as(&place.data, path)?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).map_err(io_error("reading", path))? {
            let entry = entry.map_err(io_error("reading", path))?;
            give(place, &entry.path())?;
        }
    }
    Ok(())
}

/// Bytes of the data that a copy will hold, about: logs are not copied.
///
/// # Errors
/// When it cannot be read.
pub fn size(data: &Path) -> Result<u64, CopyError> {
    let mut sum = 0;
    for entry in fs::read_dir(data).map_err(io_error("reading", data))? {
        let entry = entry.map_err(io_error("reading", data))?;
        // Tables come and go while one looks.
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            sum += size(&entry.path()).unwrap_or_default();
        } else if is_data(&entry.file_name().to_string_lossy()) {
            sum += found.len();
        }
    }
    Ok(sum)
}

fn is_data(name: &str) -> bool {
    let log = name.rsplit_once('.').is_some_and(|(_, end)| end.bytes().all(|b| b.is_ascii_digit()));
    (!log || name.starts_with("aria_log")) && !name.starts_with("ib_logfile") && name != "ibtmp1"
}

/// A tool at work, what it says being kept in a file.
#[derive(Debug)]
pub struct Tool {
    pub child: Child,
    program: &'static str,
    log: PathBuf,
}

impl Tool {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it did not end well, with its last words.
    pub async fn end(mut self) -> Result<(), CopyError> {
        drop(self.child.stdin.take());
        let program = self.program;
        let status = self.child.wait().await.map_err(|source| CopyError::Run { program, source })?;
        if status.success() {
            return Ok(());
        }
        Err(CopyError::Failed { program, status: status.to_string(), said: last_words(&self.log) })
    }
}

fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(QUOTE)..]).into_owned();
    let text = text.trim();
    if text.is_empty() { "(nothing)".to_owned() } else { text.to_owned() }
}

/// Runs it with little claim on the processor: the server beside it serves.
fn run(
    program: &'static str,
    arguments: &[String],
    log: &Path,
    (stdin, stdout): (Stdio, Stdio),
) -> Result<Tool, CopyError> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let said = options.open(log).map_err(io_error("creating", log))?;
    let child = Command::new("nice")
        .args(["-n", "10", program])
        .args(arguments)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(said)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CopyError::Run { program, source })?;
    Ok(Tool { child, program, log: log.to_owned() })
}

/// Copies the server behind `socket`: the copy comes out of its standard output. `work` is a directory of its own.
///
/// # Errors
/// When the tool cannot be run.
pub fn backup(work: &Path, socket: &Path, (user, password): (&str, &str)) -> Result<Tool, CopyError> {
    remove(work)?;
    fs::DirBuilder::new().mode(0o700).recursive(true).create(work).map_err(io_error("creating", work))?;
    let secrets = work.join("login.cnf");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&secrets)
        .map_err(io_error("creating", &secrets))?;
    let text = format!(
        "[mariadb-backup]\nuser={}\npassword={}\nsocket={}\n",
        quoted(user),
        quoted(password),
        quoted(&socket.to_string_lossy())
    );
    file.write_all(text.as_bytes()).map_err(io_error("writing", &secrets))?;
    let target = work.join("target");
    let arguments = [
        format!("--defaults-file={}", secrets.display()),
        "--backup".to_owned(),
        "--stream=mbstream".to_owned(),
        format!("--target-dir={}", target.display()),
    ];
    run("mariadb-backup", &arguments, &work.join("backup.log"), (Stdio::null(), Stdio::piped()))
}

/// A value of an option file.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Unpacks what is written into its standard input.
///
/// # Errors
/// When the tool cannot be run.
pub fn unpack(place: &Place) -> Result<Tool, CopyError> {
    let arguments = ["-x".to_owned(), "-C".to_owned(), place.copy().display().to_string()];
    run("mbstream", &arguments, &place.beside.join(TOOLS_LOGS[0]), (Stdio::piped(), Stdio::null()))
}

/// Makes the copy usable.
///
/// # Errors
/// When the tool cannot be run.
pub fn prepare(place: &Place) -> Result<Tool, CopyError> {
    let arguments = ["--prepare".to_owned(), format!("--target-dir={}", place.copy().display())];
    run("mariadb-backup", &arguments, &place.beside.join(TOOLS_LOGS[1]), (Stdio::null(), Stdio::null()))
}

/// The GTID position the copy stands at, as the tool wrote it. What it wrote for itself is removed.
///
/// # Errors
/// When there is none.
pub fn position(place: &Place) -> Result<String, CopyError> {
    let new = place.copy();
    let text = POSITIONS.iter().find_map(|name| fs::read_to_string(new.join(name)).ok());
    let text = text.ok_or_else(|| CopyError::Position(new.clone()))?;
    // File, place in it, position; the last may be missing where nothing was ever written.
    let gtid = text.split_whitespace().skip(2).collect::<String>();
    for entry in fs::read_dir(&new).map_err(io_error("reading", &new))? {
        let entry = entry.map_err(io_error("reading", &new))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if ITS_OWN.iter().any(|own| name.starts_with(own)) {
            fs::remove_file(entry.path()).map_err(io_error("removing", &entry.path()))?;
        }
    }
    Ok(gtid)
}

/// What a server has in its data that is its own and no table's: who it is, what was set for good, its certificates.
fn is_its_own(name: &str) -> bool {
    matches!(name, "auto.cnf" | "mysqld-auto.cnf") || name.ends_with(".pem")
}

/// Brings over what is the server's own, and gives the copy its owner and rights. What was brought before is brought again.
///
/// # Errors
/// When the disk refuses.
pub fn furnish(place: &Place) -> Result<(), CopyError> {
    let new = place.copy();
    if let Ok(entries) = fs::read_dir(&place.data) {
        for entry in entries.flatten().filter(|entry| is_its_own(&entry.file_name().to_string_lossy())) {
            let to = new.join(entry.file_name());
            fs::copy(entry.path(), &to).map_err(io_error("copying to", &to))?;
        }
        let like = fs::metadata(&place.data).map_err(io_error("looking at", &place.data))?;
        fs::set_permissions(&new, like.permissions()).map_err(io_error("opening", &new))?;
    }
    give(place, &new)
}

/// Which data is in the server's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// The copy; the old data is put aside.
    Copy,
    /// The old data: the copy was there and was taken back, or there is none.
    Old,
}

/// The copy takes the data's place, the data goes to `old`. Done in part before, it is ended. Taken back before, that is ended, and told: the
/// old data must never be given the copy's history.
///
/// # Errors
/// When the disk refuses: whoever asks again goes on.
pub fn exchange(place: &Place, old: &Path) -> Result<InPlace, CopyError> {
    let new = place.copy();
    let in_place = match (new.exists(), old.exists()) {
        (true, aside) => {
            if place.data.exists() && !aside {
                furnish(place)?;
                fs::rename(&place.data, old).map_err(io_error("putting aside", &place.data))?;
            }
            fs::rename(&new, &place.data).map_err(io_error("putting in place", &new))?;
            InPlace::Copy
        }
        (false, true) if place.data.exists() => InPlace::Copy,
        (false, true) => {
            fs::rename(old, &place.data).map_err(io_error("putting back", old))?;
            InPlace::Old
        }
        (false, false) => InPlace::Old,
    };
    sync(place)?;
    Ok(in_place)
}

/// The old data is in its place again, the copy is put beside it for whoever wants to know why it did not do.
///
/// # Errors
/// When the disk refuses: whoever asks again goes on.
pub fn take_back(place: &Place, old: &Path) -> Result<(), CopyError> {
    if old.exists() {
        if place.data.exists() {
            let failed = place.failed();
            remove(&failed)?;
            fs::rename(&place.data, &failed).map_err(io_error("putting aside", &place.data))?;
        }
        fs::rename(old, &place.data).map_err(io_error("putting back", old))?;
    }
    sync(place)
}

fn sync(place: &Place) -> Result<(), CopyError> {
    let parent = place.data.parent().unwrap_or(Path::new("/"));
    for directory in [parent, &place.beside] {
        fs::File::open(directory)
            .and_then(|open| open.sync_all())
            .map_err(io_error("syncing the directory", directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("t.ibd"), "old").unwrap();
        fs::write(data.join("auto.cnf"), "me").unwrap();
        let place = Place::of(&data).unwrap();
        place.clear(false).unwrap();
        fs::write(place.copy().join("t.ibd"), "new").unwrap();
        (directory, place)
    }

    #[test]
    fn a_copy_takes_the_datas_place_however_often_it_is_interrupted() {
        for interrupted in [false, true] {
            let (_directory, place) = place();
            let old = place.beside.join("old");
            if interrupted {
                furnish(&place).unwrap();
                fs::rename(&place.data, &old).unwrap();
            }
            assert_eq!(exchange(&place, &old).unwrap(), InPlace::Copy);
            assert_eq!(exchange(&place, &old).unwrap(), InPlace::Copy);
            assert_eq!(fs::read_to_string(place.data.join("t.ibd")).unwrap(), "new");
            assert_eq!(fs::read_to_string(place.data.join("auto.cnf")).unwrap(), "me");
            assert_eq!(fs::read_to_string(old.join("t.ibd")).unwrap(), "old");
            take_back(&place, &old).unwrap();
            assert_eq!(fs::read_to_string(place.data.join("t.ibd")).unwrap(), "old");
        }
    }

    #[test]
    fn a_copy_that_was_taken_back_is_never_in_place_again() {
        for interrupted in [false, true] {
            let (_directory, place) = place();
            let old = place.beside.join("old");
            assert_eq!(exchange(&place, &old).unwrap(), InPlace::Copy);
            if interrupted {
                fs::rename(&place.data, place.failed()).unwrap();
                // Whoever takes it back again goes on, and so does who asks for the copy.
            } else {
                take_back(&place, &old).unwrap();
                take_back(&place, &old).unwrap();
            }
            assert_eq!(exchange(&place, &old).unwrap(), InPlace::Old);
            assert_eq!(fs::read_to_string(place.data.join("t.ibd")).unwrap(), "old");
        }
    }

    #[test]
    fn what_an_earlier_rebuild_has_kept_outlives_later_ones() {
        let (_directory, place) = place();
        TOOLS_LOGS.iter().for_each(|log| fs::write(place.beside.join(log), "it said so").unwrap());
        let kept = place.beside.join("old-1");
        exchange(&place, &kept).unwrap();
        place.settle(None).unwrap();
        // A later rebuild that failed, and one that was done.
        place.clear(false).unwrap();
        place.settle(None).unwrap();
        place.clear(false).unwrap();
        let old = place.beside.join("old-2");
        exchange(&place, &old).unwrap();
        place.settle(Some(&old)).unwrap();
        assert_eq!(fs::read_to_string(kept.join("t.ibd")).unwrap(), "old");
        assert!(!old.exists() && !place.copy().exists());
        place.settle(Some(&kept)).unwrap();
        assert!(!place.beside.exists(), "nothing is left when nothing was kept");
    }

    #[test]
    fn logs_are_no_part_of_a_copy() {
        for (name, data) in
            [("ibdata1", true), ("binlog.000012", false), ("ib_logfile0", false), ("aria_log.00000001", true)]
        {
            assert_eq!(is_data(name), data, "{name}");
        }
    }

    #[test]
    fn the_position_is_read_and_the_tools_files_go() {
        let (_directory, place) = place();
        fs::write(place.copy().join("xtrabackup_binlog_info"), "binlog.000001\t1082\t0-1-5,1-7-3\n").unwrap();
        fs::write(place.copy().join("backup-my.cnf"), "").unwrap();
        assert_eq!(position(&place).unwrap(), "0-1-5,1-7-3");
        assert!(!place.copy().join("backup-my.cnf").exists() && place.copy().join("t.ibd").exists());
    }

    #[test]
    fn a_password_stays_inside_its_quotes() {
        assert_eq!(quoted("a\"b\\c#d"), "\"a\\\"b\\\\c#d\"");
    }
}
