//! PURE. Row events of a binary log: how many rows they hold, and the event that takes them back. A row's values are measured,
//! never understood: what comes back into a table is byte for byte what was logged.
//!
//! Only whole rows are inverted (full row image). What is not known for certain is an obstacle, never a guess.

use super::events::HEADER;

pub(super) const TABLE_MAP: u8 = 19;
/// The end of a statement: the server applies what it was given so far.
const STATEMENT_END: u8 = 1;
/// Unique keys were not checked when it was written; taking it back checks them.
const RELAXED_UNIQUE: u8 = 4;

/// What a row event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// A row event's form: what it did, its version, and whether it can be read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) kind: Kind,
    /// MySQL's form has more data behind the flags.
    has_extra: bool,
    /// Why its rows cannot be measured.
    pub(super) obstacle: Option<&'static str>,
}

/// The form of a row event; `None` for any other event.
pub(super) fn form(event: u8) -> Option<Form> {
    let (kind, has_extra, obstacle) = match event {
        23 => (Kind::Insert, false, None),
        24 => (Kind::Update, false, None),
        25 => (Kind::Delete, false, None),
        30 => (Kind::Insert, true, None),
        31 => (Kind::Update, true, None),
        32 => (Kind::Delete, true, None),
        20..=22 => (Kind::Update, false, Some("its row events are of a form before 5.1")),
        39 => (Kind::Update, true, Some("it logs JSON documents in part (binlog_row_value_options)")),
        166 | 169 => (Kind::Insert, false, Some("its row events are compressed (log_bin_compress)")),
        167 | 170 => (Kind::Update, false, Some("its row events are compressed (log_bin_compress)")),
        168 | 171 => (Kind::Delete, false, Some("its row events are compressed (log_bin_compress)")),
        _ => return None,
    };
    Some(Form { kind, has_extra, obstacle })
}

/// A table as its map event describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) id: u64,
    pub(super) schema: String,
    pub(super) name: String,
    columns: Vec<(u8, u16)>,
}

/// Bytes that are taken one after another; `None` where there are too few.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, length: usize) -> Option<u64> {
        let bytes = self.take(length)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A number that says its own length.
    fn packed(&mut self) -> Option<usize> {
        let number = match self.number(1)? {
            short @ 0..=250 => short,
            252 => self.number(2)?,
            253 => self.number(3)?,
            254 => self.number(8)?,
            _ => return None,
        };
        usize::try_from(number).ok()
    }

    fn name(&mut self) -> Option<String> {
        let length = usize::try_from(self.number(1)?).ok()?;
        let name = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(name)
    }
}

/// Reads the body of a map event.
pub(super) fn table(body: &[u8]) -> Option<Table> {
    let mut bytes = Bytes(body);
    let id = bytes.number(6)?;
    bytes.take(2)?;
    let (schema, name) = (bytes.name()?, bytes.name()?);
    let count = bytes.packed()?;
    let types = bytes.take(count)?;
    let length = bytes.packed()?;
    let mut metadata = Bytes(bytes.take(length)?);
    let columns = types.iter().map(|kind| Some((*kind, metadata_of(*kind, &mut metadata)?)));
    Some(Table { id, schema, name, columns: columns.collect::<Option<_>>()? })
}

fn metadata_of(kind: u8, bytes: &mut Bytes<'_>) -> Option<u16> {
    let length = match kind {
        // FLOAT, DOUBLE, times with fractions, and what carries its own length: one byte.
        4 | 5 | 17..=19 | 140 | 242 | 245 | 249..=252 | 255 => 1,
        // VARCHAR, BIT, DECIMAL, strings, ENUM, SET: two.
        15 | 16 | 141 | 246..=248 | 253 | 254 => 2,
        _ => 0,
    };
    u16::try_from(bytes.number(length)?).ok()
}

/// Length of one value at the head of `bytes`. `None` for a type that is not known, or where bytes are missing.
fn length_of((kind, metadata): (u8, u16), bytes: &[u8]) -> Option<usize> {
    let [low, high] = metadata.to_le_bytes().map(usize::from);
    let fraction = low.div_ceil(2);
    let counted = |digits: usize| {
        let count = Bytes(bytes).number(digits).and_then(|count| usize::try_from(count).ok());
        count.map(|count| digits + count)
    };
    let limited = |most: usize| counted(if most > 255 { 2 } else { 1 });
    match kind {
        // TINY, YEAR; SHORT; INT24, DATE, TIME; LONG, FLOAT, TIMESTAMP; DOUBLE, LONGLONG, DATETIME.
        1 | 13 => Some(1),
        2 => Some(2),
        9 | 10 | 11 | 14 => Some(3),
        3 | 4 | 7 => Some(4),
        5 | 8 | 12 => Some(8),
        6 => Some(0),
        17 => Some(4 + fraction),
        18 => Some(5 + fraction),
        19 => Some(3 + fraction),
        15 | 141 | 253 => limited(usize::from(metadata)),
        16 => Some(high + usize::from(low > 0)),
        246 => Some(decimal(low, high)?),
        247 | 248 => Some(high),
        140 | 242 | 245 | 249..=252 | 255 => counted(low).filter(|_| (1..=4).contains(&low)),
        // The real type is in the first byte, whose two middle bits are also the upper ones of a long string's length.
        254 if low & 0x30 != 0x30 => limited(high | (((low & 0x30) ^ 0x30) << 4)),
        254 if matches!(low, 247 | 248) => Some(high),
        254 => limited(high),
        _ => None,
    }
}

/// Nine digits take four bytes, what is left over fewer.
fn decimal(precision: usize, scale: usize) -> Option<usize> {
    const LEFT_OVER: [usize; 9] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
    let whole = precision.checked_sub(scale)?;
    Some((whole / 9 + scale / 9) * 4 + LEFT_OVER[whole % 9] + LEFT_OVER[scale % 9])
}

/// A row event taken apart.
struct Parts<'a> {
    /// Everything before the images, bitmaps of columns included.
    head: &'a [u8],
    /// One for each row, two for each of an update.
    images: Vec<&'a [u8]>,
}

fn parts<'a>(form: Form, body: &'a [u8], table: &Table) -> Result<Parts<'a>, String> {
    let name = || format!("{}.{}", table.schema, table.name);
    if let Some(obstacle) = form.obstacle {
        return Err(obstacle.to_owned());
    }
    let cut = || format!("a row event of {} is not understood", name());
    let mut bytes = Bytes(body);
    bytes.take(8).ok_or_else(cut)?;
    if form.has_extra {
        // The length counts its own two bytes.
        let length = bytes.number(2).and_then(|length| usize::try_from(length).ok()).ok_or_else(cut)?;
        bytes.take(length.saturating_sub(2)).ok_or_else(cut)?;
    }
    let count = bytes.packed().ok_or_else(cut)?;
    if count != table.columns.len() {
        return Err(cut());
    }
    for _ in 0..(if form.kind == Kind::Update { 2 } else { 1 }) {
        let present = bytes.take(count.div_ceil(8)).ok_or_else(cut)?;
        if (0..count).any(|column| present[column / 8] & (1 << (column % 8)) == 0) {
            return Err(format!(
                "{} is logged without all its columns (binlog_row_image is not FULL), so its rows cannot be put back",
                name()
            ));
        }
    }
    let head = &body[..body.len() - bytes.0.len()];
    let mut images = Vec::new();
    while !bytes.0.is_empty() {
        images.push(image(&mut bytes, table).ok_or_else(|| {
            format!("a row of {} has a value of a type whose length is not known here", name())
        })?);
    }
    if form.kind == Kind::Update && !images.len().is_multiple_of(2) {
        return Err(cut());
    }
    Ok(Parts { head, images })
}

fn image<'a>(bytes: &mut Bytes<'a>, table: &Table) -> Option<&'a [u8]> {
    let whole = bytes.0;
    let nulls = bytes.take(table.columns.len().div_ceil(8))?;
    for (index, column) in table.columns.iter().enumerate() {
        if nulls[index / 8] & (1 << (index % 8)) == 0 {
            bytes.take(length_of(*column, bytes.0)?)?;
        }
    }
    Some(&whole[..whole.len() - bytes.0.len()])
}

/// How many rows the event's body holds.
///
/// # Errors
/// Why that is not known.
pub(super) fn count(form: Form, body: &[u8], table: &Table) -> Result<u64, String> {
    let images = parts(form, body, table)?.images.len() as u64;
    Ok(if form.kind == Kind::Update { images / 2 } else { images })
}

/// The event that takes a row event back, both without checksums: rows in reverse, an update's images changed over.
///
/// # Errors
/// Why it cannot be inverted.
pub(super) fn inverse(form: Form, event: &[u8], table: &Table) -> Result<Vec<u8>, String> {
    let body = event.get(HEADER..).ok_or("an event without a head")?;
    let Parts { head, images } = parts(form, body, table)?;
    let mut turned = event[..HEADER + head.len()].to_vec();
    turned[4] = match (form.kind, form.has_extra) {
        (Kind::Insert, false) => 25,
        (Kind::Delete, false) => 23,
        (Kind::Update, false) => 24,
        (Kind::Insert, true) => 32,
        (Kind::Delete, true) => 30,
        (Kind::Update, true) => 31,
    };
    let flags = &mut turned[HEADER + 6];
    *flags = (*flags | STATEMENT_END) & !RELAXED_UNIQUE;
    // Before and after change over where the whole list is turned round.
    images.iter().rev().for_each(|image| turned.extend_from_slice(image));
    Ok(turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn event(kind: u8, body: &str) -> Vec<u8> {
        super::super::events::tests::event(kind, 9, &bytes(body))
    }

    /// INT, VARCHAR(1200), DECIMAL(12,3), DATETIME(3), FLOAT, CHAR(40), ENUM, BIT(10), TEXT, TIMESTAMP(6), JSON; MySQL 9.7's own bytes.
    const EVERY: &str = "55000000000001000361707000016b000b030ff61204fefe10fc11f50fb0040c030304fe28f7010201020604fe070101000203fcff00";
    const DELETED: &str = "550000000000110002000bffff00000100000005006f746865727fffcfc6fd5999b8c431051a7ccdcc8c3f01710200050400746578746b01e32f0303f30d0000000001000c000b00010005010061";
    /// `app.writes`: INT, BIGINT, DATETIME(6), INT; a two-row insert and a two-row update.
    const WRITES: &str = "590000000000010003617070000677726974657300040308120301060c010100";
    const INSERTED: &str = "5900000000001100020004ff0001000000010000000000000099bb6b2787031ae6010000000001000000020000000000000099bb6b2787031ae601000000";

    #[test]
    fn a_table_of_many_types_is_measured() {
        let table = table(&bytes(EVERY)).unwrap();
        assert_eq!((table.schema.as_str(), table.name.as_str(), table.columns.len()), ("app", "k", 11));
        let (form, whole) = (form(32).unwrap(), bytes(DELETED));
        assert_eq!(count(form, &whole, &table), Ok(1));
        assert!(count(form, &whole[..whole.len() - 1], &table).is_err(), "a cut row");
    }

    #[test]
    fn an_insert_becomes_a_delete_of_the_same_rows_last_first() {
        let table = table(&bytes(WRITES)).unwrap();
        let form = form(30).unwrap();
        let event = event(30, INSERTED);
        assert_eq!(count(form, &event[HEADER..], &table), Ok(2));
        let inverse = super::inverse(form, &event, &table).unwrap();
        assert_eq!((inverse[4], inverse.len()), (32, event.len()));
        let row = |number: &str| bytes(&format!("0001000000{number}0000000000000099bb6b2787031ae601000000"));
        assert!(inverse.ends_with(&[row("02"), row("01")].concat()));
        assert_eq!(super::inverse(self::form(32).unwrap(), &inverse, &table).unwrap(), event);
    }

    #[test]
    fn an_updates_images_change_over() {
        let table = table(&bytes(WRITES)).unwrap();
        let row = |n: &str| format!("00010000000{n}0000000000000099bb6b2787031ae601000000");
        let rows: Vec<String> = ["1", "2", "3", "4"].map(row).into();
        let update = event(31, &format!("5900000000001500020004ffff{}", rows.concat()));
        let form = form(31).unwrap();
        assert_eq!(count(form, &update[HEADER..], &table), Ok(2));
        let inverse = super::inverse(form, &update, &table).unwrap();
        let turned: Vec<String> = rows.iter().rev().cloned().collect();
        assert!(inverse.ends_with(&bytes(&turned.concat())));
        assert_eq!(inverse[HEADER + 6], 0x11, "ends its statement and checks unique keys");
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let table = table(&bytes(WRITES)).unwrap();
        let part = INSERTED.replacen("0004ff", "0004fe", 1);
        assert!(count(form(30).unwrap(), &bytes(&part), &table).unwrap_err().contains("binlog_row_image"));
        assert!(count(form(166).unwrap(), &bytes(INSERTED), &table).unwrap_err().contains("compressed"));
        assert!(count(form(39).unwrap(), &bytes(INSERTED), &table).unwrap_err().contains("JSON"));
        let cut = &bytes(INSERTED)[..40];
        assert!(count(form(30).unwrap(), cut, &table).is_err());
        assert_eq!(form(2), None);
    }

    #[test]
    fn decimals_and_long_strings_have_the_servers_lengths() {
        for ((precision, scale), length) in
            [((12, 3), 6), ((10, 0), 5), ((65, 30), 30), ((9, 9), 4), ((1, 1), 1)]
        {
            assert_eq!(decimal(precision, scale), Some(length), "DECIMAL({precision},{scale})");
        }
        // CHAR(255) of utf8mb4: 1020 bytes, whose upper bits hide in the type.
        let metadata = u16::from_le_bytes([0xce, 0xfc]);
        assert_eq!(length_of((254, metadata), &[3, 0, 1, 2, 3]), Some(5));
        assert_eq!(length_of((254, u16::from_le_bytes([254, 40])), &[3, 1, 2, 3]), Some(4));
        assert_eq!(length_of((16, u16::from_le_bytes([2, 1])), &[]), Some(2));
        assert_eq!(length_of((20, 0), &[]), None);
    }
}
