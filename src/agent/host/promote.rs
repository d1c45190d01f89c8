//! Has the kernel keep the secondary IPv4 addresses of a network whose first address is deleted (`promote_secondaries`, Linux
//! Documentation/networking/ip-sysctl), for as long as that takes.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Set back when it is dropped.
#[derive(Debug)]
pub(super) struct Promoting {
    path: PathBuf,
}

/// From now on secondary addresses of the interface are kept; `None` where they are kept anyway.
///
/// # Errors
/// When the setting cannot be read or written, as in a container without a writable `/proc/sys`.
pub(super) fn secondaries(interface: &str) -> io::Result<Option<Promoting>> {
    let setting = |name: &str| PathBuf::from(format!("/proc/sys/net/ipv4/conf/{name}/promote_secondaries"));
    let path = setting(interface);
    // The kernel goes by either of the two.
    for path in [&path, &setting("all")] {
        if fs::read_to_string(path)?.trim() != "0" {
            return Ok(None);
        }
    }
    fs::write(&path, "1")?;
    Ok(Some(Promoting { path }))
}

impl Drop for Promoting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, "0") {
            tracing::warn!(setting = %self.path.display(), error = %error, "it stays 1");
        }
    }
}
