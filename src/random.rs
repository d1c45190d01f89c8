//! The kernel's random bytes: names and tokens that nobody can guess.

use std::fmt::Write as _;
use std::io::Read as _;

/// `count` random bytes, in hexadecimal.
///
/// # Errors
/// When the kernel gives none.
pub fn hex(count: usize) -> std::io::Result<String> {
    let mut bytes = vec![0_u8; count];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::with_capacity(count * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
