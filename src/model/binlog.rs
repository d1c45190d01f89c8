//! Binlog coordinates and their order.
