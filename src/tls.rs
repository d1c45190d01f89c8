//! Which cryptography this process uses for TLS: one for everybody, so that none is built twice.

/// Has every TLS connection use *ring*, once per process; to be called before an HTTP client is made.
pub(crate) fn use_ring() {
    // An error only says that it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
