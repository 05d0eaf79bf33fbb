//! What `podpause-image` promises, tested from outside, also with tools that we did not write.

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
