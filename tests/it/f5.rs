//! The portal update, pushed as its users push it.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{BOTH, Bench, PATIENCE, has, value_of};

const DEVICES: [(i64, i64); 3] = [(1, 2389), (2, 3086), (3, 1792)];

#[test]
fn three_customers_are_loaded_once() {
    for method in BOTH {
        let mut bench =
            Bench::new(method, &[("TASKS_PATH", env!("CARGO_MANIFEST_DIR")), ("PASS_ENV", "F5_*")]);
        let portal = bench.path("made/portal.db");
        bench.executor.set("F5_PORTAL_DB", portal.to_str().unwrap());
        bench.executor.serve();
        let push = |id: &str, parameters: Value| {
            bench.redis.push(&json!({
                "job_id": id, "task_type": "etl", "module_path": "tasks.f5portalupdate.main", "class_name": null,
                "method_name": "run", "parameters": parameters,
            }));
        };
        let mut connection = bench.redis.connect();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut events = connection.as_pubsub();
        events.subscribe("executor:job_events").unwrap();
        for (customer, _) in DEVICES {
            push(&format!("first-{customer}"), json!({"customer_id": customer}));
        }
        for (customer, devices) in DEVICES {
            let row = bench.executor.ended(&format!("first-{customer}"));
            assert_eq!(row["status"], "COMPLETED", "{row:#?}");
            assert_eq!(value_of(&row), json!({"updated_rows": devices, "customer_id": customer}));
            assert_eq!((&row["attempts"], &row["priority"]), (&json!(1), &json!(4)));
            assert_eq!(count(&portal, customer), devices);
        }
        for (customer, _) in DEVICES {
            push(&format!("second-{customer}"), json!({"customer_id": customer}));
        }
        for (customer, _) in DEVICES {
            let row = bench.executor.ended(&format!("second-{customer}"));
            assert_eq!(
                value_of(&row),
                json!({"updated_rows": 0, "customer_id": customer}),
                "{row:#?}"
            );
        }
        push("rebuild", json!({"customer_id": 3, "full_rebuild": true}));
        assert_eq!(value_of(&bench.executor.ended("rebuild"))["updated_rows"], 1792);
        let rejected = bench.executor.line("what was rejected", |line| {
            has(line, "job_id", "first-1")
                && line.get("line").is_some_and(|text| text.to_string().contains("rows rejected"))
        });
        assert_eq!(rejected["line"], "customer 1: 2389 devices read, 11 rows rejected");
        // Whoever listens hears each job begin and end.
        let mut heard: Vec<(String, String)> = Vec::new();
        while heard.last().is_none_or(|(id, status)| id != "rebuild" || status != "COMPLETED") {
            let event: Value = serde_json::from_str(
                &events.get_message().unwrap().get_payload::<String>().unwrap(),
            )
            .unwrap();
            heard.push((
                event["job_id"].as_str().unwrap().to_owned(),
                event["status"].as_str().unwrap().to_owned(),
            ));
        }
        for id in ["first-1", "second-3", "rebuild"] {
            let told: Vec<&str> = heard
                .iter()
                .filter(|(job, _)| job == id)
                .map(|(_, status)| status.as_str())
                .collect();
            assert_eq!(told.last(), Some(&"COMPLETED"), "{heard:?}");
            assert!(told.contains(&"RUNNING"), "{heard:?}");
        }
    }
}

fn count(portal: &Path, customer: i64) -> i64 {
    let portal = rusqlite::Connection::open(portal).unwrap();
    portal
        .query_row("SELECT count(*) FROM devices WHERE customer_id = ?", [customer], |row| {
            row.get(0)
        })
        .unwrap()
}
