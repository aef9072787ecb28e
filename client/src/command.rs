//! A command line of binary words.

use bytes::{BufMut, Bytes, BytesMut};

/// Whether a command may be sent a second time when it is not known what became of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Twice is the same as once: reads.
    Repeatable,
    /// Twice may be different from once.
    Once,
}

/// A command, encoded as it is built.
#[derive(Clone, Debug)]
pub struct Command {
    words: u32,
    body: BytesMut,
    effect: Effect,
}

impl Command {
    /// A command that changes data, or may: it is never sent twice by itself.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        Command {
            words: 0,
            body: BytesMut::new(),
            effect: Effect::Once,
        }
        .arg(name)
    }

    /// A command that only reads.
    pub fn read(name: impl AsRef<[u8]>) -> Self {
        Command {
            effect: Effect::Repeatable,
            ..Command::new(name)
        }
    }

    /// The same command with one more word.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<[u8]>) -> Self {
        let word = word.as_ref();
        self.words += 1;
        self.body.reserve(word.len() + 24);
        self.body
            .extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        self.body.extend_from_slice(word);
        self.body.extend_from_slice(b"\r\n");
        self
    }

    /// The same command with more words.
    #[must_use]
    pub fn args<W: AsRef<[u8]>>(self, words: impl IntoIterator<Item = W>) -> Self {
        words
            .into_iter()
            .fold(self, |command, word| command.arg(word))
    }

    /// A command of these words, the name first; `None` when there is none.
    pub fn of_words(words: &[Bytes]) -> Option<Self> {
        let (name, rest) = words.split_first()?;
        Some(Command::new(name).args(rest))
    }

    /// Whether it may be sent twice.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_slice(format!("*{}\r\n", self.words).as_bytes());
        out.extend_from_slice(&self.body);
    }
}
