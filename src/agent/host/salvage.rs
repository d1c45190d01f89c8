//! Turns the transactions somebody misses, found by [`super::tail`], into statements that carry their GTIDs along.
//!
//! The server family's own tool does the decoding; nothing is executed here. Statements are bytes, not text: a
//! statement logged in another character set is not UTF-8, and must arrive as it was.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::tail::{Tail, Transaction};
use crate::model::instance::Flavor;

/// How much of the tool's complaint an error quotes.
const QUOTE: u64 = 2_000;
/// `NO_BACKSLASH_ESCAPES` in the number the tool writes for `sql_mode`.
const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// Why missing transactions could not be turned into statements.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error("no program is configured to decode binary logs; name mariadb-binlog or mysqlbinlog")]
    NoTool,
    #[error(
        "{0} was never finished in the log: it cannot be salvaged, and nobody was told it had been committed"
    )]
    Incomplete(String),
    #[error("{0} is not in the log that was read")]
    NotInTail(String),
    #[error(
        "{known} stands between missing transactions, and mariadb-binlog cannot leave it out; salvage by hand from {file} at {position}"
    )]
    Interleaved { known: String, file: String, position: u64 },
    #[error("{program} could not be run: {source}; install the server's client programs on this host")]
    Run { program: String, source: io::Error },
    #[error("{program} ended with {status}: {complaint}")]
    Failed { program: String, status: String, complaint: String },
    #[error("the missing transactions are more than {most} bytes of statements")]
    TooMuch { most: u64 },
    #[error("{program} took longer than {} s", deadline.as_secs_f64())]
    Late { program: String, deadline: Duration },
    #[error(
        "the decoded log ends within a quoted text or a statement; it was cut, or is not what a binary log tool prints"
    )]
    Unfinished,
}

/// Decodes `missing` (transactions of `tail`, all complete) with `tool`: the program and the arguments that come first.
/// Returns what it prints, for [`statements`]; nothing where nothing is missing.
///
/// # Errors
/// When a transaction is incomplete or unknown, ones already known stand in between (MariaDB), the tool fails, or a
/// limit is reached.
pub async fn salvage(
    flavor: Flavor,
    tool: &[String],
    tail: &Tail,
    missing: &[Transaction],
    most_bytes: u64,
    deadline: Duration,
) -> Result<Vec<u8>, SalvageError> {
    let Some(arguments) = arguments(flavor, tail, missing)? else { return Ok(Vec::new()) };
    let program = tool.first().ok_or(SalvageError::NoTool)?.clone();
    let failed = |source| SalvageError::Run { program: program.clone(), source };
    let whole = async {
        let mut child = Command::new(&program)
            .args(&tool[1..])
            .args(&arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut sql, mut complaint) = (Vec::new(), Vec::new());
        let read_sql = async {
            match stdout {
                Some(pipe) => pipe.take(most_bytes.saturating_add(1)).read_to_end(&mut sql).await,
                None => Ok(0),
            }
        };
        let read_complaint = async {
            let Some(mut pipe) = stderr else { return Ok(()) };
            (&mut pipe).take(QUOTE).read_to_end(&mut complaint).await?;
            // The rest is read and dropped, or the tool would wait for a reader.
            tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await.map(drop)
        };
        tokio::select! {
            // Closing the pipe ends a tool that prints too much; its complaint is then of no interest.
            done = read_sql => { done.map_err(failed)?; }
            () = async { let _ = read_complaint.await; std::future::pending().await } => {}
        }
        if sql.len() as u64 > most_bytes {
            return Err(SalvageError::TooMuch { most: most_bytes });
        }
        let status = child.wait().await.map_err(failed)?;
        if status.success() {
            return Ok(sql);
        }
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(SalvageError::Failed { program: program.clone(), status: status.to_string(), complaint })
    };
    let late = || SalvageError::Late { program: program.clone(), deadline };
    tokio::time::timeout(deadline, whole).await.map_err(|_| late())?
}

/// The tool's arguments; `None` when nothing is missing.
fn arguments(
    flavor: Flavor,
    tail: &Tail,
    missing: &[Transaction],
) -> Result<Option<Vec<String>>, SalvageError> {
    if let Some(torn) = missing.iter().find(|transaction| !transaction.complete) {
        return Err(SalvageError::Incomplete(torn.gtid.clone()));
    }
    let place = |wanted: &Transaction| {
        let found = tail.transactions.iter().position(|transaction| transaction == wanted);
        found.ok_or_else(|| SalvageError::NotInTail(wanted.gtid.clone()))
    };
    let mut places = missing.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(None) };
    let span = &tail.transactions[*first..=*last];
    let known: Vec<&Transaction> = span
        .iter()
        .zip(*first..)
        .filter(|(_, at)| places.binary_search(at).is_err())
        .map(|(known, _)| known)
        .collect();
    let (from, to) = (&tail.transactions[*first], &tail.transactions[*last]);
    let mut arguments = vec![
        "--no-defaults".to_owned(),
        "--verify-binlog-checksum".to_owned(),
        format!("--start-position={}", from.start),
        format!("--stop-position={}", to.end),
    ];
    if let Some(first_known) = known.first() {
        if flavor == Flavor::MariaDb {
            let known = first_known.gtid.clone();
            return Err(SalvageError::Interleaved { known, file: from.file.clone(), position: from.start });
        }
        let list: Vec<&str> = known.iter().map(|transaction| transaction.gtid.as_str()).collect();
        arguments.push(format!("--exclude-gtids={}", list.join(",")));
    }
    arguments.push("--".to_owned());
    arguments.extend(files_between(tail, &from.file, &to.file).map(|path| path.display().to_string()));
    Ok(Some(arguments))
}

fn files_between<'a>(tail: &'a Tail, first: &str, last: &str) -> impl Iterator<Item = &'a PathBuf> {
    let at =
        |wanted: &str| tail.files.iter().position(|path| Path::new(wanted).file_name() == path.file_name());
    let (first, last) = (at(first).unwrap_or(0), at(last).unwrap_or(tail.files.len().saturating_sub(1)));
    tail.files[first..=last].iter()
}

/// Splits what the tool printed into statements, each to be sent as one query, in order, on one connection.
///
/// # Errors
/// When the output ends within a quotation or a statement.
pub fn statements(output: &[u8]) -> Result<Vec<Vec<u8>>, SalvageError> {
    let mut splitter = Splitter { rest: output, delimiter: b";".to_vec(), backslash_escapes: true };
    let mut found = Vec::new();
    while let Some(statement) = splitter.next_statement()? {
        found.push(statement);
    }
    Ok(found)
}

/// Reads as the client program does: the delimiter counts only outside quotations and comments, so that no text a
/// client once wrote into a table can pass for a statement.
struct Splitter<'a> {
    rest: &'a [u8],
    delimiter: Vec<u8>,
    backslash_escapes: bool,
}

impl Splitter<'_> {
    fn next_statement(&mut self) -> Result<Option<Vec<u8>>, SalvageError> {
        self.skip_between();
        let mut at = 0;
        while at < self.rest.len() {
            let left = &self.rest[at..];
            if left.starts_with(&self.delimiter) {
                let statement = self.rest[..at].trim_ascii().to_vec();
                self.rest = &left[self.delimiter.len()..];
                self.note_mode(&statement);
                let nothing = statement.is_empty() || for_the_client(&statement);
                return if nothing { self.next_statement() } else { Ok(Some(statement)) };
            }
            at += self.token(left)?;
        }
        // What the tool prints last ends with a delimiter; white space may follow.
        if self.rest.trim_ascii().is_empty() { Ok(None) } else { Err(SalvageError::Unfinished) }
    }

    /// Comments of the tool's own, and its `DELIMITER` lines, stand only between statements.
    fn skip_between(&mut self) {
        loop {
            self.rest = self.rest.trim_ascii_start();
            let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
            let line = &self.rest[..end];
            if let Some(delimiter) = line.strip_prefix(b"DELIMITER ") {
                self.delimiter = delimiter.trim_ascii().to_vec();
            } else if !line.starts_with(b"#") || line.is_empty() {
                return;
            }
            self.rest = &self.rest[end..];
        }
    }

    /// The length of what begins here: a quotation, a comment, or one byte.
    fn token(&self, left: &[u8]) -> Result<usize, SalvageError> {
        let until = |end: &[u8], from: usize| {
            left[from..].windows(end.len()).position(|window| window == end).map(|at| from + at + end.len())
        };
        match left {
            [quote @ (b'\'' | b'"' | b'`'), ..] => {
                self.quotation(left, *quote).ok_or(SalvageError::Unfinished)
            }
            // `/*!` begins code, not a comment: its inside is read on.
            [b'/', b'*', b'!', ..] => Ok(3),
            [b'/', b'*', ..] => until(b"*/", 2).ok_or(SalvageError::Unfinished),
            [b'#', ..] => Ok(until(b"\n", 1).unwrap_or(left.len())),
            [b'-', b'-', after, ..] if after.is_ascii_whitespace() => {
                Ok(until(b"\n", 2).unwrap_or(left.len()))
            }
            _ => Ok(1),
        }
    }

    fn quotation(&self, left: &[u8], quote: u8) -> Option<usize> {
        let mut at = 1;
        loop {
            match *left.get(at)? {
                b'\\' if self.backslash_escapes && quote != b'`' => at += 2,
                // A doubled quote ends one quotation and begins the next: the same bytes either way.
                byte if byte == quote => return Some(at + 1),
                _ => at += 1,
            }
        }
    }

    /// The tool writes each statement's `sql_mode` before it; one bit decides how quotations are read.
    fn note_mode(&mut self, statement: &[u8]) {
        let text = String::from_utf8_lossy(statement);
        let Some(mode) = text
            .to_ascii_lowercase()
            .strip_prefix("set @@session.sql_mode=")
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok())
        else {
            return;
        };
        self.backslash_escapes = mode & NO_BACKSLASH_ESCAPES == 0;
    }
}

/// MySQL's tool tells the client program which character set follows; the server does not know the command, and is told
/// by the next statement.
fn for_the_client(statement: &[u8]) -> bool {
    let name = statement.strip_prefix(b"/*!\\C ").and_then(|rest| rest.strip_suffix(b" */"));
    name.is_some_and(|name| name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'))
}

#[cfg(test)]
mod tests {
    use super::super::tail::Place;
    use super::*;

    fn split(text: &str) -> Vec<String> {
        let found = statements(text.as_bytes()).unwrap();
        found.into_iter().map(|statement| String::from_utf8(statement).unwrap()).collect()
    }

    #[test]
    fn what_is_for_the_client_program_is_not_sent_to_the_server() {
        let text = "DELIMITER /*!*/;\n/*!\\C utf8mb4 *//*!*/;\nSET @@session.character_set_client=255/*!*/;\nBEGIN\n/*!*/;\n";
        assert_eq!(split(text), ["SET @@session.character_set_client=255", "BEGIN"]);
        let ours = "DELIMITER /*!*/;\n/*!\\C utf8mb4 */ insert t values (1)/*!*/;\n";
        assert_eq!(split(ours).len(), 1, "only the command alone");
    }

    #[test]
    fn a_tools_output_is_split_at_its_delimiters() {
        let text = "/*!50530 SET @@SESSION.PSEUDO_SLAVE_MODE=1*/;\nDELIMITER /*!*/;\n# at 4\n#700101 it's a comment\n\
            BINLOG '\nAAAA/*!*/;\n'/*!*/;\nuse `db`/*!*/;\nSET @x=1/*!*/;\n/*!100001 SET @@session.gtid_seq_no=47*//*!*/;\n\
            insert into t values ('a;b\n# not a comment\n\\'/*!*/;')\n/*!*/;\nCOMMIT/*!*/;\nDELIMITER ;\n# End of log file\n\
            ROLLBACK /* added by mysqlbinlog */;\n/*!50003 SET COMPLETION_TYPE=@OLD_COMPLETION_TYPE*/;\n";
        assert_eq!(
            split(text),
            [
                "/*!50530 SET @@SESSION.PSEUDO_SLAVE_MODE=1*/",
                "BINLOG '\nAAAA/*!*/;\n'",
                "use `db`",
                "SET @x=1",
                "/*!100001 SET @@session.gtid_seq_no=47*/",
                "insert into t values ('a;b\n# not a comment\n\\'/*!*/;')",
                "COMMIT",
                "ROLLBACK /* added by mysqlbinlog */",
                "/*!50003 SET COMPLETION_TYPE=@OLD_COMPLETION_TYPE*/",
            ]
        );
    }

    #[test]
    fn no_text_passes_for_a_statement() {
        let hostile =
            "DELIMITER /*!*/;\ninsert t values ('x/*!*/;\nGRANT ALL ON *.* TO evil/*!*/;\n')/*!*/;\n";
        assert_eq!(split(hostile).len(), 1);
        let comment = "DELIMITER /*!*/;\ninsert t values (1) -- don't /*!*/;\n, (2)/*!*/;\n";
        assert_eq!(split(comment).len(), 1);
        let mode = "SET @@session.sql_mode=1048576;\ninsert t values ('\\');\nselect 2;\n";
        assert_eq!(split(mode), ["SET @@session.sql_mode=1048576", "insert t values ('\\')", "select 2"]);
    }

    #[test]
    fn cut_output_is_refused() {
        for text in ["insert t values ('a", "insert t values (1)", "select /* a", "DELIMITER //\nselect 1;"] {
            assert!(statements(text.as_bytes()).is_err(), "{text}");
        }
        assert!(split("").is_empty());
        assert!(split("# only a comment").is_empty());
    }

    fn tail() -> (Tail, Vec<Transaction>) {
        let transaction = |number: u64| Transaction {
            gtid: format!("0-1-{number}"),
            file: "b.000002".to_owned(),
            start: number * 100,
            end: number * 100 + 100,
            complete: number < 4,
        };
        let transactions: Vec<_> = (1..=4).map(transaction).collect();
        let files = vec!["/d/b.000001".into(), "/d/b.000002".into()];
        let end = Place { file: "b.000002".to_owned(), position: 500 };
        (Tail { files, previous: None, transactions: transactions.clone(), end, torn: true }, transactions)
    }

    #[test]
    fn the_tool_is_told_exactly_what_is_missing() {
        let (tail, all) = tail();
        let told = arguments(Flavor::MariaDb, &tail, &all[1..3]).unwrap().unwrap();
        assert_eq!(told[2..], ["--start-position=200", "--stop-position=400", "--", "/d/b.000002"]);
        assert_eq!(arguments(Flavor::MariaDb, &tail, &[]).unwrap(), None);
        assert!(matches!(arguments(Flavor::MariaDb, &tail, &all[2..]), Err(SalvageError::Incomplete(_))));
        let gap = [all[0].clone(), all[2].clone()];
        assert!(matches!(arguments(Flavor::MariaDb, &tail, &gap), Err(SalvageError::Interleaved { .. })));
        let told = arguments(Flavor::MySql, &tail, &gap).unwrap().unwrap();
        assert_eq!(told[4], "--exclude-gtids=0-1-2");
    }
}
