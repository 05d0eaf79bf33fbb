//! Checks of the repository: the published files, the manual page, and facts that two files contain.

mod agreement;
mod manual;
mod packages;
