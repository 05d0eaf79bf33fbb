//! The ELF header of the program. The linker writes a flat binary, so this is the only header.
//!
//! Names and layouts are those of elf(5). They are public for `crates/abi-check`, which compares them with the
//! libc crate. The kernel reads the header in `fs/binfmt_elf.c`.

use crate::arch;

pub const ELFCLASS32: u8 = 1;
pub const ELFCLASS64: u8 = 2;
pub const ELFDATA2LSB: u8 = 1;
pub const ELFDATA2MSB: u8 = 2;
pub const EV_CURRENT: u8 = 1;
pub const ET_EXEC: u16 = 2;
pub const PT_LOAD: u32 = 1;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
pub const PF_X: u32 = 1;
pub const PF_W: u32 = 2;
pub const PF_R: u32 = 4;

/// The largest page of a supported kernel, in bytes: a kernel can be configured for 4, 16 or 64 KiB on
/// aarch64 and loongarch64, and for 4 or 64 KiB on powerpc64. The other architectures have 4 KiB pages.
pub const PAGE_MAX: usize = 65_536;
/// The smallest page, in bytes. pause uses this much of the private page.
pub const PAGE_MIN: usize = 4_096;

// SAFETY: pause.ld defines these symbols. Only their addresses are used; nothing is read through them.
unsafe extern "C" {
    /// The start of the file in memory, where [`HEADER`] is.
    static text: u8;
    /// The start of the private page.
    static page: u8;
    /// A number, not a place: the size of the file.
    static file_size: u8;
}

/// An address, or a number of bytes. It is a pointer because the linker can fill in only pointers.
pub type Address = *const u8;

#[repr(C)]
pub struct Header {
    pub e_ident: [u8; 16],
    pub e_type: u16,
    pub e_machine: u16,
    pub e_version: u32,
    pub e_entry: unsafe extern "C" fn() -> !,
    pub e_phoff: usize,
    pub e_shoff: usize,
    pub e_flags: u32,
    pub e_ehsize: u16,
    pub e_phentsize: u16,
    pub e_phnum: u16,
    pub e_shentsize: u16,
    pub e_shnum: u16,
    pub e_shstrndx: u16,
    pub segments: [Segment; 3],
}

#[repr(C)]
pub struct Segment {
    pub p_type: u32,
    #[cfg(target_pointer_width = "64")]
    pub p_flags: u32,
    pub p_offset: usize,
    pub p_vaddr: Address,
    pub p_paddr: Address,
    pub p_filesz: Address,
    pub p_memsz: Address,
    #[cfg(target_pointer_width = "32")]
    pub p_flags: u32,
    pub p_align: usize,
}

// SAFETY: the pointers are numbers for the kernel. Nothing in the program reads through them.
unsafe impl Sync for Header {}

/// The start of the file.
#[used]
#[unsafe(link_section = ".elf_header")]
pub static HEADER: Header = Header {
    e_ident: {
        let mut ident = [0; 16];
        [ident[0], ident[1], ident[2], ident[3]] = *b"\x7fELF";
        ident[4] = if cfg!(target_pointer_width = "64") { ELFCLASS64 } else { ELFCLASS32 };
        ident[5] = if cfg!(target_endian = "little") { ELFDATA2LSB } else { ELFDATA2MSB };
        ident[6] = EV_CURRENT;
        ident
    },
    e_type: ET_EXEC,
    e_machine: arch::E_MACHINE,
    e_version: EV_CURRENT as u32,
    e_entry: crate::_start,
    e_phoff: core::mem::offset_of!(Header, segments),
    e_shoff: 0,
    e_flags: arch::E_FLAGS,
    e_ehsize: core::mem::offset_of!(Header, segments) as u16,
    e_phentsize: size_of::<Segment>() as u16,
    e_phnum: 3,
    e_shentsize: 0,
    e_shnum: 0,
    e_shstrndx: 0,
    // Addresses are multiples of PAGE_MAX, and file offsets are zero. So for every page size, both are
    // multiples of the page size, and no two segments share a page. The private page contains nothing of the
    // file, so the kernel has no partial page to clear (`elf_load`; `padzero` in older kernels).
    segments: [
        // The whole file.
        Segment {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_X,
            p_offset: 0,
            p_vaddr: &raw const text,
            p_paddr: core::ptr::null(),
            p_filesz: &raw const file_size,
            p_memsz: &raw const file_size,
            p_align: PAGE_MAX,
        },
        // The private page: zero, and not from the file.
        Segment {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_W,
            p_offset: 0,
            p_vaddr: &raw const page,
            p_paddr: core::ptr::null(),
            p_filesz: core::ptr::null(),
            p_memsz: core::ptr::without_provenance(PAGE_MIN),
            p_align: PAGE_MAX,
        },
        // Makes the start stack non-executable. Without this header, some kernels make all readable memory
        // executable, including the private page: on x86_64 and aarch64 those
        // before 5.8, on 32-bit x86 and Arm also newer ones (`elf_read_implies_exec`).
        Segment {
            p_type: PT_GNU_STACK,
            p_flags: PF_R | PF_W,
            p_offset: 0,
            p_vaddr: core::ptr::null(),
            p_paddr: core::ptr::null(),
            p_filesz: core::ptr::null(),
            p_memsz: core::ptr::null(),
            p_align: 0,
        },
    ],
};
