//! Tables of good and bad payloads, and ten thousand random and mutated ones.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const ALLOWED: &[&str] = &["tasks"];
const MODULES: &[&str] = &["tasks", "tasks.good", "tasks.pkg", "tasks.pkg.deep"];

fn with_rules<T>(act: impl FnOnce(&Rules<'_>) -> T) -> T {
    let allowed: Vec<String> = ALLOWED.iter().map(|name| (*name).to_owned()).collect();
    act(&Rules { allowed_modules: &allowed, is_module: &|name| MODULES.contains(&name) })
}

fn read_json(value: &serde_json::Value) -> Result<Draft, Box<Refusal>> {
    with_rules(|rules| read(value.to_string().as_bytes(), rules))
}

fn target(text: &str) -> Result<String, String> {
    with_rules(|rules| read_target(text, rules))
        .map(|target| target.to_string())
        .map_err(|refusal| refusal.error_type)
}

#[test]
fn the_contracts_own_example_is_read() {
    let draft = read_json(&json!({
        "job_id": "j", "task_type": "etl", "module_path": "tasks.good", "class_name": null,
        "method_name": "run", "parameters": {"customer_id": 7}, "timeout_seconds": 7200,
        "max_attempts": 3, "priority": 5, "retry_on": "all", "idempotency_key": "k",
        "run_at": "2026-03-08T10:00:00+01:00", "unknown": [1]
    }))
    .unwrap();
    assert_eq!(draft.id.unwrap().as_str(), "j");
    assert_eq!(draft.target.unwrap().to_string(), "tasks.good:run");
    assert_eq!(draft.parameters.get(), r#"{"customer_id":7}"#);
    assert_eq!(draft.timeout, Some(Duration::from_secs(7200)));
    assert_eq!(draft.run_at.unwrap().to_string(), "2026-03-08T09:00:00Z");
}

#[test]
fn targets_are_read_in_every_spelling() {
    for (text, want) in [
        ("example_tool", "example_tool"),
        ("tasks.good:run", "tasks.good:run"),
        ("tasks.good:Cls.run", "tasks.good:Cls.run"),
        ("tasks.good.run", "tasks.good:run"),
        ("tasks.good.Cls.run", "tasks.good:Cls.run"),
        ("tasks.good.lower.run", "tasks.good:lower.run"),
        ("tasks.pkg.deep.run", "tasks.pkg.deep:run"),
        ("tasks.pkg.deep.Cls.run", "tasks.pkg.deep:Cls.run"),
        ("tasks.run", "tasks:run"),
    ] {
        assert_eq!(target(text).as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn attacks_by_name_are_refused() {
    for text in [
        "os.system",
        "os:system",
        "tasks_evil.run",
        "tasks..good.run",
        "tasks.good.Cls.method.more",
        "tasks.good.Cls.__init__",
        "tasks.good.__dict__",
        "tasks.good:_private",
        "tasks.good.subprocess.call.x",
        "__import__",
        "builtins.exec",
        "../tools",
        "tasks/good:run",
        "tasks.góod.run",
        "tasks.good:run:more",
        "tasks.good:",
        ":run",
        "tasks.good\n.run",
    ] {
        assert_eq!(target(text), Err("ModuleNotAllowedError".into()), "{text}");
    }
}

#[test]
fn each_fault_names_its_field_and_what_is_right() {
    let good = json!({"target": "tasks.good:run"});
    for (field, value, says) in [
        ("job_id", json!(7), "job_id is 7"),
        ("job_id", json!(""), "1 to 200 printable"),
        ("id", json!("ü"), "1 to 200 printable"),
        ("priority", json!(0), "priority is 0; it must be a whole number from 1 to 9"),
        ("priority", json!("5"), "priority is \"5\""),
        ("priority", json!(5.5), "whole number"),
        ("max_attempts", json!(101), "from 1 to 100"),
        ("max_attempts", json!(true), "from 1 to 100"),
        ("timeout_seconds", json!(0), "over 0"),
        ("timeout_seconds", json!(-1), "over 0"),
        ("timeout_seconds", json!(2_592_001), "30 days"),
        ("timeout_seconds", json!("60"), "number of seconds"),
        ("run_at", json!("2026-03-08T10:00:00"), "with its zone"),
        ("run_at", json!(1_772_964_000), "with its zone"),
        ("task_type", json!("urgent"), "one of event"),
        ("retry_on", json!("never"), "\"transient\""),
        ("parameters", json!([1]), "a JSON object"),
        ("idempotency_key", json!(""), "a text of 1 to 512"),
        ("experiment_id", json!("e"), "leave one out"),
        ("module_path", json!("tasks.good"), "leave one out"),
    ] {
        let mut payload = good.clone();
        payload[field] = value;
        let refusal = read_json(&payload).unwrap_err();
        assert!(refusal.error.contains(says), "{field}: {}", refusal.error);
        assert_eq!(refusal.error_type, "InvalidPayloadError");
    }
}

#[test]
fn what_is_no_object_is_refused_with_its_own_words() {
    for (bytes, says) in [
        (b"".as_slice(), "not JSON"),
        (b"nonsense", "not JSON"),
        (b"{\"a\": ", "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b"{}", "nothing to run"),
    ] {
        let refusal = with_rules(|rules| read(bytes, rules)).unwrap_err();
        assert!(refusal.error.contains(says), "{bytes:?}: {}", refusal.error);
    }
    let large = vec![b' '; MAX_PAYLOAD_BYTES + 1];
    assert!(
        with_rules(|rules| read(&large, rules)).unwrap_err().error.contains("larger than 1 MiB")
    );
}

#[test]
fn a_refusal_keeps_the_id_that_could_be_read() {
    let refusal = read_json(&json!({"job_id": "mine", "target": "os.system"})).unwrap_err();
    assert_eq!(refusal.id.unwrap().as_str(), "mine");
    assert_eq!(refusal.error_type, "ModuleNotAllowedError");
}

#[test]
fn null_fields_and_other_names_are_accepted() {
    let draft = read_json(&json!({
        "id": "x", "job_id": "x", "params": {"a": 1}, "parameters": null, "priority": null,
        "module_path": "tasks.good", "class_name": "", "method_name": "Cls.run"
    }))
    .unwrap();
    assert_eq!(draft.target.unwrap().to_string(), "tasks.good:Cls.run");
    assert_eq!(draft.parameters.get(), r#"{"a":1}"#);
    assert!(read_json(&json!({"target": "t", "id": "x", "job_id": "y"})).is_err());
    let trigger = read_json(&json!({"experiment_id": "exp:1"})).unwrap();
    assert_eq!(trigger.experiment_id.as_deref(), Some("exp:1"));
}

#[test]
fn parameters_stay_as_written_and_bottomless_ones_are_refused() {
    let text =
        r#"{"target": "t", "params": {"big": 123456789012345678901234567890, "s": "\ud800"}}"#;
    let draft = with_rules(|rules| read(text.as_bytes(), rules)).unwrap();
    assert!(draft.parameters.get().contains("123456789012345678901234567890"));
    let deep =
        format!(r#"{{"target": "t", "params": {{"x": {}{}}}}}"#, "[".repeat(200), "]".repeat(200));
    let refusal = with_rules(|rules| read(deep.as_bytes(), rules)).unwrap_err();
    assert!(refusal.error.contains("nested at most 100 deep"));
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|x| json!(x)),
        ".{0,20}".prop_map(|s| json!(s)),
        "[a-z_.:A-Z]{0,30}".prop_map(|s| json!(s)),
        Just(json!({"a": [1, {"b": null}]})),
        Just(json!([])),
    ]
}

/// A payload with some fields right and some arbitrary.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        "job_id",
        "id",
        "task_type",
        "module_path",
        "class_name",
        "method_name",
        "target",
        "parameters",
        "params",
        "timeout_seconds",
        "max_attempts",
        "priority",
        "retry_on",
        "idempotency_key",
        "run_at",
        "experiment_id",
        "other",
    ]);
    prop::collection::vec((names, value()), 0..6).prop_map(|fields| {
        let mut map = serde_json::Map::new();
        map.insert("target".into(), "tasks.good:run".into());
        map.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        serde_json::Value::Object(map).to_string().into_bytes()
    })
}

/// The same with bytes flipped, cut out or doubled, or bytes that never were a payload.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let cut = (payload(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    prop_oneof![
        payload(),
        prop::collection::vec(any::<u8>(), 0..200),
        cut.prop_map(|(mut bytes, at, to, byte)| {
            let (at, to) = (at.index(bytes.len()), to.index(bytes.len()));
            match byte % 3 {
                0 => bytes[at] = byte,
                1 => drop(bytes.drain(at.min(to)..at.max(to))),
                _ => bytes.extend_from_within(at.min(to)..at.max(to)),
            }
            bytes
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn any_bytes_are_a_job_within_its_bounds_or_refused_in_one_line(bytes in mutated()) {
        match with_rules(|rules| read(&bytes, rules)) {
            Ok(draft) => {
                prop_assert!(draft.priority.is_none_or(|p| (1..=9).contains(&p)));
                prop_assert!(draft.max_attempts.is_none_or(|n| (1..=100).contains(&n)));
                prop_assert!(draft.timeout.is_none_or(|t| !t.is_zero() && t <= Duration::from_secs(2_592_000)));
                prop_assert!(draft.target.is_some() != draft.experiment_id.is_some());
                let object = draft.parameters.get().starts_with('{');
                prop_assert!(object);
            }
            Err(refusal) => {
                prop_assert!(!refusal.error.is_empty());
                prop_assert!(!refusal.error.contains('\n'));
                prop_assert!(["InvalidPayloadError", "ModuleNotAllowedError"].contains(&refusal.error_type.as_str()));
            }
        }
    }
}
