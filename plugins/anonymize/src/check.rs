//! Whether a rule can hold for a column: asked when a table is announced.
//!
//! Whatever would fail at the target, or would not be told apart there, is refused here:
//! a type the transform cannot write, a fake that may be too long, NULL where it may not
//! be, fakes that are equal where values differ. Each refusal names the way on.

mod unique;

use kasho_plugin_sdk::{Column, Error, Identity, Out, Patched, Reason, Result, Table};

use crate::catalog::{Maker, Makes};
use crate::make::{Make, Otherwise};
use crate::rules::{By, Rule};

/// What a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text of any kind.
    Text,
    /// A whole number up to this, and down to one below its negative.
    Integer(i64),
    /// `numeric`: digits and, of them, decimals, if they are limited.
    Numeric(Option<(u32, u32)>),
    /// A floating-point number.
    Float,
    /// A boolean.
    Bool,
    /// A date.
    Date,
    /// A timestamp.
    Timestamp,
    /// A timestamp with time zone.
    Timestamptz,
    /// A uuid.
    Uuid,
    /// JSON.
    Json,
    /// Anything else.
    Other,
}

/// Where the results of a rule go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What is taken.
    pub(crate) form: Form,
    /// The most characters that are taken, where it is not known before that there are no more.
    pub(crate) limit: Option<usize>,
    /// The column is an array of it.
    pub(crate) array: bool,
}

impl Target {
    /// Text without a limit, as inside JSON.
    pub(crate) fn text() -> Target {
        Target { form: Form::Text, limit: None, array: false }
    }

    /// The same result, or an error where it is longer than the column takes.
    #[inline]
    pub(crate) fn limited(&self, patched: Patched, too_long: Reason, out: &Out<'_>) -> Patched {
        match self.limit {
            Some(limit) if patched == Patched::Written => {
                let text = out.as_str();
                match text.len() > limit && text.chars().count() > limit {
                    true => Patched::Error(too_long),
                    false => patched,
                }
            }
            _ => patched,
        }
    }

    /// The least and largest numbers, in units of the last of so many decimals.
    pub(crate) fn range(&self, decimals: usize) -> Option<(i128, i128)> {
        match self.form {
            Form::Integer(most) => Some((-i128::from(most) - 1, i128::from(most))),
            Form::Numeric(Some((digits, scale))) if scale as usize == decimals => {
                let most = 10_i128.checked_pow(digits)? - 1;
                Some((-most, most))
            }
            _ => None,
        }
    }
}

/// Checks a rule against a column; says where its results go.
pub(crate) fn check(rule: &Rule, column: &Column, table: &Table<'_>) -> Result<Target> {
    let element = element(rule, column)?;
    let array = element.is_some();
    let of = element.as_ref().unwrap_or(column);
    let longest = rule.make.longest(rule.unique());
    let open = longest.is_none() && !matches!(rule.make, Make::Mask { .. });
    let target = Target { form: form(of), limit: limit(of).filter(|_| open), array };
    types(rule, of, &target)?;
    nulls(rule, column)?;
    // Under FULL every column is part of the identity, and none of them alone identifies.
    let key = column.key && table.identity != Identity::Full;
    if key && (*rule.by() != By::Value || !rule.make.fields().is_empty()) {
        return Err(Error::new(format!(
            "the column identifies rows, so what `{}` makes of it may depend on nothing else: a \
             DELETE has nothing else",
            rule.entry.name
        )));
    }
    if column.unique || key {
        unique::check(rule, of, table)?;
    }
    fits(rule, of, &target)?;
    moves(rule, of, &target)?;
    Ok(target)
}

/// The element of an array, for a rule that works on elements.
fn element(rule: &Rule, column: &Column) -> Result<Option<Column>> {
    let whole = matches!(rule.make, Make::Null | Make::Constant(_) | Make::Pass);
    let Some(elem) = column.elem.as_ref().filter(|_| !whole) else { return Ok(None) };
    if matches!(rule.make, Make::Template(_) | Make::Password(_)) {
        let text = format!("`{}` makes no arrays: use `hash` or `null`", rule.entry.name);
        return Err(Error::new(text));
    }
    let (base, type_name) = (elem.clone(), elem.clone());
    Ok(Some(Column { base, type_name, elem: None, ..column.clone() }))
}

fn form(column: &Column) -> Form {
    match column.base.as_str() {
        "text" | "varchar" | "bpchar" | "citext" | "name" => Form::Text,
        "int2" => Form::Integer(i16::MAX.into()),
        "int4" => Form::Integer(i32::MAX.into()),
        "int8" => Form::Integer(i64::MAX),
        // Ten bits of scale since 15, signed; a scale beyond the digits is left to PostgreSQL.
        "numeric" => Form::Numeric(u32::try_from(column.typmod - 4).ok().and_then(|typmod| {
            let (digits, scale) = (typmod >> 16, typmod & 0x7FF);
            (column.typmod >= 4 && scale <= digits).then_some((digits, scale))
        })),
        "float4" | "float8" => Form::Float,
        "bool" => Form::Bool,
        "date" => Form::Date,
        "timestamp" => Form::Timestamp,
        "timestamptz" => Form::Timestamptz,
        "uuid" => Form::Uuid,
        "json" | "jsonb" => Form::Json,
        _ => Form::Other,
    }
}

fn shown(column: &Column) -> String {
    if column.type_name == column.base {
        column.type_name.clone()
    } else {
        format!("{} (a domain over {})", column.type_name, column.base)
    }
}

fn types(rule: &Rule, column: &Column, target: &Target) -> Result<()> {
    let form = target.form;
    let fits = match (rule.entry.makes, &rule.make) {
        (_, Make::Pass | Make::Null) => true,
        (_, Make::Constant(value)) => return constant(value, column, form),
        (_, Make::Choice(values)) => {
            return values.iter().try_for_each(|value| constant(value, column, form));
        }
        (_, Make::Hash(length)) if form == Form::Uuid => *length == 32,
        (_, Make::Permute) if matches!(form, Form::Numeric(limits) if limits.is_none_or(|l| l.1 > 0)) =>
        {
            return Err(Error::new(
                "`digits` makes whole numbers: of numeric it takes `numeric(p)`, without decimals; \
                 use `noise`",
            ));
        }
        (_, _) if form == Form::Text => true,
        (Makes::Integer | Makes::Numeric | Makes::Bool, _) if matches!(form, Form::Integer(_)) => {
            true
        }
        (Makes::Integer, _) => matches!(form, Form::Numeric(_)),
        (Makes::Number | Makes::Numeric, _) => matches!(form, Form::Numeric(_) | Form::Float),
        (Makes::Bool, _) => form == Form::Bool,
        (Makes::Date, _) => matches!(form, Form::Date | Form::Timestamp | Form::Timestamptz),
        (Makes::Uuid, _) => form == Form::Uuid,
        (Makes::Json, _) => form == Form::Json,
        (Makes::Any | Makes::Text | Makes::Values, _) => false,
    };
    if fits {
        return Ok(());
    }
    let way_on = match form {
        Form::Text => "a text",
        Form::Integer(_) => "`digits`, `noise`",
        Form::Numeric(_) | Form::Float => "`noise`",
        Form::Bool => "`bool`",
        Form::Date | Form::Timestamp | Form::Timestamptz => "`shift_date`, `fake_date_of_birth`",
        Form::Uuid => "`uuid`, `hash`",
        Form::Json => "`json`",
        Form::Other => "`choice` for an enum",
    };
    Err(Error::new(format!(
        "`{}` cannot make a value of type {}: use {way_on}, `null`, `constant`, `pass`, or drop the \
         column",
        rule.entry.name,
        shown(column)
    )))
}

/// Whether a constant is a value of the column's type, as far as that is plain to see.
fn constant(value: &str, column: &Column, form: Form) -> Result<()> {
    let ok = match form {
        Form::Text => true,
        Form::Bool => matches!(value, "t" | "f"),
        Form::Integer(most) => value.parse::<i64>().is_ok_and(|n| n <= most && n >= -most - 1),
        Form::Numeric(_) | Form::Float => value.parse::<f64>().is_ok(),
        Form::Uuid => shape(value, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh"),
        Form::Date => shape(value, "dddd-dd-dd"),
        Form::Timestamp => shape(value, "dddd-dd-dd dd:dd:dd"),
        Form::Timestamptz => shape(value, "dddd-dd-dd dd:dd:dd+dd"),
        Form::Json => serde_json::from_str::<serde_json::Value>(value).is_ok(),
        Form::Other => match &column.labels {
            Some(labels) => labels.iter().any(|label| label == value),
            None => false,
        },
    };
    if ok {
        return Ok(());
    }
    Err(Error::new(format!(
        "the constant is not a text form of type {} that can be checked: write it as PostgreSQL \
         prints it, or use `null`",
        shown(column)
    )))
}

/// Whether a value has a digit where the shape has `d`, a hexadecimal one where it has
/// `h`, and its characters elsewhere.
fn shape(value: &str, shape: &str) -> bool {
    let fits = |(v, s): (u8, u8)| match s {
        b'd' => v.is_ascii_digit(),
        b'h' => v.is_ascii_digit() || (b'a'..=b'f').contains(&v),
        other => v == other,
    };
    value.len() == shape.len() && value.bytes().zip(shape.bytes()).all(fits)
}

fn nulls(rule: &Rule, column: &Column) -> Result<()> {
    let makes_null = match &rule.make {
        Make::Null => true,
        Make::Regex(replace) => replace.otherwise == Otherwise::Null && column.elem.is_none(),
        _ => false,
    };
    if makes_null && (column.not_null || column.key) {
        let text = format!(
            "the column is NOT NULL or a key, so `{}` cannot make it NULL: use `constant` or a fake",
            rule.entry.name
        );
        return Err(Error::new(text));
    }
    Ok(())
}

/// Whether whatever the rule makes has room in the column.
fn fits(rule: &Rule, column: &Column, target: &Target) -> Result<()> {
    if let (Some(limit), Some(longest)) = (limit(column), rule.make.longest(rule.unique()))
        && longest > limit
    {
        let way_on = match rule.entry.maker {
            Maker::Words | Maker::Sentence | Maker::Paragraph => {
                format!("give `max_length = {limit}`")
            }
            _ => "use `hash` with a `length` that fits, `mask` or `null`".to_owned(),
        };
        return Err(Error::new(format!(
            "`{}` can be {longest} characters long, but {} holds {limit}: {way_on}",
            rule.entry.name,
            shown(column)
        )));
    }
    // Degrees have three digits and six decimals, which PostgreSQL would round.
    if let (Make::Degrees(_), Form::Numeric(Some((digits, scale)))) = (&rule.make, target.form)
        && digits - scale < 3
    {
        return Err(Error::new(digits_before("three", rule, column)));
    }
    if let (Make::Fake(_), Form::Numeric(Some((digits, scale)))) = (&rule.make, target.form)
        && digits - scale < 4
    {
        return Err(Error::new(digits_before("four", rule, column)));
    }
    Ok(())
}

fn digits_before(number: &str, rule: &Rule, column: &Column) -> String {
    format!(
        "`{}` needs {number} digits before the point, which the column's {} does not have: use \
         `null` or `constant`, or make the column wider",
        rule.entry.name,
        shown(column)
    )
}

/// Whether the noise is seen in a number of the column's type.
fn moves(rule: &Rule, column: &Column, target: &Target) -> Result<()> {
    let Make::Noise(noise) = &rule.make else { return Ok(()) };
    let decimals = match target.form {
        Form::Integer(_) => 0,
        Form::Numeric(Some((_, scale))) => scale as usize,
        _ => return Ok(()),
    };
    if noise.moves(decimals) {
        return Ok(());
    }
    Err(Error::new(format!(
        "`amount` is less than the last digit of a value of type {}, so every value would stay what \
         it is: give a larger one",
        shown(column)
    )))
}

/// The most characters the column's type takes; `typmod` counts four more.
fn limit(column: &Column) -> Option<usize> {
    match column.base.as_str() {
        "varchar" | "bpchar" if column.typmod > 4 => usize::try_from(column.typmod - 4).ok(),
        "name" => Some(63),
        _ => None,
    }
}
