//! The values in rows that were saved, as the server family's own log tool prints them: for people to read, never to run.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::extra::{Found, Group, RowKind};
use crate::model::extra::Change;

/// A longer value is shown cut.
const LONGEST_VALUE: usize = 200;
const LONGEST_STATEMENT: usize = 2_000;

/// One row as printed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    kind: RowKind,
    table: String,
    before: Vec<String>,
    after: Vec<String>,
}

/// What to show of each group, with the values where the tool gives them; and why it does not.
pub async fn changes(
    tool: &[String],
    file: &Path,
    groups: &[Group],
    within: Duration,
) -> (Vec<Vec<Change>>, Option<String>) {
    let wanted = groups.iter().flat_map(|group| &group.changes).map(|change| match change {
        Found::Rows { rows, .. } => *rows,
        Found::Statement(_) => 0,
    });
    let wanted = usize::try_from(wanted.sum::<u64>()).unwrap_or(usize::MAX);
    let read = tokio::time::timeout(within, print(tool, file, wanted)).await;
    let (rows, trouble) = match read {
        Ok(Ok(rows)) => (rows, None),
        Ok(Err(why)) => (Vec::new(), Some(why)),
        Err(_) => (Vec::new(), Some(format!("the log tool took longer than {} s", within.as_secs()))),
    };
    let mut rows = rows.into_iter().peekable();
    let told = groups.iter().map(|group| {
        let mut told = Vec::new();
        for change in &group.changes {
            match change {
                Found::Statement(text) => told.push(Change::Statement { text: shown(text) }),
                Found::Rows { table, kind, rows: count } => {
                    for _ in 0..*count {
                        let row = rows.next_if(|row| row.kind == *kind && row.table == *table);
                        told.push(change_of(*kind, table, row));
                    }
                }
            }
        }
        told
    });
    (told.collect(), trouble)
}

fn change_of(kind: RowKind, table: &str, row: Option<Row>) -> Change {
    let (before, after) = row.map_or_else(Default::default, |row| (row.before, row.after));
    let table = table.to_owned();
    match kind {
        RowKind::Inserted => Change::Inserted { table, after },
        RowKind::Updated => Change::Updated { table, before, after },
        RowKind::Deleted => Change::Deleted { table, before },
    }
}

/// The statement, without what may be a password.
fn shown(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if ["IDENTIFIED", "PASSWORD"].iter().any(|word| upper.contains(word)) {
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        return format!("{} … (not shown: a password may be in it; the file has it)", words.join(" "));
    }
    cut(text, LONGEST_STATEMENT)
}

fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(longest).collect::<String>())
}

async fn print(tool: &[String], file: &Path, wanted: usize) -> Result<Vec<Row>, String> {
    let (program, first) = tool.split_first().ok_or("no program is configured to decode binary logs")?;
    let mut child = Command::new(program)
        .args(first)
        .args(["--no-defaults", "--base64-output=DECODE-ROWS", "--verbose", "--"])
        .arg(file)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program} could not be run: {error}"))?;
    let out = child.stdout.take().ok_or("its output is closed")?;
    let mut lines = BufReader::new(out).split(b'\n');
    let mut reading = Reading::default();
    // A tool that is not read to its end is ended with the handle.
    while reading.rows.len() <= wanted {
        match lines.next_segment().await.map_err(|error| format!("{program}: {error}"))? {
            Some(line) => reading.line(&String::from_utf8_lossy(&line)),
            None => {
                let status = child.wait().await.map_err(|error| format!("{program}: {error}"))?;
                if !status.success() {
                    return Err(format!("{program} ended with {status}"));
                }
                break;
            }
        }
    }
    Ok(reading.rows)
}

/// Reads what `--verbose` prints: `### UPDATE`, `### WHERE` and `### SET` with the values below them.
#[derive(Debug, Default)]
struct Reading {
    rows: Vec<Row>,
    after: bool,
}

impl Reading {
    fn line(&mut self, line: &str) {
        let Some(line) = line.strip_prefix("### ") else { return };
        let begin = [
            ("INSERT INTO ", RowKind::Inserted),
            ("UPDATE ", RowKind::Updated),
            ("DELETE FROM ", RowKind::Deleted),
        ];
        if let Some((table, kind)) =
            begin.iter().find_map(|(words, kind)| Some((line.strip_prefix(words)?, *kind)))
        {
            let table = table.trim().trim_matches('`').replace("`.`", ".");
            self.rows.push(Row { kind, table, before: Vec::new(), after: Vec::new() });
        } else if line == "WHERE" || line == "SET" {
            self.after = line == "SET";
        } else if let (Some(value), Some(row)) = (line.trim_start().strip_prefix('@'), self.rows.last_mut()) {
            let value = value.split_once('=').map_or(value, |(_, value)| value).trim_end();
            let side = if self.after { &mut row.after } else { &mut row.before };
            side.push(cut(value, LONGEST_VALUE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        assert!(!shown("CREATE USER a IDENTIFIED BY 'secret'").contains("secret"));
        assert_eq!(shown("ALTER TABLE t ADD c INT"), "ALTER TABLE t ADD c INT");
    }

    #[test]
    fn rows_are_read_with_both_sides() {
        let text = "#Q> insert into t\n### UPDATE `app`.`t`\n### WHERE\n###   @1=1\n###   @2='a=b'\n### SET\n###   @1=2\n###   @2=NULL\n\
            # at 99\nBEGIN\n### DELETE FROM `app`.`t`\n### WHERE\n###   @1=-1 (4294967295)\n";
        let mut reading = Reading::default();
        text.lines().for_each(|line| reading.line(line));
        let [update, delete] = reading.rows.as_slice() else { panic!("{reading:?}") };
        assert_eq!((update.kind, update.table.as_str()), (RowKind::Updated, "app.t"));
        assert_eq!(
            (update.before.join(" "), update.after.join(" ")),
            ("1 'a=b'".to_owned(), "2 NULL".to_owned())
        );
        assert_eq!(
            (delete.kind, delete.before.as_slice()),
            (RowKind::Deleted, &["-1 (4294967295)".to_owned()][..])
        );
    }
}
