//! Damage: detected, and nothing that was acknowledged is lost without a word.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use store::{Chain, OpenError, Store, StoreParams};
use testkit::TempDir;

use crate::probe::{ROOM, at, change, count, file, put};

#[tokio::test]
async fn a_flipped_bit_in_logged_changes_never_goes_unnoticed() {
    let dir = TempDir::new("flip");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    for number in 0..60 {
        let text =
            &format!("change number {number} with a text of some length, so that there are several pages");
        store
            .write(|mut tx| async move {
                let answer = tx.record(&change(text)).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap();
    }
    let expected = store.changes(None, 1000).await.unwrap();
    store.close().await.unwrap();
    let sound = fs::read(&params.url).unwrap();
    let mut rng = fastrand::Rng::with_seed(38);
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    for round in 0..150 {
        let mut bytes = sound.clone();
        let at_byte = rng.usize(..bytes.len());
        bytes[at_byte] ^= 1 << rng.u8(..8);
        let path = dir.path().join(format!("{round}.db"));
        fs::write(&path, &bytes).unwrap();
        match Store::open(&at(&path), &[ROOM]).await {
            Err(_) => refused += 1,
            Ok(store) => {
                let audit = store.verify_audit().await;
                let rest = store.validate(crate::probe::secs(1)).await;
                let noticed = !matches!(audit, Ok(Chain::Sound { .. }))
                    || rest.map_or(true, |findings| findings.iter().any(|finding| finding.breaches > 0));
                if noticed {
                    found += 1;
                } else {
                    // Free space, or a page of another table: the log must be what it was.
                    let listed = store.changes(None, 1000).await.unwrap();
                    assert_eq!(listed, expected, "round {round}: bit at byte {at_byte} went unnoticed");
                    harmless += 1;
                }
                drop(store);
            }
        }
        for suffix in ["", "-wal", "-shm", ".owner"] {
            let _ = fs::remove_file(dir.path().join(format!("{round}.db{suffix}")));
        }
    }
    assert!(
        refused > 0 && found > 0 && harmless > 0,
        "{refused} refused, {found} found, {harmless} harmless"
    );
}

#[tokio::test]
async fn a_cut_log_is_noticed_wherever_it_was_cut() {
    let dir = TempDir::new("cut");
    let params = file(&dir);
    // Ends without closing, so that everything is still in the log.
    let mut child = Command::new(env!("CARGO_BIN_EXE_store-writer"))
        .args([&params.url, "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = lines.map_while(Result::ok).filter(|line| line.starts_with("row ")).take(20).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged, 20);
    let log = format!("{}-wal", params.url);
    let whole = fs::read(&log).unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    let cuts: Vec<usize> = (0..25).map(|_| rng.usize(..whole.len() * 9 / 10)).chain([0]).collect();
    let beside = |path: &str, suffix: &str| fs::read(format!("{path}{suffix}")).unwrap();
    let (database, owner) = (beside(&params.url, ""), beside(&params.url, ".owner"));
    let lay_out = |cut: usize| {
        let path = dir.path().join(format!("{cut}.db")).display().to_string();
        fs::write(&path, &database).unwrap();
        fs::write(format!("{path}-wal"), &whole[..cut]).unwrap();
        fs::write(format!("{path}.owner"), &owner).unwrap();
        StoreParams::at(path)
    };
    for cut in cuts {
        match Store::open(&lay_out(cut), &[ROOM]).await {
            Err(OpenError::Lost { .. } | OpenError::Damaged { .. }) => {}
            Err(other) => panic!("cut at {cut}: {other}"),
            Ok(store) => {
                // Only what came after the last acknowledged group may have been cut away.
                assert!(
                    count(&store, "probe_rows").await >= 20,
                    "cut at {cut} of {} went unnoticed",
                    whole.len()
                );
            }
        }
    }
    // With its log whole, everything is there.
    let store = Store::open(&lay_out(whole.len()), &[ROOM]).await.unwrap();
    assert!(count(&store, "probe_rows").await >= 20);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_it_has() {
    let dir = TempDir::new("full");
    let params = file(&dir);
    // A limit of the shell stands for the disk: blocks of 512 bytes, 2 MiB in all. The signal that comes with it is ignored.
    let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_store-writer"), &params.url, "0", "fill"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let acknowledged = said.lines().filter(|line| line.starts_with("row ")).count();
    assert!(said.contains("full "), "{said}");
    assert!(acknowledged > 3, "{said}");
    // With room again, all that was acknowledged is there, and it goes on.
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    assert_eq!(count(&store, "probe_rows").await, i64::try_from(acknowledged).unwrap());
    put(&store, 1_000_000, "goes on").await.unwrap();
    store.close().await.unwrap();
}
