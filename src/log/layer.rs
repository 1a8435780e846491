//! `tracing` events → lines.

use std::fmt;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Subscriber, span};
use tracing_subscriber::layer::{Context, Layer};

use super::line::{self, Event};
use super::writer::Shared;
use crate::clock;

/// Hands every event to the writer.
#[derive(Debug)]
pub(super) struct Events {
    shared: Arc<Shared>,
}

impl Events {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut event_line = Event {
            at: clock::now(),
            level: *event.metadata().level(),
            event: String::new(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut Fields(&mut event_line));
        if event_line.event.is_empty() {
            event_line.event = "log".to_owned();
            let target = line::json(event.metadata().target());
            event_line.fields.push(("target", target));
        }
        self.shared.push_event(event_line);
    }

    fn on_new_span(&self, _: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {}
}

struct Fields<'a>(&'a mut Event);

impl Fields<'_> {
    fn text(&mut self, field: &Field, text: String) {
        match field.name() {
            "event" => self.0.event = text,
            "message" => self.0.message = text,
            name => self.0.fields.push((name, line::json(&text))),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = if value.is_finite() { value.to_string() } else { "null".to_owned() };
        self.0.fields.push((field.name(), text));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.fields.push((field.name(), value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.fields.push((field.name(), value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.fields.push((field.name(), value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }
}
