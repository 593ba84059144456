//! Text of every size: words, sentences, paragraphs, letters and digits.
//!
//! One hash has not the bits for a paragraph, so it seeds a generator (PCG, O'Neill 2014,
//! 128 bits of state) that is fixed here for ever. What comes out says at most what the hash
//! was, and that is keyed. Nothing can go wrong.

use kasho_plugin_sdk::{Error, Hash, Out, Result};

use super::fake::digit;
use crate::catalog::Maker;
use crate::dictionary::WORDS;
use crate::rules::Options;

/// Most of anything that can be asked for.
const MOST: u64 = 10_000;
/// Words of a sentence of a paragraph: 5, and at most so many more.
const FEWEST: usize = 5;
const MORE: usize = 7;

/// What is written.
#[derive(Clone, Debug)]
enum What {
    Words(usize),
    Sentence(usize),
    Paragraph(usize),
    Letters(usize),
    Digits(usize),
}

/// A text of some size.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    what: What,
    /// Characters at most.
    most: Option<usize>,
}

impl Text {
    /// What a rule asks for.
    pub(crate) fn read(options: &Options) -> Result<Text> {
        let what = match options.entry.maker {
            Maker::Words => What::Words(options.size("count", 1..=MOST)?),
            Maker::Sentence => What::Sentence(options.size("words", 1..=MOST)?),
            Maker::Paragraph => What::Paragraph(options.size("sentences", 1..=MOST)?),
            Maker::Digits => What::Digits(options.size("length", 1..=MOST)?),
            _ if options.entry.options().any(|o| o.name == "length") => {
                What::Letters(options.size("length", 1..=MOST)?)
            }
            _ => What::Letters(1),
        };
        let most = match options.has("max_length") {
            true => Some(options.size("max_length", 1..=100 * MOST)?),
            false => None,
        };
        if most.is_some_and(|most| most < WORDS.longest + 1) {
            let text = format!("`max_length` is {} at least, for one word", WORDS.longest + 1);
            return Err(Error::new(text));
        }
        Ok(Text { what, most })
    }

    /// Characters of the longest text.
    pub(crate) fn longest(&self) -> usize {
        let word = WORDS.longest + 1;
        let longest = match self.what {
            What::Words(n) => n * word - 1,
            What::Sentence(n) => n * word,
            What::Paragraph(n) => n * ((FEWEST + MORE) * word + 1) - 1,
            What::Letters(n) | What::Digits(n) => n,
        };
        self.most.map_or(longest, |most| most.min(longest))
    }

    /// How many texts there are, where they are few.
    pub(crate) fn results(&self) -> Option<u128> {
        match self.what {
            What::Letters(n) if n < 3 => Some(26_u128.pow(u32::try_from(n).ok()?)),
            What::Digits(n) if n < 4 => Some(10_u128.pow(u32::try_from(n).ok()?)),
            _ => None,
        }
    }

    /// Writes the text of a hash.
    pub(crate) fn write(&self, hash: Hash, out: &mut Out<'_>) {
        let mut draw = Draw(hash.number());
        match self.what {
            What::Letters(n) => (0..n).for_each(|_| out.push(char::from(b'a' + draw.below(26)))),
            What::Digits(n) => {
                (0..n).for_each(|_| out.push(digit(usize::from(draw.below(10)))));
            }
            What::Words(n) => self.words(n, &mut draw, out),
            What::Sentence(n) => self.sentence(n, &mut draw, out),
            What::Paragraph(n) => {
                for i in 0..n {
                    let words =
                        FEWEST + usize::from(draw.below(u8::try_from(MORE + 1).unwrap_or(1)));
                    // The first sentence is cut where it must be, a later one left out.
                    let before = out.as_str().len();
                    if i > 0 && !self.has_room(before, words * (WORDS.longest + 1)) {
                        return;
                    }
                    if i > 0 {
                        out.push(' ');
                    }
                    self.sentence(words, &mut draw, out);
                }
            }
        }
    }

    /// Whether so many more characters fit.
    fn has_room(&self, written: usize, more: usize) -> bool {
        self.most.is_none_or(|most| written + more < most)
    }

    fn words(&self, n: usize, draw: &mut Draw, out: &mut Out<'_>) {
        out.push_str(draw.word());
        for _ in 1..n {
            let word = draw.word();
            if !self.has_room(out.as_str().len(), word.len() + 1) {
                break;
            }
            out.push(' ');
            out.push_str(word);
        }
    }

    fn sentence(&self, n: usize, draw: &mut Draw, out: &mut Out<'_>) {
        for i in 0..n {
            let word = draw.word();
            if i == 0 {
                let (first, rest) = word.split_at(1);
                out.push_str(&first.to_ascii_uppercase());
                out.push_str(rest);
                continue;
            }
            if !self.has_room(out.as_str().len(), word.len() + 1) {
                break;
            }
            out.push(' ');
            out.push_str(word);
        }
        out.push('.');
    }
}

/// The generator.
struct Draw(u128);

impl Draw {
    fn next(&mut self) -> u64 {
        const STEP: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        const MORE: u128 = 0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f;
        self.0 = self.0.wrapping_mul(STEP).wrapping_add(MORE);
        let high = u64::try_from(self.0 >> 64).unwrap_or(0);
        let low = u64::try_from(self.0 & u128::from(u64::MAX)).unwrap_or(0);
        (high ^ low).rotate_right(u32::try_from(high >> 58).unwrap_or(0))
    }

    fn below(&mut self, n: u8) -> u8 {
        u8::try_from((u128::from(self.next()) * u128::from(n)) >> 64).unwrap_or(0)
    }

    fn word(&mut self) -> &'static str {
        let names = &WORDS.names;
        let at = (u128::from(self.next()) * names.len() as u128) >> 64;
        names.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or_default()
    }
}
