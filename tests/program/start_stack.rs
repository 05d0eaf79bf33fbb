//! Reading the start stack. Tests the program's code on generated stacks that end at an unreadable page, and
//! the program itself with generated arguments.

use std::ffi::CString;

use procfs::process::{MMPermissions, Process};
use proptest::prelude::*;

use crate::answers::{USAGE, VERSION, output};
use crate::harness::{End, GuardedMemory, Start, bytes_of, start_stack};
use crate::start::{AT_EXECFN, Request};

/// A start stack as the kernel lays it out (`create_elf_tables` in Linux `fs/binfmt_elf.c`). It is in two
/// pieces, each followed by an unreadable page. The words end with the AT_NULL pair. The strings end with the
/// path of the program and a null word.
struct Stack {
    words: GuardedMemory,
    strings: GuardedMemory,
    /// In bytes.
    words_length: usize,
    path_length: usize,
}

impl Stack {
    fn new(
        arguments: &[Vec<u8>],
        environment: &[Vec<u8>],
        auxiliary: &[(usize, usize)],
        path: Option<&[u8]>,
    ) -> Self {
        let mut bytes = Vec::new();
        for string in arguments.iter().chain(environment).map(Vec::as_slice).chain(path) {
            bytes.extend(string);
            bytes.push(0);
        }
        bytes.extend([0; size_of::<usize>()]);
        let strings = GuardedMemory::new(&bytes);

        let mut at = strings.end() - bytes.len();
        let mut place = |string: &[u8]| {
            at += string.len() + 1;
            at - string.len() - 1
        };
        let mut words = vec![arguments.len()];
        for list in [arguments, environment] {
            words.extend(list.iter().map(|string| place(string)));
            words.push(0);
        }
        // The entry AT_EXECFN is in the middle.
        let (before, behind) = auxiliary.split_at(auxiliary.len() / 2);
        words.extend(before.iter().flat_map(|pair| [pair.0, pair.1]));
        words.extend(path.iter().flat_map(|path| [AT_EXECFN as usize, place(path)]));
        words.extend(behind.iter().flat_map(|pair| [pair.0, pair.1]));
        words.extend([0, 0]);
        let words: Vec<u8> = words.into_iter().flat_map(usize::to_ne_bytes).collect();
        let path_length = path.map_or(0, |path| path.len());
        Self { words_length: words.len(), words: GuardedMemory::new(&words), strings, path_length }
    }

    fn address(&self) -> usize {
        self.words.end() - self.words_length
    }

    fn path_address(&self) -> usize {
        self.strings.end() - size_of::<usize>() - self.path_length - 1
    }
}

/// The page after the memory is unreadable. If it were not, these tests would not
/// notice a read beyond the end.
#[test]
fn has_nothing_behind_it() {
    let memory = GuardedMemory::new(b"x");
    let maps = Process::myself().unwrap().maps().unwrap();
    let behind = maps.iter().find(|map| map.address.0 == memory.end() as u64).unwrap();
    assert_eq!(behind.perms & MMPermissions::READ, MMPermissions::NONE);
}

/// What an argument asks for, according to docs/behaviour.md.
fn request(argument: &[u8]) -> Option<Request> {
    match argument {
        b"-h" | b"--help" => Some(Request::Help),
        b"-v" | b"-V" | b"--version" => Some(Request::Version),
        b"-P" => Some(Request::Silence),
        _ => None,
    }
}

/// A string as it may be on a start stack: arbitrary bytes, a known argument, or a
/// known argument with a small change.
fn string() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec!["-h", "--help", "-v", "-V", "--version", "-P", "-", ""]);
    let changed = (known.clone(), 0..12_usize, 0..4_u8, 1..=255_u8);
    let changed = changed.prop_map(|(word, index, change, byte)| {
        let mut word = word.as_bytes().to_vec();
        let index = index.min(word.len());
        match change {
            0 => word.truncate(index),
            1 => word.insert(index, byte),
            2 => word.extend(b"-h"),
            _ if index < word.len() => word[index] = byte,
            _ => word.push(byte),
        }
        word
    });
    prop_oneof![
        known.prop_map(|word| word.as_bytes().to_vec()),
        changed,
        prop::collection::vec(1..=255_u8, 0..40),
        prop::collection::vec(1..=255_u8, 4_000..5_000),
    ]
}

fn strings() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(string(), 0..8)
}

/// Pairs of the auxiliary vector other than AT_NULL, which ends it, and AT_EXECFN, which has the path.
fn auxiliary() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let key = (1..100_usize).prop_filter("it has the path", |key| *key != AT_EXECFN as usize);
    prop::collection::vec((key, any::<usize>()), 0..30)
}

/// The number of cases. Those that fail are printed, but not saved.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn gives_the_request_of_an_argument(argument in string()) {
        // The shortest possible path follows the argument, so a read beyond it soon hits the unreadable page.
        let stack = Stack::new(std::slice::from_ref(&argument), &[], &[], Some(b"p"));
        let found = start_stack(stack.address()).arguments().next().unwrap();
        prop_assert_eq!(found.request(), request(&argument));
    }

    #[test]
    fn is_walked_to_its_end_and_no_further(
        arguments in strings(),
        environment in strings(),
        auxiliary in auxiliary(),
        path in prop::option::of(prop::collection::vec(1..=255_u8, 1..300)),
    ) {
        let stack = Stack::new(&arguments, &environment, &auxiliary, path.as_deref());
        let found = start_stack(stack.address());
        prop_assert_eq!(found.path(), path.map(|_| stack.path_address()));
        let mut found = found.arguments();
        prop_assert_eq!(found.by_ref().map(bytes_of).collect::<Vec<_>>(), arguments);
        // At the end, `next` returns None again.
        prop_assert!(found.next().is_none());
    }
}

proptest! {
    #![proptest_config(cases(50))]

    /// pause answers the first argument that asks for an answer. If there is none, pause
    /// keeps running, and shows its name.
    #[test]
    fn is_answered_or_held(arguments in strings(), environment in strings()) {
        let c = |strings: &[Vec<u8>]| -> Vec<CString> {
            strings.iter().map(|string| CString::new(string.clone()).unwrap()).collect()
        };
        let start = Start::pid1().argv(c(&arguments)).environment(c(&environment));
        let mut requests = arguments.iter().filter_map(|argument| request(argument));
        let question = requests.find(|request| *request != Request::Silence);
        match question {
            Some(question) => {
                let answer = if question == Request::Help { USAGE } else { VERSION };
                prop_assert_eq!(output(start), (answer.to_owned(), End::Exit(0)));
            }
            None => {
                let process = start.spawn().asleep();
                let mut name = arguments.first().cloned().unwrap_or_default();
                name.truncate(127);
                let shown = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap();
                prop_assert_eq!(shown.strip_suffix(b"\0").unwrap_or(&shown), name);
                process.terminate();
            }
        }
    }
}
