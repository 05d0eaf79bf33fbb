//! pause as a process other than PID 1, as in a pod that shares the host's PID namespace.

use std::path::Path;

use crate::harness::{Form, test_each_form};

test_each_form! {
    changes_directory_to_root
}

/// If pause kept its working directory, nobody could unmount the file system of that directory.
fn changes_directory_to_root(form: Form) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let process = form.start().step(move || Ok(rustix::process::chdir(&path)?)).spawn().asleep();
    assert_eq!(process.proc().cwd().unwrap(), Path::new("/"));
}
