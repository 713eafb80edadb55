//! One dialect for both engines.
//!
//! Rooms write the SQL of SQLite's `STRICT` tables with `?` for arguments. For PostgreSQL four words change and arguments get their
//! numbers; everything else that rooms need (`ON CONFLICT … DO UPDATE`, `RETURNING`, `CASE`, common table expressions) is the same
//! in both. Not understood: `?` operators, dollar quotes, comments.

/// What stands for a word in PostgreSQL. `STRICT` and `WITHOUT ROWID` describe SQLite's files and go.
fn in_postgres(word: &str) -> Option<&'static str> {
    Some(match word {
        // SQLite's integers have 64 bits.
        "INTEGER" => "BIGINT",
        "REAL" => "DOUBLE PRECISION",
        "BLOB" => "BYTEA",
        "STRICT" | "WITHOUT" | "ROWID" => "",
        _ => return None,
    })
}

/// `sql` as PostgreSQL takes it.
pub(crate) fn for_postgres(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 8);
    let mut rest = sql;
    let mut argument = 0;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            // A quoted text or name; a doubled quote inside begins the next one at once.
            '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
            '?' => {
                argument += 1;
                out.push_str(&format!("${argument}"));
                rest = &rest[1..];
                continue;
            }
            _ if first.is_alphabetic() || first == '_' => {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        out.push_str(in_postgres(piece).unwrap_or(piece));
        rest = after;
    }
    // `… STRICT, WITHOUT ROWID` leaves its comma.
    let trimmed = out.trim_end();
    trimmed.trim_end_matches([',', ' ']).to_owned()
}

/// Whether `name` can stand in SQL as it is: lower-case letters, digits and `_`, beginning with a letter.
pub(crate) fn is_plain_name(name: &str) -> bool {
    name.len() <= 60
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_arguments_change_for_postgres() {
        assert_eq!(
            for_postgres("CREATE TABLE a (id TEXT PRIMARY KEY, n INTEGER NOT NULL, x REAL, b BLOB) STRICT"),
            "CREATE TABLE a (id TEXT PRIMARY KEY, n BIGINT NOT NULL, x DOUBLE PRECISION, b BYTEA)"
        );
        assert_eq!(
            for_postgres("CREATE TABLE a (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID"),
            "CREATE TABLE a (id TEXT PRIMARY KEY)"
        );
        assert_eq!(
            for_postgres("SELECT a FROM t WHERE b = ? AND c < ?"),
            "SELECT a FROM t WHERE b = $1 AND c < $2"
        );
    }

    #[test]
    fn what_is_quoted_stays() {
        for sql in
            ["SELECT 'is it REAL?'", "SELECT 'it''s a BLOB?'", "SELECT \"REAL\" FROM t", "SELECT 'REAL"]
        {
            assert_eq!(for_postgres(sql), sql);
        }
        assert_eq!(for_postgres("SELECT REALLY, a_INTEGER FROM t"), "SELECT REALLY, a_INTEGER FROM t");
    }

    #[test]
    fn names_that_need_no_quotes() {
        assert!(is_plain_name("coord_leases2"));
        for name in ["", "Coord", "2a", "a-b", "a b", "a;drop", "_a"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
