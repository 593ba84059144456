//! The tokens of one complete statement, as far as dumps need them: words, names,
//! strings, numbers, punctuation. Comments and white space fall away.
//!
//! A pure function of its text. What is cut or malformed ends the tokens early; whoever
//! reads them then finds the statement not understood.

use std::borrow::Cow;

use memchr::memchr;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A bare word, as written.
    Word(&'a [u8]),
    /// A quoted identifier, without its quotes.
    Name(Cow<'a, [u8]>),
    /// A string of any kind, decoded.
    Text(Cow<'a, [u8]>),
    /// A number without its sign.
    Number(&'a [u8]),
    /// Anything else, a byte at a time.
    Mark(u8),
}

impl Token<'_> {
    /// Whether this is that key word.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(found) if found.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Reads tokens one by one.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    /// The next token, without taking it.
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    /// Takes the next token if it is that key word.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is(word));
        if found {
            self.next();
        }
        found
    }

    /// Takes the next token if it is that mark.
    pub(super) fn mark(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        if found {
            self.next();
        }
        found
    }

    /// A name: a bare word in lower case, or what stands in double quotes.
    pub(super) fn name(&mut self) -> Option<String> {
        let bytes = match self.next()? {
            Token::Word(word) => Cow::Owned(word.to_ascii_lowercase()),
            Token::Name(name) => name,
            Token::Text(_) | Token::Number(_) | Token::Mark(_) => return None,
        };
        String::from_utf8(bytes.into_owned()).ok()
    }

    /// `name` or `schema.name`.
    pub(super) fn qualified(&mut self) -> Option<(Option<String>, String)> {
        let first = self.name()?;
        if !self.mark(b'.') {
            return Some((None, first));
        }
        Some((Some(first), self.name()?))
    }

    fn blanks(&mut self) {
        loop {
            let rest = &self.text[self.at.min(self.text.len())..];
            let blank = |b: &&u8| b.is_ascii_whitespace() || **b == 0x0B;
            self.at += rest.iter().take_while(blank).count();
            let rest = &self.text[self.at.min(self.text.len())..];
            if rest.starts_with(b"--") {
                self.at += memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
            } else if rest.starts_with(b"/*") {
                self.at += comment(rest);
            } else {
                return;
            }
        }
    }

    /// Takes `n` bytes.
    fn take(&mut self, n: usize) -> &'a [u8] {
        let from = self.at;
        self.at = (self.at + n).min(self.text.len());
        &self.text[from..self.at]
    }

    fn dollar(&mut self, rest: &'a [u8]) -> Option<Token<'a>> {
        let tag = 2 + memchr(b'$', &rest[1..])?;
        let (delimiter, body) = rest.split_at(tag);
        let end = memchr::memmem::find(body, delimiter)?;
        self.at += tag + end + tag;
        Some(Token::Text(Cow::Borrowed(&body[..end])))
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.blanks();
        let rest = &self.text[self.at..];
        let (&first, second) = (rest.first()?, rest.get(1).copied());
        let part = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'_' | b'$') || **b >= 0x80;
        match (first, second) {
            (b'"', _) => {
                let (name, len) = doubled(rest, b'"')?;
                self.at += len;
                Some(Token::Name(name))
            }
            (b'\'', _) => {
                let (text, len) = doubled(rest, b'\'')?;
                self.at += len;
                Some(Token::Text(text))
            }
            (b'E' | b'e', Some(b'\'')) => {
                let mut out = Vec::new();
                let len = escaped(&rest[1..], &mut out)?;
                self.at += len + 1;
                Some(Token::Text(Cow::Owned(out)))
            }
            (b'$', Some(next)) if !next.is_ascii_digit() => self.dollar(rest),
            (first, _) if first.is_ascii_digit() => {
                let digits = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'.' | b'_');
                Some(Token::Number(self.take(rest.iter().take_while(digits).count())))
            }
            (first, _) if first.is_ascii_alphabetic() || first == b'_' || first >= 0x80 => {
                Some(Token::Word(self.take(rest.iter().take_while(part).count())))
            }
            (first, _) => {
                self.at += 1;
                Some(Token::Mark(first))
            }
        }
    }
}

/// Bytes of the comment that `rest` begins with.
fn comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0u32);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// What stands between the quotes that `rest` begins with, doubled ones made single,
/// and the bytes of it all.
pub(super) fn doubled(rest: &[u8], quote: u8) -> Option<(Cow<'_, [u8]>, usize)> {
    let end = memchr(quote, rest.get(1..)?)? + 1;
    if rest.get(end + 1) != Some(&quote) {
        return Some((Cow::Borrowed(&rest[1..end]), end + 1));
    }
    let mut out = Vec::new();
    let mut from = 1;
    loop {
        let end = from + memchr(quote, &rest[from..])?;
        out.extend_from_slice(&rest[from..end]);
        if rest.get(end + 1) != Some(&quote) {
            return Some((Cow::Owned(out), end + 1));
        }
        out.push(quote);
        from = end + 2;
    }
}

/// Decodes `'…'` with backslashes of meaning into `out`; answers the bytes of it.
pub(super) fn escaped(rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut at = 1;
    loop {
        let from = at;
        at += memchr::memchr2(b'\'', b'\\', rest.get(at..)?)?;
        out.extend_from_slice(&rest[from..at]);
        match (rest[at], rest.get(at + 1)) {
            (b'\'', Some(b'\'')) => {
                out.push(b'\'');
                at += 2;
            }
            (b'\'', _) => return Some(at + 1),
            (_, None) => return None,
            (_, Some(letter)) => at = escape(rest, at, *letter, out)?,
        }
    }
}

/// One escape: the manual, 4.1.2.2, "String Constants with C-Style Escapes".
fn escape(rest: &[u8], at: usize, letter: u8, out: &mut Vec<u8>) -> Option<usize> {
    let digits = |from: usize, most: usize, radix: u32| {
        let digits = rest[from..].iter().take(most);
        let digits = digits.map_while(|b| char::from(*b).to_digit(radix));
        digits.fold((0u32, from), |(n, end), digit| (n * radix + digit, end + 1))
    };
    let simple = match letter {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'0'..=b'7' => {
            let (n, end) = digits(at + 1, 3, 8);
            out.push(u8::try_from(n & 0xFF).unwrap_or(0));
            return Some(end);
        }
        b'x' => match digits(at + 2, 2, 16) {
            (_, end) if end == at + 2 => b'x',
            (n, end) => {
                out.push(u8::try_from(n).unwrap_or(0));
                return Some(end);
            }
        },
        b'u' | b'U' => {
            let most = if letter == b'u' { 4 } else { 8 };
            let (n, end) = digits(at + 2, most, 16);
            let letter = char::from_u32(n).filter(|_| end == at + 2 + most)?;
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(end);
        }
        other => other,
    };
    out.push(simple);
    Some(at + 2)
}
