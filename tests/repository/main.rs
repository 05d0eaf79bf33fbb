//! What the repository promises of itself: what it depends on, what is published, its manual page.

mod dependencies;
mod manual;
mod packages;
mod toolchain;
