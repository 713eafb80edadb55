//! What both engines promise alike.

use std::collections::BTreeSet;

use store::{Chain, Store, StoreError, StoreParams, Token, Value, args};
use testkit::TempDir;

use crate::probe::{NOTES, ROOM, change, count, file, fill, put, secs};

/// Everything below, on one store. `params` name an empty place.
pub(crate) async fn all(params: &StoreParams) {
    let store = Store::open(params, &[ROOM]).await.unwrap();
    values_come_back(&store).await;
    nothing_remains_of_what_failed(&store).await;
    concurrent_increments_are_all_counted(&store).await;
    tokens_rise_and_old_ones_are_fenced(&store).await;
    the_deleted_can_be_had_back(&store).await;
    what_ages_goes_by_tier(&store).await;
    the_audit_log_shows_what_was_tampered_with(&store).await;
    checks_find_what_is_broken(&store).await;
    a_transaction_that_hangs_is_given_up(params, &store).await;
    store.close().await.unwrap();
    // Migrations that have run are not run again, and counts stay.
    let again = Store::open(params, &[ROOM]).await.unwrap();
    assert_eq!(count(&again, "store_migrations").await, 3);
    again.close().await.unwrap();
}

async fn values_come_back(store: &Store) {
    fill(store).await;
    let row = store.row("SELECT * FROM probe_notes WHERE id = ?", args!["B"]).await.unwrap().unwrap();
    assert_eq!(row.get::<String>("body").unwrap(), "capital");
    assert_eq!(row.get::<f64>("weight").unwrap(), 1.5);
    assert_eq!(row.get::<Vec<u8>>("raw").unwrap(), [0, 255, 7]);
    assert_eq!(row.get::<Option<i64>>("deleted_at").unwrap(), None);
    assert!(matches!(row.get::<i64>("body"), Err(StoreError::Column { found: "text", .. })));
    assert!(matches!(row.get::<i64>("bodies"), Err(StoreError::Column { found: "no such column", .. })));
    // Nothing, in a column of any type.
    let sql = "UPDATE probe_notes SET weight = ?, raw = ?, deleted_at = ? WHERE id = 'B'";
    store.execute(sql, &[Value::Null, Value::Null, Value::Null]).await.unwrap();
    let row = store.row("SELECT weight FROM probe_notes WHERE id = 'B'", &[]).await.unwrap().unwrap();
    assert_eq!(row.values(), [Value::Null]);
    let document = serde_json::json!({"a": [1, 2.5, null, "x"]});
    let sql = "UPDATE probe_notes SET body = ? WHERE id = 'B' RETURNING body";
    let value = &Value::json(&document).unwrap();
    let row = store
        .write(|mut tx| async move {
            let answer = tx.row(sql, std::slice::from_ref(value)).await?;
            tx.commit(answer).await
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.json::<serde_json::Value>("body").unwrap(), document);
}

async fn nothing_remains_of_what_failed(store: &Store) {
    let before = count(store, "probe_rows").await;
    // The room's own error.
    let refused = store
        .write(|mut tx| async move {
            tx.execute("INSERT INTO probe_rows (id, body) VALUES (900, 'x')", &[]).await?;
            Err::<store::Committed<()>, _>(StoreError::ReadOnly)
        })
        .await;
    assert!(matches!(refused, Err(StoreError::ReadOnly)));
    // A statement that fails, even when the room goes on as if nothing had happened.
    let refused = store
        .write(|mut tx| async move {
            tx.execute("INSERT INTO probe_rows (id, body) VALUES (901, 'x')", &[]).await?;
            let twice = tx.execute("INSERT INTO probe_rows (id, body) VALUES (901, 'x')", &[]).await;
            assert!(matches!(twice, Err(StoreError::Engine { .. })), "{twice:?}");
            let after = tx.execute("INSERT INTO probe_rows (id, body) VALUES (902, 'x')", &[]).await;
            assert!(matches!(after, Err(StoreError::Failed)), "{after:?}");
            tx.commit(()).await
        })
        .await;
    assert!(matches!(refused, Err(StoreError::Failed)), "{refused:?}");
    // Dropped halfway.
    let mut tx = store.begin().await.unwrap();
    tx.execute("INSERT INTO probe_rows (id, body) VALUES (903, 'x')", &[]).await.unwrap();
    drop(tx);
    put(store, 904, "the next one is not affected").await.unwrap();
    assert_eq!(count(store, "probe_rows").await, before + 1);
}

async fn concurrent_increments_are_all_counted(store: &Store) {
    put(store, 1000, "0").await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..5 {
                // Read, then write what was read: lost updates show unless transactions are serializable.
                let step = store.write(|mut tx| async move {
                    let row = tx.row("SELECT body FROM probe_rows WHERE id = 1000", &[]).await?;
                    let number: i64 = row.unwrap().get::<String>("body")?.parse().unwrap();
                    let next = (number + 1).to_string();
                    tx.execute("UPDATE probe_rows SET body = ? WHERE id = 1000", args![next]).await?;
                    tx.commit(()).await
                });
                step.await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let row = store.row("SELECT body FROM probe_rows WHERE id = 1000", &[]).await.unwrap().unwrap();
    assert_eq!(row.get::<String>("body").unwrap(), "40");
}

async fn tokens_rise_and_old_ones_are_fenced(store: &Store) {
    let mut given = BTreeSet::new();
    for _ in 0..5 {
        let token = store
            .write(|mut tx| async move {
                let answer = tx.next_token("job").await?;
                tx.commit(answer).await
            })
            .await
            .unwrap();
        assert!(given.last().is_none_or(|last| *last < token), "{given:?} {token}");
        given.insert(token);
    }
    let (newest, old) = (*given.last().unwrap(), *given.first().unwrap());
    let guarded = async |token: Token, id: i64| {
        store
            .write(|mut tx| async move {
                tx.fence("job", token).await?;
                tx.execute("INSERT INTO probe_rows (id, body) VALUES (?, 'guarded')", args![id]).await?;
                tx.commit(()).await
            })
            .await
    };
    guarded(newest, 2000).await.unwrap();
    guarded(newest, 2001).await.unwrap();
    assert!(matches!(guarded(old, 2002).await, Err(StoreError::Fenced { seen, .. }) if seen == newest));
    // Whoever ignores the fence does not get past it.
    let ignored = store
        .write(|mut tx| async move {
            let fenced = tx.fence("job", old).await;
            assert!(matches!(fenced, Err(StoreError::Fenced { .. })));
            tx.commit(()).await
        })
        .await;
    assert!(matches!(ignored, Err(StoreError::Failed)));
    // Tokens of another authority are compared among themselves.
    let revision = |number| Token::new(number).unwrap();
    store
        .write(|mut tx| async move {
            tx.fence("etcd/job", revision(17)).await?;
            tx.commit(()).await
        })
        .await
        .unwrap();
    store
        .write(|mut tx| async move {
            tx.fence("etcd/job", revision(18)).await?;
            tx.commit(()).await
        })
        .await
        .unwrap();
    let late = store
        .write(|mut tx| async move {
            tx.fence("etcd/job", revision(17)).await?;
            tx.commit(()).await
        })
        .await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })));
}

async fn the_deleted_can_be_had_back(store: &Store) {
    store.clean(secs(3_000_000_000), 1000).await.unwrap();
    let delete = async |id: &str, at| {
        store
            .write(|mut tx| async move {
                let answer = tx.delete(&NOTES, id, at).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap()
    };
    let undelete = async |id: &str| {
        store
            .write(|mut tx| async move {
                let answer = tx.undelete(&NOTES, id).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap()
    };
    assert!(delete("B", secs(5000)).await && delete("seed", secs(5001)).await);
    assert!(!delete("B", secs(5002)).await && !delete("nobody", secs(5002)).await);
    let deleted = store.deleted(&NOTES, 10).await.unwrap();
    let found: Vec<_> = deleted.iter().map(|row| (row.id.clone(), row.at)).collect();
    // One that `fill` deleted far in the future comes first.
    assert_eq!(found[found.len() - 2..], [(Value::from("seed"), secs(5001)), (Value::from("B"), secs(5000))]);
    assert_eq!(store.clean(secs(5099), 1000).await.unwrap().purged, 0);
    assert!(undelete("seed").await && !undelete("seed").await);
    assert_eq!(store.clean(secs(5101), 1000).await.unwrap().purged, 1);
    assert!(!undelete("B").await);
    assert_eq!(
        store.row("SELECT id FROM probe_notes WHERE id = 'seed'", &[]).await.unwrap().iter().count(),
        1
    );
}

async fn what_ages_goes_by_tier(store: &Store) {
    let sql = "INSERT INTO probe_runs (id, kind, ended_at) VALUES (?, ?, ?)";
    let insert = async |id: i64, kind: &str, ended: Option<u64>| {
        let values = args![id, kind, ended.map(secs)];
        store.execute(sql, values).await.unwrap();
    };
    for id in 0..1300 {
        insert(id, "brief", Some(100)).await;
    }
    insert(5000, "kept", Some(100)).await;
    insert(5001, "kept", None).await;
    insert(5002, "brief", Some(111)).await;
    // A run is bounded, and says when there is more.
    let first = store.clean(secs(120), 1000).await.unwrap();
    assert_eq!((first.aged, first.more), (1000, true));
    let second = store.clean(secs(120), 1000).await.unwrap();
    assert_eq!((second.aged, second.more), (300, false));
    assert_eq!(count(store, "probe_runs").await, 3);
    assert_eq!(store.clean(secs(2000), 1000).await.unwrap().aged, 2);
    // What has not ended does not age.
    assert_eq!(count(store, "probe_runs").await, 1);
}

async fn the_audit_log_shows_what_was_tampered_with(store: &Store) {
    let before = match store.verify_audit().await.unwrap() {
        Chain::Sound { entries, .. } => entries,
        broken => panic!("{broken:?}"),
    };
    for what in ["a", "b", "c"] {
        let seq = store
            .write(|mut tx| async move {
                let answer = tx.record(&change(what)).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap();
        assert!(seq > before);
    }
    let listed = store.changes(None, 2).await.unwrap();
    let whats: Vec<_> = listed.iter().map(|entry| entry.change.what.as_str()).collect();
    assert_eq!(whats, ["c", "b"]);
    assert_eq!(store.changes(Some(listed[1].seq), 1).await.unwrap()[0].change.what, "a");
    let (first, last) = (i64::try_from(before).unwrap() + 1, i64::try_from(before).unwrap() + 3);
    let tampering = [
        (format!("UPDATE store_audit SET who = 'nobody' WHERE seq = {first}"), first),
        (format!("UPDATE store_audit SET at = at + 1 WHERE seq = {first}"), first),
        (format!("DELETE FROM store_audit WHERE seq = {first}"), first),
        (format!("DELETE FROM store_audit WHERE seq = {last}"), last),
        (format!("UPDATE store_audit SET seq = {last} + 1 WHERE seq = {last}"), last),
    ];
    for (statement, place) in tampering {
        let saved =
            store.rows("SELECT * FROM store_audit WHERE seq >= ? ORDER BY seq", args![first]).await.unwrap();
        store.execute(&statement, &[]).await.unwrap();
        let found = store.verify_audit().await.unwrap();
        let Chain::Broken { seq, .. } = found else { panic!("{statement}: {found:?}") };
        assert_eq!(i64::try_from(seq).unwrap(), place, "{statement}");
        let saved = &saved;
        let restored = store.write(|mut tx| async move {
            tx.execute("DELETE FROM store_audit WHERE seq >= ?", args![first]).await?;
            for row in saved {
                let sql =
                    "INSERT INTO store_audit (seq, at, who, what, undo, hash) VALUES (?, ?, ?, ?, ?, ?)";
                tx.execute(sql, row.values()).await?;
            }
            tx.commit(()).await
        });
        restored.await.unwrap();
    }
    assert!(
        matches!(store.verify_audit().await.unwrap(), Chain::Sound { entries, .. } if entries == before + 3)
    );
}

async fn checks_find_what_is_broken(store: &Store) {
    let broken = async || {
        let findings = store.validate(secs(9)).await.unwrap();
        assert!(findings.len() >= 4, "{findings:?}");
        findings.into_iter().filter(|finding| finding.breaches > 0).collect::<Vec<_>>()
    };
    store.execute("DELETE FROM probe_notes WHERE body = ''", &[]).await.unwrap();
    assert_eq!(broken().await, []);
    store.execute("UPDATE probe_notes SET body = ''", &[]).await.unwrap();
    let found = broken().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].room.as_str(), found[0].check.as_str()), ("probe", "bodies"));
    assert!(found[0].broken.contains(&"seed".to_owned()));
    store.execute("UPDATE probe_notes SET body = 'x'", &[]).await.unwrap();
}

async fn a_transaction_that_hangs_is_given_up(params: &StoreParams, store: &Store) {
    let before = count(store, "probe_rows").await;
    let brief = StoreParams { transaction_max: model::Span::from_millis(50), ..params.clone() };
    let other = match store.engine() {
        // The file has one owner; the bound is the store's own.
        store::Engine::Sqlite => {
            let dir = TempDir::new("hang");
            let own = StoreParams { url: file(&dir).url, ..brief };
            let other = Store::open(&own, &[ROOM]).await.unwrap();
            hang(&other).await;
            assert_eq!(count(&other, "probe_rows").await, 0);
            put(&other, 1, "free again").await.unwrap();
            return other.close().await.unwrap();
        }
        store::Engine::Postgres => Store::open(&brief, &[ROOM]).await.unwrap(),
    };
    hang(&other).await;
    other.close().await.unwrap();
    assert_eq!(count(store, "probe_rows").await, before);
    put(store, 9100, "free again").await.unwrap();
}

async fn hang(store: &Store) {
    let hung = store
        .write(|mut tx| async move {
            tx.execute("INSERT INTO probe_rows (id, body) VALUES (9000, 'x')", &[]).await?;
            std::future::pending::<()>().await;
            tx.commit(()).await
        })
        .await;
    assert!(matches!(hung, Err(StoreError::TimedOut { .. })), "{hung:?}");
}

#[tokio::test]
async fn sqlite_keeps_every_promise() {
    let dir = TempDir::new("suite");
    all(&file(&dir)).await;
}

/// The groups that were committed so far.
async fn groups(store: &Store) -> i64 {
    let row = store.row("SELECT value FROM store_meta WHERE key = 'commits'", &[]).await.unwrap().unwrap();
    row.get("value").unwrap()
}

#[tokio::test]
async fn writes_that_come_together_share_a_sync() {
    let dir = TempDir::new("groups");
    let store = Store::open(&file(&dir), &[ROOM]).await.unwrap();
    let before = groups(&store).await;
    let mut writers = tokio::task::JoinSet::new();
    for id in 0..64 {
        let store = store.clone();
        writers.spawn(async move { put(&store, id, "x").await });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap().unwrap();
    }
    let groups = groups(&store).await - before;
    assert!(groups <= 8, "64 writers at once took {groups} commits");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_turn_given_up_at_any_moment_harms_nobody() {
    let dir = TempDir::new("given-up");
    let store = Store::open(&file(&dir), &[ROOM]).await.unwrap();
    let mut acknowledged = Vec::new();
    for patience in 0..120 {
        let (brief, steady) = (patience * 2, patience * 2 + 1);
        let impatient = async {
            tokio::select! {
                biased;
                written = put(&store, brief, "brief") => written.is_ok(),
                () = async { for _ in 0..patience { tokio::task::yield_now().await } } => false,
            }
        };
        let (kept, written) = tokio::join!(impatient, put(&store, steady, "steady"));
        acknowledged.extend(kept.then_some(brief));
        match written {
            Ok(()) => acknowledged.push(steady),
            // In one group with a turn of which nobody can tell how far it got.
            Err(StoreError::NotCommitted { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let rows = store.rows("SELECT id FROM probe_rows", &[]).await.unwrap();
    let there: BTreeSet<i64> = rows.iter().map(|row| row.get("id").unwrap()).collect();
    assert!(acknowledged.iter().all(|id| there.contains(id)));
    assert!(acknowledged.len() >= 120, "{}", acknowledged.len());
    put(&store, 10_000, "and it goes on").await.unwrap();
    store.close().await.unwrap();
}
