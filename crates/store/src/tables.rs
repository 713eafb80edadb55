//! Which tables there are, and how their rows are read in one order on both engines.

use std::collections::BTreeSet;

use crate::args;
use crate::error::StoreError;
use crate::migrate::Link;
use crate::place::Engine;
use crate::statement::rows;
use crate::value::Row;

/// A table as a back-up reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    /// Columns of the primary key, in its order, as an `ORDER BY` names them: bytewise, whatever the server's language.
    order: Vec<String>,
}

impl Table {
    /// The query for all its rows in order.
    pub(crate) fn select(&self) -> String {
        let columns = self.columns.join(", ");
        format!("SELECT {columns} FROM {} ORDER BY {}", self.name, self.order.join(", "))
    }

    /// The statement that inserts so many rows.
    pub(crate) fn insert(&self, count: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns.len()].join(", "));
        format!(
            "INSERT INTO {} ({}) VALUES {}",
            self.name,
            self.columns.join(", "),
            vec![row; count].join(", ")
        )
    }
}

const NAMES_SQLITE: &str = "SELECT name FROM sqlite_schema WHERE type = 'table'";
const NAMES_POSTGRES: &str = "SELECT CAST(table_name AS TEXT) AS name FROM information_schema.tables \
                              WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'";
const COLUMNS_SQLITE: &str = "SELECT name, 0 AS is_text FROM pragma_table_info(?) ORDER BY cid";
const COLUMNS_POSTGRES: &str = "SELECT CAST(column_name AS TEXT) AS name FROM information_schema.columns \
                                WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position";
const KEY_SQLITE: &str = "SELECT name, 0 AS is_text FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk";
const KEY_POSTGRES: &str = "SELECT CAST(k.column_name AS TEXT) AS name, \
     CASE WHEN c.data_type = 'text' THEN 1 ELSE 0 END AS is_text \
     FROM information_schema.table_constraints t \
     JOIN information_schema.key_column_usage k ON k.constraint_schema = t.constraint_schema \
       AND k.constraint_name = t.constraint_name AND k.table_name = t.table_name \
     JOIN information_schema.columns c ON c.table_schema = t.table_schema AND c.table_name = t.table_name \
       AND c.column_name = k.column_name \
     WHERE t.constraint_type = 'PRIMARY KEY' AND t.table_schema = current_schema() AND t.table_name = ? \
     ORDER BY k.ordinal_position";

/// The tables of all rooms that have ever migrated here, by name. What other programs keep beside them is not ours.
pub(crate) async fn tables(on: &mut Link<'_>) -> Result<Vec<Table>, StoreError> {
    let (names, columns, key) = match on.engine() {
        Engine::Sqlite => (NAMES_SQLITE, COLUMNS_SQLITE, KEY_SQLITE),
        Engine::Postgres => (NAMES_POSTGRES, COLUMNS_POSTGRES, KEY_POSTGRES),
    };
    let rooms = texts(&rows(on.again(), "SELECT DISTINCT room AS name FROM store_migrations", &[]).await?)?;
    let is_ours = |table: &str| {
        rooms.iter().any(|room| table.strip_prefix(room.as_str()).is_some_and(|rest| rest.starts_with('_')))
    };
    let found: BTreeSet<String> = texts(&rows(on.again(), names, &[]).await?)?.into_iter().collect();
    let mut tables = Vec::new();
    for name in found.into_iter().filter(|name| is_ours(name)) {
        let columns = texts(&rows(on.again(), columns, args![&name]).await?)?;
        let mut order = Vec::new();
        for row in rows(on.again(), key, args![&name]).await? {
            let is_text: i64 = row.get("is_text")?;
            let collation = if is_text == 1 { " COLLATE \"C\"" } else { "" };
            order.push(format!("{}{collation}", row.get::<String>("name")?));
        }
        tables.push(Table { name, columns, order });
    }
    Ok(tables)
}

fn texts(rows: &[Row]) -> Result<Vec<String>, StoreError> {
    rows.iter().map(|row| row.get("name")).collect()
}
