//! Boots a virtual machine and reads its console. Dropping a [`Vm`] ends the machine. Every wait for the
//! console has a deadline.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a machine may take, from its start until its console is closed.
const DEADLINE: Duration = Duration::from_secs(900);

/// Writes an archive that Linux unpacks as its first root file system. Each of `files` is an executable: its
/// path in the archive, and the file of the host to copy. The archive is not compressed, because compressing
/// it takes longer than it saves.
pub fn write_initramfs(path: &Path, files: &[(&str, &Path)]) {
    const FOLDER: u32 = libc::S_IFDIR | 0o755;
    const PROGRAM: u32 = libc::S_IFREG | 0o755;
    const DEVICE: u32 = libc::S_IFCHR | 0o600;

    let mut archive = fs::File::create(path).unwrap();
    let mut inode = 0;
    let mut add = |name: &str, mode: u32, content: &[u8]| {
        // Each entry has its own inode number, as in an archive of real files. Linux compares the numbers
        // only of entries with two or more links.
        inode += 1;
        let mut entry = cpio::NewcBuilder::new(name).ino(inode).nlink(1).mode(mode);
        if mode == DEVICE {
            // The console, which init gets as stdin, stdout and stderr. The numbers are those in Linux's
            // devices.txt.
            entry = entry.rdev_major(5).rdev_minor(1);
        }
        let mut writer = entry.write(&mut archive, content.len() as u32);
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
    };
    for folder in ["bin", "dev"] {
        add(folder, FOLDER, b"");
    }
    add("dev/console", DEVICE, b"");
    for (name, source) in files {
        let content = fs::read(source);
        let content = content.unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        add(name, PROGRAM, &content);
    }
    cpio::newc::trailer(archive).unwrap();
}

/// A running virtual machine, which is killed when this is dropped.
pub struct Vm {
    child: Child,
    console: Receiver<String>,
    /// The lines that were read from the console, among them the emulator's messages. Each line starts with
    /// its time, in seconds since the start of the machine.
    log: Vec<String>,
    start: Instant,
}

impl Vm {
    /// Starts a machine with one processor and a console, without qemu's default devices. `qemu` is the
    /// folder of the emulators, and `options` are the emulator's name and its options.
    pub fn boot(
        qemu: &Path,
        options: &[String],
        kernel: &Path,
        initramfs: &Path,
        arguments: &str,
    ) -> Self {
        let mut command = Command::new(qemu.join("run"));
        command
            .args(options)
            .arg("-L")
            .arg(qemu.join("usr/share/qemu"))
            .arg("-L")
            .arg(qemu.join("usr/share/seabios"))
            .args(["-accel", "tcg", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", arguments]);
        Self::start(&command)
    }

    /// Starts a program that runs a machine, with its console on stdout.
    pub fn start(program: &Command) -> Self {
        let (console, output) = std::io::pipe().unwrap();
        // With setpriv, the kernel kills the machine when the test's thread ends, even if the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program.get_program())
            .args(program.get_args())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv (of util-linux): {error}"));
        let mut console = BufReader::new(console);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Self { child, console: receiver, log: Vec::new(), start: Instant::now() }
    }

    /// Reads the next line from the console.
    fn line(&mut self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        let rest = deadline.saturating_duration_since(Instant::now());
        let line = self.console.recv_timeout(rest)?;
        self.log.push(format!("{:6.1} {line}", self.start.elapsed().as_secs_f64()));
        Ok(line)
    }

    /// Reads the console until a line for which `is_it` is true, and returns that line.
    pub fn until(&mut self, what: &str, mut is_it: impl FnMut(&str) -> bool) -> String {
        loop {
            match self.line(self.start + DEADLINE) {
                Ok(line) if is_it(&line) => return line,
                Ok(_) => {}
                Err(error) => panic!("{what} was not seen ({error}): {self}"),
            }
        }
    }

    /// Reads the console for this time. Every line must satisfy `is_good`, and the machine must keep running.
    pub fn stays(&mut self, time: Duration, is_good: impl Fn(&str) -> bool) {
        let end = Instant::now() + time;
        loop {
            match self.line(end) {
                Ok(line) => assert!(is_good(&line), "{line}: {self}"),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the machine ended: {self}"),
            }
        }
        assert_eq!(self.child.try_wait().unwrap(), None, "{self}");
    }

    /// Waits until the machine has ended by itself, with success.
    pub fn end(&mut self) {
        loop {
            match self.line(self.start + DEADLINE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the machine did not end: {self}"),
            }
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {self}");
    }
}

impl fmt::Display for Vm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the console:\n{}", self.log.join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
