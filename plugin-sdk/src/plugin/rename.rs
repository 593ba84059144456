//! New names that a plugin gives to tables and columns. What can go wrong: a name that is
//! none, or that is of many.

use super::{Error, Result, Setup};
use crate::abi;
use crate::pattern::{ColumnPattern, TablePattern};

impl Setup<'_> {
    /// Gives a table (`schema.table` for `schema.table`) or a column (a name for
    /// `schema.table.column`) the name that it leaves under. Rules and later plugins go on
    /// speaking of it by its name in the source.
    ///
    /// # Errors
    /// `from` is no such name, or holds `*`.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let (table, column) = match ColumnPattern::parse(from) {
            Ok(ColumnPattern { table, column }) => (table, Some(column)),
            Err(_) => (TablePattern::parse(from)?, None),
        };
        if table.is_glob() || column.as_ref().is_some_and(|column| column.is_glob()) {
            return Err(Error::new("a rename names one table or column, without *").at(from));
        }
        let known = self.declared.renames.iter().position(|(known, _)| *known == table);
        let at = known.unwrap_or_else(|| {
            self.declared.renames.push((table, abi::Rename::default()));
            self.declared.renames.len() - 1
        });
        let rename = &mut self.declared.renames[at].1;
        match column {
            Some(column) => drop(rename.columns.insert(column.text().to_owned(), to.to_owned())),
            None => rename.table = Some(to.to_owned()),
        }
        Ok(())
    }
}
