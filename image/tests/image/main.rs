//! What `podpause-image` promises, tested from outside, also with tools that we did not write.

#[path = "../../../compile.rs"]
mod compile;
mod contents;
mod dockerfile;
#[path = "../../../tests/runtimes/docs.rs"]
mod docs;
mod errors;
mod harness;
#[path = "../../../tests/common/report.rs"]
mod report;
mod reproducible;
mod schema;
mod tools;
mod verify;
