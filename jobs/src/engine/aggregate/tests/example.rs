//! The aggregates of the projects that `init` writes.

use super::super::check;
use crate::project::{init, load};

#[tokio::test]
async fn what_init_writes_is_good() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), Some("traffic")).unwrap();
    let checked = check(&load(folder.path(), &|_| None).unwrap()).await.unwrap();
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    let [avg_speed] = checked.definitions.as_slice() else { panic!("one aggregate") };
    let columns: Vec<&str> = avg_speed.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["camera_id", "avg_speed", "vehicles"]);
    assert_eq!(avg_speed.keys().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["camera_id"]);
    assert!(!avg_speed.holds_values());
    crate::lake::schema::supported(&avg_speed.result_schema()).unwrap();
    crate::lake::schema::supported(&avg_speed.states_schema()).unwrap();
}
