//! One rule at work on texts: what must be known of all of them first, then each by itself.
//!
//! A row can only be in error here, for a reason declared at set-up, where the value itself
//! is what the transform cannot do.

use std::borrow::Cow;

use kasho_plugin_sdk::{Domain, Hash, IntoPatch, Out, Patched, Reason, Setup, Texts};

use crate::check::{Form, Target};
use crate::make::noise::Fault;
use crate::make::{Make, Otherwise, Replace, card, date, fake, token};
use crate::permute::{self, range};
use crate::rules::Rule;

/// Texts that are hashed in one call of the host.
const AT_ONCE: usize = 65_536;

/// What rows can be in error with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    no_match: Reason,
    no_phone: Reason,
    no_ssn: Reason,
    no_card: Reason,
    no_digits: Reason,
    no_integer: Reason,
    no_uuid: Reason,
    no_date: Reason,
    no_number: Reason,
    stays: Reason,
    pub(crate) no_array: Reason,
    pub(crate) no_json: Reason,
    pub(crate) no_by: Reason,
    pub(crate) no_field: Reason,
    pub(crate) no_hash: Reason,
    pub(crate) too_long: Reason,
}

impl Reasons {
    /// Declares them.
    pub(crate) fn declare(cx: &mut Setup<'_>) -> Reasons {
        let mut reason = |text: &str| cx.reason(text);
        Reasons {
            no_match: reason("the pattern of `regex` is not in the value (on_no_match = error)"),
            no_phone: reason("not a phone number of 4 to 38 digits, so it cannot stay unique"),
            no_ssn: reason("not nine digits, so it cannot stay unique"),
            no_card: reason("not a card number of 12 to 19 digits, so it cannot stay unique"),
            no_digits: reason("no digits, or more than 38, for `digits` to permute"),
            no_integer: reason("not a whole number of at most 37 digits for `digits` to permute"),
            no_uuid: reason("not a uuid as PostgreSQL prints it"),
            no_date: reason("not a date that can be shifted, and nothing beside it"),
            no_number: reason("not a number of at most 28 digits"),
            stays: reason(
                "the `amount` of `noise` is less than the last digit of the number, which would stay",
            ),
            no_array: reason("not an array as PostgreSQL prints it"),
            no_json: reason("not JSON, or nested beyond 128 levels"),
            no_by: reason("a column of `by` is not in the row: unchanged and stored out of line"),
            no_field: reason(
                "a template's column is not in the row: unchanged and stored out of line",
            ),
            no_hash: reason("the password could not be hashed"),
            too_long: reason("what the rule made of the value is too long for the column"),
        }
    }
}

/// A rule and the domain it hashes in.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// The rule.
    pub(crate) rule: Rule,
    /// Its domain, if it is keyed.
    pub(crate) domain: Option<Domain>,
}

/// What is known of all texts before they are written.
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    /// Nothing.
    Nothing,
    /// The hash of each.
    Hashes(Vec<Hash>),
    /// What each becomes.
    Texts(Vec<Result<String, Reason>>),
}

impl Leaf {
    /// Declares a rule's domain.
    pub(crate) fn declare(rule: Rule, cx: &mut Setup<'_>) -> Leaf {
        let domain = rule.keying.as_ref().map(|keying| cx.domain(&keying.domain));
        Leaf { rule, domain }
    }

    /// Whether a text's result needs no more than its hash.
    pub(crate) fn is_direct(&self) -> bool {
        match self.rule.make {
            Make::Token | Make::Permute | Make::Uuid => false,
            Make::Phone | Make::Ssn | Make::Card => !self.rule.unique(),
            Make::Json | Make::Template(_) | Make::Password(_) => false,
            _ => true,
        }
    }

    /// Looks at all texts of a batch; `seeds` are what is hashed in their place.
    pub(crate) fn prepare(
        &self,
        texts: &[Cow<'_, str>],
        seeds: Option<Vec<String>>,
        target: &Target,
        reasons: &Reasons,
    ) -> Prepared {
        let Some(domain) = self.domain else { return Prepared::Nothing };
        if let Some(seeds) = seeds {
            return Prepared::Hashes(hashes(domain, seeds.iter().map(Cow::from)));
        }
        let unique = self.rule.unique();
        Prepared::Texts(match self.rule.make {
            Make::Phone if unique => shaped(domain, texts, is_phone, reasons.no_phone),
            Make::Ssn if unique => shaped(domain, texts, fake::is_ssn, reasons.no_ssn),
            Make::Card if unique => cards(domain, texts, reasons.no_card),
            Make::Permute if target.form == Form::Text => {
                shaped(domain, texts, has_digits, reasons.no_digits)
            }
            Make::Permute => {
                ranged(domain, texts, range::integer, |i, n| i.text(n), reasons.no_integer)
            }
            Make::Uuid => {
                let text = |kind: u128, n| range::uuid_text(n, kind);
                ranged(domain, texts, range::uuid, text, reasons.no_uuid)
            }
            Make::Token => tokens(domain, texts),
            _ => {
                let normaliser = self.rule.keying.as_ref().map(|k| k.normaliser);
                let normaliser = normaliser.unwrap_or_default();
                let texts = texts.iter().map(|text| normaliser.apply(text));
                return Prepared::Hashes(hashes(domain, texts));
            }
        })
    }

    /// Writes what becomes of text number `at`.
    pub(crate) fn write(
        &self,
        value: &str,
        at: usize,
        prepared: &Prepared,
        target: &Target,
        reasons: &Reasons,
        out: &mut Out<'_>,
    ) -> Patched {
        let texts = match prepared {
            Prepared::Nothing => return self.result(value, Hash::default(), target, reasons, out),
            Prepared::Hashes(hashes) => {
                let Some(hash) = hashes.get(at) else { return Patched::Same };
                return self.result(value, *hash, target, reasons, out);
            }
            Prepared::Texts(texts) => texts,
        };
        match texts.get(at) {
            Some(Ok(text)) => {
                let patched = text.as_str().into_patch(out);
                target.limited(patched, reasons.too_long, out)
            }
            Some(Err(reason)) => Patched::Error(*reason),
            None => Patched::Same,
        }
    }

    /// What becomes of a value that needs no more than its hash, or an error where it is too
    /// long and that could not be known before.
    #[inline]
    pub(crate) fn result(
        &self,
        value: &str,
        hash: Hash,
        target: &Target,
        reasons: &Reasons,
        out: &mut Out<'_>,
    ) -> Patched {
        let patched = self.make(value, hash, target, reasons, out);
        target.limited(patched, reasons.too_long, out)
    }

    fn make(
        &self,
        value: &str,
        hash: Hash,
        target: &Target,
        reasons: &Reasons,
        out: &mut Out<'_>,
    ) -> Patched {
        match &self.rule.make {
            Make::Null => return Patched::Null,
            Make::Constant(text) => out.push_str(text),
            Make::Mask { first, last, with } => fake::hide(value, *first, *last, *with, out),
            Make::Regex(replace) => return regex(replace, reasons, value, out),
            Make::Hash(_) if target.form == Form::Uuid => fake::uuid(hash, out),
            Make::Hash(length) => fake::hex(hash, *length, out),
            Make::Fake(parts) => fake::words(parts, hash, self.rule.unique(), out),
            Make::Phone => fake::phone(value, hash, out),
            Make::Ssn => fake::ssn(value, hash, out),
            Make::Card => card::fake(value, hash, out),
            Make::Bool => out.push_str(truth(hash.pick(2) == 1, target.form)),
            Make::Birth(birth) => {
                birth.write(hash, out);
                out.push_str(match target.form {
                    Form::Timestamp => " 00:00:00",
                    Form::Timestamptz => " 00:00:00+00",
                    _ => "",
                });
            }
            Make::Degrees(most) => {
                fake::degrees(*most, target.form == Form::Float, hash, out);
            }
            Make::Text(text) => text.write(hash, out),
            Make::Choice(texts) => {
                out.push_str(texts.get(hash.pick(texts.len())).map_or("", String::as_str));
            }
            Make::Shift(days) => match date::shift(value, *days, hash, out) {
                Some(()) => {}
                None => return Patched::Error(reasons.no_date),
            },
            Make::Noise(noise) => match noise.write(value, hash, target, out) {
                Ok(()) => {}
                Err(Fault::NoNumber) => return Patched::Error(reasons.no_number),
                Err(Fault::Stays) => return Patched::Error(reasons.stays),
            },
            Make::Pass
            | Make::Token
            | Make::Permute
            | Make::Uuid
            | Make::Json
            | Make::Template(_)
            | Make::Password(_) => return Patched::Same,
        }
        Patched::Written
    }
}

fn truth(truth: bool, form: Form) -> &'static str {
    match (truth, form) {
        (true, Form::Bool) => "t",
        (false, Form::Bool) => "f",
        (true, Form::Integer(_)) => "1",
        (false, Form::Integer(_)) => "0",
        (true, _) => "true",
        (false, _) => "false",
    }
}

fn regex(replace: &Replace, reasons: &Reasons, value: &str, out: &mut Out<'_>) -> Patched {
    // A pattern that can match nothing matches everywhere, and replaces nothing by that.
    let mut found = replace.pattern.find_iter(value);
    if !found.any(|hit| !hit.is_empty() || value.is_empty()) {
        return match &replace.otherwise {
            Otherwise::Error => Patched::Error(reasons.no_match),
            Otherwise::Null => Patched::Null,
            Otherwise::Constant(text) => text.as_str().into_patch(out),
        };
    }
    out.push_str(&replace.pattern.replace_all(value, replace.replacement.as_str()));
    Patched::Written
}

/// The keyed hashes of texts, however many they are.
pub(crate) fn hashes<'t>(domain: Domain, texts: impl Iterator<Item = Cow<'t, str>>) -> Vec<Hash> {
    let (mut all, mut some, mut held) = (Vec::new(), Vec::new(), Texts::default());
    let mut flush = |held: &mut Texts, all: &mut Vec<Hash>| {
        domain.hash_all(held, &mut some);
        all.extend_from_slice(&some);
        held.clear();
    };
    for text in texts {
        held.push(&text);
        if held.len() == AT_ONCE {
            flush(&mut held, &mut all);
        }
    }
    flush(&mut held, &mut all);
    all
}

/// Asks the host for the hashes of a round.
fn prf(domain: Domain) -> impl FnMut(&Texts, &mut Vec<Hash>) {
    move |texts, out| match texts.len() > AT_ONCE {
        true => *out = hashes(domain, texts.iter().map(Cow::from)),
        false => domain.hash_all(texts, out),
    }
}

/// Whether a value has digits that can be permuted, and is a phone number.
fn is_phone(value: &str) -> bool {
    let digits = fake::phone_digits(value);
    digits.is_some_and(|digits| (permute::FEWEST..=fake::MOST_DIGITS).contains(&digits))
}

fn has_digits(value: &str) -> bool {
    (1..=fake::MOST_DIGITS).contains(&value.bytes().filter(u8::is_ascii_digit).count())
}

/// Permutes the digits of each text that fits; an empty text has nothing to hide.
fn shaped(
    domain: Domain,
    texts: &[Cow<'_, str>],
    fits: fn(&str) -> bool,
    otherwise: Reason,
) -> Vec<Result<String, Reason>> {
    let fitting = texts.iter().map(AsRef::as_ref).filter(|text| fits(text));
    let mut permuted = permute::permute(fitting, prf(domain)).into_iter();
    let text = |text: &Cow<'_, str>| {
        if !fits(text) {
            return if text.is_empty() { Ok(String::new()) } else { Err(otherwise) };
        }
        let digits = permuted.next().unwrap_or_default();
        let mut digits = digits.chars();
        let digit = |c: char| if c.is_ascii_digit() { digits.next().unwrap_or(c) } else { c };
        Ok(text.chars().map(digit).collect())
    };
    texts.iter().map(text).collect()
}

/// Permutes the digits of card numbers but the last, and puts the right one behind them; an
/// empty text stays, as in [`shaped`].
fn cards(domain: Domain, texts: &[Cow<'_, str>], otherwise: Reason) -> Vec<Result<String, Reason>> {
    let fitting = || texts.iter().filter(|text| card::is_card(text));
    let bodies: Vec<String> = fitting().map(|text| card::body(text)).collect();
    let permuted = permute::permute(bodies.iter().map(String::as_str), prf(domain));
    let mut permuted = permuted.into_iter();
    let text = |text: &Cow<'_, str>| {
        if !card::is_card(text) {
            return if text.is_empty() { Ok(String::new()) } else { Err(otherwise) };
        }
        let digits = card::complete(text, &permuted.next().unwrap_or_default());
        let mut digits = digits.chars();
        let digit = |c: char| if c.is_ascii_digit() { digits.next().unwrap_or(c) } else { c };
        Ok(text.chars().map(digit).collect())
    };
    texts.iter().map(text).collect()
}

/// Permutes what `read` finds in each text.
fn ranged<T: Copy>(
    domain: Domain,
    texts: &[Cow<'_, str>],
    read: fn(&str) -> Option<(range::Ranged, T)>,
    write: impl Fn(T, u128) -> String,
    otherwise: Reason,
) -> Vec<Result<String, Reason>> {
    let found: Vec<_> = texts.iter().map(|text| read(text)).collect();
    let mut numbers: Vec<range::Ranged> = found.iter().flatten().map(|(n, _)| *n).collect();
    range::permute(&mut numbers, prf(domain));
    let mut numbers = numbers.into_iter();
    let text = |found: Option<(range::Ranged, T)>| {
        let (_, rest) = found.ok_or(otherwise)?;
        Ok(write(rest, numbers.next().map_or(0, |n| n.number)))
    };
    found.into_iter().map(text).collect()
}

fn tokens(domain: Domain, texts: &[Cow<'_, str>]) -> Vec<Result<String, Reason>> {
    let nonces = hashes(domain, texts.iter().map(|text| Cow::from(text.as_ref())));
    let blocks = texts.iter().zip(&nonces).flat_map(|(text, nonce)| {
        (0..token::blocks(text)).map(|i| Cow::from(token::block(*nonce, i)))
    });
    let streams = hashes(domain, blocks);
    let mut rest = &streams[..];
    let token = |(text, nonce): (&Cow<'_, str>, &Hash)| {
        let (stream, after) = rest.split_at(token::blocks(text).min(rest.len()));
        rest = after;
        Ok(token::token(text, *nonce, stream))
    };
    texts.iter().zip(&nonces).map(token).collect()
}
