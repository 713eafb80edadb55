//! Records behind the whole binary.

use testkit::{Seawall, TempDir};

use crate::{run, text};

fn config(dir: &TempDir, more: &str) -> String {
    format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nadmin: {{address: 127.0.0.1:0}}\n\
         services: {{api: {{endpoints: [127.0.0.1:9]}}}}\n\
         store: {{url: \"{}\", check_every: 100ms{more}}}\n",
        dir.path().join("records.db").display()
    )
}

#[test]
fn changes_are_recorded_backed_up_restored_and_checked() {
    let dir = TempDir::new("store");
    let backups = format!(
        ", backups: {{directory: \"{}\", every: 1h, stale_after: 2h}}",
        dir.path().join("b").display()
    );
    std::fs::create_dir(dir.path().join("b")).unwrap();
    let config = config(&dir, &backups);
    let seawall = Seawall::start(env!("CARGO_BIN_EXE_seawall"), &config);
    // The first drill is due at once.
    seawall.wait_for_metric("seawall_store_drills_succeeded_total", &[], |count| count == 1.0);
    assert_eq!(seawall.metric("seawall_store_restore_stale", &[]), Some(0.0));
    seawall.reload(&config.replace("127.0.0.1:9]", "127.0.0.1:9, 127.0.0.1:10]"));
    let file = seawall.config_path().display().to_string();
    // All of this while the process owns the file.
    let said = run(&["store", "audit", "--config", &file]);
    let said = text(&said.stdout);
    assert!(
        said.contains("seawall up: started with") && said.contains("changed file: configuration 2"),
        "{said}"
    );
    let into = dir.path().join("by-hand").display().to_string();
    let made = run(&["backup", &into, "--config", &file]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let url = dir.path().join("records.db").display().to_string();
    let second = run(&["store", "drill", "--store", &url, "--directory", &into]);
    assert_eq!(second.status.code(), Some(2));
    let expected = format!("in use by process {}", seawall.process().id());
    assert!(text(&second.stderr).contains(&expected), "{}", text(&second.stderr));
    let checked = run(&["store", "check", "--config", &file]);
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    drop(seawall);

    let restored = dir.path().join("restored.db").display().to_string();
    assert!(run(&["restore", &into, "--check"]).status.success());
    let done = run(&["restore", &into, "--to", &restored]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let again = run(&["restore", &into, "--to", &restored]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("a restore replaces nothing"), "{}", text(&again.stderr));
    let said = text(&run(&["store", "audit", "--store", &restored]).stdout);
    assert!(
        said.contains("restore: restored the back-up of") && said.contains("each as it was written"),
        "{said}"
    );
    // A back-up with a broken manifest.
    let manifest = dir.path().join("by-hand/manifest.json");
    std::fs::write(
        &manifest,
        std::fs::read_to_string(&manifest).unwrap().replace("\"rows\": ", "\"rows\": 1"),
    )
    .unwrap();
    let refused = run(&["restore", &into, "--check"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("its hash is not the one in SHA256SUMS"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn a_store_that_cannot_be_had_keeps_the_gateway_from_starting() {
    let dir = TempDir::new("store");
    std::fs::write(
        dir.path().join("records.db"),
        "no database, but a text that is long enough\n".repeat(100),
    )
    .unwrap();
    let refused = Seawall::try_start(env!("CARGO_BIN_EXE_seawall"), &[], &config(&dir, "")).unwrap_err();
    assert_eq!(refused.status.and_then(|status| status.code()), Some(2));
    assert!(
        refused.lines.iter().any(|line| line.contains("is damaged: file is not a database")),
        "{:?}",
        refused.lines
    );
    let wrong = config(&dir, "").replace(&dir.path().join("records.db").display().to_string(), "mysql://h/d");
    let refused = Seawall::try_start(env!("CARGO_BIN_EXE_seawall"), &[], &wrong).unwrap_err();
    assert!(
        refused.lines.iter().any(|line| line.contains("is no address of a store")),
        "{:?}",
        refused.lines
    );
}
