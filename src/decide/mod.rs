//! PURE. The verbs: from what was seen to what to do. No IO, no clock, no randomness, no `async`.

pub mod lease;
pub mod plan;
