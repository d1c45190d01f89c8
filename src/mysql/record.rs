//! One row, read by column name. Names are the present-day ones for every server ([`dialect::today`]); values are text,
//! parsed by whoever knows what they mean.

use std::sync::Arc;

use mysql_async::{Row, Value};

use super::dialect;

/// One row of an answer.
#[derive(Debug, Clone)]
pub struct Record {
    names: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl Record {
    /// The value of a column as text; `None` where it is NULL, or there is no such column.
    pub fn text(&self, name: &str) -> Option<&str> {
        let at = self.names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        self.values.get(at)?.as_deref()
    }

    /// The value of a column; empty where it is NULL, or there is no such column.
    pub fn text_or_empty(&self, name: &str) -> &str {
        self.text(name).unwrap_or("")
    }

    /// The value of a column as a number; `None` where it is none.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// The value of a column as a switch: `1`, `ON` and `Yes` are on.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(is_on)
    }

    /// A row as a test writes it.
    #[cfg(test)]
    pub(super) fn made(columns: &[(&str, &str)]) -> Self {
        let names: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self {
            names: names.into(),
            values: columns.iter().map(|(_, value)| Some((*value).to_owned())).collect(),
        }
    }

    /// The value at a place.
    pub fn at(&self, place: usize) -> Option<&str> {
        self.values.get(place)?.as_deref()
    }
}

/// Whether a server's text means "on".
pub fn is_on(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|on| text.eq_ignore_ascii_case(on))
}

/// The rows of one answer as records.
pub(super) fn records(rows: Vec<Row>) -> Vec<Record> {
    let Some(first) = rows.first() else { return Vec::new() };
    let names: Arc<[String]> =
        first.columns_ref().iter().map(|column| dialect::today(&column.name_str())).collect();
    rows.into_iter()
        .map(|row| Record { names: Arc::clone(&names), values: row.unwrap().into_iter().map(text).collect() })
        .collect()
}

/// The text protocol sends bytes for everything; the other forms cannot occur in it, and read the same.
fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Double(number) => Some(number.to_string()),
        Value::Date(..) | Value::Time(..) => Some(value.as_sql(true)),
    }
}
