//! A broker that asks who is there: the right secret lands, a wrong one is told from a broker that is
//! away, and neither is shown.

use super::support::{PATIENCE, World, env};
use super::truth::Sender;
use std::time::Instant;

const WRONG: &str = "not-the-secret-789";

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn sasl() {
    let world = World::new("sasl", 3, &[]);
    let mut sender = Sender::new(&world, 3, 15);
    sender.send(900);
    sender.settle();
    let world = world
        .set_kafka("bootstrap.servers", &env("DELTAWORKS_KAFKA_SASL"))
        .set_kafka("security.protocol", "SASL_PLAINTEXT")
        .set_kafka("sasl.mechanism", "PLAIN")
        .set_kafka("sasl.username", "${DELTAWORKS_SASL_USER}")
        .set_kafka("sasl.password", "${DELTAWORKS_SASL_PASSWORD}");
    let secret = env("DELTAWORKS_SASL_PASSWORD");

    let began = Instant::now();
    let mut refused = world.command(&["stream", "--until-caught-up"]);
    let refused = refused.env("DELTAWORKS_SASL_PASSWORD", WRONG).env("DELTAWORKS_LOG", "debug").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(2), "only a person can help: {said}");
    assert!(said.to_lowercase().contains("authentication"), "{said}");
    assert!(!said.contains(WRONG), "{said}");
    assert!(began.elapsed() < PATIENCE, "it tried for {:?}", began.elapsed());

    let ended = world.stream(&["--until-caught-up"]).wait(PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
    assert!(!format!("{ended}").contains(&secret), "{ended}");
    world.verify(&sender.truth);
    let ledger = world.query("SELECT * FROM ops.offsets");
    assert!(!ledger.is_empty() && ledger.iter().all(|row| !row.to_string().contains(&secret)), "{ledger:?}");
}
