//! The only file that reads a clock. Everything else is handed a [`Moment`] or a wall time.

use chrono::{DateTime, Utc};
use rustix::time::{ClockId, clock_gettime};

use crate::model::time::Moment;

/// Now, on this host's suspend-counting monotonic clock (`CLOCK_BOOTTIME`): leases must also run out while
/// a host sleeps.
pub fn now() -> Moment {
    let at = clock_gettime(ClockId::Boottime);
    Moment::from_micros(at.tv_sec as u64 * 1_000_000 + at.tv_nsec as u64 / 1_000)
}

/// Wall time, for records a person reads. Never used to decide.
#[expect(clippy::disallowed_methods, reason = "the one place where wall time enters")]
pub fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// The kernel's identifier of this boot: a [`Moment`] of another boot means nothing.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
