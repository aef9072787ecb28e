//! Inline commands: one line, split into words the way a shell would.
//!
//! Words are separated by white space. Within double quotes `\n \r \t \b \a \\ \"` and `\xHH` are
//! escapes; within single quotes only `\'` is. A closing quote must be followed by white space or
//! the end of the line. The interactive client splits what is typed by the same rules.

use bytes::Bytes;

/// Splits `line`, which has no line end; `None` when its quotes do not match.
pub fn split(line: &Bytes) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if at == line.len() {
            return Some(words);
        }
        let (word, end) = word(line, at)?;
        words.push(word);
        at = end;
    }
}

/// The word that begins at `start`, and the offset behind it.
fn word(line: &Bytes, start: usize) -> Option<(Bytes, usize)> {
    let is_plain = |byte: &u8| !byte.is_ascii_whitespace() && !matches!(byte, b'"' | b'\'');
    let plain = line[start..]
        .iter()
        .take_while(|byte| is_plain(byte))
        .count();
    let mut at = start + plain;
    if line.get(at).is_none_or(u8::is_ascii_whitespace) {
        return Some((line.slice(start..at), at));
    }
    let mut word = line[start..at].to_vec();
    while let Some(&byte) = line.get(at) {
        match byte {
            b'"' | b'\'' => {
                at = quoted(line, at, byte, &mut word)?;
                if line.get(at).is_some_and(|next| !next.is_ascii_whitespace()) {
                    return None;
                }
            }
            byte if byte.is_ascii_whitespace() => break,
            byte => {
                word.push(byte);
                at += 1;
            }
        }
    }
    Some((word.into(), at))
}

/// Appends what stands between the quote at `open` and its partner; the offset behind that.
fn quoted(line: &[u8], open: usize, quote: u8, word: &mut Vec<u8>) -> Option<usize> {
    let mut at = open + 1;
    loop {
        let byte = *line.get(at)?;
        if byte == quote {
            return Some(at + 1);
        }
        if byte == b'\\' && quote == b'"' {
            if let Some(value) = hex_escape(&line[at..]) {
                word.push(value);
                at += 4;
                continue;
            }
            word.push(match *line.get(at + 1)? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 0x08,
                b'a' => 0x07,
                other => other,
            });
            at += 2;
        } else if byte == b'\\' && line.get(at + 1) == Some(&b'\'') {
            word.push(b'\'');
            at += 2;
        } else {
            word.push(byte);
            at += 1;
        }
    }
}

fn hex_escape(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else {
        return None;
    };
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_and_escapes() {
        let cases: &[(&str, Option<&[&[u8]]>)] = &[
            ("", Some(&[])),
            ("  \t ", Some(&[])),
            ("get  k", Some(&[b"get", b"k"])),
            (" set k v ", Some(&[b"set", b"k", b"v"])),
            (r#"set k "a b""#, Some(&[b"set", b"k", b"a b"])),
            (r#"set k "\x41\n\"\\q""#, Some(&[b"set", b"k", b"A\n\"\\q"])),
            (r#"set k "\xZZ""#, Some(&[b"set", b"k", b"xZZ"])),
            (r"set k 'a\n\'b'", Some(&[b"set", b"k", b"a\\n'b"])),
            (r#"set k """#, Some(&[b"set", b"k", b""])),
            (r#"pre"quoted" x"#, Some(&[b"prequoted", b"x"])),
            (r#"set "k"#, None),
            (r"set 'k", None),
            (r#"set "k"v"#, None),
            (r#"set "k\"#, None),
        ];
        for (line, expected) in cases {
            let words = split(&Bytes::copy_from_slice(line.as_bytes()));
            let expected = expected.map(|words| {
                words
                    .iter()
                    .map(|word| Bytes::copy_from_slice(word))
                    .collect()
            });
            assert_eq!(words, expected, "{line}");
        }
    }
}
