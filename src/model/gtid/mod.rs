//! GTID sets of both families.
