//! Rules whose results are made of the row: templates, and passwords.
//!
//! They see the row as the rules before them left it. A column that is not in the row is the
//! row's error.

use kasho_plugin_sdk::batch::Image;
use kasho_plugin_sdk::{Batch, IntoPatch, Patched, Reason, Value};

use crate::Bound;
use crate::check::Target;
use crate::leaf::{Reasons, hashes};
use crate::make::Make;
use crate::make::password::{Password, Salt};
use crate::make::template::Template;

/// Applies a rule to its column of a batch.
pub(crate) fn rewrite(
    bound: &mut Bound,
    target: &Target,
    reasons: &Reasons,
    batch: &mut Batch<'_>,
) {
    let texts = match &bound.leaf.rule.make {
        Make::Template(template) => filled(bound, template, reasons, batch),
        Make::Password(password) => {
            let password = (**password).clone();
            let cleartexts = filled(bound, &password.cleartext, reasons, batch);
            hashed(bound, &password, cleartexts, reasons, batch)
        }
        _ => return,
    };
    let mut texts = texts.into_iter();
    batch.rewrite(bound.col, |_, out| match texts.next() {
        Some(Ok(text)) => {
            let patched = text.into_patch(out);
            target.limited(patched, reasons.too_long, out)
        }
        Some(Err(reason)) => Patched::Error(reason),
        None => Patched::Same,
    });
}

/// What a template makes of each row.
fn filled(
    bound: &Bound,
    template: &Template,
    reasons: &Reasons,
    batch: &Batch<'_>,
) -> Vec<Result<String, Reason>> {
    let mut texts = Vec::new();
    let mut values = Vec::with_capacity(bound.fields.len());
    batch.places(bound.col, |row, image| {
        values.clear();
        for field in &bound.fields {
            values.push(match field_of(bound, *field, batch, row, image) {
                Value::Text(text) => text,
                Value::Null => "",
                Value::Unchanged | Value::Absent => return texts.push(Err(reasons.no_field)),
            });
        }
        texts.push(Ok(template.fill(&values)));
    });
    texts
}

fn field_of<'b>(
    bound: &Bound,
    field: Option<kasho_plugin_sdk::Col>,
    batch: &'b Batch<'_>,
    row: usize,
    image: Image,
) -> Value<'b> {
    match field {
        Some(col) => batch.now(col, row, image),
        None => batch.came(bound.col, row, image),
    }
}

/// The password hash of each row's cleartext.
fn hashed(
    bound: &mut Bound,
    password: &Password,
    cleartexts: Vec<Result<String, Reason>>,
    reasons: &Reasons,
    batch: &Batch<'_>,
) -> Vec<Result<String, Reason>> {
    let Some(domain) = bound.leaf.domain else { return cleartexts };
    let mut values = Vec::new();
    batch.texts(bound.col, |value| values.push(value));
    // A zero byte is in no value of PostgreSQL's, so no salt is the hash of a value.
    let salts = cleartexts.iter().zip(values).map(|(cleartext, value)| match password.salt {
        Salt::One => "\0salt/1".into(),
        Salt::Cleartext => {
            format!("\0salt/1\0c\0{}", cleartext.as_deref().unwrap_or_default()).into()
        }
        Salt::Value => format!("\0salt/1\0v\0{value}").into(),
    });
    let salts = hashes(domain, salts);
    let hash = |(cleartext, salt): (Result<String, Reason>, _)| {
        let hash = bound.kept.hash(password, &cleartext?, salt);
        if hash.is_empty() { Err(reasons.no_hash) } else { Ok(hash.to_owned()) }
    };
    cleartexts.into_iter().zip(salts).map(hash).collect()
}
