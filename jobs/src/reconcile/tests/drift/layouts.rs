//! The same case in other files, by other commits and with less memory: the same drift.

use super::super::kit::{Kit, Row, Sql};
use super::super::steps::{TOTALS, late, row};
use super::{DAY_US, HOUR_US, Ways, drift, unexplained, without_pins};

/// Events of two days in two keys: some late, some copies, some repeats.
fn rows() -> Vec<Row> {
    let rows = (0..60).map(|n| {
        let some = row(n, n * 7 % 48 * HOUR_US + n * 60_000_000, n % 11);
        let id = if n % 13 == 12 { format!("id-{}", n - 5) } else { some.id.clone() };
        let some = if n % 9 == 8 { late(some) } else { some };
        Row {
            id,
            key: Some(format!("key {}", n % 2)),
            repeat: n % 13 == 12 && n % 2 == 0,
            partition: (n % 2) as i32,
            ..some
        }
    });
    rows.collect()
}

/// Lands, shows, covers and restates, always at the same events; the drift of it all.
async fn told(file_rows: usize, commit_rows: usize, compacted: bool) -> Ways {
    let kit = Kit::new(&[TOTALS]);
    let rows = rows();
    for (part, reached) in [(&rows[..24], 0), (&rows[24..48], 30 * HOUR_US), (&rows[48..], 4 * DAY_US)] {
        for some in part.chunks(commit_rows) {
            kit.land(some, file_rows, reached).await;
        }
        if compacted {
            kit.compact("1970-01-01").await;
        }
        kit.catch_up().await;
        kit.batch_well().await;
        if compacted {
            kit.compact("1970-01-02").await;
        }
        kit.reconcile().await;
    }
    without_pins(drift(&kit, "totals").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_commits_make_no_difference() {
    let plain = told(100, 100, false).await;
    assert!(plain.len() > 20 && plain.keys().any(|key| key.3 > 1), "{plain:?}");
    assert_eq!(unexplained(&plain), 0);
    assert_eq!(told(3, 7, false).await, plain);
    assert_eq!(told(100, 12, true).await, plain);
}

/// With less memory than all keys need, they are taken a bucket at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_memory_for_all_keys_makes_no_difference() {
    const VALUES: Sql = Sql {
        windows: "[6h, 1d]",
        select: "SELECT key, sum(value) AS total, max(value) AS greatest, median(value) AS middle, \
                 count(DISTINCT id) AS ids FROM events GROUP BY key",
        ..TOTALS
    };
    const ROWS: i64 = 40_000;
    let mut kit = Kit::new(&[VALUES]);
    let rows = (0..ROWS).map(|n| {
        let some = row(n, n * (DAY_US / ROWS), n * 7_919 % 10_007);
        let some = if n % 5 == 4 { late(some) } else { some };
        Row { key: Some(format!("key {}", n % 64)), ..some }
    });
    kit.land(&rows.collect::<Vec<_>>(), 10_000, 4 * DAY_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let roomy = kit.settings.memory_bytes;
    let mut told = Vec::new();
    // nor can the states be compared then, which stops nothing
    for memory_bytes in [6 << 20, roomy] {
        kit.batch.settings.memory_bytes = memory_bytes;
        let report = kit.reconcile().await;
        assert_eq!((report.drift.moved, report.drift.unexplained), (64 * 5, 0), "{report:?}");
        assert_eq!(report.begun_again > 0, memory_bytes < roomy, "{report:?}");
        told.push(drift(&kit, "totals").await);
        for table in ["served", "drift"] {
            kit.lake.drop_table(&crate::lake::TableName::new(table, "totals")).await.unwrap();
        }
    }
    assert!(told[0] == told[1]);
}
