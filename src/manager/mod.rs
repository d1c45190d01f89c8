//! The service; the only place where the parts meet.

pub mod event;
pub mod handle;
pub mod snapshot;
