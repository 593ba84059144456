//! Which writer wrote which entries of the bootstrap stream, so that a number can be told from
//! the same number given a second time. Pure.
//!
//! What can go wrong: Redis loses its latest data (a restart before it was on disk), and the
//! load goes on from where Redis then ends: its ranges run side by side, so that other rows
//! come under the numbers that somebody has read already. Every loader's turn has a token of its
//! own, and where a turn began stands beside the stream: whoever keeps number and token sees
//! afterwards whether the number is still that of what was read.

/// The turns that have written something, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    text: String,
    /// Entries before it, and its token.
    all: Vec<(u64, String)>,
}

impl Runs {
    /// From the field `runs` of an epoch's load: `<entries before it>:<token>`, separated by
    /// blanks. What cannot be read is left out: it belongs to no number then.
    #[must_use]
    pub fn parse(text: &str) -> Runs {
        let one = |word: &str| {
            let (before, token) = word.split_once(':')?;
            Some((before.parse().ok()?, token.to_owned()))
        };
        Runs { text: text.to_owned(), all: text.split(' ').filter_map(one).collect() }
    }

    /// As it was stored.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The token of who wrote entry `number`; empty if that is not known.
    #[must_use]
    pub fn of(&self, number: u64) -> &str {
        let before = self.all.partition_point(|(before, _)| *before < number);
        before.checked_sub(1).and_then(|at| self.all.get(at)).map_or("", |(_, token)| token)
    }

    /// Whether entry `number` is still the one that `token` wrote, in a stream that ends with
    /// entry `top`. One of which the token is not known is judged by its number alone.
    #[must_use]
    pub fn keeps(&self, number: u64, token: &str, top: u64) -> bool {
        number <= top && (token.is_empty() || self.of(number) == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_of_the_last_turn_that_began_before_it() {
        let runs = Runs::parse("0:1-aa 10:1-bb 25:1-cc");
        for (number, token) in [(0, ""), (1, "1-aa"), (10, "1-aa"), (11, "1-bb"), (26, "1-cc")] {
            assert_eq!(runs.of(number), token, "{number}");
        }
        assert_eq!(Runs::parse("").of(3), "");
        // An epoch that began before turns were noted.
        assert_eq!(Runs::parse("7:1-aa").of(7), "");
        assert_eq!(runs.text(), "0:1-aa 10:1-bb 25:1-cc");
    }

    #[test]
    fn a_number_that_was_given_again_is_seen() {
        let lost = Runs::parse("0:1-aa 10:1-bb");
        assert!(lost.keeps(10, "1-aa", 40));
        // Its turn went on once, and lost that.
        assert!(!lost.keeps(11, "1-aa", 40));
        // Its turn is lost altogether.
        assert!(!lost.keeps(20, "1-cc", 40));
        assert!(!lost.keeps(41, "1-bb", 40));
        assert!(lost.keeps(20, "", 40));
        assert!(!lost.keeps(41, "", 40));
    }
}
