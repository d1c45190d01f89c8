//! Mistakes and risks found in a configuration text, each with its place, its line and what to write instead.
//! Never shows a secret: values in places where one may have been written are blotted out of the quoted line.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Byte range in the text.
pub(super) type Span = Range<usize>;

/// One thing found at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file's name as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
    /// What to write instead.
    pub advice: String,
    /// The source line, secrets blotted out, and the marks below it.
    excerpt: String,
}

impl Finding {
    fn show(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        let Self { file, line, column, message, advice, excerpt } = self;
        let gutter = " ".repeat(line.to_string().len());
        let mut parts = excerpt.splitn(2, '\n');
        let (source, marks) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        writeln!(f, "{file}:{line}:{column}: {kind}: {message}")?;
        writeln!(f, "{line} | {source}")?;
        writeln!(f, "{gutter} | {marks}")?;
        write!(f, "{gutter} = {advice}")
    }
}

/// Legal, but worth a second look. Told at start and at every reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub Finding);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f, "warning")
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    #[error("cannot read the configuration {path}: {source}; name another with --config, or mend its permissions", path = path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Every mistake in the text, in its order.
    #[error("{}", show_all(.mistakes, .warnings))]
    Wrong { mistakes: Vec<Finding>, warnings: Vec<Warning> },
}

fn show_all(mistakes: &[Finding], warnings: &[Warning]) -> String {
    struct Mistake<'a>(&'a Finding);
    impl fmt::Display for Mistake<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.show(f, "error")
        }
    }
    let mut parts: Vec<String> = mistakes.iter().map(|mistake| Mistake(mistake).to_string()).collect();
    parts.extend(warnings.iter().map(Warning::to_string));
    let file = mistakes.first().map_or("", |first| first.file.as_str());
    let count = match mistakes.len() {
        1 => "1 mistake".to_owned(),
        more => format!("{more} mistakes"),
    };
    parts.push(format!("{file}: {count}; nothing of it was taken over"));
    parts.join("\n\n")
}

#[derive(Clone, PartialEq, Eq)]
struct Raw {
    at: Span,
    message: String,
    advice: String,
}

/// Collects while a text is checked.
pub(super) struct Findings<'t> {
    file: &'t str,
    text: &'t str,
    errors: RefCell<Vec<Raw>>,
    warnings: RefCell<Vec<Raw>>,
    hidden: RefCell<Vec<Span>>,
    /// Also blot by the look of a line: set where the text could not be parsed, so that no value has a known place.
    guess: RefCell<bool>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            hidden: RefCell::default(),
            guess: RefCell::new(false),
        }
    }

    pub(super) fn error(&self, at: &Span, message: impl Into<String>, advice: impl Into<String>) {
        push(&self.errors, at, message.into(), advice.into());
    }

    pub(super) fn warn(&self, at: &Span, message: impl Into<String>, advice: impl Into<String>) {
        push(&self.warnings, at, message.into(), advice.into());
    }

    /// Blots that range out of every quoted line.
    pub(super) fn hide(&self, at: &Span) {
        self.hidden.borrow_mut().push(at.clone());
    }

    /// A text that is no TOML: its parser's words, and ours where the mistake is a usual one.
    pub(super) fn syntax(&self, error: &toml::de::Error) {
        *self.guess.borrow_mut() = true;
        let at = error.span().unwrap_or(0..0);
        let line = self.text.get(line_range(self.text, at.start)).unwrap_or("");
        let value = line.split_once('=').map_or("", |(_, value)| value.trim());
        let bare = value.starts_with(|c: char| c.is_ascii_digit())
            && value.ends_with(|c: char| c.is_ascii_alphabetic())
            && value.chars().all(|c| c.is_ascii_alphanumeric());
        let advice = if bare && !looks_secret(line) {
            format!("durations are quoted: write \"{value}\"")
        } else if error.message().contains("duplicate key") {
            "keep one of the two".to_owned()
        } else {
            "write TOML: key = \"text\", numbers and true/false without quotes; all else is checked once it can be read"
                .to_owned()
        };
        self.error(&at, format!("this is no TOML: {}", error.message()), advice);
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// The value with its warnings where nothing was wrong.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigErrors> {
        let warnings = in_order(&self.warnings).iter().map(|raw| Warning(self.place(raw))).collect();
        let mistakes: Vec<Finding> = in_order(&self.errors).iter().map(|raw| self.place(raw)).collect();
        match value {
            Some(value) if mistakes.is_empty() => Ok((value, warnings)),
            Some(_) | None => Err(ConfigErrors::Wrong { mistakes, warnings }),
        }
    }

    fn place(&self, raw: &Raw) -> Finding {
        let start = floor(self.text, raw.at.start);
        let range = line_range(self.text, start);
        let before = self.text.get(..range.start).unwrap_or("");
        let column = self.text.get(range.start..start).unwrap_or("").chars().count() + 1;
        Finding {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            message: raw.message.clone(),
            advice: raw.advice.clone(),
            excerpt: self.excerpt(&range, &(start..floor(self.text, raw.at.end).max(start))),
        }
    }

    fn excerpt(&self, line: &Span, at: &Span) -> String {
        const LONGEST: usize = 160;
        let text = self.text.get(line.clone()).unwrap_or("").trim_end();
        let blot = self.guess.borrow().then(|| blot_from(self.text, line)).flatten();
        let hidden = self.hidden.borrow();
        let (mut shown, mut marks, mut in_blot, mut marked) = (String::new(), String::new(), false, 0);
        for (offset, c) in text.char_indices() {
            let byte = line.start + offset;
            let blotted =
                blot.is_some_and(|from| byte >= from) || hidden.iter().any(|span| span.contains(&byte));
            if shown.chars().count() >= LONGEST {
                break;
            }
            if blotted && in_blot {
                continue;
            }
            in_blot = blotted;
            shown.push(if blotted {
                '…'
            } else if c.is_control() {
                ' '
            } else {
                c
            });
            let mark = at.contains(&byte);
            marked += usize::from(mark);
            marks.push(if mark { '^' } else { ' ' });
        }
        if marked == 0 {
            marks.push('^');
        }
        format!("{shown}\n{}", marks.trim_end())
    }
}

impl fmt::Debug for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Findings").field("file", &self.file).finish_non_exhaustive()
    }
}

fn in_order(raws: &RefCell<Vec<Raw>>) -> Vec<Raw> {
    let mut raws = raws.borrow().clone();
    raws.sort_by_key(|raw| raw.at.start);
    raws
}

/// The same said twice of one place (a rule broken in `[defaults]` is broken in every cluster) is said once.
fn push(list: &RefCell<Vec<Raw>>, at: &Span, message: String, advice: String) {
    let raw = Raw { at: at.clone(), message, advice };
    let mut list = list.borrow_mut();
    if !list.contains(&raw) {
        list.push(raw);
    }
}

fn line_range(text: &str, at: usize) -> Span {
    let at = floor(text, at);
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let end = text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |newline| at + newline);
    start..end
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Whether a line may hold a secret, misspelt keys included.
fn looks_secret(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["pas", "psw", "pw", "tok", "secr", "hook"].iter().any(|word| line.contains(word))
}

/// Where to blot from in a line that could not be parsed: after the sign of a secret's key, or all of it inside
/// a text of several lines.
fn blot_from(text: &str, line: &Span) -> Option<usize> {
    let before = text.get(..line.start).unwrap_or("");
    if ["\"\"\"", "'''"].iter().any(|quotes| before.matches(quotes).count() % 2 == 1) {
        return Some(line.start);
    }
    let shown = text.get(line.clone()).unwrap_or("");
    looks_secret(shown).then(|| line.start + shown.find('=').map_or(0, |sign| sign + 1))
}
