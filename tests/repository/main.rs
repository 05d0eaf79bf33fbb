//! What holds for the repository: the files that are published, the manual page, and facts that stand in
//! two files.

mod agreement;
mod manual;
mod packages;
