//! Carries out a plan: skip what is true, act, verify, record. It never chooses.

pub mod world;
