//! The measured programs: pause, those on the command line, two minimal assembly programs as a lower bound,
//! and installed peers.

use std::env;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::footprint::record::Kind;

use crate::{Given, Result};

pub struct Program {
    pub name: String,
    pub kind: Kind,
    pub path: CString,
    /// The arguments with which it sleeps until it is ended.
    pub hold: Vec<CString>,
    /// The arguments with which it prints its version and ends, or just ends.
    pub answer: Option<Vec<CString>>,
    /// How many child processes it starts.
    pub children: usize,
    pub version: Option<String>,
    pub file_bytes: u64,
    pub segment_bytes: Option<u64>,
}

impl Program {
    fn new(
        name: &str,
        kind: Kind,
        path: &Path,
        hold: &[&str],
        answer: Option<&[&str]>,
    ) -> Result<Self> {
        let failed = |error| format!("{}: {error}", path.display());
        let file = fs::read(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o111 == 0 {
            return Err(format!("{}: it is not executable", path.display()));
        }
        let string = |text: &[u8]| CString::new(text).map_err(|error| error.to_string());
        let strings = |texts: &[&str]| texts.iter().map(|text| string(text.as_bytes())).collect();
        Ok(Self {
            name: name.to_owned(),
            kind,
            path: string(path.as_os_str().as_bytes())?,
            hold: strings(hold)?,
            answer: answer.map(strings).transpose()?,
            children: 0,
            version: None,
            file_bytes: file.len() as u64,
            segment_bytes: segment_bytes(&file),
        })
    }

    /// Whether it sleeps until it is ended: the assembly program that only exits does not.
    pub fn holds(&self) -> bool {
        self.kind != Kind::Exit
    }

    /// Stores the first line that the program prints when it is started with `answer`.
    pub fn ask_version(&mut self) {
        let Some(answer) = &self.answer else { return };
        let mut command = Command::new(OsStr::from_bytes(self.path.as_bytes()));
        command.args(answer[1..].iter().map(|text| OsStr::from_bytes(text.as_bytes())));
        let Ok(output) = command.stdin(Stdio::null()).output() else { return };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        self.version = text.lines().next().map(|line| line.trim().to_owned());
    }
}

/// All programs to measure, in the order in which they are shown: pause, those given on the command line, the
/// assembly programs, and the installed peers. The assembly programs are written to `folder`.
pub fn all(folder: &Path, given: &[Given]) -> Result<Vec<Program>> {
    let pause = Path::new(env!("CARGO_BIN_EXE_pause"));
    let mut programs =
        vec![Program::new("pause", Kind::Pause, pause, &["/pause"], Some(&["/pause", "-v"]))?];
    for Given { name, path } in given {
        // These are taken to be pause programs, which need no argument and print their version with `-v`.
        let answer = Some(&["/pause", "-v"][..]);
        programs.push(Program::new(name, Kind::Given, path, &["/pause"], answer)?);
    }
    if let Some((hold, exit)) = assembly::PROGRAMS {
        for (name, kind, code, answer) in [
            ("assembly: pause(2) in a loop", Kind::Loop, hold, None),
            ("assembly: exit", Kind::Exit, exit, Some(&["/exit"][..])),
        ] {
            let path = folder.join(if kind == Kind::Loop { "loop" } else { "exit" });
            let failed = |error| format!("{}: {error}", path.display());
            fs::write(&path, assembly::elf(code)).map_err(failed)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
            programs.push(Program::new(name, kind, &path, &["/loop"], answer)?);
        }
    }
    for (command, answer, children) in [
        ("catatonit -P", Some("-V"), 0),
        ("s6-pause", None, 0),
        ("tini sleep infinity", Some("--version"), 1),
        ("dumb-init sleep infinity", Some("--version"), 1),
        ("busybox sleep infinity", None, 0),
        ("sleep infinity", Some("--version"), 0),
    ] {
        let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
        let Some(path) = find(&words[0]) else { continue };
        // The inner `sleep` is given by its full path: measured programs start with an empty environment, so
        // without PATH.
        let mut words: Vec<_> = words.iter().map(String::as_str).collect();
        let sleep = find("sleep").map(|path| path.display().to_string());
        if let (1, Some(sleep)) = (children, &sleep) {
            words[1] = sleep;
        }
        let answer = answer.map(|argument| vec![words[0], argument]);
        let program = Program::new(command, Kind::Installed, &path, &words, answer.as_deref());
        // A peer that cannot be read counts as not installed.
        programs.extend(program.map(|program| Program { children, ..program }));
    }
    Ok(programs)
}

/// Finds a command in PATH.
fn find(command: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let mut paths = env::split_paths(&folders).map(|folder| folder.join(command));
    paths.find(|path| path.is_file())
}

/// The bytes of the file in loadable segments, which leaves out symbols and section headers: only tools read
/// those.
fn segment_bytes(file: &[u8]) -> Option<u64> {
    let bytes = |at: usize, count: usize| file.get(at..at + count);
    let half = |at| Some(usize::from(u16::from_ne_bytes(bytes(at, 2)?.try_into().ok()?)));
    let word = |at| Some(u32::from_ne_bytes(bytes(at, 4)?.try_into().ok()?));
    let long = |at| Some(u64::from_ne_bytes(bytes(at, 8)?.try_into().ok()?));
    let is_64_bit = file.starts_with(b"\x7fELF\x02");
    let (offset, size, count) = is_64_bit.then_some((long(32)? as usize, half(54)?, half(56)?))?;
    let headers = (0..count).map(|index| offset + index * size);
    headers.map(|at| Some(if word(at)? == libc::PT_LOAD { long(at + 32)? } else { 0 })).sum()
}

/// The lower bound: the machine code of minimal assembly programs, one that sleeps and one that exits.
mod assembly {
    #[cfg(target_arch = "x86_64")]
    pub const PROGRAMS: Option<(&[u8], &[u8])> = Some((
        &[
            0xb8, 34, 0, 0, 0, // again: mov eax, 34      pause
            0x0f, 0x05, //               syscall
            0xeb, 0xf7, //               jmp again        9 bytes back
        ],
        &[
            0xb8, 60, 0, 0, 0, // mov eax, 60             exit
            0x31, 0xff, //        xor edi, edi            status 0
            0x0f, 0x05, //        syscall
        ],
    ));
    /// This architecture has no `pause` system call. `ppoll` without descriptors and without a timeout does
    /// the same.
    #[cfg(target_arch = "aarch64")]
    pub const PROGRAMS: Option<(&[u8], &[u8])> = Some((
        &[
            0x28, 0x09, 0x80, 0xd2, // again: mov x8, 73  ppoll
            0x00, 0x00, 0x80, 0xd2, //        mov x0, 0   no descriptors
            0x01, 0x00, 0x80, 0xd2, //        mov x1, 0   count 0
            0x02, 0x00, 0x80, 0xd2, //        mov x2, 0   no timeout
            0x03, 0x00, 0x80, 0xd2, //        mov x3, 0   no signal mask
            0x01, 0x00, 0x00, 0xd4, //        svc 0
            0xfa, 0xff, 0xff, 0x17, //        b again     6 instructions back
        ],
        &[
            0xa8, 0x0b, 0x80, 0xd2, // mov x8, 93         exit
            0x00, 0x00, 0x80, 0xd2, // mov x0, 0          status 0
            0x01, 0x00, 0x00, 0xd4, // svc 0
        ],
    ));
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const PROGRAMS: Option<(&[u8], &[u8])> = None;

    /// The address at which the file is mapped.
    const ADDRESS: u64 = 0x40_0000;
    /// The sizes of the file header and of a program header.
    const HEADERS: [u16; 2] = [64, 56];

    /// Makes an executable with one loadable segment, readable and executable, and a stack that is not
    /// executable: what `as` and `ld -n` would make, without the section headers.
    pub fn elf(code: &[u8]) -> Vec<u8> {
        let machine = if cfg!(target_arch = "x86_64") { libc::EM_X86_64 } else { libc::EM_AARCH64 };
        let code_offset = u64::from(HEADERS[0] + 2 * HEADERS[1]);
        let size = code_offset + code.len() as u64;
        let halves = |halves: &[u16]| -> Vec<u8> {
            halves.iter().flat_map(|half| half.to_le_bytes()).collect()
        };
        let longs = |longs: &[u64]| -> Vec<u8> {
            longs.iter().flat_map(|long| long.to_le_bytes()).collect()
        };
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec(); // 64 bits, little endian, version 1
        elf.resize(16, 0);
        elf.extend(halves(&[libc::ET_EXEC, machine, 1, 0]));
        // The entry, the program headers, and no sections.
        elf.extend(longs(&[ADDRESS + code_offset, HEADERS[0].into(), 0]));
        // No flags, the sizes, and the number of program headers.
        elf.extend(halves(&[0, 0, HEADERS[0], HEADERS[1], 2, 0, 0, 0]));
        for (kind, flags, address, size) in [
            (libc::PT_LOAD, libc::PF_R | libc::PF_X, ADDRESS, size),
            (libc::PT_GNU_STACK, libc::PF_R | libc::PF_W, 0, 0),
        ] {
            elf.extend(kind.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            elf.extend(longs(&[0, address, address, size, size, 0x1_0000]));
        }
        elf.extend(code);
        elf
    }
}
