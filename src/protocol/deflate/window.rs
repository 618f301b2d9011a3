//! [`Window`]: the memory of context takeover.

/// The last bytes of the messages that were compressed in one direction, in their order (§7.1.1).
///
/// A sender may forget them at any time, because a compressed message does not have to refer to what is before it.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    tail: Vec<u8>,
    most: usize,
}

impl Window {
    /// Creates an empty window of 2 to the power of `bits` bytes.
    pub(crate) fn new(bits: u8) -> Self {
        Self { tail: Vec::new(), most: 1 << bits.min(15) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.tail
    }

    /// Appends a message.
    pub(crate) fn push(&mut self, plain: &[u8]) {
        let new = plain.get(plain.len().saturating_sub(self.most)..).unwrap_or_default();
        let surplus = (self.tail.len() + new.len()).saturating_sub(self.most);
        self.tail.drain(..surplus);
        let len = self.tail.len() + new.len();
        if len > self.tail.capacity() {
            // Doubled, but never beyond the window.
            self.tail.reserve_exact(len.next_power_of_two().min(self.most) - self.tail.len());
        }
        self.tail.extend_from_slice(new);
    }

    pub(crate) fn clear(&mut self) {
        self.tail.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_last_bytes_and_no_more_memory() {
        for bits in [8, 9, 12, 15] {
            let most = 1 << bits;
            let mut window = Window::new(bits);
            let mut all = Vec::new();
            for len in [0, 1, 7, 300, most - 1, 5, most, 2, most + 1, 3 * most, 100, 100] {
                let message: Vec<u8> = (0..len).map(|at| (at * 7 + all.len()).to_le_bytes()[0]).collect();
                window.push(&message);
                all.extend_from_slice(&message);
                assert_eq!(window.bytes(), &all[all.len().saturating_sub(most)..]);
                assert!(window.tail.capacity() <= most, "{} of {most}", window.tail.capacity());
            }
            window.clear();
            assert_eq!(window.bytes(), b"");
        }
    }
}
