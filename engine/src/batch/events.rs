//! The relations that stand for what is no row of a table: logical messages and schema
//! changes. Sources make rows of them, and the chain asks its plugins about them before
//! there are any. Nothing can go wrong here.

use std::sync::Arc;

use kasho_plugin_sdk::abi::{DDL_RELATION, MESSAGE_RELATION};
use kasho_plugin_sdk::{Column, Identity, Relation};

/// The id of `kasho.message`: no table has it, OIDs of tables begin at 16384.
pub const MESSAGE_RELATION_ID: u32 = 1;
/// The id of `kasho.ddl`.
pub const DDL_RELATION_ID: u32 = 2;

/// The virtual relation `kasho.message (prefix text, content …)`.
///
/// There are two descriptions of it: version 1, `content text`, for contents that are
/// UTF-8, and version 2, `content bytea` in hex form, for the others; so a content that
/// happens to look like hex is never mistaken for bytes.
#[must_use]
pub fn message_relation(binary: bool) -> Arc<Relation> {
    let content = match binary {
        true => column("content", "bytea", 17),
        false => column("content", "text", 25),
    };
    // What a content is nobody promises: a rule may take it away and leave NULL.
    let content = Column { not_null: false, ..content };
    let version = if binary { 2 } else { 1 };
    let columns = vec![column("prefix", "text", 25), content];
    relation(MESSAGE_RELATION_ID, version, MESSAGE_RELATION, columns)
}

/// The virtual relation `kasho.ddl (tag, object_type, identity, text)`.
#[must_use]
pub fn ddl_relation() -> Arc<Relation> {
    let mut columns =
        ["tag", "object_type", "identity", "text"].map(|name| column(name, "text", 25));
    // What a text holds nobody promises: it may be taken away and leave NULL.
    columns[3].not_null = false;
    relation(DDL_RELATION_ID, 1, DDL_RELATION, columns.into())
}

fn relation(
    id: u32,
    version: u32,
    (schema, table): (&str, &str),
    columns: Vec<Column>,
) -> Arc<Relation> {
    let (schema, table) = (schema.to_owned(), table.to_owned());
    Arc::new(Relation { id, version, schema, table, identity: Identity::Nothing, columns })
}

fn column(name: &str, type_name: &str, oid: u32) -> Column {
    Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        oid,
        base: type_name.to_owned(),
        typmod: -1,
        key: false,
        not_null: true,
        unique: false,
        toastable: false,
        elem: None,
        labels: None,
    }
}
