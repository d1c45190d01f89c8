//! How a copy of a server's data crosses from one agent to another: pieces in the body of an answer, each with its kind and length,
//! the last of which says how it went and what all of them together must be. It holds one piece at a time.

use axum::body::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::gtid::GtidSet;

/// The longest piece, in bytes.
pub(super) const LONGEST: usize = 1 << 20;
/// Kind and length.
const HEAD: usize = 5;

/// What is known before the first byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    /// About so many bytes will come.
    pub(super) total: Option<u64>,
    /// What the server had executed then.
    pub(super) executed: GtidSet,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// Of all bytes, in hexadecimal.
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// What the server has executed now; absent where the copy failed.
    pub(super) executed: Option<GtidSet>,
    /// Why the copy is none.
    pub(super) error: Option<String>,
}

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Begin(Begin),
    Data(Bytes),
    /// Nothing came in a while, and the sender lives.
    Alive,
    End(End),
}

/// What came is no such stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream of the copy is damaged: {0}")]
pub(super) struct Damaged(String);

pub(super) fn encode(piece: &Piece) -> Bytes {
    let (kind, body) = match piece {
        Piece::Begin(begin) => (b'B', json(begin)),
        Piece::Data(data) => (b'D', data.to_vec()),
        Piece::Alive => (b'A', Vec::new()),
        Piece::End(end) => (b'E', json(end)),
    };
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.push(kind);
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(body);
    bytes.into()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain values are always encoded")
}

/// Takes a stream apart, however it was cut on its way.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole piece; `None` until more has come.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Damaged> {
        let Some(head) = self.rest.first_chunk::<HEAD>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(Damaged(format!("a piece of {length} bytes")));
        }
        if self.rest.len() < HEAD + length {
            return Ok(None);
        }
        let body: Vec<u8> = self.rest.drain(..HEAD + length).skip(HEAD).collect();
        let read = |error: serde_json::Error| Damaged(error.to_string());
        Ok(Some(match kind {
            b'B' => Piece::Begin(serde_json::from_slice(&body).map_err(read)?),
            b'D' => Piece::Data(body.into()),
            b'A' => Piece::Alive,
            b'E' => Piece::End(serde_json::from_slice(&body).map_err(read)?),
            other => return Err(Damaged(format!("a piece of the unknown kind {other}"))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::instance::Flavor;

    #[test]
    fn pieces_survive_any_cut() {
        let executed = GtidSet::parse(Flavor::MariaDb, "0-1-5").unwrap();
        let pieces = [
            Piece::Begin(Begin { total: Some(7), executed: executed.clone() }),
            Piece::Data(Bytes::from_static(b"data")),
            Piece::Alive,
            Piece::End(End { sha256: "00".to_owned(), bytes: 4, executed: Some(executed), error: None }),
        ];
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| encode(piece).to_vec()).collect();
        for step in [1, 2, 3, 7, whole.len()] {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for part in whole.chunks(step) {
                decoder.push(part);
                while let Some(piece) = decoder.next().unwrap() {
                    found.push(piece);
                }
            }
            assert_eq!(found, pieces, "cut every {step}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"HTTP/1.1 502");
        assert!(decoder.next().is_err(), "a length beyond bounds");
        let mut decoder = Decoder::default();
        decoder.push(&[b'X', 0, 0, 0, 0]);
        assert!(decoder.next().is_err(), "an unknown kind");
    }
}
