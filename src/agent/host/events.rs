//! PURE. What the events of a binary log say about where transactions begin and end, from their bytes.
//!
//! Only headers, GTIDs and the few statements that end a group are read; row data never is.

use std::fmt::Write;

use crate::model::instance::Flavor;

/// Length of a version 4 event header.
pub(super) const HEADER: usize = 19;
/// How much of an event's body is looked at: what ends a group is short.
const GLANCE: usize = 8 << 10;
/// The same of a set of GTIDs, which may have many servers and gaps.
const GLANCE_SET: usize = 16 << 20;
const CHECKSUM: usize = 4;

const QUERY: u8 = 2;
const FORMAT: u8 = 15;
const XID: u8 = 16;
const GTID: u8 = 33;
const ANONYMOUS: u8 = 34;
const PREVIOUS_GTIDS: u8 = 35;
const XA_PREPARE: u8 = 38;
const PAYLOAD: u8 = 40;
const TAGGED_GTID: u8 = 42;
const MARIADB_GTID: u8 = 162;
const MARIADB_GTID_LIST: u8 = 163;
const MARIADB_ENCRYPTION: u8 = 164;
const MARIADB_QUERY_COMPRESSED: u8 = 165;

/// MariaDB: the group is one statement without a COMMIT behind it.
const STANDALONE: u8 = 1;

/// The fixed part in front of every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) server_id: u32,
    /// The whole event, header included.
    pub(super) size: u32,
}

impl Header {
    /// `None` when the bytes cannot be a header: zeros of a file that was lengthened but not written, or garbage.
    pub(super) fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four));
        let header = Self { kind: bytes[4], server_id: number(5)?, size: number(9)? };
        (header.kind != 0 && header.size as usize >= HEADER).then_some(header)
    }

    /// How much of the body says something of a group's bounds, in bytes.
    pub(super) fn worth_reading(self) -> usize {
        let length = self.size as usize - HEADER;
        match self.kind {
            QUERY | FORMAT | GTID | ANONYMOUS | TAGGED_GTID | MARIADB_GTID => length.min(GLANCE),
            PREVIOUS_GTIDS | MARIADB_GTID_LIST => length.min(GLANCE_SET),
            _ => 0,
        }
    }
}

/// What an event means for the groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The file's format: whether its events end in a checksum.
    Format { checksum: bool },
    /// Everything from here on cannot be read without a key.
    Encrypted,
    /// All that earlier files hold.
    Previous(String),
    /// A group begins, `alone` when its first statement is its last.
    Begin { gtid: String, alone: bool },
    /// The group goes on until it is committed (MySQL says so by a statement).
    Open,
    /// The group ends with this event.
    Commit,
    /// The group ends here if no statement opened it.
    Statement,
    /// Says nothing of bounds.
    Other,
}

/// Reads an event. `body` is what follows the header, as far as [`Header::worth_reading`]. `None`
/// when it does not have the form its type demands.
pub(super) fn meaning(flavor: Flavor, header: Header, body: &[u8], checksum: bool) -> Option<Meaning> {
    let whole = header.size as usize == HEADER + body.len();
    let trailer = if checksum && whole && header.kind != FORMAT { CHECKSUM } else { 0 };
    let body = body.get(..body.len().checked_sub(trailer)?)?;
    Some(match (header.kind, flavor) {
        // Algorithm and checksum are the last five bytes; 1 is CRC32.
        (FORMAT, _) => Meaning::Format { checksum: *body.get(body.len().checked_sub(5)?)? == 1 },
        (MARIADB_ENCRYPTION, Flavor::MariaDb) => Meaning::Encrypted,
        (QUERY, _) => statement(flavor, body)?,
        (MARIADB_QUERY_COMPRESSED, Flavor::MariaDb) => Meaning::Statement,
        (XID | XA_PREPARE | PAYLOAD, _) => Meaning::Commit,
        (GTID, Flavor::MySql) => begin(format!("{}:{}", uuid(body.get(1..)?)?, le64(body, 17)?)),
        (TAGGED_GTID, Flavor::MySql) => begin(tagged_gtid(body)?),
        (ANONYMOUS, Flavor::MySql) => begin("ANONYMOUS".to_owned()),
        (PREVIOUS_GTIDS, Flavor::MySql) if whole => Meaning::Previous(previous_gtids(body)?),
        (MARIADB_GTID, Flavor::MariaDb) => Meaning::Begin {
            gtid: format!("{}-{}-{}", le32(body, 8)?, header.server_id, le64(body, 0)?),
            alone: body.get(12)? & STANDALONE != 0,
        },
        (MARIADB_GTID_LIST, Flavor::MariaDb) if whole => Meaning::Previous(gtid_list(body)?),
        _ => Meaning::Other,
    })
}

fn begin(gtid: String) -> Meaning {
    Meaning::Begin { gtid, alone: false }
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// Thread and time (4 each), length of the schema's name (1), error (2), length of the variables (2); then these.
fn statement(flavor: Flavor, body: &[u8]) -> Option<Meaning> {
    let schema = usize::from(*body.get(8)?);
    let variables = usize::from(u16::from_le_bytes(*body.get(11..)?.first_chunk()?));
    // Beyond the glance nothing short can follow, and every bound is short.
    let Some(text) = body.get(13 + variables + schema + 1..) else { return Some(Meaning::Statement) };
    let starts =
        |words: &str| text.get(..words.len()).is_some_and(|head| head.eq_ignore_ascii_case(words.as_bytes()));
    let is = |words: &str| text.len() == words.len() && starts(words);
    Some(if is("COMMIT") || is("ROLLBACK") || starts("XA COMMIT") || starts("XA ROLLBACK") {
        Meaning::Commit
    } else if flavor == Flavor::MySql && (is("BEGIN") || starts("XA START")) {
        Meaning::Open
    } else {
        Meaning::Statement
    })
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let sixteen: &[u8; 16] = bytes.first_chunk()?;
    let mut text = String::with_capacity(36);
    for (index, byte) in sixteen.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}

/// A reader of MySQL's `mysql::serialization`: numbers of 1 to 9 bytes, whose first byte's trailing ones count the rest.
struct Serialized<'a>(&'a [u8]);

impl Serialized<'_> {
    fn unsigned(&mut self) -> Option<u64> {
        let first = *self.0.first()?;
        let length = first.trailing_ones() as usize + 1;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let mut number = [0; 16];
        number[..length].copy_from_slice(bytes);
        // With nine bytes the first is all ones, and the number the other eight.
        Some((u128::from_le_bytes(number) >> length.min(8)) as u64)
    }

    /// The sign is the lowest bit, and the rest complemented under it.
    fn signed(&mut self) -> Option<i64> {
        let raw = self.unsigned()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
}

/// Version, size, last field one must know; then fields, each behind its number: 0 flags (one byte), 1 UUID (sixteen
/// numbers), 2 the transaction's number (signed), 3 the tag (length, bytes). Later ones are of no interest.
fn tagged_gtid(body: &[u8]) -> Option<String> {
    let mut fields = Serialized(body);
    for _ in 0..3 {
        fields.unsigned()?;
    }
    let (mut uuid_text, mut number, mut tag) = (None, None, String::new());
    while let Some(field) = fields.unsigned() {
        match field {
            0 => drop(fields.unsigned()?),
            1 => {
                let mut bytes = [0; 16];
                for byte in &mut bytes {
                    *byte = u8::try_from(fields.unsigned()?).ok()?;
                }
                uuid_text = uuid(&bytes);
            }
            2 => number = fields.signed(),
            3 => {
                let length = usize::try_from(fields.unsigned()?).ok()?;
                tag = std::str::from_utf8(fields.0.get(..length)?).ok()?.to_owned();
                break;
            }
            _ => break,
        }
    }
    Some(gtid_text(&uuid_text?, &tag, &number.filter(|number| *number > 0)?.to_string()))
}

fn gtid_text(uuid: &str, tag: &str, numbers: &str) -> String {
    if tag.is_empty() { format!("{uuid}:{numbers}") } else { format!("{uuid}:{tag}:{numbers}") }
}

/// A set as MySQL writes it into the head of a file, with or without tags.
fn previous_gtids(body: &[u8]) -> Option<String> {
    let head = le64(body, 0)?;
    // The highest byte is the form: 0 has only servers, 1 servers with tags and its count one byte higher up.
    let (tagged, count) = match head >> 56 {
        0 => (false, head),
        1 => (true, head << 8 >> 16),
        _ => return None,
    };
    let mut rest = body.get(8..)?;
    let mut sets = Vec::new();
    for _ in 0..count {
        let server = uuid(rest)?;
        rest = rest.get(16..)?;
        let mut tag = "";
        if tagged {
            let mut reader = Serialized(rest);
            let length = usize::try_from(reader.unsigned()?).ok()?;
            let (text, after) = reader.0.split_at_checked(length)?;
            tag = std::str::from_utf8(text).ok()?;
            rest = after;
        }
        let intervals = le64(rest, 0)?;
        rest = rest.get(8..)?;
        let mut numbers = Vec::new();
        for _ in 0..intervals {
            let (first, end) = (le64(rest, 0)?, le64(rest, 8)?);
            rest = rest.get(16..)?;
            let last = end.checked_sub(1)?;
            numbers.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        sets.push(gtid_text(&server, tag, &numbers.join(":")));
    }
    Some(sets.join(","))
}

/// The last transaction of each domain and server that MariaDB had logged when it began the file.
fn gtid_list(body: &[u8]) -> Option<String> {
    // The upper four bits are flags.
    let count = (le32(body, 0)? & 0x0fff_ffff) as usize;
    let entry = |index: usize| {
        let at = 4 + index * 16;
        Some(format!("{}-{}-{}", le32(body, at)?, le32(body, at + 4)?, le64(body, at + 8)?))
    };
    (0..count).map(entry).collect::<Option<Vec<_>>>().map(|entries| entries.join(","))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn event(kind: u8, server_id: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        bytes.extend(server_id.to_le_bytes());
        bytes.extend(((HEADER + body.len()) as u32).to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(body);
        bytes
    }

    pub(in super::super) fn query(text: &str) -> Vec<u8> {
        let mut body = vec![0; 13];
        body[8] = 2;
        body[11] = 3;
        body.extend([1, 2, 3, b'd', b'b', 0]);
        body.extend(text.as_bytes());
        body
    }

    fn read(flavor: Flavor, event: &[u8], checksum: bool) -> Option<Meaning> {
        let header = Header::read(event.first_chunk().unwrap()).unwrap();
        meaning(flavor, header, &event[HEADER..], checksum)
    }

    /// Numbers as the serialization library writes them (its manual's examples among them).
    #[test]
    fn serialized_numbers() {
        for (bytes, number) in [
            (&[0b1111_1011, 0b1111_1111, 0b0000_0111][..], 65_535),
            (&[0xc3, 0x02, 0x0b], 90_200),
            (&[0x5d, 0x03], 215),
            (&[0x7f, 0x39, 0x7d, 0x89, 0x70, 0xdb, 0x2d, 0x06], 1_739_270_369_410_361),
            (&[0xff, 1, 0, 0, 0, 0, 0, 0, 0x80], 1 << 63 | 1),
        ] {
            assert_eq!(Serialized(bytes).unsigned(), Some(number), "{bytes:x?}");
        }
        for (first, number) in [(0b1111_0011, 65_535), (0b1110_1011, -65_535), (0b1111_1011, -65_536)] {
            assert_eq!(Serialized(&[first, 0b1111_1111, 0b0000_1111]).signed(), Some(number));
        }
        assert_eq!(Serialized(&[0x04]).signed(), Some(1));
        assert_eq!(Serialized(&[0xd9]).unsigned(), None, "torn");
    }

    #[test]
    fn a_tagged_gtid() {
        // From the layout of the manual: head; flags; UUID, whose bytes from 0x80 on take two; number 123; tag.
        let uuid = [
            0xee, 0x81, 0x02, 0xc1, 0x02, 0x01, 0x03, 0x41, 0x03, 0x81, 0x03, 0xc1, 0x03, 0xc5, 0x03, 0x22,
            0x22, 0xee, 0xfd, 0x03, 0xee, 0xfd, 0x03, 0xee, 0xfd, 0x03,
        ];
        let body =
            [&[2, 0x80, 0, 0, 2, 2][..], &uuid, &[4, 0xd9, 0x03, 6, 0x06, b't', b'a', b'g', 8, 0]].concat();
        let expected = begin("77a0b0c0-d0e0-f0f1-1111-77ff77ff77ff:tag:123".to_owned());
        assert_eq!(read(Flavor::MySql, &event(TAGGED_GTID, 1, &body), false), Some(expected));
        assert_eq!(read(Flavor::MySql, &event(TAGGED_GTID, 1, &body[..20]), false), None);
    }

    #[test]
    fn gtids_of_both_families() {
        let mut body = vec![1];
        body.extend([0x11; 16]);
        body.extend(7_u64.to_le_bytes());
        body.extend([0; 17]);
        let text = "11111111-1111-1111-1111-111111111111:7".to_owned();
        assert_eq!(read(Flavor::MySql, &event(GTID, 1, &body), false), Some(begin(text)));
        let mut body = 47_u64.to_le_bytes().to_vec();
        body.extend([0, 0, 0, 0, STANDALONE, 0, 0, 0, 0, 0, 0]);
        let expected = Meaning::Begin { gtid: "0-1-47".to_owned(), alone: true };
        assert_eq!(read(Flavor::MariaDb, &event(MARIADB_GTID, 1, &body), false), Some(expected));
        assert_eq!(read(Flavor::MariaDb, &event(MARIADB_GTID, 1, &body[..9]), false), None);
    }

    #[test]
    fn statements_that_bound_a_group() {
        use Flavor::{MariaDb, MySql};
        for (flavor, text, expected) in [
            (MySql, "BEGIN", Meaning::Open),
            (MySql, "XA START X'31',X'',1", Meaning::Open),
            (MySql, "COMMIT", Meaning::Commit),
            (MySql, "XA COMMIT X'31',X'',1", Meaning::Commit),
            (MySql, "BEGINNING", Meaning::Statement),
            (MariaDb, "COMMIT", Meaning::Commit),
            (MariaDb, "create table t (a int)", Meaning::Statement),
        ] {
            assert_eq!(read(flavor, &event(QUERY, 1, &query(text)), false), Some(expected.clone()), "{text}");
            let summed = [query(text), vec![9; 4]].concat();
            assert_eq!(
                read(flavor, &event(QUERY, 1, &summed), true),
                Some(expected),
                "{text} with a checksum"
            );
        }
    }

    #[test]
    fn sets_at_the_head_of_a_file() {
        let interval = |first: u64, end: u64| [first.to_le_bytes(), end.to_le_bytes()].concat();
        let number = |number: u64| number.to_le_bytes().to_vec();
        let plain = [number(1), vec![0x22; 16], number(2), interval(1, 6), interval(9, 10)].concat();
        let text = "22222222-2222-2222-2222-222222222222:1-5:9".to_owned();
        let expected = Some(Meaning::Previous(text));
        assert_eq!(read(Flavor::MySql, &event(PREVIOUS_GTIDS, 1, &plain), false), expected);
        let head = number(1 << 8 | 1 << 56);
        let tagged = [head, vec![0x22; 16], vec![4, b'a', b'b'], number(1), interval(1, 2)].concat();
        let text = "22222222-2222-2222-2222-222222222222:ab:1".to_owned();
        let expected = Some(Meaning::Previous(text));
        assert_eq!(read(Flavor::MySql, &event(PREVIOUS_GTIDS, 1, &tagged), false), expected);
        let list = [vec![1, 0, 0, 0x10, 0, 0, 0, 0, 3, 0, 0, 0], number(47)].concat();
        let expected = Some(Meaning::Previous("0-3-47".to_owned()));
        assert_eq!(read(Flavor::MariaDb, &event(MARIADB_GTID_LIST, 1, &list), false), expected);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0_u8..200, body in proptest::collection::vec(0_u8.., 0..200), summed: bool) {
            for flavor in [Flavor::MySql, Flavor::MariaDb] {
                let _ = read(flavor, &event(kind.max(1), 1, &body), summed);
            }
        }
    }
}
