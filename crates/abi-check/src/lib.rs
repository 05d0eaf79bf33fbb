//! Checks pause's constants and struct layouts against the independent definitions of the libc crate.
//!
//! The check happens at compile time, and needs no standard library: `cargo check -p abi-check --target T`.
//! Values that libc lacks are written here, with the Linux file that defines them.
#![no_std]
#![expect(dead_code, unused_imports, unused_macros, reason = "other crates use most of this")]

#[path = "../../../src/arch/mod.rs"]
mod arch;
#[path = "../../../src/elf.rs"]
mod elf;
#[path = "../../../src/start.rs"]
mod start;
#[path = "../../../src/sys.rs"]
mod sys;

/// The entry point: the ELF header contains its address.
unsafe extern "C" fn _start() -> ! {
    arch::exit(0)
}

/// Checks that both values of each pair are the same number, whatever their types.
macro_rules! same {
    ($($ours:expr => $theirs:expr,)*) => {
        $(const _: () = assert!($ours as i128 == $theirs as i128, stringify!($ours));)*
    };
}

mod calls {
    use crate::arch::nr::*;

    same! {
        CHDIR => libc::SYS_chdir,
        CLOSE_RANGE => libc::SYS_close_range,
        EXIT => libc::SYS_exit,
        GETPID => libc::SYS_getpid,
        MUNMAP => libc::SYS_munmap,
        PPOLL => libc::SYS_ppoll,
        PRCTL => libc::SYS_prctl,
        RT_SIGACTION => libc::SYS_rt_sigaction,
        RT_SIGPROCMASK => libc::SYS_rt_sigprocmask,
        RT_SIGTIMEDWAIT => libc::SYS_rt_sigtimedwait,
        WAIT4 => libc::SYS_wait4,
        WRITE => libc::SYS_write,
    }

    // Linux 5.1 added these calls on 32-bit architectures. libc has them under these names on only some of
    // those. `arch/x86/entry/syscalls/syscall_32.tbl` and `arch/arm/tools/syscall.tbl` have the same
    // numbers.
    #[cfg(target_pointer_width = "32")]
    same! {
        PPOLL_TIME64 => 414,
        RT_SIGTIMEDWAIT_TIME64 => 421,
    }
}

mod constants {
    use crate::start::AT_EXECFN;
    use crate::sys::*;

    same! {
        STDOUT => libc::STDOUT_FILENO,
        STDERR => libc::STDERR_FILENO,
        EINTR => libc::EINTR,
        SIGINT => libc::SIGINT,
        SIGPIPE => libc::SIGPIPE,
        SIGTERM => libc::SIGTERM,
        SIGCHLD => libc::SIGCHLD,
        SIGTTOU => libc::SIGTTOU,
        SIGXFSZ => libc::SIGXFSZ,
        SIG_SETMASK => libc::SIG_SETMASK,
        SIG_IGN => libc::SIG_IGN,
        WNOHANG => libc::WNOHANG,
        __WALL => libc::__WALL,
        POLLOUT => libc::POLLOUT,
        PR_SET_NAME => libc::PR_SET_NAME,
        PR_SET_MM => libc::PR_SET_MM,
        PR_SET_MM_MAP => libc::PR_SET_MM_MAP,
        PR_SET_CHILD_SUBREAPER => libc::PR_SET_CHILD_SUBREAPER,
        AT_EXECFN => libc::AT_EXECFN,
    }
}

mod layouts {
    use crate::sys::{MemoryMap, PollFd, SignalAction, SignalSet};
    use core::ffi::{c_long, c_ulong};
    use core::mem::offset_of;

    same! {
        size_of::<PollFd>() => size_of::<libc::pollfd>(),
        offset_of!(PollFd, fd) => offset_of!(libc::pollfd, fd),
        offset_of!(PollFd, events) => offset_of!(libc::pollfd, events),
        offset_of!(PollFd, revents) => offset_of!(libc::pollfd, revents),
    }

    // The kernel's `sigset_t` consists of machine words with `_NSIG` bits in all. `_NSIG` is 64 on these
    // architectures (`arch/*/include/uapi/asm/signal.h`). libc's `sigset_t` is larger.
    const NSIG: usize = 64;
    same! {
        size_of::<SignalSet>() => NSIG / 8,
        u64::from_ne_bytes(crate::sys::signals([1, 64])) => (1_u64 | 1 << 63),
    }
    const _: () = assert!(cfg!(target_endian = "little") || size_of::<c_ulong>() == NSIG / 8);

    // The kernel's `struct sigaction` (`include/linux/signal_types.h`) differs from libc's. It has the
    // handler, the flags, the restorer on some architectures, and the set. It is not larger than ours, whose
    // last field is `zero`.
    const _: () =
        assert!(size_of::<[c_ulong; 3]>() + size_of::<SignalSet>() <= size_of::<SignalAction>());
    same! {
        offset_of!(SignalAction, handler) => 0,
        offset_of!(SignalAction, zero) => size_of::<libc::sighandler_t>(),
    }

    // Whatever the C library has, the `struct timespec` of ppoll consists of two longs, and that of
    // ppoll_time64 of two i64s (`__kernel_old_timespec` and `__kernel_timespec` in
    // `include/uapi/linux/time_types.h`). Both fit in the field `zero`.
    const _: () = assert!(size_of::<[c_long; 2]>() <= size_of::<[usize; 4]>());
    const _: () = assert!(size_of::<[i64; 2]>() <= size_of::<[usize; 4]>());

    // libc lacks `struct prctl_mm_map` (`include/uapi/linux/prctl.h`). Ours, `MemoryMap`, has the layout of a
    // 64-bit kernel.
    #[repr(C)]
    struct PrctlMmMap {
        code_to_env_end: [u64; 11],
        auxv: *mut u64,
        auxv_size: u32,
        exe_fd: u32,
    }
    same! {
        size_of::<MemoryMap>() => 104,
        offset_of!(MemoryMap, start_code) => 0,
        offset_of!(MemoryMap, arg_start) => 7 * 8,
        offset_of!(MemoryMap, arg_end) => 8 * 8,
        offset_of!(MemoryMap, auxv) => 88,
        offset_of!(MemoryMap, auxv_size) => 96,
        offset_of!(MemoryMap, exe_fd) => 100,
        offset_of!(PrctlMmMap, auxv) => offset_of!(MemoryMap, auxv),
    }
    // On a 64-bit kernel, both layouts are the same. On a 32-bit kernel, `exe_fd` has the offset of our
    // `auxv_size`.
    #[cfg(target_pointer_width = "64")]
    same! {
        size_of::<PrctlMmMap>() => size_of::<MemoryMap>(),
        offset_of!(PrctlMmMap, auxv_size) => offset_of!(MemoryMap, auxv_size),
        offset_of!(PrctlMmMap, exe_fd) => offset_of!(MemoryMap, exe_fd),
    }
    #[cfg(target_pointer_width = "32")]
    same! {
        size_of::<PrctlMmMap>() => offset_of!(MemoryMap, exe_fd).next_multiple_of(align_of::<u64>()),
        offset_of!(PrctlMmMap, exe_fd) => offset_of!(MemoryMap, auxv_size),
    }
}

mod elf_header {
    use crate::arch;
    use crate::elf::{HEADER, Header, Segment, *};
    use core::mem::offset_of;

    #[cfg(target_pointer_width = "32")]
    use libc::{Elf32_Ehdr as Ehdr, Elf32_Phdr as Phdr};
    #[cfg(target_pointer_width = "64")]
    use libc::{Elf64_Ehdr as Ehdr, Elf64_Phdr as Phdr};

    same! {
        ELFCLASS32 => libc::ELFCLASS32,
        ELFCLASS64 => libc::ELFCLASS64,
        ELFDATA2LSB => libc::ELFDATA2LSB,
        ELFDATA2MSB => libc::ELFDATA2MSB,
        EV_CURRENT => libc::EV_CURRENT,
        ET_EXEC => libc::ET_EXEC,
        PT_LOAD => libc::PT_LOAD,
        PT_GNU_STACK => libc::PT_GNU_STACK,
        PF_X => libc::PF_X,
        PF_W => libc::PF_W,
        PF_R => libc::PF_R,
    }

    #[cfg(target_arch = "aarch64")]
    use libc::EM_AARCH64 as E_MACHINE;
    #[cfg(target_arch = "arm")]
    use libc::EM_ARM as E_MACHINE;
    /// `include/uapi/linux/elf-em.h`
    #[cfg(target_arch = "loongarch64")]
    const E_MACHINE: u16 = 258;
    #[cfg(target_arch = "x86")]
    use libc::EM_386 as E_MACHINE;
    #[cfg(target_arch = "powerpc64")]
    use libc::EM_PPC64 as E_MACHINE;
    #[cfg(target_arch = "riscv64")]
    use libc::EM_RISCV as E_MACHINE;
    #[cfg(target_arch = "s390x")]
    use libc::EM_S390 as E_MACHINE;
    #[cfg(target_arch = "x86_64")]
    use libc::EM_X86_64 as E_MACHINE;
    same! { arch::E_MACHINE => E_MACHINE, }

    /// Checks that the fields are at the same offsets.
    macro_rules! same_fields {
        ($ours:ty, $theirs:ty: $($field:ident)*) => {
            same! { $(offset_of!($ours, $field) => offset_of!($theirs, $field),)* }
        };
    }
    same_fields! { Header, Ehdr:
        e_ident e_type e_machine e_version e_entry e_phoff e_shoff e_flags
        e_ehsize e_phentsize e_phnum e_shentsize e_shnum e_shstrndx
    }
    same_fields! { Segment, Phdr:
        p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align
    }
    same! {
        offset_of!(Header, segments) => size_of::<Ehdr>(),
        size_of::<Segment>() => size_of::<Phdr>(),
        size_of::<Header>() => size_of::<Ehdr>() + 3 * size_of::<Phdr>(),
        HEADER.e_ehsize => size_of::<Ehdr>(),
        HEADER.e_phoff => size_of::<Ehdr>(),
        HEADER.e_phentsize => size_of::<Phdr>(),
        HEADER.e_phnum => 3,
        HEADER.e_ident[libc::EI_CLASS] => size_of::<usize>() / 4,
        HEADER.e_ident[libc::EI_DATA] => if cfg!(target_endian = "little") { 1 } else { 2 },
        HEADER.e_ident[libc::EI_VERSION] => libc::EV_CURRENT,
    }
    const _: () = {
        let magic = [libc::ELFMAG0, libc::ELFMAG1, libc::ELFMAG2, libc::ELFMAG3];
        let mut index = 0;
        while index < magic.len() {
            assert!(HEADER.e_ident[index] == magic[index]);
            index += 1;
        }
    };
}
