//! How stations have the values of their sections read: secrets that no `Debug` shows, and
//! texts that stand for themselves. For `#[serde(deserialize_with = "…")]`. Neither can
//! fail where the value's type does not.

use std::fmt;
use std::marker::PhantomData;

use secrecy::SecretString;
use serde::de::{Deserialize, Deserializer, Visitor};

use super::read::VERBATIM;

/// A text that is a secret.
pub(crate) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    String::deserialize(from).map(|text| Some(SecretString::from(text)))
}

/// A value whose texts stand as written, `${…}` and `{ file = "…" }` included: what a
/// plugin's rules mean is the plugin's business.
pub(crate) fn verbatim<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    struct Inner<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Inner<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table")
        }
        fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
            T::deserialize(from)
        }
    }
    from.deserialize_newtype_struct(VERBATIM, Inner(PhantomData))
}
