//! Binlog coordinates and their order.

use serde::{Deserialize, Serialize};

/// A place in a binary log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BinlogCoordinates {
    pub file: String,
    pub position: u64,
}
