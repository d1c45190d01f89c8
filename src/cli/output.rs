//! Where text leaves the program. Colours only on a terminal that wants them; nothing a server said can move the cursor.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use comfy_table::{Cell, Table, presets};
use serde_json::Value;

use crate::http::contract::Problem;

/// How a word stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Quiet,
    Strong,
}

/// The terminal, or what stands in for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    pub(super) colours: bool,
    /// Somebody can be asked.
    pub(super) asks: bool,
    pub(super) terminal: bool,
}

impl Screen {
    pub(super) fn detect() -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { colours: terminal && wanted, asks: terminal && io::stdin().is_terminal(), terminal }
    }

    /// The text in that tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Quiet => "2",
            Tone::Strong => "1",
            Tone::Plain => return text.to_owned(),
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a text and a new line. Whoever closed the pipe has read enough.
    pub(super) fn print(self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// Begins a new screen, where there is one.
    pub(super) fn clear(self) {
        if self.terminal {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\x1b[H\x1b[2J").and_then(|()| out.flush());
        }
    }

    /// Tells of a problem on standard error.
    pub(super) fn complain(self, problem: &Problem) {
        let mut text = format!("mhactl: {}", problem.message);
        for reason in &problem.reasons {
            let _ = write!(text, "\n  - {reason}");
        }
        if !problem.next.is_empty() {
            let _ = write!(text, "\n  next: {}", problem.next);
        }
        self.note(&text);
    }

    /// A remark beside the output proper.
    pub(super) fn note(self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Asks; anything but y or yes is no.
    pub(super) fn confirm(self, question: &str) -> bool {
        let mut out = io::stdout().lock();
        let _ = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    /// Asks for these very words.
    pub(super) fn typed(self, words: &str) -> bool {
        let mut out = io::stdout().lock();
        let _ = write!(out, "Type \"{words}\" to go on: ").and_then(|()| out.flush());
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.is_ok() && answer.trim() == words
    }

    /// Columns, two spaces in, without rules.
    pub(super) fn table(self, head: &[&str], rows: Vec<Vec<(Tone, String)>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.colours {
            table.enforce_styling()
        } else {
            table.force_no_tty()
        };
        table.set_header(head.iter().map(|title| self.cell(Tone::Quiet, title)));
        for row in rows {
            table.add_row(row.iter().map(|(tone, text)| self.cell(*tone, text)));
        }
        let lines: Vec<String> = table.lines().map(|line| format!(" {}", line.trim_end())).collect();
        lines.join("\n")
    }

    fn cell(self, tone: Tone, text: &str) -> Cell {
        use comfy_table::{Attribute, Color};
        let cell = Cell::new(text);
        match tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Warn => cell.fg(Color::DarkYellow),
            Tone::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
            Tone::Quiet => cell.add_attribute(Attribute::Dim),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
        }
    }
}

/// A control character, or one that turns the direction of what follows.
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every such character written out.
pub(super) fn clean(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut clean, c| {
        if is_hostile(c) {
            clean.extend(c.escape_default())
        } else {
            clean.push(c)
        }
        clean
    })
}

/// The same for every text in a JSON value.
pub(super) fn clean_value(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(is_hostile) => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(clean_value),
        Value::Object(fields) => fields.values_mut().for_each(clean_value),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// JSON text that means the same and that a terminal can be shown. Such characters occur only inside its strings.
pub(super) fn clean_json(text: &str) -> String {
    text.trim_end().chars().fold(String::with_capacity(text.len()), |mut clean, c| {
        if is_hostile(c) && !matches!(c, '\n' | '\t') {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(clean, "\\u{unit:04x}");
            }
        } else {
            clean.push(c);
        }
        clean
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_server_says_moves_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\u{9b}1m\u{202e}\n"), "a\\u{1b}[2Jb\\u{9b}1m\\u{202e}\\n");
        assert_eq!(clean("Zürich 東京"), "Zürich 東京");
        let text = "{\"a\":\"\u{9b}x\u{7f}\"}\n";
        assert_eq!(clean_json(text), "{\"a\":\"\\u009bx\\u007f\"}");
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(same(&clean_json(text)), same(text));
    }
}
