//! Walks a parsed TOML text key by key. A value of the wrong kind is recorded and read as absent, so that one pass
//! finds every mistake; a key nobody asked for is a mistake too. Knows nothing of what the keys mean.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::findings::{Findings, Span};
use super::value::{self, Refusal, nearest};

/// A table, and which of its keys were asked for.
#[derive(Debug)]
pub(super) struct Table<'d> {
    pub(super) findings: &'d Findings<'d>,
    /// The header, or the inline table.
    pub(super) at: Span,
    /// How messages call it: `[manager]`, `[[cluster]]`, `budget`.
    pub(super) name: String,
    entries: &'d DeTable<'d>,
    asked: RefCell<Vec<&'static str>>,
}

/// A value somebody wrote.
#[derive(Debug, Clone)]
pub(super) struct Item<'d> {
    pub(super) findings: &'d Findings<'d>,
    pub(super) key: &'static str,
    /// Where the value stands.
    pub(super) at: Span,
    value: &'d DeValue<'d>,
}

/// Keys that are right, elsewhere.
const HOMES: [(&[&str], &str); 3] = [
    (&["listen", "on_event", "vote"], "[manager] of manager.toml"),
    (&["socket", "pid_file", "binlog_index", "binlog_tool", "service"], "[server] of agent.toml"),
    (&["interface"], "vip = { address = …, interface = … }"),
];

impl<'d> Table<'d> {
    pub(super) fn new(
        findings: &'d Findings<'d>,
        entries: &'d DeTable<'d>,
        at: Span,
        name: impl Into<String>,
    ) -> Self {
        Self { findings, at, name: name.into(), entries, asked: RefCell::default() }
    }

    /// What is written there, if anything.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'d>> {
        self.asked.borrow_mut().push(key);
        let (_, value) = self.entries.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(self.item(key, value))
    }

    /// What must be written there; recorded where it is not.
    pub(super) fn need(&self, key: &'static str, advice: &str) -> Option<Item<'d>> {
        let item = self.get(key);
        if item.is_none() {
            self.findings.error(&self.at, format!("{} has no `{key}`", self.name), advice);
        }
        item
    }

    fn item(&self, key: &'static str, value: &'d Spanned<DeValue<'d>>) -> Item<'d> {
        Item { findings: self.findings, key, at: value.span(), value: value.get_ref() }
    }

    /// The tables of `[[key]]`, in their order. Empty where none is written or something else is.
    pub(super) fn tables(&self, key: &'static str, header: &str) -> Vec<Table<'d>> {
        let Some(item) = self.get(key) else { return Vec::new() };
        let single = || format!("write {header} with two brackets on each side, once for each");
        let DeValue::Array(items) = item.value else {
            self.findings.error(
                &item.at,
                format!("`{key}` is {}, not a list of tables", kind(item.value)),
                single(),
            );
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|value| match value.get_ref() {
                DeValue::Table(entries) => Some(Table::new(self.findings, entries, value.span(), header)),
                other @ (DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)) => {
                    self.findings.error(
                        &value.span(),
                        format!("{header} is {}, not a table", kind(other)),
                        single(),
                    );
                    None
                }
            })
            .collect()
    }

    /// Whether that key is written, without having asked for it.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Records every key nobody asked for. What stands there may be a secret under a misspelt name: it is hidden.
    pub(super) fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, value) in self.entries {
            let written = key.get_ref().as_ref();
            if asked.contains(&written) {
                continue;
            }
            self.findings.hide(&value.span());
            let home = HOMES.iter().find(|(keys, _)| keys.contains(&written)).map(|(_, home)| *home);
            let threshold =
                super::thresholds::is_key(written).then_some("[defaults] or [[cluster]] of manager.toml");
            let advice = match (home.or(threshold), nearest(written, asked.iter().copied())) {
                (Some(home), _) => format!("`{written}` belongs in {home}"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("the keys here are {}", list(&asked)),
            };
            self.findings.error(
                &key.span(),
                format!("unknown key `{}` in {}", written.escape_debug(), self.name),
                advice,
            );
        }
    }
}

/// `a, b and c`.
pub(super) fn list(names: &[&str]) -> String {
    match names.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

impl<'d> Item<'d> {
    pub(super) fn error(&self, message: impl Into<String>, advice: impl Into<String>) {
        self.findings.error(&self.at, message, advice);
    }

    pub(super) fn warn(&self, message: impl Into<String>, advice: impl Into<String>) {
        self.findings.warn(&self.at, message, advice);
    }

    fn wrong_kind<T>(&self, wanted: &str, advice: &str) -> Option<T> {
        self.error(format!("`{}` is {}, not {wanted}", self.key, kind(self.value)), advice);
        None
    }

    /// Takes a check's word, or records its refusal.
    pub(super) fn checked<T>(&self, result: Result<T, Refusal>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Refusal { message, advice }) => {
                self.error(format!("`{}`: {message}", self.key), advice);
                None
            }
        }
    }

    /// The text, where it is one.
    pub(super) fn as_text(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub(super) fn text(&self) -> Option<&'d str> {
        match self.value.as_str() {
            Some("") => {
                self.error(
                    format!("`{}` is empty", self.key),
                    "write a value between the quotes, or remove the line",
                );
                None
            }
            Some(text) => Some(text),
            None => self.wrong_kind("a text", &format!("write {} = \"…\"", self.key)),
        }
    }

    pub(super) fn bool(&self) -> Option<bool> {
        self.value
            .as_bool()
            .or_else(|| self.wrong_kind("true or false", "write true or false, without quotes"))
    }

    /// A whole number within the range.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let (least, most) = (range.start(), range.end());
        let advice = format!("write a whole number from {least} to {most}, without quotes");
        let DeValue::Integer(written) = self.value else { return self.wrong_kind("a whole number", &advice) };
        let number = i128::from_str_radix(written.as_str(), written.radix()).ok();
        match number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                self.error(format!("`{}` is out of range", self.key), advice);
                None
            }
        }
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.number(1..=65_535).and_then(|port| u16::try_from(port).ok())
    }

    /// A duration within the range, both ends included.
    pub(super) fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        let text = match self.value {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => {
                let digits =
                    i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX).to_string();
                let refusal = match value::duration(&digits) {
                    Err(refusal) => refusal,
                    Ok(_) => Refusal { message: "has no unit".to_owned(), advice: "write \"3s\"".to_owned() },
                };
                return self.checked(Err(refusal));
            }
            DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                return self
                    .wrong_kind("a duration", "write a whole number and a unit in quotes, such as \"3s\"");
            }
        };
        let duration = self.checked(value::duration(text))?;
        if (least..=most).contains(&duration) {
            return Some(duration);
        }
        let side = if duration < least { "shorter" } else { "longer" };
        let advice = format!("write \"{}\" to \"{}\"", value::show(least), value::show(most));
        self.error(format!("`{}` = {text:?} is {side} than makes sense", self.key), advice);
        None
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<String> = words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let names = names.join(" or ");
        let Some(text) = self.value.as_str() else {
            return self.wrong_kind("a text", &format!("write {names}"));
        };
        let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let near = nearest(text, words.iter().map(|(name, _)| *name));
            let advice = near.map_or_else(
                || format!("write {names}"),
                |near| format!("did you mean \"{near}\"? It may be {names}"),
            );
            self.error(format!("`{}` cannot be {text:?}", self.key), advice);
        }
        found
    }

    /// A path from the root.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.starts_with('/') && !text.contains('\0') {
            return Some(PathBuf::from(text));
        }
        self.error(
            format!("`{}` = {text:?} depends on where the program is started", self.key),
            "write the whole path, beginning with a slash",
        );
        None
    }

    /// A list of texts, none of them empty.
    pub(super) fn texts(&self) -> Option<Vec<Item<'d>>> {
        let DeValue::Array(items) = self.value else {
            return self.wrong_kind("a list", &format!("write {} = [\"…\"]", self.key));
        };
        let items =
            items.iter().map(|value| Item { at: value.span(), value: value.get_ref(), ..self.clone() });
        Some(items.filter(|item| item.text().is_some()).collect())
    }

    /// A program and its arguments.
    pub(super) fn words(&self) -> Option<Vec<String>> {
        let words: Vec<String> = self.texts()?.iter().filter_map(Item::as_text).map(str::to_owned).collect();
        if words.is_empty() {
            self.error(
                format!("`{}` names no program", self.key),
                format!("write {} = [\"program\", \"argument\"]", self.key),
            );
            return None;
        }
        Some(words)
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// The table, called as in `name`.
    pub(super) fn table(&self, name: &str, example: &str) -> Option<Table<'d>> {
        match self.value {
            DeValue::Table(entries) => Some(Table::new(self.findings, entries, self.at.clone(), name)),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => self.wrong_kind("a table", &format!("write {example}")),
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
