//! A text that grows without leaving copies behind.

use std::fmt;

use zeroize::Zeroizing;

pub(super) struct Out(Zeroizing<String>);

impl Out {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(String::with_capacity(bytes)))
    }

    pub(super) fn push(&mut self, text: &str) {
        if self.0.capacity() - self.0.len() < text.len() {
            let room = 2 * (self.0.len() + text.len());
            let mut larger = Zeroizing::new(String::with_capacity(room));
            larger.push_str(&self.0);
            self.0 = larger;
        }
        self.0.push_str(text);
    }

    pub(super) fn push_char(&mut self, letter: char) {
        self.push(letter.encode_utf8(&mut [0; 4]));
    }

    pub(super) fn push_hex(&mut self, bytes: &[u8]) {
        for byte in bytes {
            for digit in [byte >> 4, byte & 15] {
                self.push_char(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
    }

    pub(super) fn finish(self) -> Zeroizing<String> {
        self.0
    }
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}
