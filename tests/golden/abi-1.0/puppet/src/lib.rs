//! A guest that does what its rules and the values tell it: all of ABI 1.0 in one plugin.
//!
//! Rules say what becomes of each column; the first character of a text says what becomes
//! of the value, or of its row. `plugin-sdk/vectors/README.md` has it in words, so that
//! guests in other languages can be held against the same vectors. What goes wrong is what
//! it was told to get wrong.

use std::collections::BTreeMap;

use kasho_plugin_sdk::{
    Col, Counter, Level, Op, Patched, Plugin, Reason, Result, Row, Setup, Table, Value, Verdict,
    export_plugin, log,
};

/// What is to be done, by `schema.table.column`.
#[derive(serde::Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Rules {
    /// `pass`, `read`, `write`, `mask`, `hash` or `drop`.
    columns: BTreeMap<String, String>,
    /// The column that a written column is made from, too.
    from: BTreeMap<String, String>,
    /// The fingerprint by which rows of a table are removed.
    rows: BTreeMap<String, String>,
    /// What becomes of TRUNCATE: it is not asked for, kept or dropped.
    truncate: Option<String>,
    /// Whether commit times are put into what is written.
    commit_time: bool,
    /// The table of which nothing leaves.
    gone: Option<String>,
}

/// A column that is rewritten.
struct Written {
    col: Col,
    from: Option<Col>,
    mask: bool,
}

/// The plugin.
#[allow(unreachable_pub, reason = "a test has it as a module")]
pub struct Puppet {
    rules: Rules,
    reads: Vec<Col>,
    writes: Vec<Written>,
    hashes: Vec<Col>,
    reasons: [Reason; 2],
    rows: Counter,
}

impl Plugin for Puppet {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let rules: Rules = cx.rules()?;
        let mut puppet = Puppet {
            reads: Vec::new(),
            writes: Vec::new(),
            hashes: Vec::new(),
            reasons: [cx.reason("told to fail"), cx.reason("told to fail otherwise")],
            rows: cx.counter("rows seen"),
            rules,
        };
        let mut cols = BTreeMap::new();
        for (name, word) in puppet.rules.columns.iter().filter(|(_, word)| *word == "read") {
            let col = cx.read(name)?;
            cols.insert((name.clone(), word.clone()), col);
            puppet.reads.push(col);
        }
        for (name, word) in &puppet.rules.columns {
            let from = puppet.rules.from.get(name).map(|from| (from.clone(), "read".to_owned()));
            let from = from.and_then(|from| cols.get(&from).copied());
            match word.as_str() {
                "read" => {}
                "pass" => cx.pass(name)?,
                "drop" => cx.drop(name)?,
                "hash" => {
                    let domain = cx.domain("puppet");
                    puppet.hashes.push(cx.mask(name)?.keyed(domain));
                }
                "mask" => {
                    let col = cx.mask(name)?;
                    cx.fingerprint(col, "puppet/1");
                    puppet.writes.push(Written { col, from: None, mask: true });
                }
                "write" => {
                    let col = match from {
                        Some(from) => cx.write_from(name, &[from])?,
                        None => cx.write(name)?,
                    };
                    puppet.writes.push(Written { col, from, mask: false });
                }
                other => return Err(format!("no such word: {other}").into()),
            }
        }
        for (table, fingerprint) in &puppet.rules.rows {
            cx.filter(table, fingerprint.as_str())?;
        }
        if let Some(table) = &puppet.rules.gone {
            cx.table(table)?;
        }
        if puppet.rules.truncate.is_some() {
            cx.truncates();
        }
        if puppet.rules.commit_time {
            cx.commit_time();
        }
        cx.max_rows(512);
        log(Level::Debug, "the puppet is set up");
        Ok(puppet)
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        match table.columns.iter().find(|column| column.base == "xml") {
            Some(column) => Err(kasho_plugin_sdk::Error::new("told to fear xml").at(&column.name)),
            None => Ok(()),
        }
    }

    fn drops(&self, table: &Table<'_>) -> bool {
        self.rules.gone.as_deref() == Some(table.qualified().as_str())
    }

    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        self.rows.add(1);
        if row.op() == Op::Truncate {
            return match self.rules.truncate.as_deref() {
                Some("drop") => Verdict::Drop,
                _ => Verdict::Keep,
            };
        }
        let at = row.commit_time().map(|time| time.0);
        let reasons = self.reasons;
        for Written { col, from, mask } in &self.writes {
            let beside = from.map(|from| row.text(from).unwrap_or_default().to_owned());
            row.rewrite(*col, |text, out| {
                match text.as_bytes().first() {
                    Some(b'n') => return Patched::Null,
                    Some(b'e') => return Patched::Error(reasons[text.len() % 2]),
                    Some(b'k') if !mask => return Patched::Same,
                    _ => {}
                }
                out.push('<');
                out.push_str(text);
                if let Some(beside) = &beside {
                    out.push('|');
                    out.push_str(beside);
                }
                // Not where a fake has to be the same tomorrow.
                if let Some(at) = at.filter(|_| !mask) {
                    let _ = write!(out, "@{at}");
                }
                out.push('>');
                Patched::Written
            });
        }
        for col in &self.hashes {
            row.rewrite_hashed(*col, |_, hash, out| write!(out, "{hash}"));
        }
        self.reads
            .iter()
            .map(|col| told(row, *col))
            .find(|v| *v != Verdict::Keep)
            .unwrap_or(Verdict::Keep)
    }
}

/// What a read column says of its row.
fn told(row: &Row<'_, '_>, col: Col) -> Verdict {
    let value = match row.get(col) {
        Value::Text(text) => Value::Text(text),
        _ => row.old(col),
    };
    let Value::Text(text) = value else { return Verdict::Keep };
    let update = row.op() == Op::Update;
    match text.as_bytes().first() {
        Some(b'd') => Verdict::Drop,
        Some(b'i') if update => Verdict::AsInsert,
        Some(b'x') if update => Verdict::AsDelete,
        Some(b'p') => panic!("the puppet was told to panic"),
        _ => Verdict::Keep,
    }
}

export_plugin!(Puppet);
