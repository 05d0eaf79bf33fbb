//! What the kernel leaves on the stack of a program that it starts.

/// The key of the program's path in the auxiliary vector. getauxval(3)
pub const AT_EXECFN: u32 = 31;

/// What an argument asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `-h` or `--help`
    Help,
    /// `-v`, `-V` or `--version`
    Version,
    /// `-P`
    Silence,
}

/// A string on the start stack. It ends with a zero byte.
///
/// At least six more bytes follow that zero byte. The last string on the stack is the path of the
/// program, which has at least one byte and a zero byte. Behind it the stack ends with a null word of
/// four or eight bytes (`__bprm_mm_init` and `bprm_execve` in Linux `fs/exec.c`).
#[derive(Clone, Copy)]
pub struct StackString(*const u8);

impl StackString {
    /// The byte at this index.
    ///
    /// # Safety
    ///
    /// The index is at most that of the zero byte.
    #[inline(always)]
    pub unsafe fn byte(self, index: usize) -> u8 {
        // SAFETY: the string reaches to its zero byte, and the index is not beyond it.
        let at = unsafe { self.0.add(index) };
        // SAFETY: as above, `at` points into the string.
        unsafe { *at }
    }

    /// Whether these bytes are at this index.
    ///
    /// # Safety
    ///
    /// The compared bytes end at most six behind the zero byte.
    #[inline(always)]
    pub unsafe fn has<const N: usize>(self, index: usize, bytes: &[u8; N]) -> bool {
        // SAFETY: the type's doc says that six bytes follow the zero byte; the caller stays within.
        let at = unsafe { self.0.add(index) };
        // SAFETY: as above; and an array of bytes needs no alignment.
        unsafe { at.cast::<[u8; N]>().read() == *bytes }
    }

    /// What it asks for, as an argument.
    #[inline(always)]
    pub fn request(self) -> Option<Request> {
        // SAFETY: byte 0 is at most the zero byte.
        let has_dash = unsafe { self.has(0, b"-") };
        // The following are called only if the string starts with a dash, so that its zero byte has
        // index 1 or more.
        // SAFETY: bytes 1 and 2 end one behind the zero byte at the most.
        let has_letter = |letter| unsafe { self.has(1, &[letter, 0]) };
        // SAFETY: bytes 1 to 4 end three behind it at the most.
        let has_word = |start| unsafe { self.has::<4>(1, start) };
        // The following are called only if five bytes matched, so that it has index 5 or more.
        // SAFETY: bytes 5 and 6 end one behind it at the most.
        let has_p = || unsafe { self.has(5, b"p\0") };
        // SAFETY: bytes 5 to 8 end three behind it at the most.
        let has_sion = || unsafe { self.has(5, b"sion") };
        // SAFETY: called only if nine bytes matched, so that byte 9 is at most the zero byte.
        let has_end = || unsafe { self.has(9, b"\0") };
        if !has_dash {
            None
        } else if has_letter(b'h') || has_word(b"-hel") && has_p() {
            Some(Request::Help)
        } else if has_letter(b'v')
            || has_letter(b'V')
            || has_word(b"-ver") && has_sion() && has_end()
        {
            Some(Request::Version)
        } else if has_letter(b'P') {
            Some(Request::Silence)
        } else {
            None
        }
    }
}

/// The start stack: argc, the arguments and a null, the environment and a null, then the auxiliary
/// vector (System V ABI, "Process Initialization"; `create_elf_tables` in Linux `fs/binfmt_elf.c`).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct StartStack(*const usize);

impl StartStack {
    /// The start stack at this address.
    ///
    /// # Safety
    ///
    /// `stack` is the value of the stack pointer at the entry point, and what the kernel put there
    /// stays as it is while this value, or one made from it, is in use.
    #[allow(dead_code, reason = "the program gets it from the entry point")]
    pub unsafe fn new(stack: *const usize) -> Self {
        Self(stack)
    }

    /// The arguments, the first of which is the name of the program.
    #[inline(always)]
    pub fn arguments(self) -> Arguments {
        // SAFETY: behind argc is the first argument, or the null if there is none.
        Arguments(Cursor(unsafe { self.0.add(1) }))
    }

    /// The address of the program's path, by the auxiliary vector, if it has one.
    #[inline(always)]
    pub fn path(self) -> Option<usize> {
        // SAFETY: the stack starts with argc.
        let argc = unsafe { *self.0 };
        // SAFETY: behind argc are so many arguments and a null, and then the environment.
        let mut cursor = Cursor(unsafe { self.0.add(argc + 2) });
        // SAFETY: the environment ends with a null, and the loop stops there.
        while unsafe { cursor.next() } != 0 {}
        loop {
            // A key is small: half of the word is enough.
            // SAFETY: the auxiliary vector ends with the key zero, and the loop stops there.
            let key = unsafe { cursor.next() } as u32;
            // SAFETY: each key has a value.
            let value = unsafe { cursor.next() };
            match key {
                AT_EXECFN => return Some(value),
                0 => return None,
                _ => {}
            }
        }
    }
}

/// The arguments that are still to be read.
pub struct Arguments(Cursor);

impl Iterator for Arguments {
    type Item = StackString;

    #[inline(always)]
    fn next(&mut self) -> Option<StackString> {
        // The cursor stays at the null that ends the list.
        // SAFETY: so it has not passed the end of the arguments.
        match unsafe { self.0.word() } {
            0 => None,
            address => {
                // SAFETY: this word is an argument, so another one follows, or the null.
                unsafe { self.0.advance() };
                Some(StackString(core::ptr::with_exposed_provenance(address)))
            }
        }
    }
}

/// A position on the start stack.
struct Cursor(*const usize);

impl Cursor {
    /// The word at this position.
    ///
    /// # Safety
    ///
    /// The position is on the start stack.
    #[inline(always)]
    unsafe fn word(&self) -> usize {
        // SAFETY: the caller guarantees that there is a word.
        unsafe { *self.0 }
    }

    /// Moves to the next word.
    ///
    /// # Safety
    ///
    /// The position is on the start stack.
    #[inline(always)]
    unsafe fn advance(&mut self) {
        // SAFETY: the next word is on the stack too, or is the end of the stack.
        self.0 = unsafe { self.0.add(1) };
    }

    /// The word at this position, which then moves to the next.
    ///
    /// # Safety
    ///
    /// The position is on the start stack.
    #[inline(always)]
    unsafe fn next(&mut self) -> usize {
        // SAFETY: the caller guarantees the position.
        let word = unsafe { self.word() };
        // SAFETY: as above.
        unsafe { self.advance() };
        word
    }
}
