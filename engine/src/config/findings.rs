//! What is wrong with a station's values, by key. What one value cannot be, its type
//! refuses; here stands what only makes no sense: two settings that contradict, a zero.

/// Values that are of the right type and make no sense: their keys within a section, and
/// what is wrong. No message quotes a text of the file, it may be a password misplaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings(Vec<(String, String)>);

impl Findings {
    /// Notes what is wrong with a key.
    pub(crate) fn wrong(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push((key.into(), message.into()));
    }

    /// Notes what is wrong with a key, unless `holds`.
    pub(crate) fn must(&mut self, holds: bool, key: impl Into<String>, message: &str) {
        if !holds {
            self.wrong(key, message);
        }
    }

    /// Notes each zero.
    pub(crate) fn above_zero(&mut self, values: &[(&str, u64)]) {
        for (key, value) in values {
            self.must(*value > 0, *key, "must be greater than 0");
        }
    }

    /// Takes over what else is wrong with the same section.
    pub(crate) fn extend(&mut self, found: Findings) {
        self.0.extend(found.0);
    }

    /// Takes over what is wrong with the section of this name.
    pub(crate) fn section(&mut self, name: &str, found: Findings) {
        self.0.extend(found.0.into_iter().map(|(key, message)| (format!("{name}.{key}"), message)));
    }
}

impl IntoIterator for Findings {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<(String, String)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
