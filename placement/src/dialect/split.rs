//! Cuts a script into statements at its top-level semicolons.
//!
//! Only quotes and comments are understood; each piece keeps the place where it starts.

use crate::error::{Place, Source};

/// A statement's text and where its first character stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub place: Place,
}

/// Follows a text character by character.
struct Cursor {
    line: u32,
    column: u32,
}

impl Cursor {
    fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.line += 1;
                self.column = 1;
            } else if byte & 0xC0 != 0x80 {
                self.column += 1;
            }
        }
    }
}

/// The end of the quoted or commented stretch that starts at `at`, or `at` if none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let find = |close: u8| {
        bytes[at + 1..]
            .iter()
            .position(|&b| b == close)
            .map_or(bytes.len(), |i| at + 1 + i + 1)
    };
    match bytes[at] {
        // A doubled quote closes and opens again: the same stretch for our purpose.
        quote @ (b'\'' | b'"' | b'`') => find(quote),
        b'[' => find(b']'),
        b'-' if bytes.get(at + 1) == Some(&b'-') => find(b'\n'),
        b'/' if bytes.get(at + 1) == Some(&b'*') => bytes[at + 2..]
            .windows(2)
            .position(|w| w == b"*/")
            .map_or(bytes.len(), |i| at + 2 + i + 2),
        _ => at,
    }
}

/// The length of leading blanks and comments.
fn blanks(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at].is_ascii_whitespace() {
            at += 1;
        } else if matches!(bytes[at], b'-' | b'/') {
            let end = skip(bytes, at);
            if end == at {
                break;
            }
            at = end;
        } else {
            break;
        }
    }
    at
}

/// The statements of `text`, without blank ones.
pub(super) fn split(text: &str, source: Source) -> Vec<Piece<'_>> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let mut cursor = Cursor { line: 1, column: 1 };
    let (mut start, mut at) = (0, 0);
    while start < bytes.len() {
        while at < bytes.len() && bytes[at] != b';' {
            let end = skip(bytes, at);
            at = if end == at { at + 1 } else { end };
        }
        let end = at.min(bytes.len());
        let whole = &text[start..end];
        let lead = blanks(whole);
        cursor.pass(&whole[..lead]);
        let body = &whole[lead..];
        if !body.trim().is_empty() {
            let place = Place {
                source,
                line: cursor.line,
                column: cursor.column,
            };
            pieces.push(Piece {
                text: body.trim_end(),
                place,
            });
        }
        cursor.pass(body);
        cursor.pass(";");
        at = end + 1;
        start = at;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        let text = "a 'x;''y' ;\n-- no; \n  b \"q;\" /* ; */ c;;d";
        let pieces = split(text, Source::State);
        let got: Vec<_> = pieces
            .iter()
            .map(|p| (p.text, p.place.line, p.place.column))
            .collect();
        assert_eq!(
            got,
            [
                ("a 'x;''y'", 1, 1),
                ("b \"q;\" /* ; */ c", 3, 3),
                ("d", 3, 21)
            ]
        );
    }

    #[test]
    fn open_quotes_reach_the_end() {
        assert_eq!(split("a 'x; b", Source::State).len(), 1);
        assert_eq!(split("a /* x; b", Source::State).len(), 1);
        assert!(split(" ;; -- only\n", Source::State).is_empty());
    }
}
