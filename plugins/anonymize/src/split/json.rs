//! JSON of which only some paths leave, each by its rule.
//!
//! Nothing is parsed into a tree and printed again: members that are not listed are cut out,
//! scalars at listed paths are replaced, every other byte stays. What stands at the end of a
//! listed path but has parts of its own becomes `null` unless its rule is `pass`, and so does
//! a scalar or a list where a path goes on. Below the end of a `pass` everything stays but
//! what paths that go on say; where the value has not the parts that such a path names, the
//! `pass` gives way and `null` takes its place. JSON that is malformed, or nested beyond
//! [`DEEPEST`], is a row's error.

use std::borrow::Cow;
use std::ops::Range;

use kasho_plugin_sdk::Out;

use super::{Edit, Style, With};
use crate::paths::{Path, Step};

/// Levels of nesting.
const DEEPEST: usize = 128;

/// A path on its way: which one, and how many of its steps are behind us.
type Active = (usize, usize);

/// The edits that leave of `value` what the paths list; `passes` says of which paths all
/// leaves as it is. `None` if it is not JSON.
pub(crate) fn json<'v>(value: &'v str, paths: &[&Path], passes: &[bool]) -> Option<Vec<Edit<'v>>> {
    let mut walk = Walk { text: value, at: 0, edits: Vec::new(), paths, passes };
    let all: Vec<Active> = (0..paths.len()).map(|path| (path, 0)).collect();
    walk.space();
    walk.value(&all, false, 0)?;
    walk.space();
    (walk.at == value.len()).then_some(walk.edits)
}

struct Walk<'v, 'p> {
    text: &'v str,
    at: usize,
    edits: Vec<Edit<'v>>,
    paths: &'p [&'p Path],
    passes: &'p [bool],
}

impl<'v> Walk<'v, '_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Goes over a value and edits it as the paths that are here say; `kept` is whether it
    /// stays where they say nothing.
    fn value(&mut self, active: &[Active], kept: bool, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        let start = self.at;
        let first = self.peek()?;
        let (ended, further): (Vec<Active>, Vec<Active>) =
            active.iter().partition(|(path, steps)| {
                self.paths.get(*path).is_some_and(|p| p.steps.len() == *steps)
            });
        // Of several paths that end here the one that says most exactly holds; no two of them
        // are as exact (`paths::apart`).
        let ended = ended.into_iter().map(|(path, _)| path);
        let ended = ended.max_by_key(|path| self.paths.get(*path).map(|path| path.weight()));
        if let Some(path) = ended.filter(|path| self.passes.get(*path) != Some(&true)) {
            self.skip(depth)?;
            return self.made(path, first, start..self.at);
        }
        let kept = kept || ended.is_some();
        match first {
            _ if kept && !self.goes_on(&further, first) => self.left(&further, depth),
            b'{' => self.object(&further, kept, depth),
            b'[' => self.list(&further, kept, depth),
            _ => self.null(depth),
        }
    }

    /// Whether a path goes into what begins with this byte.
    fn goes_on(&self, further: &[Active], first: u8) -> bool {
        let step = |(path, steps): &Active| self.paths.get(*path)?.steps.get(*steps);
        further.iter().filter_map(step).any(|step| match step {
            Step::Name(_) | Step::Any => first == b'{',
            Step::Elements => first == b'[',
        })
    }

    /// A value below a `pass` that no path goes into. It stays, unless one was meant to: a
    /// path that names this value and parts that it has not.
    fn left(&mut self, further: &[Active], depth: usize) -> Option<()> {
        let meant = |(path, steps): &Active| {
            let last = steps.checked_sub(1).and_then(|last| self.paths.get(*path)?.steps.get(last));
            last != Some(&Step::Any)
        };
        if further.iter().any(meant) { self.null(depth) } else { self.skip(depth) }
    }

    /// `null` in place of a value.
    fn null(&mut self, depth: usize) -> Option<()> {
        let start = self.at;
        self.skip(depth)?;
        self.cut(start..self.at, "null");
        Some(())
    }

    /// What a rule is to make of the value in this range.
    fn made(&mut self, rule: usize, first: u8, range: Range<usize>) -> Option<()> {
        let text = self.text.get(range.clone())?;
        let (text, style): (Cow<'v, str>, Style) = match first {
            b'{' | b'[' => {
                self.cut(range, "null");
                return Some(());
            }
            b'n' => return Some(()),
            b'"' => (serde_json::from_str::<String>(text).ok()?.into(), Style::String),
            _ => (text.into(), Style::Literal),
        };
        self.edits.push(Edit { range, with: With::Made { rule, at: 0, text, style } });
        Some(())
    }

    fn cut(&mut self, range: Range<usize>, with: &'static str) {
        self.edits.push(Edit { range, with: With::Text(with) });
    }

    /// The paths that go on behind this step.
    fn further(&self, active: &[Active], fits: impl Fn(&Step) -> bool) -> Vec<Active> {
        let next = |(path, steps): &Active| {
            let step = self.paths.get(*path)?.steps.get(*steps)?;
            fits(step).then_some((*path, steps + 1))
        };
        active.iter().filter_map(next).collect()
    }

    fn object(&mut self, active: &[Active], all: bool, depth: usize) -> Option<()> {
        self.take(b'{')?;
        self.space();
        if self.take(b'}').is_some() {
            return Some(());
        }
        // Where the member before ends, and whether one of them stays.
        let (mut before, mut kept) = (self.at, false);
        // What is cut in front of the first that stays.
        let mut front: Option<usize> = None;
        loop {
            let start = self.at;
            let name = self.string()?;
            self.space();
            self.take(b':')?;
            self.space();
            let further = self.further(active, |step| step.names(&name));
            if further.is_empty() && !all {
                self.skip(depth + 1)?;
                match kept {
                    true => self.cut(before..self.at, ""),
                    false => front = front.or(Some(start)),
                }
            } else {
                if let Some(from) = front.take() {
                    self.cut(from..start, "");
                }
                kept = true;
                self.value(&further, all, depth + 1)?;
            }
            before = self.at;
            self.space();
            if self.take(b',').is_none() {
                break;
            }
            self.space();
        }
        if let Some(from) = front {
            self.cut(from..before, "");
        }
        self.take(b'}')
    }

    fn list(&mut self, active: &[Active], all: bool, depth: usize) -> Option<()> {
        let further = self.further(active, |step| *step == Step::Elements);
        if further.is_empty() {
            return self.null(depth);
        }
        self.take(b'[')?;
        self.space();
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(&further, all, depth + 1)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(b']');
            }
            self.space();
        }
    }

    /// A string, unescaped.
    fn string(&mut self) -> Option<String> {
        let start = self.at;
        self.over_string()?;
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    fn over_string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            match self.peek()? {
                b'"' => return self.take(b'"'),
                b'\\' => self.at += 2,
                0..=0x1F => return None,
                _ => self.at += 1,
            }
        }
    }

    /// Goes over a value as it is.
    fn skip(&mut self, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        let (close, object) = match self.peek()? {
            b'"' => return self.over_string(),
            b'{' => (b'}', true),
            b'[' => (b']', false),
            _ => return self.literal(),
        };
        self.at += 1;
        self.space();
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            if object {
                self.over_string()?;
                self.space();
                self.take(b':')?;
                self.space();
            }
            self.skip(depth + 1)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(close);
            }
            self.space();
        }
    }

    fn literal(&mut self) -> Option<()> {
        let start = self.at;
        let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        while self.peek().is_some_and(part) {
            self.at += 1;
        }
        is_literal(self.text.get(start..self.at)?).then_some(())
    }
}

/// Whether a text is a number, `true`, `false` or `null` as JSON has them.
pub(super) fn is_literal(text: &str) -> bool {
    if matches!(text, "true" | "false" | "null") {
        return true;
    }
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
        }
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let whole_fits = whole == "0" || digits(whole) && !whole.starts_with('0');
    whole_fits && digits(fraction) && digits(exponent)
}

/// Writes a JSON string.
pub(super) fn string(text: &str, out: &mut Out<'_>) {
    // A string always has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}
