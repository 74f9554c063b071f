//! Gaps, overlaps, replies that are lost, and others at the same table: no row is in twice, and none is left out.

use super::kit::{ALL, Kit, Row, ended, hand_over, some_rows};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::land::tap::Landed;
use crate::speed::Health;
use crate::speed::append::{Addition, Appended, append, open_or_make};
use deltaworks_core::place::{Offset, OffsetRange};
use futures::StreamExt;
use rstest::rstest;

async fn addition(kit: &Kit, landed: &Landed) -> Addition {
    let rows = landed.rows.clone().unwrap().into_iter().map(Ok);
    let states = kit.definition().await.landed(vec![futures::stream::iter(rows).boxed()]).await.unwrap();
    let Landed { raw_table, topic, claims, .. } = landed.clone();
    let states = states.into_iter().map(|(partition, states)| (partition, vec![states])).collect();
    Addition { raw_table, topic, claims, states }
}

/// Rows of one commit each.
async fn three(kit: &Kit) -> (Vec<Row>, Vec<Addition>) {
    let rows = some_rows(60);
    let mut additions = Vec::new();
    for part in rows.chunks(20) {
        let landed = kit.land(part).await;
        additions.push(addition(kit, &landed).await);
    }
    (rows, additions)
}

async fn right(rows: &[Row]) -> super::kit::Windows {
    let kit = Kit::new(ALL);
    kit.stream(&[rows.to_vec()]).await;
    kit.windows().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_gap_is_refused_until_the_gap_is_closed() {
    let kit = Kit::new(ALL);
    let (rows, all) = three(&kit).await;
    let mut table = open_or_make(&kit.lake, &kit.definition().await).await.unwrap();
    assert!(matches!(append(&mut table, &all[0], &kit.run()).await.unwrap(), Appended::At(1, _)));
    assert_eq!(append(&mut table, &all[2], &kit.run()).await.unwrap(), Appended::Behind);
    assert_eq!(table.version(), 1, "nothing was put in");
    assert!(matches!(append(&mut table, &all[1], &kit.run()).await.unwrap(), Appended::At(2, _)));
    assert!(matches!(append(&mut table, &all[2], &kit.run()).await.unwrap(), Appended::At(3, _)));
    assert_eq!(append(&mut table, &all[1], &kit.run()).await.unwrap(), Appended::AlreadyThere);
    assert_eq!(kit.windows().await, right(&rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlap_is_an_error_and_changes_nothing() {
    let kit = Kit::new(ALL);
    let (_, mut all) = three(&kit).await;
    let mut table = open_or_make(&kit.lake, &kit.definition().await).await.unwrap();
    assert!(matches!(append(&mut table, &all[0], &kit.run()).await.unwrap(), Appended::At(1, _)));
    all[1].claims[0].range.from = Offset(all[1].claims[0].range.from.0 - 1);
    let error = append(&mut table, &all[1], &kit.run()).await.unwrap_err();
    assert_eq!(error.class, Class::Internal);
    assert!(error.message.contains("lie across its progress"), "{}", error.message);
    assert_eq!(table.version(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_that_are_in_twice_are_not_read() {
    let kit = Kit::new(ALL);
    let (_, all) = three(&kit).await;
    let mut table = open_or_make(&kit.lake, &kit.definition().await).await.unwrap();
    for addition in &all {
        assert!(matches!(append(&mut table, addition, &kit.run()).await.unwrap(), Appended::At(..)));
    }
    // somebody puts states of offsets in that are there already
    let file = table.live().await.unwrap()[0].clone();
    let parts = crate::speed::rows::read(&table.table, &table.definition, &[file]).await.unwrap();
    let (place, range) = parts[0].places().unwrap()[0].clone();
    let states = table.definition.stored(&[parts[0].states_of(&place).unwrap()]).unwrap();
    let schema = crate::speed::append::wanted_file_schema(&table.definition);
    for (what, range) in [
        ("overlap", OffsetRange { from: range.from, to: Offset(range.to.0 + 1) }),
        ("go beyond its progress", OffsetRange::new(1_000, 1_001)),
    ] {
        let mut by_date = Default::default();
        crate::speed::rows::to_rows(&table.definition, &schema, &place, range, &states, None, &mut by_date).unwrap();
        let mut broken = kit.table().await;
        let mut commit = kit.commit();
        commit.adds = crate::speed::rows::put(&broken.table, &schema, by_date).await.unwrap();
        let added = commit.adds.clone();
        super::upkeep::committed(broken.commit(commit).await);
        let error = kit.table().await.all_states().await.unwrap_err();
        assert!(error.class == Class::Internal && error.message.contains(what), "{}", error.message);
        let mut commit = kit.commit();
        let live = broken.live().await.unwrap();
        commit.removes = live.iter().filter(|f| added.iter().any(|a| a.path == f.path)).cloned().collect();
        super::upkeep::committed(broken.commit(commit).await);
    }
    kit.windows().await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_met(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_unknown_outcome_is_in_once(#[case] fault: Fault, #[values(false, true)] from_raw: bool) {
    let kit = Kit::new(ALL);
    let rows = some_rows(60);
    let mut script = Script::new();
    // the first commit makes the table
    let count = script.add(fault, commits_of("speed/a"), 1, 2);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    if from_raw {
        for part in rows.chunks(20) {
            kit.land(part).await;
        }
        let report = kit.catch_up_on(&faulty, false).await;
        assert!(report.error.is_none(), "{report:?}");
    } else {
        let live = kit.live_on(&faulty).await;
        for part in rows.chunks(20) {
            hand_over(&live, kit.land(part).await);
        }
        let report = ended(live).await;
        assert_eq!((report.health, report.failures), (Health::Live, 0), "{report:?}");
    }
    assert!(count.fired() >= 1);
    assert_eq!(kit.windows().await, right(&rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_catch_up_at_once_do_not_double() {
    let rows = some_rows(80);
    for (begun, rebuild) in [(false, false), (true, false), (true, true)] {
        let kit = Kit::new(ALL);
        for (n, part) in rows.chunks(20).enumerate() {
            kit.land(part).await;
            if begun && n == 1 {
                kit.catch_up(false).await;
            }
        }
        let (a, b) = tokio::join!(kit.catch_up(rebuild), kit.catch_up(rebuild));
        assert!(a.error.is_none() && b.error.is_none());
        assert_eq!(kit.windows().await, right(&rows).await, "begun: {begun}, rebuild: {rebuild}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilding_under_a_stream_loses_and_doubles_nothing() {
    let rows = some_rows(120);
    let kit = Kit::new(ALL);
    let live = kit.live().await;
    for part in rows.chunks(20) {
        let landed = kit.land(part).await;
        hand_over(&live, landed);
        kit.catch_up(true).await;
    }
    let report = ended(live).await;
    assert_eq!(report.failures, 0, "{report:?}");
    assert_eq!(kit.windows().await, right(&rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_of_a_partition_each_share_a_table() {
    let rows = some_rows(120);
    let kit = Kit::new(ALL);
    let lives = [kit.live().await, kit.live().await];
    for part in rows.chunks(30) {
        for (partition, live) in (0..).zip(&lives) {
            let own: Vec<Row> = part.iter().filter(|r| r.partition == partition).cloned().collect();
            hand_over(live, kit.land(&own).await);
        }
    }
    for live in lives {
        let report = ended(live).await;
        assert_eq!((report.health, report.failures), (Health::Live, 0), "{report:?}");
    }
    assert_eq!(kit.windows().await, right(&rows).await);
}

/// One dies between its raw commit and its speed commit while another goes on with the other partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_owner_catches_up_what_a_dead_one_left() {
    let rows = some_rows(120);
    let kit = Kit::new(ALL);
    let live = kit.live().await;
    let of = |part: &[Row], partition| part.iter().filter(|r| r.partition == partition).cloned().collect::<Vec<Row>>();
    // partition 1 is the dead one's: it landed, and told nobody
    kit.land(&of(&rows[..40], 1)).await;
    hand_over(&live, kit.land(&of(&rows[..40], 0)).await);
    hand_over(&live, kit.land(&of(&rows[40..80], 0)).await);
    // taken over by the other
    hand_over(&live, kit.land(&rows[80..]).await);
    drop(ended(live).await);
    let missing: Vec<Row> =
        rows.iter().filter(|r| r.partition == 0 || r.offset < 14 || r.offset >= 27).cloned().collect();
    assert_eq!(rows.len() - missing.len(), 13, "rows 40 to 79 of partition 1 were never landed");
    assert_eq!(kit.windows().await, right_of(&missing).await);
}

async fn right_of(rows: &[Row]) -> super::kit::Windows {
    let kit = Kit::new(ALL);
    kit.land(rows).await;
    kit.catch_up(false).await;
    kit.windows().await
}
