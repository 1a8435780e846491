//! The pages themselves.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Page, Sources};

/// A new write must be taken, and Redis answer, within this (SPEC 10).
const TIME: Duration = Duration::from_secs(1);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn answer(request: &Request<Incoming>, sources: &Sources) -> Page {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut page = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into());
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return page;
    }
    match request.uri().path() {
        "/healthz" => healthz(sources).await,
        "/livez" => livez(sources),
        "/metrics" => metrics(sources),
        _ => page(StatusCode::NOT_FOUND, TEXT, "try /healthz, /livez or /metrics\n".into()),
    }
}

async fn healthz(sources: &Sources) -> Page {
    let health = &sources.health;
    let redis = async {
        match &sources.redis {
            None => Ok("none"),
            Some(redis) => redis(TIME).await.and(health.redis_fault().map_or(Ok("ok"), Err)),
        }
    };
    let (redis, ledger) = tokio::join!(redis, (sources.ledger)(TIME));
    let well = redis.is_ok() && ledger.is_ok();
    let status = match (health.draining(), well) {
        (true, _) => "draining",
        (false, true) => "ok",
        (false, false) => "unavailable",
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |check: Result<&str, String>| check.map_or_else(Value::from, Value::from);
    let facts = health.facts();
    let body = json!({
        "status": status,
        "checks": {"redis": word(redis), "ledger": word(ledger.map(|()| "ok"))},
        "executor_id": facts.executor_id,
        "isolation": facts.tier,
        "running": health.running(),
        "slots": facts.slots,
        "slots_set_aside": health.slots_aside(),
    });
    page(code, JSON, format!("{body}\n"))
}

fn livez(sources: &Sources) -> Page {
    if sources.health.live() {
        page(StatusCode::OK, TEXT, "ok\n".into())
    } else {
        page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the main loop is stuck\n".into())
    }
}

fn metrics(sources: &Sources) -> Page {
    let (waiting, dropped) = (sources.counts)();
    page(StatusCode::OK, METRICS, sources.health.metrics().text(waiting, dropped))
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Page {
    let mut page = Page::new(Full::new(Bytes::from(body)));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
