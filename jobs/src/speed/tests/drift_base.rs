//! What is computed from raw alone is what the stored states say, and a falsified state is not.

use super::kit::{ALL, FIRST_US, HOUR_US, Kit, Row, finished, some_rows};
use crate::batch::Input;
use crate::speed::from_raw;
use deltaworks_core::windows::{Instant, Window};

const EVER: Window = Window { start: Instant(i64::MIN), end: Instant(i64::MAX) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_up_to_the_progress_gives_the_stored_states() {
    let kit = Kit::new(ALL);
    let rows = some_rows(90);
    kit.stream(&[rows[..40].to_vec(), rows[40..60].to_vec()]).await;
    // landed, and not yet in; and a fill, which never is
    kit.land(&rows[60..]).await;
    kit.land(&[Row { fill: Some(1), offset: 3, behind_ms: None, ..rows[3].clone() }]).await;
    let definition = kit.definition().await;
    let table = kit.table().await;
    let input = Input::gather(&kit.lake, kit.pipeline(), None).await.unwrap().unwrap();
    let of =
        async |upto, within| finished(&definition, from_raw(&input, &definition, upto, within).await.unwrap()).await;
    let stored = kit.windows().await;
    let progress = table.progress();
    assert_eq!(of(&progress, EVER).await, stored);
    assert_ne!(of(&input.pin.next, EVER).await, stored, "rows that are not in yet");
    kit.catch_up(false).await;
    assert_eq!(of(&input.pin.next, EVER).await, kit.windows().await, "the fill is in neither");
    let day = Window { start: Instant(FIRST_US), end: Instant(FIRST_US + 24 * HOUR_US) };
    let states = kit.table().await.states(day).await.unwrap();
    assert_eq!(of(&input.pin.next, day).await, finished(&definition, states).await);
}
