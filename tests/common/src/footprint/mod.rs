//! A run of the benchmark `benches/footprint`: how it is saved and shown. `tests/footprint.rs` checks the
//! README against the saved run.

pub mod picture;
#[allow(missing_docs, reason = "the names of the fields are those of the file, with their units")]
pub mod record;
pub mod tables;
