//! Answers to text queries: result sets, and what ends them. Each value counts against the memory that one answer may take.

use std::sync::Arc;

use super::packet::Packets;
use super::{COLUMNS, PACKET, WireError};
use crate::mysql::dialect;
use crate::mysql::record::Record;

/// The server has another result set after this one.
const MORE_RESULTS: u16 = 0x0008;

/// What a value, a row or a result set takes in memory beside its text, in bytes: the structure and the allocator's share.
const OVERHEAD: usize = 64;

/// The memory that an answer may still take.
pub(super) struct Room {
    limit: usize,
    left: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, left: limit }
    }

    fn take(&mut self, text: usize) -> Result<(), WireError> {
        self.left = self.left.checked_sub(text + OVERHEAD).ok_or_else(|| {
            WireError::refused(format!(
                "its answer does not end within the {} bytes that are read",
                self.limit
            ))
        })?;
        Ok(())
    }
}

/// Reads an answer to its end.
pub(super) async fn read(
    packets: &mut Packets,
    room: &mut Room,
    sets: &mut Vec<Vec<Record>>,
) -> Result<(), WireError> {
    loop {
        room.take(0)?;
        let status = match packets.read(PACKET).await? {
            [0xff, error @ ..] => return Err(server_error(error)),
            [0xfb, ..] => return Err(WireError::refused("it asks for a file of this host")),
            [0x00, ok @ ..] => ok_status(ok)?,
            header => {
                let columns = Fields(header).integer()?;
                if columns == 0 || columns > COLUMNS {
                    return Err(WireError::refused(format!(
                        "it announces {columns} columns; at most {COLUMNS} are read"
                    )));
                }
                let names = read_names(packets, columns, room).await?;
                let (rows, status) = read_rows(packets, &names, room).await?;
                sets.push(rows);
                status
            }
        };
        if status & MORE_RESULTS == 0 {
            return Ok(());
        }
    }
}

async fn read_names(
    packets: &mut Packets,
    columns: u64,
    room: &mut Room,
) -> Result<Arc<[String]>, WireError> {
    let mut names = Vec::new();
    for _ in 0..columns {
        let packet = packets.read(PACKET).await?;
        if let [0xff, error @ ..] = packet {
            return Err(server_error(error));
        }
        // Catalog, schema, table and the table's own name come first.
        let mut fields = Fields(packet);
        for _ in 0..4 {
            fields.text()?;
        }
        let name = fields.text()?.ok_or_else(garbled)?;
        room.take(name.len())?;
        names.push(dialect::today(&String::from_utf8_lossy(name)));
    }
    match packets.read(PACKET).await? {
        [0xfe, ..] => Ok(names.into()),
        [0xff, error @ ..] => Err(server_error(error)),
        _ => Err(garbled()),
    }
}

async fn read_rows(
    packets: &mut Packets,
    names: &Arc<[String]>,
    room: &mut Room,
) -> Result<(Vec<Record>, u16), WireError> {
    let mut rows = Vec::new();
    loop {
        match packets.read(PACKET).await? {
            [0xff, error @ ..] => return Err(server_error(error)),
            [0xfe, _, _, low, high] => return Ok((rows, u16::from_le_bytes([*low, *high]))),
            row => {
                room.take(0)?;
                let mut fields = Fields(row);
                let mut values = Vec::with_capacity(names.len());
                for _ in 0..names.len() {
                    let text = fields.text()?;
                    room.take(text.map_or(0, <[u8]>::len))?;
                    values.push(text.map(|text| String::from_utf8_lossy(text).into_owned()));
                }
                rows.push(Record::new(Arc::clone(names), values));
            }
        }
    }
}

/// The status flags of an OK packet: behind the number of changed rows and the last inserted number.
fn ok_status(ok: &[u8]) -> Result<u16, WireError> {
    let mut fields = Fields(ok);
    fields.integer()?;
    fields.integer()?;
    match fields.0 {
        [low, high, ..] => Ok(u16::from_le_bytes([*low, *high])),
        _ => Err(garbled()),
    }
}

/// An error packet without its first byte. Before the login it carries no SQL state.
pub(super) fn server_error(packet: &[u8]) -> WireError {
    let [low, high, text @ ..] = packet else { return garbled() };
    let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or(&[]) } else { text };
    let text = &text[..text.len().min(4096)];
    WireError::Server {
        code: u16::from_le_bytes([*low, *high]),
        text: String::from_utf8_lossy(text).into_owned(),
    }
}

fn garbled() -> WireError {
    WireError::refused("an unexpected packet; is this a MySQL or MariaDB server?")
}

/// The fields of a payload, from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], WireError> {
        let count = usize::try_from(count).map_err(|_| garbled())?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, width: u64) -> Result<u64, WireError> {
        Ok(self.bytes(width)?.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    /// A length-encoded integer.
    fn integer(&mut self) -> Result<u64, WireError> {
        match self.number(1)? {
            0xfc => self.number(2),
            0xfd => self.number(3),
            0xfe => self.number(8),
            0xfb | 0xff => Err(garbled()),
            small => Ok(small),
        }
    }

    /// A length-encoded text; `None` is NULL.
    fn text(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        if let [0xfb, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(None);
        }
        let length = self.integer()?;
        self.bytes(length).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_where_the_payload_ends() {
        assert_eq!(Fields(&[250]).integer().unwrap(), 250);
        assert_eq!(Fields(&[0xfc, 1, 2]).integer().unwrap(), 0x0201);
        assert_eq!(Fields(&[0xfd, 1, 2, 3]).integer().unwrap(), 0x03_0201);
        assert_eq!(Fields(&[0xfe, 0, 0, 0, 0, 0, 1, 0, 0]).integer().unwrap(), 1 << 40);
        assert_eq!(Fields(&[0xfb]).text().unwrap(), None);
        assert_eq!(Fields(b"\x02ab").text().unwrap(), Some(&b"ab"[..]));
        for cut in [&[][..], &[0xfc, 1], &[0xfe, 1, 2, 3, 4, 5, 6, 7], &[0xff]] {
            assert!(Fields(cut).integer().is_err(), "{cut:?}");
        }
        let endless = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(Fields(&endless).text().is_err());
        assert!(Fields(b"\x03ab").text().is_err());
    }

    #[test]
    fn an_error_with_and_without_a_state() {
        for packet in [&b"\x10\x04#08004Too many"[..], b"\x10\x04Too many"] {
            assert_eq!(server_error(packet).to_string(), "error 1040 (Too many)");
        }
    }
}
