//! Bodies of HTTP answers, read up to a limit: what the other side sends may not decide how much memory this process takes.

use reqwest::Response;

/// The body; `None` when it is longer than `most` bytes. The connection is then given up.
///
/// # Errors
/// When the connection breaks before the end.
pub(crate) async fn read(mut response: Response, most: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
