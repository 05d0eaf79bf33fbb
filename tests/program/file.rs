//! The file: its size and its header, and that all builds give the same file.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;

use object::elf::{
    EF_ARM_ABI_FLOAT_HARD, EF_ARM_ABI_FLOAT_SOFT, EF_ARM_EABI_VER5, EF_LARCH_ABI_DOUBLE_FLOAT,
    EF_LARCH_OBJABI_V1, EF_RISCV_FLOAT_ABI_DOUBLE, EF_RISCV_RVC, ET_EXEC, FileHeader32,
    FileHeader64, PF_R, PF_W, PF_X, PT_GNU_STACK, PT_LOAD,
};
use object::read::elf::{ElfFile, FileHeader, ProgramHeader as _};
use object::{Endianness, Object as _};
use tempfile::TempDir;

use crate::harness::{program, skip};

/// The largest size that the program may have on this target.
const BUDGET_BYTES: usize = if cfg!(target_arch = "x86_64") { 1_024 } else { 1_536 };

#[test]
fn is_within_budget() {
    assert!(podpause::ELF.len() <= BUDGET_BYTES, "{} bytes", podpause::ELF.len());
}

/// The README states the size of the file.
#[test]
#[cfg(target_arch = "x86_64")]
fn size_is_that_in_the_readme() {
    let readme = include_str!("../../README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let words =
        format!("a program of {} bytes", common::number::number(podpause::ELF.len() as u64));
    assert!(readme.contains(&words), "README.md should say {words:?}");
}

/// docs/design.md says what each byte is for.
#[test]
#[cfg(target_arch = "x86_64")]
fn bytes_are_those_in_the_design_page() {
    let folder = tempfile::tempdir().unwrap();
    let pause = folder.path().join("pause");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Err(error) = Command::new(&rustc).arg("--version").output() {
        skip!("rustc", "this user cannot run {}: {error}", rustc.display());
    }
    podpause::compile::compile(&rustc, root, "x86_64-unknown-linux-gnu", &pause).unwrap();
    assert!(fs::read(&pause).unwrap() == podpause::ELF);

    // What the linker calls the pieces, in the order of the rows of the table.
    let names =
        [".elf_header", "_start", "4main17h", "3say17h", "4exit17h", "6answer17h", "9CONSTANTS17h"];
    let mut found = [0; 7];
    // A line for each piece: its virtual address, its load address, its size, its alignment, its name.
    for line in fs::read_to_string(pause.with_extension("map")).unwrap().lines() {
        let Some((numbers, name)) = line.split_once(":(") else { continue };
        let mut numbers = numbers.split_whitespace();
        let address = numbers.next().unwrap();
        let size = usize::from_str_radix(numbers.nth(1).unwrap(), 16).unwrap();
        if address != "0" && size > 0 {
            let row = names.iter().position(|part| name.contains(part));
            found[row.unwrap_or_else(|| panic!("unknown piece: {line}"))] += size;
        }
    }
    let page = include_str!("../../docs/design.md");
    let table = page.split_once("<!-- bytes: begin -->").unwrap().1;
    let table = table.split_once("<!-- bytes: end -->").unwrap().0;
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| bytes"));
    let first = rows.map(|row| row.split('|').nth(1).unwrap().trim().to_owned());
    let said: Vec<_> = first.collect();
    // The rest is padding that aligns the pieces.
    let padding = podpause::ELF.len() - found.iter().sum::<usize>();
    assert!(padding < 4, "{padding} bytes of padding");
    let mut expected: Vec<_> = found.iter().map(|size| size.to_string()).collect();
    expected.push(padding.to_string());
    expected.push(format!("**{}**", common::number::number(podpause::ELF.len() as u64)));
    assert_eq!(said, expected, "docs/design.md");
}

/// In this profile, too, cargo links the bytes that the library carries.
#[test]
fn is_the_one_in_the_library() {
    assert_eq!(fs::read(program()).unwrap(), podpause::ELF);
}

/// A copy of the sources of pause, in another folder.
pub fn copy_of_sources() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("build.rs"), folder.path().join("build.rs")).unwrap();
    for name in ["link", "src"] {
        common::folder::copy(&root.join(name), &folder.path().join(name));
    }
    // The copy has no dependencies, so cargo needs no registry.
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let mut manifest: toml::Table = toml::from_str(&manifest).unwrap();
    manifest.retain(|table, _| ["package", "lib", "bin", "features", "profile"].contains(&table));
    let features = manifest["features"].as_table_mut().unwrap();
    features.retain(|feature, _| feature.starts_with("linux-"));
    manifest.insert("workspace".to_owned(), toml::Table::new().into());
    fs::write(folder.path().join("Cargo.toml"), manifest.to_string()).unwrap();
    folder
}

/// Builds pause in a folder. Returns the program, or the messages of cargo.
fn build(folder: &Path, profile: &str, flags: &str) -> Result<Vec<u8>, String> {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--profile", profile, "--bin", "pause"])
        .current_dir(folder)
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let name = if profile == "dev" { "debug" } else { profile };
    Ok(fs::read(folder.join("target").join(name).join("pause")).unwrap())
}

#[test]
fn is_the_same_from_elsewhere_and_with_other_flags() {
    if let Err(error) = Command::new(env!("CARGO")).arg("--version").output() {
        skip!("cargo", "this user cannot run {}: {error}", env!("CARGO"));
    }
    let folder = copy_of_sources();
    for (profile, flags) in [("dev", "-Cforce-frame-pointers=yes -g"), ("release", "-Copt-level=0")]
    {
        let built = build(folder.path(), profile, flags).unwrap();
        assert!(built == podpause::ELF, "{profile} with {flags} gives other bytes");
    }
}

/// Code that must not be in the program does not link, and the linker's message names the problem.
#[test]
fn cannot_be_linked_with_what_it_must_not_have() {
    if let Err(error) = Command::new(env!("CARGO")).arg("--version").output() {
        skip!("cargo", "this user cannot run {}: {error}", env!("CARGO"));
    }
    let story = "arch::entry_point!(";
    // The linker keeps the section of the header, whether or not anything uses its content.
    for (name, code, messages) in [
        (
            "a panic",
            "#[unsafe(no_mangle)] extern \"C\" fn f(a: &[u8], i: usize) -> u8 { a[i] }\n\
             #[used] #[unsafe(link_section = \".elf_header\")]\n\
             static USED: extern \"C\" fn(&[u8], usize) -> u8 = f;",
            // Before Rust 1.95, the linker first reports the missing symbol that the panics of `core` need.
            &["this_code_can_panic_but_pause_must_not", "rust_eh_personality"][..],
        ),
        (
            "too many bytes",
            "#[used] #[unsafe(link_section = \".elf_header\")] static USED: [u8; 2_000] = [1; 2_000];",
            &["pause is larger than its budget"],
        ),
        (
            "a static that is written to",
            "static mut WRITTEN: u8 = 1;\n\
             extern \"C\" fn f() -> *mut u8 { &raw mut WRITTEN }\n\
             #[used] #[unsafe(link_section = \".elf_header\")]\n\
             static USED: extern \"C\" fn() -> *mut u8 = f;",
            &["pause has a static that is writable"],
        ),
    ] {
        let folder = copy_of_sources();
        let main = folder.path().join("src/main.rs");
        let source = fs::read_to_string(&main).unwrap();
        assert_eq!(source.matches(story).count(), 1);
        fs::write(&main, source.replace(story, &format!("{code}\n{story}"))).unwrap();
        let error = build(folder.path(), "dev", "").expect_err(name);
        assert!(messages.iter().any(|message| error.contains(message)), "{name}: {error}");
    }
}

/// Checks the fields of the header that matter to strict loaders and in security reviews.
#[test]
fn has_two_loaded_segments_and_none_is_writable_and_executable() {
    match size_of::<usize>() {
        4 => check_header::<FileHeader32<Endianness>>(),
        _ => check_header::<FileHeader64<Endianness>>(),
    }
}

fn check_header<Header: FileHeader<Endian = Endianness>>() {
    let elf = ElfFile::<Header>::parse(podpause::ELF).unwrap();
    let (header, endian) = (elf.elf_header(), elf.endian());
    assert_eq!(header.e_type(endian), ET_EXEC);
    assert_eq!((header.e_shoff(endian).into(), header.e_shnum(endian)), (0, 0), "no sections");
    // rustc and the crate `object` use the same names for architectures, except for x86.
    let architecture = format!("{:?}", elf.architecture()).to_lowercase();
    assert_eq!(architecture.replace("i386", "x86"), ARCH);
    let flags = match ARCH {
        "arm" if cfg!(target_abi = "eabihf") => EF_ARM_EABI_VER5 | EF_ARM_ABI_FLOAT_HARD,
        "arm" => EF_ARM_EABI_VER5 | EF_ARM_ABI_FLOAT_SOFT,
        "loongarch64" => EF_LARCH_OBJABI_V1 | EF_LARCH_ABI_DOUBLE_FLOAT,
        "powerpc64" => 2, // the ABI is ELFv2
        "riscv64" => EF_RISCV_RVC | EF_RISCV_FLOAT_ABI_DOUBLE,
        _ => 0,
    };
    assert_eq!(header.e_flags(endian), flags);

    let segments: Vec<_> = elf.elf_program_headers().iter().collect();
    let kinds: Vec<_> =
        segments.iter().map(|segment| (segment.p_type(endian), segment.p_flags(endian))).collect();
    assert_eq!(
        kinds,
        [(PT_LOAD, PF_R | PF_X), (PT_LOAD, PF_R | PF_W), (PT_GNU_STACK, PF_R | PF_W)]
    );

    let [text, page, _] = segments[..] else { panic!("three segments") };
    let long = |value: Header::Word| -> u64 { value.into() };
    let size = podpause::ELF.len() as u64;
    assert_eq!(
        (long(text.p_offset(endian)), long(text.p_filesz(endian))),
        (0, size),
        "all of the file"
    );
    assert_eq!(long(text.p_memsz(endian)), size);
    assert_eq!(
        (long(page.p_filesz(endian)), long(page.p_memsz(endian))),
        (0, 4_096),
        "none of the file"
    );
    // With pages of 64 KiB, the kernel can still map both segments, because they have no page in common.
    let addresses = [text, page].map(|segment| long(segment.p_vaddr(endian)));
    for (segment, address) in [text, page].into_iter().zip(addresses) {
        assert_eq!((address % 65_536, long(segment.p_align(endian))), (0, 65_536));
    }
    let [start, private] = addresses;
    assert!(private - start >= 65_536);
    assert!((start + 1..start + size).contains(&elf.entry()));
}

/// All printable text of nine or more bytes in the file ends with one of pause's own words. The name of a
/// path, a host or a compiler would fail this test.
#[test]
fn has_no_words_but_its_own() {
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let version = format!("pause {}", env!("CARGO_PKG_VERSION"));
    let messages = [
        &version,
        "[-v | -h | -P]",
        "pause",
        "pause: not PID #1",
        "pause: can't hold",
        "pause: SIGTERM 15",
        "pause: SIGINT   2",
    ];
    let mut words = 0;
    for run in podpause::ELF.split(|byte| !printable(byte)).filter(|run| run.len() >= 9) {
        let text = String::from_utf8(run.to_vec()).unwrap();
        assert!(messages.iter().any(|message| text.ends_with(message)), "{text:?}");
        words += 1;
    }
    assert!(words >= 6, "the messages were found");
}
