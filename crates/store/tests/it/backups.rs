//! Back-ups and restores. Every back-up that is made here is restored and compared.

use std::fs;
use std::path::Path;

use model::{ByteSize, Span};
use store::{
    BackupParams, Chain, Manifest, RestoreError, Store, StoreError, StoreParams, backup, examine, restore,
};
use testkit::TempDir;

use crate::probe::{ROOM, at, change, count, file, fill, put, secs};

const FAST: u64 = 1 << 40;

/// A filled store, a back-up of it, and the store closed again.
async fn backed_up(dir: &TempDir) -> (StoreParams, Manifest) {
    let params = file(dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    fill(&store).await;
    let manifest = backup(&params, &dir.path().join("first"), FAST).await.unwrap();
    store.close().await.unwrap();
    (params, manifest)
}

/// The content of all tables, apart from what a restore changes on purpose.
pub(crate) async fn content(store: &Store) -> String {
    let mut found = String::new();
    for table in ["probe_rows", "probe_notes", "probe_runs", "store_fences", "store_tokens"] {
        let rows = store.rows(&format!("SELECT * FROM {table} ORDER BY 1"), &[]).await.unwrap();
        let mut lines: Vec<String> = rows.iter().map(|row| format!("{:?}\n", row.values())).collect();
        lines.sort();
        found.push_str(&format!("{table}\n{}", lines.concat()));
    }
    found
}

#[tokio::test]
async fn what_was_backed_up_comes_back() {
    let dir = TempDir::new("backup");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    fill(&store).await;
    store
        .write(|mut tx| async move {
            let answer = tx.next_token("job").await?;
            tx.commit(answer).await
        })
        .await
        .unwrap();
    let expected = content(&store).await;
    let manifest = backup(&params, &dir.path().join("first"), FAST).await.unwrap();
    // What is written later is not in it.
    put(&store, 500, "later").await.unwrap();
    assert_eq!(manifest.tables.iter().find(|table| table.name == "probe_rows").unwrap().rows, 40);
    assert_eq!(examine(&dir.path().join("first")).unwrap(), manifest);
    let target = at(&dir.path().join("new/place/restored.db"));
    let restored = restore(&dir.path().join("first"), &target).await.unwrap();
    assert_eq!(restored.manifest, manifest);
    let again = Store::open(&target, &[ROOM]).await.unwrap();
    assert_eq!(content(&again).await, expected);
    assert_eq!(again.incarnation(), restored.incarnation);
    // The log goes on where it was, with the restore in it.
    assert!(matches!(again.verify_audit().await.unwrap(), Chain::Sound { entries: 4, .. }));
    assert_eq!(again.changes(None, 1).await.unwrap()[0].change.who, "restore");
    again.close().await.unwrap();
    store.close().await.unwrap();
    // The system's own tool can check it.
    let mut sums = std::process::Command::new("sha256sum");
    sums.args(["--check", "--quiet", "SHA256SUMS"]).current_dir(dir.path().join("first"));
    let checked = sums.output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[tokio::test]
async fn equal_records_give_equal_bytes() {
    let dir = TempDir::new("equal");
    let (params, first) = backed_up(&dir).await;
    let second = backup(&params, &dir.path().join("second"), FAST).await.unwrap();
    let hashes = |manifest: &Manifest| -> Vec<String> {
        let kept = manifest.tables.iter().filter(|table| table.name != "store_meta");
        kept.map(|table| format!("{} {}", table.name, table.sha256)).collect()
    };
    assert_eq!(hashes(&first), hashes(&second));
}

#[tokio::test]
async fn trap_38_a_restored_store_fences_the_old_writer() {
    let dir = TempDir::new("incarnation");
    let params = file(&dir);
    let old = Store::open(&params, &[ROOM]).await.unwrap();
    let before = old
        .write(|mut tx| async move {
            let answer = tx.next_token("job").await?;
            tx.commit(answer).await
        })
        .await
        .unwrap();
    backup(&params, &dir.path().join("first"), FAST).await.unwrap();
    let target = at(&dir.path().join("restored.db"));
    let restored = restore(&dir.path().join("first"), &target).await.unwrap();
    assert!(restored.incarnation > old.incarnation());
    // The old one still runs, and still gives out tokens.
    let mut since = Vec::new();
    for resource in ["job", "unheard-of"] {
        since.push((
            resource,
            old.write(|mut tx| async move {
                let answer = tx.next_token(resource).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap(),
        ));
    }
    let new = Store::open(&target, &[ROOM]).await.unwrap();
    for (resource, token) in since.into_iter().chain([("job", before)]) {
        let late = new
            .write(|mut tx| async move {
                tx.fence(resource, token).await?;
                tx.commit(()).await
            })
            .await;
        assert!(matches!(late, Err(StoreError::Fenced { .. })), "{resource} {token}: {late:?}");
        let next = new
            .write(|mut tx| async move {
                let answer = tx.next_token(resource).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap();
        assert!(next > token, "{next} {token}");
        new.write(|mut tx| async move {
            tx.fence(resource, next).await?;
            tx.commit(()).await
        })
        .await
        .unwrap();
    }
    new.close().await.unwrap();
    old.close().await.unwrap();
}

#[tokio::test]
async fn a_restore_replaces_nothing() {
    let dir = TempDir::new("replaces");
    let (params, _) = backed_up(&dir).await;
    let before = fs::read(&params.url).unwrap();
    let refused = restore(&dir.path().join("first"), &params).await;
    assert!(matches!(refused, Err(RestoreError::Exists { .. })), "{refused:?}");
    assert_eq!(fs::read(&params.url).unwrap(), before);
    // A log without its file belongs to somebody, too.
    fs::write(dir.path().join("other.db-wal"), "x").unwrap();
    let refused = restore(&dir.path().join("first"), &at(&dir.path().join("other.db"))).await;
    assert!(matches!(refused, Err(RestoreError::Exists { .. })), "{refused:?}");
    assert!(backup(&params, &dir.path().join("first"), FAST).await.is_err());
}

#[tokio::test]
async fn every_flipped_bit_in_a_back_up_is_found() {
    let dir = TempDir::new("bits");
    backed_up(&dir).await;
    let backup = dir.path().join("first");
    let mut files: Vec<_> =
        fs::read_dir(backup.join("records")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.extend([backup.join("manifest.json"), backup.join("SHA256SUMS")]);
    let mut rng = fastrand::Rng::with_seed(7);
    for file in &files {
        let sound = fs::read(file).unwrap();
        for _ in 0..20 {
            if sound.is_empty() {
                break;
            }
            let mut bytes = sound.clone();
            let place = rng.usize(..bytes.len());
            bytes[place] ^= 1 << rng.u8(..8);
            fs::write(file, &bytes).unwrap();
            let found = examine(&backup);
            // The sums of tables are there for `sha256sum`; the manifest has them again.
            let is_spare = file.ends_with("SHA256SUMS");
            assert!(found.is_err() || is_spare, "{}: byte {place} went unnoticed", file.display());
        }
        fs::write(file, &sound[..sound.len() / 2]).unwrap();
        assert!(examine(&backup).is_err() || sound.len() < 2, "{}: cut and unnoticed", file.display());
        fs::remove_file(file).unwrap();
        assert!(examine(&backup).is_err(), "{}: missing and unnoticed", file.display());
        fs::write(file, &sound).unwrap();
    }
    examine(&backup).unwrap();
    // Nothing is left where a restore was refused.
    fs::write(files[0].clone(), "x").unwrap();
    let target = at(&dir.path().join("refused.db"));
    let refused = restore(&backup, &target).await;
    assert!(matches!(refused, Err(RestoreError::Damaged { .. })), "{refused:?}");
    let left = fs::read_dir(dir.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("refused")), "{left:?}");
}

#[tokio::test]
async fn a_back_up_without_a_manifest_is_none() {
    let dir = TempDir::new("none");
    let refused = restore(dir.path(), &at(&dir.path().join("a.db"))).await;
    assert!(matches!(refused, Err(RestoreError::NotABackup { .. })), "{refused:?}");
    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    fs::write(dir.path().join("SHA256SUMS"), "").unwrap();
    let refused = restore(dir.path(), &at(&dir.path().join("a.db"))).await;
    assert!(matches!(refused, Err(RestoreError::Manifest { .. })), "{refused:?}");
}

fn schedule(directory: &Path) -> BackupParams {
    BackupParams {
        directory: directory.to_path_buf(),
        keep: 2,
        rate_max: ByteSize::mib(1 << 20),
        every: Span::from_secs(1),
        ..BackupParams::default()
    }
}

#[tokio::test]
async fn a_drill_restores_and_says_so() {
    let dir = TempDir::new("drill");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    put(&store, 1, "x").await.unwrap();
    let backups = dir.path().join("backups");
    fs::create_dir(&backups).unwrap();
    fs::create_dir(backups.join("somebody-elses")).unwrap();
    assert_eq!(store.last_restore().await.unwrap(), None);
    for at in 1..=3 {
        let drill = store.drill(&schedule(&backups), secs(at)).await.unwrap();
        assert_eq!(drill.problem, None);
        assert!(drill.records > 0 && drill.backup.join("manifest.json").is_file());
        assert_eq!(store.last_restore().await.unwrap(), Some(drill));
    }
    // The newest two are kept, nothing of the restores is, and nothing else is touched.
    assert_eq!(fs::read_dir(&backups).unwrap().count(), 3);
    // Records that break a rule are restored faithfully, and the drill says so.
    let sql = "UPDATE probe_notes SET body = ''";
    store.execute(sql, &[]).await.unwrap();
    let drill = store.drill(&schedule(&backups), secs(4)).await.unwrap();
    assert!(
        drill.problem.as_deref().is_some_and(|problem| problem.contains("every note says something")),
        "{drill:?}"
    );
    // A place that cannot be written fails the drill, and is noted.
    let drill = store.drill(&schedule(Path::new("/proc/nowhere")), secs(5)).await.unwrap();
    assert!(drill.problem.is_some());
    assert_eq!(store.last_restore().await.unwrap().map(|drill| drill.at), Some(secs(3)));
    assert_eq!(store.drills(10).await.unwrap().len(), 5);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_back_up_is_of_one_moment_while_others_write() {
    let dir = TempDir::new("moment");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for id in 0..400_i64 {
                // Both or neither.
                let both = store.write(|mut tx| async move {
                    let sql = "INSERT INTO probe_rows (id, body) VALUES (?, 'x')";
                    tx.execute(sql, store::args![id]).await?;
                    let seq = tx.record(&change("x")).await?;
                    tx.commit(seq).await
                });
                both.await.unwrap();
            }
        })
    };
    let mut made = 0;
    while !writer.is_finished() || made == 0 {
        let into = dir.path().join(format!("backup-{made}"));
        let manifest = backup(&params, &into, FAST).await.unwrap();
        let rows = |name: &str| manifest.tables.iter().find(|table| table.name == name).unwrap().rows;
        assert_eq!(rows("probe_rows"), rows("store_audit"));
        restore(&into, &at(&dir.path().join(format!("{made}.db")))).await.unwrap();
        made += 1;
    }
    writer.await.unwrap();
    assert_eq!(count(&store, "probe_rows").await, 400);
    store.close().await.unwrap();
}
