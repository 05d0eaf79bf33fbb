//! Inherited descriptors.

use std::fs::File;

use crate::harness::{Form, test_each_form};

test_each_form! {
    closes_all_but_stdio
}

/// A descriptor that a runtime leaked must not stay open as long as the pod lives.
fn closes_all_but_stdio(form: Form) {
    let leak = File::open("/dev/null").unwrap();
    let process = form
        .pid1()
        .step(move || {
            for _ in 0..200 {
                rustix::io::dup(&leak)?;
            }
            Ok(())
        })
        .spawn()
        .asleep();
    let mut numbers: Vec<i32> = process.proc().fd().unwrap().map(|file| file.unwrap().fd).collect();
    numbers.sort();
    assert_eq!(numbers, [0, 1, 2]);
}
