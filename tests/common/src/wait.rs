//! Waiting, with a deadline.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a step may take before the test fails. Most steps take milliseconds, but CI runs several suites
/// at once on few processors.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// Waits until a condition holds. It polls every two milliseconds: use it only where there is no
/// descriptor to wait on.
///
/// # Panics
///
/// At the deadline, with the message "never: " and `what`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the file becomes readable (also by EOF), or the process of a pidfd ends, within this time.
pub fn is_readable(file: impl AsFd, within: Duration) -> bool {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed());
        let mut files = [PollFd::new(&file, PollFlags::IN)];
        match poll(&mut files, Some(&Timespec::try_from(left).expect("it is less than a year"))) {
            Ok(count) => return count == 1,
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
