//! SIGKILL at a thousand random moments.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use store::{Room, Store, args};
use testkit::TempDir;

use crate::probe::{self, file};

/// What the killed process knows.
const ROOM: Room = Room::new("probe", probe::ROOM.migrations.split_at(1).0);

/// Processes killed, by four threads with a file each.
const KILLS: usize = 1000;
const FILES: usize = 4;

/// Lets a writer acknowledge a random number of rows, kills it a random moment later, and looks.
fn kills(seed: u64, kills: usize) -> (usize, usize) {
    let dir = TempDir::new("kill");
    let params = file(&dir);
    let mut rng = fastrand::Rng::with_seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut next, mut acknowledged) = (0, Vec::new());
    for round in 0..kills {
        let mut child = Command::new(env!("CARGO_BIN_EXE_store-writer"))
            .args([&params.url, &next.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Some are killed before they are open.
        let wanted = rng.usize(0..12);
        let mut said: Vec<String> = lines.by_ref().take(wanted).collect();
        testkit::wait::pace(Duration::from_micros(rng.u64(0..2000)));
        child.kill().unwrap();
        // What it said before it died counts too.
        said.extend(lines);
        child.wait().unwrap();
        for line in &said {
            match line.split_once(' ') {
                Some(("row", id)) => acknowledged.push(id.parse::<i64>().unwrap()),
                None if line == "open" => {}
                _ => panic!("round {round}: {line}"),
            }
        }
        // No number twice, whatever was under way.
        next += 1000;
        // Every tenth time by opening it as its owner, which repairs what the kill left; else the next writer does that.
        if round % 10 == 9 || round + 1 == kills {
            runtime.block_on(async {
                let store = Store::open(&params, &[ROOM])
                    .await
                    .unwrap_or_else(|problem| panic!("round {round}: {problem}"));
                let first = acknowledged.iter().min().copied().unwrap_or(0);
                let rows = store.rows("SELECT id FROM probe_rows WHERE id >= ?", args![first]).await.unwrap();
                let there: std::collections::BTreeSet<i64> =
                    rows.iter().map(|row| row.get("id").unwrap()).collect();
                let lost: Vec<_> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
                assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
                store.close().await.unwrap();
            });
        }
    }
    (kills, acknowledged.len())
}

#[test]
fn a_thousand_kills_lose_nothing_that_was_acknowledged() {
    let threads: Vec<_> =
        (0..FILES).map(|seed| thread::spawn(move || kills(seed as u64, KILLS / FILES))).collect();
    let (mut done, mut acknowledged) = (0, 0);
    for thread in threads {
        let (kills, rows) = thread.join().unwrap();
        done += kills;
        acknowledged += rows;
    }
    assert_eq!(done, KILLS);
    // Else nothing was at stake.
    assert!(acknowledged > KILLS, "{acknowledged}");
}
