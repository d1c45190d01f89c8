//! One notice posted as JSON. The address is a secret: no error names it.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::tls;

/// Posts `json`, trusting the certificate authorities this system trusts.
///
/// # Errors
/// When it is not taken with a 2xx status within the time; without the address.
pub(super) async fn post(url: &SecretString, json: &[u8], within: Duration) -> Result<(), String> {
    tls::use_ring();
    let plain = |error: reqwest::Error| chain(&error.without_url());
    // Made anew each time: notices are rare, and the authorities may have changed since.
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(within)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("mha/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(plain)?;
    let request = client
        .post(url.expose_secret())
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(json.to_vec());
    let response = request.send().await.map_err(plain)?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("it answers HTTP status {status}")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
