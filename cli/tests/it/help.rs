//! The help of every verb, as a person sees it. `INSTA_UPDATE=always` writes the snapshots anew.

use std::process::Command;

fn help(verb: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_deltaworks"))
        .args(verb)
        .arg("--help")
        // it is shown in the help if it is set
        .env_remove("DELTAWORKS_PROJECT")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_every_verb() {
    let verbs: [&[&str]; 38] = [
        &[],
        &["init"],
        &["check"],
        &["demo"],
        &["produce"],
        &["topics"],
        &["topics", "create"],
        &["stream"],
        &["batch"],
        &["speed"],
        &["speed", "catch-up"],
        &["speed", "rebuild"],
        &["reconcile"],
        &["run"],
        &["backfill"],
        &["backfill", "create"],
        &["backfill", "status"],
        &["backfill", "resume"],
        &["backfill", "cancel"],
        &["backfill", "list"],
        &["prove"],
        &["tables"],
        &["tables", "compact"],
        &["tables", "vacuum"],
        &["tables", "checkpoint"],
        &["tables", "describe"],
        &["tables", "history"],
        &["drift"],
        &["drift", "show"],
        &["drift", "explain"],
        &["rejects"],
        &["rejects", "list"],
        &["rejects", "show"],
        &["offsets"],
        &["offsets", "show"],
        &["query"],
        &["status"],
        &["reset"],
    ];
    let mut all = String::new();
    for verb in verbs {
        all.push_str(&format!("$ deltaworks {} --help\n{}\n", verb.join(" "), help(verb)));
    }
    insta::assert_snapshot!(all.replace("deltaworks  --help", "deltaworks --help"));
}

/// A new verb has to be added above.
#[test]
fn no_verb_is_without_a_snapshot() {
    let top = help(&[]);
    let listed = top.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let names: Vec<_> = listed.filter_map(|l| l.split_whitespace().next()).collect();
    let shown = [
        "init",
        "check",
        "demo",
        "produce",
        "topics",
        "stream",
        "batch",
        "speed",
        "reconcile",
        "run",
        "drift",
        "backfill",
        "prove",
        "tables",
        "rejects",
        "offsets",
        "query",
        "status",
        "reset",
        "help",
    ];
    assert_eq!(names, shown);
}
