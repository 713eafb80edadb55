//! Running a statement on either engine.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgConnection, PgRow, PgTypeInfo, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Column, Encode, Row as _, Type, TypeInfo, ValueRef};

use crate::dialect::for_postgres;
use crate::error::StoreError;
use crate::value::{Row, Value};

/// A connection of either engine.
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// Nothing, of a type that the server finds out by itself.
struct Nothing;

impl Type<Postgres> for Nothing {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Nothing {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

type SqliteQuery<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;
type PostgresQuery<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

// Statements are the rooms' own texts and plain names from them; what comes from outside goes in as an argument.
fn sqlite_query<'q>(sql: &str, args: &[Value]) -> SqliteQuery<'q> {
    args.iter().cloned().fold(sqlx::query(AssertSqlSafe(sql.to_owned())), |query, value| match value {
        Value::Null => query.bind(None::<i64>),
        Value::Integer(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Blob(value) => query.bind(value),
    })
}

fn postgres_query<'q>(sql: &str, args: &[Value]) -> PostgresQuery<'q> {
    args.iter().cloned().fold(sqlx::query(AssertSqlSafe(for_postgres(sql))), |query, value| match value {
        Value::Null => query.bind(Nothing),
        Value::Integer(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Blob(value) => query.bind(value),
    })
}

/// Runs a statement; answers how many rows it changed.
pub(crate) async fn execute(on: Connection<'_>, sql: &str, args: &[Value]) -> Result<u64, StoreError> {
    Ok(match on {
        Connection::Sqlite(on) => sqlite_query(sql, args).execute(on).await?.rows_affected(),
        Connection::Postgres(on) => postgres_query(sql, args).execute(on).await?.rows_affected(),
    })
}

/// Runs a query; answers all its rows.
pub(crate) async fn rows(on: Connection<'_>, sql: &str, args: &[Value]) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    each(on, sql, args, |row| {
        found.push(row);
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Runs a query and hands over its rows one by one, so that they need not all be in memory.
pub(crate) async fn each(
    on: Connection<'_>,
    sql: &str,
    args: &[Value],
    mut take: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut names: Option<Arc<[String]>> = None;
    match on {
        Connection::Sqlite(on) => {
            let mut answers = sqlite_query(sql, args).fetch(on);
            while let Some(row) = poll_fn(|context| Pin::as_mut(&mut answers).poll_next(context)).await {
                let row = row?;
                let names = names.get_or_insert_with(|| names_of(&row));
                take(Row::new(Arc::clone(names), sqlite_values(&row)?))?;
            }
        }
        Connection::Postgres(on) => {
            let mut answers = postgres_query(sql, args).fetch(on);
            while let Some(row) = poll_fn(|context| Pin::as_mut(&mut answers).poll_next(context)).await {
                let row = row?;
                let names = names.get_or_insert_with(|| names_of(&row));
                take(Row::new(Arc::clone(names), postgres_values(&row)?))?;
            }
        }
    }
    Ok(())
}

fn names_of<R: sqlx::Row>(row: &R) -> Arc<[String]> {
    row.columns().iter().map(|column| column.name().to_owned()).collect()
}

fn sqlite_values(row: &SqliteRow) -> Result<Vec<Value>, StoreError> {
    (0..row.len())
        .map(|at| {
            let value = row.try_get_raw(at)?;
            if value.is_null() {
                return Ok(Value::Null);
            }
            let kind = value.type_info().into_owned();
            Ok(match kind.name() {
                "INTEGER" => Value::Integer(row.try_get_unchecked(at)?),
                "REAL" => Value::Real(row.try_get_unchecked(at)?),
                "TEXT" => Value::Text(row.try_get_unchecked(at)?),
                "BLOB" => Value::Blob(row.try_get_unchecked(at)?),
                other => return Err(unknown(row.column(at).name(), other)),
            })
        })
        .collect()
}

fn postgres_values(row: &PgRow) -> Result<Vec<Value>, StoreError> {
    (0..row.len())
        .map(|at| {
            let value = row.try_get_raw(at)?;
            if value.is_null() {
                return Ok(Value::Null);
            }
            let kind = value.type_info().into_owned();
            Ok(match kind.name() {
                "INT8" => Value::Integer(row.try_get(at)?),
                "INT4" => Value::Integer(row.try_get::<i32, _>(at)?.into()),
                "BOOL" => Value::Integer(row.try_get::<bool, _>(at)?.into()),
                "FLOAT8" => Value::Real(row.try_get(at)?),
                "TEXT" | "VARCHAR" | "NAME" => Value::Text(row.try_get(at)?),
                "BYTEA" => Value::Blob(row.try_get(at)?),
                other => return Err(unknown(row.column(at).name(), other)),
            })
        })
        .collect()
}

fn unknown(name: &str, kind: &str) -> StoreError {
    StoreError::Type { name: name.to_owned(), kind: kind.to_owned() }
}
