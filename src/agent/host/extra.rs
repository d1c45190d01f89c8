//! Transactions of a server's binary log, copied raw into a file of their own, and what is in such a file: which tables and
//! statements, and the events that take its rows back. Reads logs and writes that one file; never talks to a server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use super::events::{self, HEADER, Header, Meaning};
use super::hexadecimal;
use super::rows::{self, Form, Kind, Table};
use super::tail::{Tail, Transaction};
use crate::model::instance::Flavor;
use crate::mysql::control::is_heartbeat_row;

const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const CHECKSUM: usize = 4;
const FORMAT: u8 = 15;
const QUERY: u8 = 2;
const MARIADB_QUERY_COMPRESSED: u8 = 165;
/// An event that is longer is not read into memory.
const LONGEST_EVENT: u32 = 64 << 20;
/// The events that take rows back are kept up to so many bytes.
const MOST_INVERSE: usize = 256 << 20;
/// So many changes are listed one by one; all are counted.
const MOST_LISTED: usize = 1_000;
/// A heartbeat as a statement, where the server logs statements; a row's number follows.
const OUR_STATEMENT: &str = "INSERT INTO mha.heartbeat (id, at, writer, generation) VALUES (";
const OUR_SCHEMA: &str = "mha";

/// Why transactions were not copied or read.
#[derive(Debug, thiserror::Error)]
pub enum ExtraError {
    #[error("{doing} {path}: {source}")]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("{path} is damaged at {position}")]
    Damaged { path: PathBuf, position: u64 },
    #[error("{0} was never finished in the log")]
    Incomplete(String),
}

/// Copies `transactions` of `tail`, in order, into `to`: a binary log of its own, on disk when this returns. Gives its length
/// and its SHA-256 in hexadecimal. Blocks on the disk.
///
/// # Errors
/// When a log cannot be read or the file not written; what there was of it is left.
pub fn copy(tail: &Tail, transactions: &[Transaction], to: &Path) -> Result<(u64, String), ExtraError> {
    let failed = |doing| move |source| ExtraError::Io { path: to.to_owned(), doing, source };
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut copy =
        Copy { out: options.open(to).map_err(failed("creating"))?, hash: Context::new(&SHA256), length: 0 };
    copy.put(&MAGIC).map_err(failed("writing"))?;
    let mut open: Option<(&str, File)> = None;
    for transaction in transactions {
        if !transaction.complete {
            return Err(ExtraError::Incomplete(transaction.gtid.clone()));
        }
        let path = tail.files.iter().find(|path| path.file_name() == Some(transaction.file.as_ref()));
        let path = path.cloned().unwrap_or_else(|| PathBuf::from(&transaction.file));
        let failed = |doing| {
            let path = path.clone();
            move |source| ExtraError::Io { path, doing, source }
        };
        if open.as_ref().is_none_or(|(name, _)| *name != transaction.file) {
            let mut file = File::open(&path).map_err(failed("opening"))?;
            // Each file's format comes before its events: servers of two versions may have written them.
            let format = first_event(&mut file).map_err(failed("reading"))?;
            copy.put(&format).map_err(failed("copying"))?;
            open = Some((&transaction.file, file));
        }
        let Some((_, file)) = &mut open else { continue };
        file.seek(SeekFrom::Start(transaction.start)).map_err(failed("reading"))?;
        let mut left = file.take(transaction.end - transaction.start);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let length = left.read(&mut buffer).map_err(failed("reading"))?;
            if length == 0 {
                break;
            }
            copy.put(&buffer[..length]).map_err(failed("copying"))?;
        }
        if left.limit() > 0 {
            return Err(ExtraError::Damaged { path, position: transaction.start });
        }
    }
    copy.out.sync_all().map_err(failed("syncing"))?;
    if let Some(directory) = to.parent() {
        File::open(directory).and_then(|open| open.sync_all()).map_err(failed("syncing the directory of"))?;
    }
    Ok((copy.length, hexadecimal(copy.hash.finish().as_ref())))
}

struct Copy {
    out: File,
    hash: Context,
    length: u64,
}

impl Copy {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String, ExtraError> {
    let failed = |source| ExtraError::Io { path: path.to_owned(), doing: "reading", source };
    let (mut file, mut hash, mut buffer) =
        (File::open(path).map_err(failed)?, Context::new(&SHA256), vec![0; 256 << 10]);
    loop {
        let length = file.read(&mut buffer).map_err(failed)?;
        if length == 0 {
            return Ok(hexadecimal(hash.finish().as_ref()));
        }
        hash.update(&buffer[..length]);
    }
}

fn first_event(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = [0; HEADER];
    file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    file.read_exact(&mut head)?;
    let header = Header::read(&head).filter(|header| header.kind == FORMAT && header.size < 4_096);
    let header = header.ok_or_else(|| io::Error::other("no format event at its head"))?;
    let mut event = head.to_vec();
    event.resize(header.size as usize, 0);
    file.read_exact(&mut event[HEADER..])?;
    Ok(event)
}

/// One change as the events tell it, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// So many rows of a table, by one event.
    Rows {
        table: String,
        kind: RowKind,
        rows: u64,
    },
    Statement(String),
}

/// What was done to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    Inserted,
    Updated,
    Deleted,
}

/// One transaction of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub gtid: String,
    /// Seconds since 1970 by that server's clock.
    pub at: u32,
    /// In order; of the whole file at most so many are kept.
    pub changes: Vec<Found>,
}

/// What is in a file of extra transactions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    pub groups: Vec<Group>,
    pub transactions: u64,
    /// By `schema.table`: rows inserted, updated, deleted.
    pub tables: BTreeMap<(String, String), [u64; 3]>,
    pub statements: u64,
    /// Nothing but what this program writes for itself.
    pub benign: bool,
    /// Why the rows cannot be taken back; the first reason found.
    pub obstacle: Option<String>,
    /// Changes that were counted and not listed.
    pub left_out: u64,
    pub first_at: u32,
    pub last_at: u32,
    /// The log's format event, without a checksum to be expected of what follows it.
    pub format: Vec<u8>,
    /// Each a table's map with the event that takes one row event back, in the order in which they are to be applied.
    pub inverse: Vec<Vec<u8>>,
}

/// Reads a file that [`copy`] made. Blocks on the disk.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read(flavor: Flavor, path: &Path) -> Result<Contents, ExtraError> {
    let failed = |source| ExtraError::Io { path: path.to_owned(), doing: "reading", source };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut magic = [0; MAGIC.len()];
    reader.read_exact(&mut magic).map_err(failed)?;
    let mut walk = Walk::new(flavor);
    let mut at = MAGIC.len() as u64;
    while at < length {
        let damaged = || ExtraError::Damaged { path: path.to_owned(), position: at };
        let mut head = [0; HEADER];
        reader.read_exact(&mut head).map_err(failed)?;
        let header = Header::read(&head).filter(|header| at + u64::from(header.size) <= length);
        let header = header.ok_or_else(damaged)?;
        let mut event = head.to_vec();
        if header.size > LONGEST_EVENT {
            walk.contents.hinder("one of its events is too large to be taken back");
            reader.seek_relative(i64::from(header.size) - HEADER as i64).map_err(failed)?;
        } else {
            event.resize(header.size as usize, 0);
            reader.read_exact(&mut event[HEADER..]).map_err(failed)?;
            walk.event(header, event).ok_or_else(damaged)?;
        }
        at += u64::from(header.size);
    }
    Ok(walk.finish())
}

struct Walk {
    flavor: Flavor,
    checksum: bool,
    maps: BTreeMap<u64, (Table, Vec<u8>)>,
    contents: Contents,
    listed: usize,
    kept: usize,
}

impl Contents {
    fn hinder(&mut self, why: impl Into<String>) {
        self.obstacle.get_or_insert_with(|| why.into());
        self.inverse.clear();
    }
}

impl Walk {
    fn new(flavor: Flavor) -> Self {
        let contents = Contents { benign: true, ..Contents::default() };
        Self { flavor, checksum: false, maps: BTreeMap::new(), contents, listed: 0, kept: 0 }
    }

    /// `None` for an event that does not have the form its type demands.
    fn event(&mut self, header: Header, mut event: Vec<u8>) -> Option<()> {
        let meaning = events::meaning(self.flavor, header, &event[HEADER..], self.checksum)?;
        if let Meaning::Format { checksum } = meaning {
            self.checksum = checksum;
            let alone = event.len().checked_sub(CHECKSUM + 1)?;
            event[alone] = 0;
            if self.contents.format.is_empty() {
                self.contents.format = event;
            } else if self.differs(&event) {
                self.contents.hinder("servers of two versions wrote it");
            }
            return Some(());
        }
        if self.checksum {
            event.truncate(event.len().checked_sub(CHECKSUM)?);
            let length = u32::try_from(event.len()).ok()?;
            event[9..13].copy_from_slice(&length.to_le_bytes());
        }
        if let Meaning::Begin { gtid, .. } = meaning {
            self.begin(gtid, u32::from_le_bytes(*event.first_chunk()?));
        } else if header.kind == rows::TABLE_MAP {
            let table = rows::table(&event[HEADER..])?;
            self.maps.insert(table.id, (table, event));
        } else if let Some(form) = rows::form(header.kind) {
            self.rows(form, &event)?;
        } else {
            self.other(header.kind, &event[HEADER..])?;
        }
        Some(())
    }

    /// Formats of two files of one server differ in when they were made, and in nothing else.
    fn differs(&self, event: &[u8]) -> bool {
        const VERSION: std::ops::Range<usize> = HEADER..HEADER + 52;
        self.contents.format.get(VERSION) != event.get(VERSION)
    }

    fn begin(&mut self, gtid: String, at: u32) {
        let contents = &mut self.contents;
        contents.transactions += 1;
        if contents.first_at == 0 {
            contents.first_at = at;
        }
        contents.last_at = at;
        self.maps.clear();
        if self.listed < MOST_LISTED {
            contents.groups.push(Group { gtid, at, changes: Vec::new() });
        }
    }

    fn list(&mut self, change: Found, weight: u64) {
        match self.contents.groups.last_mut().filter(|_| self.listed < MOST_LISTED) {
            Some(group) => {
                self.listed += usize::try_from(weight).unwrap_or(MOST_LISTED);
                group.changes.push(change);
            }
            None => self.contents.left_out += weight,
        }
    }

    fn rows(&mut self, form: Form, event: &[u8]) -> Option<()> {
        let id = event.get(HEADER..HEADER + 6)?.iter().rev().fold(0, |id, byte| id << 8 | u64::from(*byte));
        let (table, map) = self.maps.get(&id)?.clone();
        let counted = rows::count(form, &event[HEADER..], &table);
        let (kind, place) = match form.kind {
            Kind::Insert => (RowKind::Inserted, 0),
            Kind::Update => (RowKind::Updated, 1),
            Kind::Delete => (RowKind::Deleted, 2),
        };
        // Rows that cannot be measured are one at least.
        let rows = *counted.as_ref().unwrap_or(&1);
        self.contents.tables.entry((table.schema.clone(), table.name.clone())).or_default()[place] += rows;
        self.contents.benign &= table.schema == OUR_SCHEMA;
        self.list(Found::Rows { table: format!("{}.{}", table.schema, table.name), kind, rows }, rows);
        if self.contents.obstacle.is_some() {
            return Some(());
        }
        match counted.and_then(|_| rows::inverse(form, event, &table)) {
            Err(why) => self.contents.hinder(why),
            Ok(inverse) => {
                let together = [map, inverse].concat();
                self.kept += together.len();
                self.contents.inverse.push(together);
                if self.kept > MOST_INVERSE {
                    self.contents.hinder(format!("its rows are more than {} MiB", MOST_INVERSE >> 20));
                }
            }
        }
        Some(())
    }

    /// Events that are no rows: what marks bounds says nothing, the rest is a statement or not understood.
    fn other(&mut self, kind: u8, body: &[u8]) -> Option<()> {
        match kind {
            QUERY => {
                let text = statement(body)?;
                let word = text.split([' ', '\n', '\t']).next().unwrap_or_default().to_ascii_uppercase();
                if matches!(word.as_str(), "BEGIN" | "COMMIT" | "SAVEPOINT") {
                    return Some(());
                }
                let ours = is_ours(&text);
                self.statement(text, ours);
            }
            MARIADB_QUERY_COMPRESSED => self.statement("(a compressed statement)".to_owned(), false),
            40 => {
                self.statement("(a compressed transaction: binlog_transaction_compression)".to_owned(), false)
            }
            38 => self.statement("XA PREPARE".to_owned(), false),
            // Stop, rotation; what statements and rows carry along; commits, marks of GTIDs and of groups.
            3 | 4 | 5 | 13 | 14 | 16 | 27 | 29 | 35..=37 | 160 | 161 | 163 => {}
            kind => self.statement(format!("(an event of kind {kind})"), false),
        }
        Some(())
    }

    fn statement(&mut self, text: String, ours: bool) {
        self.contents.statements += 1;
        self.contents.benign &= ours;
        // Its first words alone: what follows may be a password, and this is told everywhere.
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        self.contents
            .hinder(format!("\"{} …\" is a statement, which no rows tell how to take back", words.join(" ")));
        self.list(Found::Statement(text), 1);
    }

    fn finish(mut self) -> Contents {
        self.contents.inverse.reverse();
        self.contents
    }
}

/// A row of the heartbeat table that an agent wrote while its server led.
fn is_ours(text: &str) -> bool {
    let row = text.strip_prefix(OUR_STATEMENT).and_then(|rest| rest.split_once(','));
    row.and_then(|(row, _)| row.parse::<u32>().ok()).is_some_and(is_heartbeat_row)
}

/// The text of a query event, with the schema it was meant for.
fn statement(body: &[u8]) -> Option<String> {
    let schema = usize::from(*body.get(8)?);
    let variables = usize::from(u16::from_le_bytes(*body.get(11..)?.first_chunk()?));
    let text = body.get(13 + variables + schema + 1..)?;
    Some(String::from_utf8_lossy(text).into_owned())
}
