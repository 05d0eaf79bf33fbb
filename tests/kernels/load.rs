//! Loads for a PID 1, and the negative controls of `init.sh`.
//!
//! It is a static program with pause's entry point, system calls and linker script, so it runs on every
//! kernel that pause supports. `init.sh` calls it as `/load`:
//!
//! | command | what it does |
//! |---|---|
//! | `dead N` | makes N orphans that are zombies before PID 1 becomes their parent |
//! | `living N` | makes N orphans that exit after PID 1 has become their parent |
//! | `traced N` | the same, but each orphan calls `PTRACE_TRACEME` before it exits |
//! | `without time32 PROGRAM…` | denies waiting calls with 32-bit times, and executes the program |
//! | `without time64 PROGRAM…` | the same with 64-bit times, which kernels before 5.1 lack |
//! | `without both PROGRAM…` | denies both kinds of calls, so pause cannot wait |
//! | `unmap ADDRESS` | unmaps the page at this hexadecimal address, and waits for SIGTERM, as pause does |
//!
//! `without` exists only on 32-bit architectures. The waiting calls that it denies are `rt_sigtimedwait` and
//! `ppoll`.
//!
//! Each orphan writes one byte to stdout before it exits, so the number of bytes is the number of orphans
//! that were made. If stdout is a pipe, EOF means that all orphans have closed it.
//!
//! The exit status is 0, 1 if a system call failed, or 2 if the arguments are wrong.
#![no_std]
#![no_main]
#![no_builtins] // There is no memset, memcpy or strlen to call.

#[path = "../../src/arch/mod.rs"]
#[allow(unused, reason = "pause uses the rest")]
mod arch;
#[path = "../../src/elf.rs"]
#[allow(unused, reason = "pause uses the rest")]
mod elf;

use arch::{nr, syscall};

/// Numbers of system calls that pause does not make.
mod more {
    /// The same on all architectures.
    pub const CLONE3: usize = 435;
    /// By the `syscall*.tbl` of each architecture in Linux `arch/`, and `scripts/syscall.tbl`.
    pub const GETPPID: usize = NUMBERS[0];
    pub const PTRACE: usize = NUMBERS[1];

    const NUMBERS: [usize; 2] = if cfg!(target_arch = "x86_64") {
        [110, 101]
    } else if cfg!(any(
        target_arch = "aarch64",
        target_arch = "loongarch64",
        target_arch = "riscv64"
    )) {
        [173, 117]
    } else {
        [64, 26]
    };
}

const SIGUSR1: usize = 10;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIG_BLOCK: usize = 0;
const EINTR: i32 = 4;
const WALL: usize = 0x4000_0000;
const PTRACE_TRACEME: usize = 0;
const PR_SET_PDEATHSIG: usize = 1;

/// Exit statuses.
const FAILED: usize = 1;
const WRONG_ARGUMENTS: usize = 2;

static CONSTANTS: u8 = 0;

arch::entry_point!(crate::answer, crate::main, crate::CONSTANTS);

/// Runs on the start stack. It never returns, so [`main`] is not called.
///
/// # Safety
///
/// `stack` is the start stack.
unsafe extern "C" fn answer(stack: *const usize, _: &u8) -> ! {
    // SAFETY: argc is the first word of the start stack.
    let argc = unsafe { *stack };
    // SAFETY: argc arguments follow argc.
    let arguments = unsafe { core::slice::from_raw_parts(stack.add(1).cast::<Text>(), argc) };
    // SAFETY: a null follows the arguments, and then the environment.
    let environment = unsafe { stack.add(argc + 2) };
    let status = match arguments {
        [_, kind, number] if kind.is(b"dead") => make_orphans(Kind::Dead, number.number(10)),
        [_, kind, number] if kind.is(b"living") => make_orphans(Kind::Living, number.number(10)),
        [_, kind, number] if kind.is(b"traced") => make_orphans(Kind::Traced, number.number(10)),
        [_, command, address] if command.is(b"unmap") => unmap(address.number(16)),
        #[cfg(target_pointer_width = "32")]
        [_, command, what, program @ ..] if command.is(b"without") && !program.is_empty() => {
            filter::execute_without(what, program, environment)
        }
        _ => {
            let _ = environment;
            WRONG_ARGUMENTS
        }
    };
    exit(status)
}

extern "C" fn main() -> ! {
    exit(FAILED)
}

/// A string from the start stack, terminated by a zero byte.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Text(*const u8);

impl Text {
    /// Its bytes.
    fn bytes(self) -> impl Iterator<Item = u8> {
        let mut next = self.0;
        core::iter::from_fn(move || {
            // SAFETY: no byte before this one was zero, so this byte is part of the string.
            let byte = unsafe { *next };
            if byte == 0 {
                return None;
            }
            // SAFETY: this byte is not zero, so the string has at least one more byte.
            next = unsafe { next.add(1) };
            Some(byte)
        })
    }

    fn is(self, word: &[u8]) -> bool {
        self.bytes().eq(word.iter().copied())
    }

    /// Parses the string as a number. Ends the process if a byte is not a digit.
    fn number(self, base: usize) -> usize {
        let mut number = 0_usize;
        for byte in self.bytes() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => u8::MAX,
            };
            if usize::from(digit) >= base {
                exit(WRONG_ARGUMENTS)
            }
            number = number.wrapping_mul(base).wrapping_add(usize::from(digit));
        }
        number
    }
}

/// What an orphan does before it is gone: see the table above.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Dead,
    Living,
    Traced,
}

/// Makes orphans one by one: each has a parent of its own, which exits without waiting for it.
fn make_orphans(kind: Kind, number: usize) -> usize {
    for _ in 0..number {
        let parent = fork();
        if parent == 0 {
            leave_orphan(kind);
        }
        let mut status = 0_i32;
        // SAFETY: the kernel writes the status, which is an int.
        let ended = unsafe {
            syscall(nr::WAIT4, [parent as usize, (&raw mut status).expose_provenance(), WALL, 0])
        };
        if ended != parent || status != 0 {
            return FAILED;
        }
    }
    0
}

/// Forks a child and exits without reaping it.
fn leave_orphan(kind: Kind) -> ! {
    block([SIGUSR1, SIGCHLD]);
    if fork() == 0 {
        if kind != Kind::Dead {
            wait_for_adoption();
        }
        if kind == Kind::Traced {
            // SAFETY: the call takes numbers. It makes the parent the tracer.
            check(unsafe { syscall(more::PTRACE, [PTRACE_TRACEME, 0, 0, 0]) });
        }
        // SAFETY: the kernel reads one byte.
        let written =
            unsafe { syscall(nr::WRITE, [1, (&raw const CONSTANTS).expose_provenance(), 1]) };
        exit(if written == 1 { 0 } else { FAILED })
    }
    if kind == Kind::Dead {
        // The kernel sends SIGCHLD when the child has become a zombie. Nothing reaps the child here.
        wait_for(SIGCHLD);
    }
    exit(0)
}

/// Returns once PID 1 is the parent. The caller has blocked SIGUSR1.
fn wait_for_adoption() {
    // The kernel sends this signal after it has set the new parent.
    // SAFETY: the call takes numbers.
    check(unsafe { syscall(nr::PRCTL, [PR_SET_PDEATHSIG, SIGUSR1]) });
    // SAFETY: the call takes nothing.
    let parent = || unsafe { syscall(more::GETPPID, []) };
    if parent() != 1 {
        wait_for(SIGUSR1);
    }
    if parent() != 1 {
        exit(FAILED)
    }
}

/// Forks. Returns 0 in the child.
fn fork() -> i32 {
    // `struct clone_args` of Linux 5.3: the signal at the child's end is the fifth field.
    let arguments = [0, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
    let address = (&raw const arguments).expose_provenance();
    // SAFETY: the kernel reads one `struct clone_args` of the given size. The child continues with copies of
    // this memory and this stack.
    check(unsafe { syscall(more::CLONE3, [address, size_of_val(&arguments)]) })
}

/// The kernel's signal set with this one signal.
fn set(signal: usize) -> [u8; 8] {
    (1_u64 << (signal - 1)).to_ne_bytes()
}

fn block(signals: [usize; 2]) {
    for signal in signals {
        let set = set(signal);
        let address = (&raw const set).expose_provenance();
        // SAFETY: the kernel reads one signal set of the given size.
        check(unsafe { syscall(nr::RT_SIGPROCMASK, [SIG_BLOCK, address, 0, size_of_val(&set)]) });
    }
}

/// Waits for a signal that is blocked.
fn wait_for(signal: usize) {
    let set = set(signal);
    let address = (&raw const set).expose_provenance();
    loop {
        // SAFETY: the kernel reads one signal set of the given size.
        let result = unsafe { syscall(nr::RT_SIGTIMEDWAIT, [address, 0, 0, size_of_val(&set)]) };
        if result != -EINTR {
            check(result);
            return;
        }
    }
}

/// Unmaps the page at this address, and waits for SIGTERM.
fn unmap(address: usize) -> usize {
    block([SIGTERM, SIGTERM]);
    // SAFETY: `init.sh` passes the address of [uprobes] or of an unused page. This code uses neither.
    check(unsafe { syscall(nr::MUNMAP, [address, elf::PAGE_MIN]) });
    wait_for(SIGTERM);
    0
}

/// Ends the process if a system call has failed.
fn check(result: i32) -> i32 {
    if result < 0 {
        exit(FAILED)
    }
    result
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: the call takes a number, and does not return.
        unsafe { syscall(nr::EXIT, [status]) };
    }
}

/// A seccomp filter that imitates kernels without the waiting system calls that take 32-bit or 64-bit times.
#[cfg(target_pointer_width = "32")]
mod filter {
    use super::*;

    /// The number of execve, which is the same on both 32-bit architectures, Arm and x86.
    const EXECVE: usize = 11;
    const PR_SET_SECCOMP: usize = 22;
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    const SECCOMP_MODE_FILTER: usize = 2;

    /// `rt_sigtimedwait` and `ppoll` with 32-bit times. Kernels without CONFIG_COMPAT_32BIT_TIME lack them.
    const TIME32: [u32; 2] = [177, if cfg!(target_arch = "arm") { 336 } else { 309 }];
    /// The same calls with 64-bit times, since Linux 5.1.
    const TIME64: [u32; 2] = [421, 414];
    const NO_CALL: [u32; 2] = [u32::MAX; 2];

    /// `struct sock_filter`
    #[repr(C)]
    struct Instruction {
        code: u16,
        jump_true: u8,
        jump_false: u8,
        constant: u32,
    }

    /// `struct sock_fprog`
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }

    /// Loads the number of the call, which is the first field of `struct seccomp_data`.
    const LOAD_NUMBER: Instruction =
        Instruction { code: 0x20, jump_true: 0, jump_false: 0, constant: 0 };

    /// If the call has this number, skips `distance` instructions, to the last one, which denies the call.
    const fn deny(number: u32, distance: u8) -> Instruction {
        Instruction { code: 0x15, jump_true: distance, jump_false: 0, constant: number }
    }

    const fn answer(constant: u32) -> Instruction {
        Instruction { code: 0x06, jump_true: 0, jump_false: 0, constant }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const ENOSYS: u32 = 0x0005_0000 | 38;

    pub fn execute_without(what: &Text, program: &[Text], environment: *const usize) -> usize {
        let (old, new) = if what.is(b"time32") {
            (TIME32, NO_CALL)
        } else if what.is(b"time64") {
            (NO_CALL, TIME64)
        } else if what.is(b"both") {
            (TIME32, TIME64)
        } else {
            return WRONG_ARGUMENTS;
        };
        let instructions = [
            LOAD_NUMBER,
            deny(old[0], 4),
            deny(old[1], 3),
            deny(new[0], 2),
            deny(new[1], 1),
            answer(ALLOW),
            answer(ENOSYS),
        ];
        let filter =
            Program { length: instructions.len() as u16, instructions: instructions.as_ptr() };
        let address = (&raw const filter).expose_provenance();
        // SAFETY: the call takes numbers.
        check(unsafe { syscall(nr::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]) });
        // SAFETY: the kernel reads one `struct sock_fprog` and `length` instructions. The array has this
        // length.
        check(unsafe { syscall(nr::PRCTL, [PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address, 0, 0]) });
        let arguments = program.as_ptr();
        let environment = environment.expose_provenance();
        // SAFETY: the kernel reads both arrays and their strings. A null follows the environment. A null also
        // follows the arguments, because they are the last arguments on the start stack.
        unsafe {
            syscall(
                EXECVE,
                [program[0].0.expose_provenance(), arguments.expose_provenance(), environment],
            )
        };
        FAILED
    }
}

/// This code cannot panic. If it could, linking would fail, and the error would name the function below.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: the function is not defined anywhere, so the declaration contradicts no definition.
    unsafe extern "C" {
        fn this_code_can_panic_but_must_not() -> !;
    }
    // SAFETY: no program with this call can be linked.
    unsafe { this_code_can_panic_but_must_not() }
}
