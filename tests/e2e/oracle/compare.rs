//! Two databases, table by table: every row's text on either side, and what only one of them
//! has.

use std::collections::BTreeMap;

use super::schema::Schema;

/// Rows that are shown of a difference.
const SHOWN: usize = 8;
const WIDTH: usize = 400;

/// All rows of a table, each with how often it is there.
type Rows = BTreeMap<String, i64>;

/// What differs between two databases in the tables of a schema; empty if nothing does.
pub(super) async fn difference(
    schema: &Schema,
    (one, two): (&str, &str),
    (a, b): (&tokio_postgres::Client, &tokio_postgres::Client),
) -> String {
    let mut told = String::new();
    for table in &schema.tables {
        let (left, right) = (rows(a, &table.name).await, rows(b, &table.name).await);
        if left == right {
            continue;
        }
        let count = |rows: &Rows| rows.values().sum::<i64>();
        told += &format!(
            "{} ({:?}): {} rows in {one}, {} in {two}\n",
            table.name,
            table.identity,
            count(&left),
            count(&right)
        );
        let mut shown = 0;
        for row in left.keys().chain(right.keys()) {
            let (here, there) =
                (left.get(row).copied().unwrap_or(0), right.get(row).copied().unwrap_or(0));
            // Rows of the second side alone come after those of the first.
            if here == there || shown == SHOWN {
                continue;
            }
            shown += 1;
            let row: String = row.chars().take(WIDTH).collect();
            told += &format!("  {here} × in {one}, {there} × in {two}: {row}\n");
        }
    }
    told
}

async fn rows(client: &tokio_postgres::Client, table: &str) -> Rows {
    let settings = "SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'";
    client.batch_execute(settings).await.expect("SET");
    // The name of the table a row stands in is no part of it.
    let query = format!("SELECT t::text, count(*) FROM {table} t GROUP BY 1");
    let rows = client.query(&query, &[]).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
