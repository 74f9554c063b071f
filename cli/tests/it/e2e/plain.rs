//! A topic is landed, and landed again.

use super::support::World;
use super::truth::Sender;

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn plain() {
    let world = World::new("plain", 4, &[]);
    let mut sender = Sender::new(&world, 4, 1);
    sender.send(6_000);
    sender.settle();

    let first = world.catch_up(&[]);
    assert_eq!(first["landed"].as_u64().unwrap() + first["rejected"].as_u64().unwrap(), 6_000, "{first}");
    world.verify(&sender.truth);

    let second = world.catch_up(&[]);
    assert_eq!((&second["landed"], &second["rejected"]), (&0.into(), &0.into()), "{second}");
    assert_eq!(second["next"], first["next"]);
    world.verify(&sender.truth);
}
