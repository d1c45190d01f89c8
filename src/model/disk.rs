//! The filesystems a server writes to: a full one is not seen by asking the server, which waits for room and answers meanwhile
//! (MySQL manual, "How MySQL Handles a Full Disk"; MariaDB knowledge base, "How MariaDB handles full disks").

use std::fmt;

use serde::{Deserialize, Serialize};

/// A server with no more bytes than this left writes nothing: InnoDB grows its files by up to 8 MiB at a time.
const STUCK_BELOW: u64 = 8 << 20;
/// A person should make room when less than this is left, or a twentieth of a smaller disk.
const LOW_BELOW: u64 = 1 << 30;

/// What a server keeps on a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    Data,
    BinaryLog,
    /// Both are on one.
    Everything,
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data disk",
            Self::BinaryLog => "binary log's disk",
            Self::Everything => "disk",
        })
    }
}

/// One filesystem, as the server's user finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub holds: Holds,
    /// Bytes an ordinary user may still write.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
    /// Mounted read-only, as ext4 does by itself after an error.
    pub read_only: bool,
    /// The data directory is itself where it is mounted: no other directory can take its place.
    #[serde(default)]
    pub data_is_mount_point: bool,
}

impl Disk {
    /// Nothing can be written: commits, relay log and a start wait or fail.
    pub fn is_stuck(&self) -> bool {
        self.read_only || self.free < STUCK_BELOW
    }

    /// It will soon be so.
    pub fn is_low(&self) -> bool {
        self.free < LOW_BELOW.min(self.size / 20)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.read_only {
            return write!(f, "its {} is mounted read-only", self.holds);
        }
        let how = if self.is_stuck() { "full" } else { "nearly full" };
        let mib = |bytes: u64| bytes >> 20;
        write!(f, "its {} is {how}: {} MiB of {} left", self.holds, mib(self.free), mib(self.size))
    }
}
