//! The golden cases from Kafka to the served table: one file of final windows and one of provisional ones, whatever
//! happens on the way.

use crate::harness::cases::{Cases, Setup};
use std::time::Instant;

#[test]
fn by_stream_with_speed_and_then_batch() {
    let mut cases = Cases::begin(&Setup { partitions: 3, commit: "{rows: 7}", speed: true, top: "" });
    let t = Instant::now();
    for step in 0..cases.step_count() {
        cases.send_step(step);
        cases.land();
        eprintln!("land {:?}", t.elapsed());
    }
    cases.verify_landed();
    eprintln!("landed {:?}", t.elapsed());
    cases.reconcile();
    eprintln!("reconcile {:?}", t.elapsed());
    cases.verify_provisional();
    eprintln!("prov {:?}", t.elapsed());
    cases.batch();
    eprintln!("batch {:?}", t.elapsed());
    cases.reconcile();
    eprintln!("reconcile {:?}", t.elapsed());
    cases.verify_final("served");
    eprintln!("final {:?}", t.elapsed());
}
