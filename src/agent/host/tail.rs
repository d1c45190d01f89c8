//! The end of a server's binary log, read from its files: no server needs to be alive.
//!
//! It says which transactions are there and where; which of them anybody misses is for the caller to compare. A last
//! group that was never finished is told as incomplete. Nothing is ever written.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::events::{self, HEADER, Header, Meaning};
use crate::clock;
use crate::model::gtid::GtidSet;
use crate::model::instance::Flavor;
use crate::model::log_fault::LogFault;
use crate::model::time::Moment;

const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const MAGIC_ENCRYPTED: [u8; 4] = [0xfd, b'b', b'i', b'n'];
const FIRST_EVENT: u64 = 4;
/// The clock is looked at once for this many events.
const LOOK_EVERY: u64 = 1_024;

/// A place in the log: a file by its name (no directory), and the offset of an event in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub position: u64,
}

/// How far a scan may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Without a place to start from: how many of the newest files are read.
    pub files: usize,
    /// How much log may lie between start and end.
    pub bytes: u64,
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 1, bytes: 4 << 30, time: Duration::from_secs(20) }
    }
}

/// One event group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// As the server prints it: `uuid:n`, `uuid:tag:n`, `0-1-47`; `ANONYMOUS` where MySQL gave none.
    pub gtid: String,
    pub file: String,
    /// Offset of its first event.
    pub start: u64,
    /// Offset behind its last event, or behind what there is of it.
    pub end: u64,
    /// Whether its commit is there. Only the last one may lack it.
    pub complete: bool,
}

/// What the files held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// The files read, oldest first.
    pub files: Vec<PathBuf>,
    /// What the log held before the first file read, as its head says (a MySQL set; on MariaDB the last of each domain
    /// and server). What is missing and not in here begins in an older file: scan more files.
    pub previous: Option<String>,
    pub transactions: Vec<Transaction>,
    /// Behind the last whole event.
    pub end: Place,
    /// Bytes of an unfinished event follow the end.
    pub torn: bool,
}

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the binary log index {path} names no file")]
    Empty { path: PathBuf },
    #[error(
        "the binary log index {index} does not name {file}; it was purged, or this is another server's log"
    )]
    NotInIndex { index: PathBuf, file: String },
    #[error(
        "{path} is an encrypted binary log; only a server with its keyring can read it: salvage by starting that server"
    )]
    Encrypted { path: PathBuf },
    #[error("{path} is not a binary log")]
    NotALog { path: PathBuf },
    #[error(
        "{path} ends at {length}, before position {position}: the host lost the log's end (sync_binlog was not 1?)"
    )]
    Beyond { path: PathBuf, position: u64, length: u64 },
    #[error("{path} is damaged at {position}: no event begins there")]
    Damaged { path: PathBuf, position: u64 },
    #[error(
        "the log's end to read is {found} bytes long, more than the {most} allowed; start nearer to the end"
    )]
    TooMuch { found: u64, most: u64 },
    #[error("reading the log took longer than {} s", .0.as_secs_f64())]
    Late(Duration),
}

/// Reads the log from `from` to its end, or its newest files where `from` is `None`. `index` is the index file, or the
/// base path the server was given as `log_bin`.
///
/// # Errors
/// When a file cannot be read, is encrypted or damaged before the log's end, or a limit is reached.
pub async fn scan(
    flavor: Flavor,
    index: &Path,
    from: Option<&Place>,
    limits: Limits,
) -> Result<Tail, TailError> {
    let (index, from) = (index.to_owned(), from.cloned());
    let path = index.clone();
    let work = tokio::task::spawn_blocking(move || scan_files(flavor, &index, from.as_ref(), limits));
    // A read that hangs in a dead disk is left behind; the time limit within stops one that is merely long.
    match tokio::time::timeout(limits.time + Duration::from_secs(1), work).await {
        Err(_) => Err(TailError::Late(limits.time)),
        Ok(Err(error)) => Err(TailError::Read { path, source: io::Error::other(error) }),
        Ok(Ok(result)) => result,
    }
}

fn scan_files(flavor: Flavor, index: &Path, from: Option<&Place>, limits: Limits) -> Result<Tail, TailError> {
    let (index, mut files) = read_index(index)?;
    let first = match from {
        None => files.len().saturating_sub(limits.files.max(1)),
        Some(place) => files
            .iter()
            .position(|path| name(path) == place.file)
            .ok_or_else(|| TailError::NotInIndex { index: index.clone(), file: place.file.clone() })?,
    };
    files.drain(..first);
    let start = from.map_or(FIRST_EVENT, |place| place.position.max(FIRST_EVENT));
    check_size(&files, start, limits.bytes)?;
    let deadline = clock::now() + limits.time;
    let mut walk =
        Walk { flavor, deadline, limits, previous: None, transactions: Vec::new(), open: None, torn: false };
    let mut end = start;
    for (number, path) in files.iter().enumerate() {
        let start = if number == 0 { start } else { FIRST_EVENT };
        end = walk.file(path, start, number + 1 == files.len())?;
    }
    let Some(last) = files.last() else { return Err(TailError::Empty { path: index }) };
    let end = Place { file: name(last), position: end };
    Ok(Tail { previous: walk.previous, transactions: walk.transactions, end, torn: walk.torn, files })
}

/// Looks whether each file that the index names is there and begins as a log does. Answers the newest that is not, with what the files after
/// it do not give. What the server purges or begins meanwhile is no fault: the index is read again.
///
/// # Errors
/// When the index cannot be read.
pub fn check(flavor: Flavor, index: &Path) -> Result<Option<LogFault>, TailError> {
    let (_, files) = read_index(index)?;
    let bad = |path: &PathBuf| begins_badly(path).map(|why| (path.clone(), why));
    // The newest file may have been created a moment ago.
    let older = files.split_last().map_or(&[][..], |(_, older)| older);
    let Some((path, why)) = older.iter().rev().find_map(bad) else { return Ok(None) };
    let (_, still) = read_index(index)?;
    if !still.iter().any(|named| name(named) == name(&path)) {
        return Ok(None);
    }
    let after = files.iter().skip_while(|file| **file != path).nth(1);
    let before =
        after.and_then(|file| held_before(flavor, file)).and_then(|text| GtidSet::parse(flavor, &text).ok());
    Ok(Some(LogFault { file: name(&path), why, before }))
}

/// Why nothing can be read from a file of the log, if so.
fn begins_badly(path: &Path) -> Option<String> {
    let mut magic = [0; 4];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if magic == MAGIC || magic == MAGIC_ENCRYPTED => None,
        Ok(()) => Some("is no binary log".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is missing".to_owned()),
        Err(error) => Some(format!("cannot be read ({error})")),
    }
}

/// What the log held before that file, as its head says.
fn held_before(flavor: Flavor, path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let (deadline, limits) = (clock::now(), Limits::default());
    let mut walk =
        Walk { flavor, deadline, limits, previous: None, transactions: Vec::new(), open: None, torn: false };
    walk.head(&mut BufReader::new(file), path, length).ok()?;
    walk.previous
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The index file and the logs it names, oldest first.
fn read_index(given: &Path) -> Result<(PathBuf, Vec<PathBuf>), TailError> {
    let is_index = given.extension().is_some_and(|extension| extension == "index");
    let index = if is_index { given.to_owned() } else { PathBuf::from(format!("{}.index", given.display())) };
    let text = std::fs::read(&index).map_err(|source| TailError::Read { path: index.clone(), source })?;
    let directory = index.parent().unwrap_or(Path::new("")).to_owned();
    let resolve = |line: &str| {
        // Written relative to the data directory, or absolute; a copy of both lies side by side.
        let path = directory.join(line);
        if path.exists() { path } else { directory.join(Path::new(line).file_name().unwrap_or_default()) }
    };
    let text = String::from_utf8_lossy(&text);
    let files: Vec<PathBuf> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(resolve).collect();
    if files.is_empty() { Err(TailError::Empty { path: index }) } else { Ok((index, files)) }
}

fn check_size(files: &[PathBuf], start: u64, most: u64) -> Result<(), TailError> {
    let mut found = 0_u64;
    for path in files {
        let about =
            std::fs::metadata(path).map_err(|source| TailError::Read { path: path.clone(), source })?;
        found += about.len();
    }
    let found = found.saturating_sub(start);
    if found > most { Err(TailError::TooMuch { found, most }) } else { Ok(()) }
}

/// The scan under way.
struct Walk {
    flavor: Flavor,
    deadline: Moment,
    limits: Limits,
    previous: Option<String>,
    transactions: Vec<Transaction>,
    /// How the group that is last in `transactions` ends, while it has not.
    open: Option<Ending>,
    torn: bool,
}

/// What ends the group that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Its first statement, unless that one opens a transaction.
    Statement,
    /// A commit.
    Commit,
}

/// One event as read.
enum Next {
    Event(Header, Vec<u8>),
    /// The file ends here, with an event or within one.
    End {
        torn: bool,
    },
    /// No event can begin with these bytes.
    Garbage,
}

impl Walk {
    /// Reads one file from `start`; returns the offset behind its last whole event.
    fn file(&mut self, path: &Path, start: u64, newest: bool) -> Result<u64, TailError> {
        let failed = |source| TailError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let (checksum, mut at) = self.head(&mut reader, path, length)?;
        if start > length {
            return Err(TailError::Beyond { path: path.to_owned(), position: start, length });
        }
        if start > at {
            reader.seek(SeekFrom::Start(start)).map_err(failed)?;
            at = start;
        }
        for count in 1_u64.. {
            if count.is_multiple_of(LOOK_EVERY) && clock::now() > self.deadline {
                return Err(TailError::Late(self.limits.time));
            }
            let damaged = || TailError::Damaged { path: path.to_owned(), position: at };
            let (header, body) = match next(&mut reader, length - at).map_err(failed)? {
                Next::Event(header, body) => (header, body),
                Next::End { torn } if newest || !torn => {
                    self.torn = torn;
                    break;
                }
                Next::Garbage if newest && only_zeros(&mut reader).map_err(failed)? => {
                    self.torn = true;
                    break;
                }
                Next::End { .. } | Next::Garbage => return Err(damaged()),
            };
            let meaning = events::meaning(self.flavor, header, &body, checksum).ok_or_else(damaged)?;
            let end = at + u64::from(header.size);
            self.event(meaning, path, at, end);
            at = end;
        }
        // A group never goes on in the next file.
        self.open = None;
        Ok(at)
    }

    /// Magic number and format event: whether events carry checksums, and where the next one begins.
    fn head(
        &mut self,
        reader: &mut (impl Read + Seek),
        path: &Path,
        length: u64,
    ) -> Result<(bool, u64), TailError> {
        let failed = |source| TailError::Read { path: path.to_owned(), source };
        let mut magic = [0; 4];
        if length < FIRST_EVENT {
            // Created, and the host died before its first bytes were there.
            self.torn = true;
            return Ok((false, length));
        }
        reader.read_exact(&mut magic).map_err(failed)?;
        if magic == MAGIC_ENCRYPTED {
            return Err(TailError::Encrypted { path: path.to_owned() });
        } else if magic != MAGIC {
            return Err(TailError::NotALog { path: path.to_owned() });
        }
        match next(reader, length - FIRST_EVENT).map_err(failed)? {
            Next::Event(header, body) => {
                let meaning = events::meaning(self.flavor, header, &body, false);
                let Some(Meaning::Format { checksum }) = meaning else {
                    return Err(TailError::NotALog { path: path.to_owned() });
                };
                let at = FIRST_EVENT + u64::from(header.size);
                self.second(reader, path, length - at, checksum)?;
                reader.seek(SeekFrom::Start(at)).map_err(failed)?;
                Ok((checksum, at))
            }
            Next::End { torn } => {
                self.torn = torn;
                reader.seek(SeekFrom::Start(length)).map_err(failed)?;
                Ok((false, length))
            }
            Next::Garbage => Err(TailError::Damaged { path: path.to_owned(), position: FIRST_EVENT }),
        }
    }

    /// The event behind the format says what came before, or that the rest needs a key: it is looked at even where the
    /// scan begins further on.
    fn second(
        &mut self,
        reader: &mut (impl Read + Seek),
        path: &Path,
        left: u64,
        checksum: bool,
    ) -> Result<(), TailError> {
        let failed = |source| TailError::Read { path: path.to_owned(), source };
        if let Next::Event(header, body) = next(reader, left).map_err(failed)? {
            match events::meaning(self.flavor, header, &body, checksum) {
                Some(Meaning::Encrypted) => return Err(TailError::Encrypted { path: path.to_owned() }),
                Some(Meaning::Previous(text)) if self.previous.is_none() && self.transactions.is_empty() => {
                    self.previous = Some(text);
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn event(&mut self, meaning: Meaning, path: &Path, at: u64, end: u64) {
        if let Meaning::Begin { gtid, alone } = meaning {
            let ending =
                if alone || self.flavor == Flavor::MySql { Ending::Statement } else { Ending::Commit };
            self.open = Some(ending);
            self.transactions.push(Transaction { gtid, file: name(path), start: at, end, complete: false });
            return;
        }
        let (Some(ending), Some(group)) = (self.open, self.transactions.last_mut()) else { return };
        group.end = end;
        match (meaning, ending) {
            (Meaning::Open, _) => self.open = Some(Ending::Commit),
            (Meaning::Commit, _) | (Meaning::Statement, Ending::Statement) => {
                group.complete = true;
                self.open = None;
            }
            (Meaning::Statement, Ending::Commit) => {}
            (
                Meaning::Format { .. }
                | Meaning::Encrypted
                | Meaning::Previous(_)
                | Meaning::Begin { .. }
                | Meaning::Other,
                _,
            ) => {}
        }
    }
}

/// Reads the next event, its body as far as it says anything, and leaves the reader behind it.
fn next(reader: &mut (impl Read + Seek), left: u64) -> io::Result<Next> {
    if left < HEADER as u64 {
        return Ok(Next::End { torn: left > 0 });
    }
    let mut bytes = [0; HEADER];
    reader.read_exact(&mut bytes)?;
    let Some(header) = Header::read(&bytes) else { return Ok(Next::Garbage) };
    if u64::from(header.size) > left {
        return Ok(Next::End { torn: true });
    }
    let length = header.size as usize - HEADER;
    let mut body = vec![0; header.worth_reading()];
    reader.read_exact(&mut body)?;
    reader.seek_relative((length - body.len()) as i64)?;
    Ok(Next::Event(header, body))
}

/// A host that lost power may leave a file lengthened and not written.
fn only_zeros(reader: &mut (impl Read + Seek)) -> io::Result<bool> {
    reader.seek_relative(-(HEADER as i64))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = reader.read(&mut buffer)?;
        if buffer[..length].iter().any(|byte| *byte != 0) {
            return Ok(false);
        } else if length == 0 {
            return Ok(true);
        }
    }
}
