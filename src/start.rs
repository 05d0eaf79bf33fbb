//! What the kernel leaves on the stack of a program that starts.

/// The key under which the auxiliary vector has the path of the program. getauxval(3)
pub const AT_EXECFN: u32 = 31;

/// What an argument asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// `-h` or `--help`
    Help,
    /// `-v`, `-V` or `--version`
    Version,
    /// `-P`
    Silence,
    /// Anything else.
    Nothing,
}

/// A string on the start stack, which ends with a zero byte.
///
/// Six more bytes at least are behind it: the path of the program, which has a byte and a zero, is
/// the last string there, and a null word of four bytes or eight ends the stack
/// (`__bprm_mm_init` and `bprm_execve` in Linux `fs/exec.c`).
#[derive(Clone, Copy)]
pub struct Text(*const u8);

impl Text {
    /// The byte at this index.
    ///
    /// # Safety
    ///
    /// The index is not behind that of the zero byte.
    #[inline(always)]
    pub unsafe fn byte(self, index: usize) -> u8 {
        // SAFETY: the string reaches to its zero byte, and the index no further.
        let at = unsafe { self.0.add(index) };
        // SAFETY: for the same reason.
        unsafe { *at }
    }

    /// Whether these bytes are at this index.
    ///
    /// # Safety
    ///
    /// The bytes end no more than six behind the zero byte.
    #[inline(always)]
    pub unsafe fn has<const N: usize>(self, index: usize, bytes: &[u8; N]) -> bool {
        // SAFETY: so much is behind the zero byte, by the type's doc.
        let at = unsafe { self.0.add(index) };
        // SAFETY: for the same reason; and an array of bytes needs no alignment.
        unsafe { at.cast::<[u8; N]>().read() == *bytes }
    }

    /// What it means as an argument.
    #[inline(always)]
    pub fn meaning(self) -> Meaning {
        // SAFETY: an empty string has its zero byte, and six more: this ends behind the first of them.
        let has_dash = unsafe { self.has(0, b"-") };
        // SAFETY: for the same reason, with the third.
        let has_letter = |letter| unsafe { self.has(1, &[letter, 0]) };
        // SAFETY: for the same reason, with the fifth.
        let has_word = |start| unsafe { self.has::<4>(1, start) };
        // SAFETY: behind five bytes that are not zero, the zero byte may follow, and then six more.
        let has_p = || unsafe { self.has(5, b"p\0") };
        // SAFETY: for the same reason, with the fourth.
        let has_sion = || unsafe { self.has(5, b"sion") };
        // SAFETY: behind nine bytes that are not zero, the zero byte follows at the earliest.
        let has_end = || unsafe { self.has(9, b"\0") };
        if !has_dash {
            Meaning::Nothing
        } else if has_letter(b'h') || has_word(b"-hel") && has_p() {
            Meaning::Help
        } else if has_letter(b'v')
            || has_letter(b'V')
            || has_word(b"-ver") && has_sion() && has_end()
        {
            Meaning::Version
        } else if has_letter(b'P') {
            Meaning::Silence
        } else {
            Meaning::Nothing
        }
    }
}

/// A walk along the start stack: the arguments and a null, the environment and a null, then the
/// auxiliary vector, pairs of a key and a value, the last of which has the key zero (System V ABI,
/// "Process Initialization"; `create_elf_tables` in Linux `fs/binfmt_elf.c`).
#[derive(Clone, Copy)]
pub struct StartStack(*const usize);

impl StartStack {
    /// The walk from the first argument on.
    ///
    /// # Safety
    ///
    /// `stack` is what the stack pointer was at the entry point, and what the kernel put there stays
    /// as it is for as long as the walk goes on.
    #[inline(always)]
    pub unsafe fn new(stack: *const usize) -> Self {
        // SAFETY: argc is followed by the first argument, or by the null if there is none.
        Self(unsafe { stack.add(1) })
    }

    /// The walk from the first string of the environment on.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[inline(always)]
    pub unsafe fn behind_arguments(stack: *const usize) -> Self {
        // SAFETY: argc is where the stack pointer was.
        let argc = unsafe { *stack };
        // SAFETY: behind argc, there are so many arguments and a null.
        Self(unsafe { stack.add(argc + 2) })
    }

    /// The next word.
    #[inline(always)]
    fn word(&mut self) -> usize {
        // SAFETY: the walk goes no further than the pair with the key zero: see its two users.
        let word = unsafe { *self.0 };
        // SAFETY: so this is a word of the stack too, or the end of the last pair.
        self.0 = unsafe { self.0.add(1) };
        word
    }

    /// The next argument; behind the null, the next string of the environment; `None` at a null.
    #[inline(always)]
    pub fn string(&mut self) -> Option<Text> {
        match self.word() {
            0 => None,
            address => Some(Text(core::ptr::with_exposed_provenance(address))),
        }
    }

    /// Where the path of the program is, from anywhere in the environment on.
    #[inline(always)]
    pub fn path(mut self) -> Option<usize> {
        while self.string().is_some() {}
        loop {
            // A key is small: half of the word is enough.
            let key = self.word() as u32;
            let value = self.word();
            match key {
                AT_EXECFN => return Some(value),
                0 => return None,
                _ => {}
            }
        }
    }
}
