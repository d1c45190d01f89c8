//! One row, read by column name. Names are the present-day ones for every server ([`today`](super::dialect::today)); values are text,
//! parsed by whoever knows what they mean.

use std::sync::Arc;

/// One row of an answer.
#[derive(Debug, Clone)]
pub struct Record {
    names: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl Record {
    /// A row whose values stand in the order of the names.
    pub(super) fn new(names: Arc<[String]>, values: Vec<Option<String>>) -> Self {
        Self { names, values }
    }

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
