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
/// At least six more bytes follow the zero byte of each argument. The last string on the stack is not an
/// argument but the path of the program: at least one byte and a zero byte. After it, the stack ends
/// with a null word of four or eight bytes (`__bprm_mm_init` and `bprm_execve` in Linux `fs/exec.c`).
#[derive(Clone, Copy)]
pub struct StackString(*const u8);

impl StackString {
    /// The byte at this index.
    ///
    /// # Safety
    ///
    /// The index is not greater than the index of the zero byte.
    #[inline(always)]
    pub unsafe fn byte(self, index: usize) -> u8 {
        // SAFETY: the caller guarantees that the index is within the string or at its zero byte.
        let at = unsafe { self.0.add(index) };
        // SAFETY: as above, `at` points to the string or to its zero byte.
        unsafe { *at }
    }

    /// Whether the string contains `bytes` at this index.
    ///
    /// # Safety
    ///
    /// The string is an argument, and `index + N` is at most 7 greater than the index of its zero byte.
    #[inline(always)]
    pub unsafe fn has<const N: usize>(self, index: usize, bytes: &[u8; N]) -> bool {
        // SAFETY: at least six bytes follow the zero byte of an argument (see the type). The caller
        // guarantees that the comparison reads no byte beyond them.
        let at = unsafe { self.0.add(index) };
        // SAFETY: as above. An array of bytes needs no alignment.
        unsafe { at.cast::<[u8; N]>().read() == *bytes }
    }

    /// The request that this argument makes, if any.
    #[inline(always)]
    pub fn request(self) -> Option<Request> {
        // In the SAFETY comments, `z` is the index of the zero byte. `has` may read up to index z + 6.
        // SAFETY: z >= 0, and this reads index 0.
        let has_dash = unsafe { self.has(0, b"-") };
        // The next two are called only if index 0 is a dash, so z >= 1.
        // SAFETY: this reads up to index 2 <= z + 1.
        let has_letter = |letter| unsafe { self.has(1, &[letter, 0]) };
        // SAFETY: this reads up to index 4 <= z + 3.
        let has_word = |start| unsafe { self.has::<4>(1, start) };
        // The next two are called only if `has_word` matched, so z >= 5.
        // SAFETY: this reads up to index 6 <= z + 1.
        let has_p = || unsafe { self.has(5, b"p\0") };
        // SAFETY: this reads up to index 8 <= z + 3.
        let has_sion = || unsafe { self.has(5, b"sion") };
        // SAFETY: this is called only if `has_sion` matched, so z >= 9. It reads index 9.
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

/// The start stack. It consists of argc, pointers to the arguments, a null pointer, pointers to the
/// environment, a null pointer, and the auxiliary vector (System V ABI, "Process Initialization";
/// `create_elf_tables` in Linux `fs/binfmt_elf.c`).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct StartStack(*const usize);

impl StartStack {
    /// The start stack at this address.
    ///
    /// # Safety
    ///
    /// `stack` is the value of the stack pointer at the entry point. Nothing changes or unmaps the start
    /// stack while this value, or a value made from it, is in use.
    #[allow(dead_code, reason = "the program gets it from the entry point")]
    pub unsafe fn new(stack: *const usize) -> Self {
        Self(stack)
    }

    /// The arguments. The first one is the name of the program.
    #[inline(always)]
    pub fn arguments(self) -> Arguments {
        // SAFETY: the word after argc is the first argument, or the null pointer if there are none.
        Arguments(Cursor(unsafe { self.0.add(1) }))
    }

    /// The address of the program's path, from the entry AT_EXECFN of the auxiliary vector. None if there
    /// is no such entry.
    #[inline(always)]
    pub fn path(self) -> Option<usize> {
        // SAFETY: the first word of the start stack is argc.
        let argc = unsafe { *self.0 };
        // SAFETY: argc is followed by that many arguments and a null pointer. The environment comes next.
        let mut cursor = Cursor(unsafe { self.0.add(argc + 2) });
        // SAFETY: the environment ends with a null pointer, and the loop stops there.
        while unsafe { cursor.next() } != 0 {}
        loop {
            // Keys are small numbers, so 32 bits are enough.
            // SAFETY: the last key of the auxiliary vector is zero, and the loop stops there.
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

/// An iterator over the arguments.
pub struct Arguments(Cursor);

impl Iterator for Arguments {
    type Item = StackString;

    #[inline(always)]
    fn next(&mut self) -> Option<StackString> {
        // SAFETY: the cursor does not move past the null pointer that ends the arguments.
        match unsafe { self.0.word() } {
            0 => None,
            address => {
                // SAFETY: this word is an argument, so another argument or the null pointer follows.
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
        // SAFETY: the caller guarantees that the position is on the start stack.
        unsafe { *self.0 }
    }

    /// Moves to the next word.
    ///
    /// # Safety
    ///
    /// The position is on the start stack.
    #[inline(always)]
    unsafe fn advance(&mut self) {
        // SAFETY: the result is on the start stack too, or one past its end.
        self.0 = unsafe { self.0.add(1) };
    }

    /// Returns the word at this position, and moves to the next word.
    ///
    /// # Safety
    ///
    /// The position is on the start stack.
    #[inline(always)]
    unsafe fn next(&mut self) -> usize {
        // SAFETY: the caller guarantees that the position is on the start stack.
        let word = unsafe { self.word() };
        // SAFETY: as above.
        unsafe { self.advance() };
        word
    }
}
