//! Tests the command `podpause-image`, also with independent tools.

mod contents;
mod dockerfile;
mod errors;
mod go;
mod harness;
mod registry;
mod reproducible;
mod schema;
mod tools;
mod verify;
