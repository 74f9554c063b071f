//! Who is told, and which run is the parent.

use super::*;
use rstest::rstest;

#[test]
fn the_project_goes_before_the_environment() {
    let dir = TempDir::new().unwrap();
    let mut settings = settings(dir.path());
    let env = |name: &str| match name {
        "OPENLINEAGE_URL" => Some("http://marquez:5000".to_owned()),
        "OPENLINEAGE_API_KEY" => Some(SECRET.to_owned()),
        "OPENLINEAGE_NAMESPACE" => Some("theirs".to_owned()),
        _ => None,
    };
    assert_eq!(resolve(&settings, &|_| None), Ok(None));
    let headers = Options(BTreeMap::from([("authorization".to_owned(), format!("Bearer {SECRET}"))]));
    let url = "http://marquez:5000/api/v1/lineage".parse().unwrap();
    let theirs = LineageSettings {
        to: Some(Destination::Http { url, headers }),
        namespace: "theirs".to_owned(),
        every: crate::project::EVERY,
    };
    assert_eq!(resolve(&settings, &env), Ok(Some(theirs.clone())));
    let off = |name: &str| if name == "OPENLINEAGE_DISABLED" { Some("True".to_owned()) } else { env(name) };
    assert_eq!(resolve(&settings, &off), Ok(None));
    let bad = |name: &str| (name == "OPENLINEAGE_URL").then(|| format!("http://me:{SECRET}@host"));
    assert_eq!(resolve(&settings, &bad), Err("`OPENLINEAGE_URL` has more than host, port and path".to_owned()));
    let ours = LineageSettings { to: Some(Destination::File("lineage.jsonl".into())), ..theirs };
    settings.lineage = Some(ours.clone());
    assert_eq!(resolve(&settings, &env), Ok(Some(ours.clone())));
    settings.lineage = Some(LineageSettings { to: None, ..ours });
    assert_eq!(resolve(&settings, &env), Ok(None), "it says nobody");
}

#[rstest]
#[case("airflow/nightly.land/01890a5d-ac96-774b-bcce-b302099a8057", Some(("airflow", "nightly.land")))]
#[case("http://a/b/job/01890a5d-ac96-774b-bcce-b302099a8057", Some(("http://a/b", "job")))]
#[case("airflow/nightly.land/7", None)]
#[case("//01890a5d-ac96-774b-bcce-b302099a8057", None)]
#[case("", None)]
fn parents(#[case] text: &str, #[case] wanted: Option<(&str, &str)>) {
    let parent = env_parent(&|name| (name == "OPENLINEAGE_PARENT_ID").then(|| text.to_owned()));
    let parent = parent.map(|parent| {
        assert_eq!(parent.run.run_id, RUN_ID);
        assert_eq!(parent.root, parent.run, "nothing is known of another");
        (parent.run.namespace, parent.run.name)
    });
    assert_eq!(parent, wanted.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())));
}

#[rstest]
#[case(format!("airflow/nightly/{RUN_ID}"), "nightly")]
#[case("nonsense".to_owned(), "nightly.land")]
fn roots(#[case] text: String, #[case] wanted: &str) {
    let parent = env_parent(&|name| match name {
        "OPENLINEAGE_PARENT_ID" => Some(format!("airflow/nightly.land/{RUN_ID}")),
        "OPENLINEAGE_ROOT_PARENT_ID" => Some(text.clone()),
        _ => None,
    });
    let parent = parent.unwrap();
    assert_eq!((parent.run.name.as_str(), parent.root.name.as_str()), ("nightly.land", wanted));
}
