//! What of a server changes seldom, or may not be asked at every look: read now and then on a connection of its own.

use serde::{Deserialize, Serialize};

use super::restrictions::Setting;

/// One reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Filters of its binary log; `None` where nobody has read them. They are set at its start, and never change while it runs.
    pub binlog_filters: Option<Vec<Setting>>,
    /// Tables whose engine knows no transactions; `None` where they could not be counted.
    pub tables: Option<PlainTables>,
}

/// Tables that neither crash recovery nor acknowledgements protect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainTables {
    pub count: u64,
    /// A few of them by name, with their engine.
    pub some: Vec<String>,
}
