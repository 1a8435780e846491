//! Frames and requests, and the golden files.

use super::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

#[test]
fn a_request_is_one_array_that_begins_with_its_pid() {
    let target = Target::Callable { module: "tasks.a".into(), class: None, function: "run".into() };
    let parameters = raw(r#"{"x":1}"#);
    let request = Request {
        job_id: "j",
        attempt: 2,
        run_id: None,
        experiment_id: None,
        tmp: "/tmp/1",
        check: false,
        target: &target,
        parameters: &parameters,
    };
    let message = request.encode(77).unwrap();
    let want = r#"[77,"j",2,null,null,"/tmp/1",false,"tasks.a",null,"run",{"x":1}]"#;
    assert_eq!(message.datagram, want.as_bytes());
    assert!(message.attached.is_none());
}

#[test]
fn a_long_request_is_attached() {
    let target = Target::Tool("t".into());
    let parameters = raw(&format!(r#"{{"x":"{}"}}"#, "a".repeat(INLINE_MAX)));
    let request = Request {
        job_id: "j",
        attempt: 1,
        run_id: None,
        experiment_id: None,
        tmp: "/tmp/1",
        check: false,
        target: &target,
        parameters: &parameters,
    };
    let message = request.encode(7).unwrap();
    assert_eq!(message.datagram, b"M\x07\x00\x00\x00");
    assert!(message.attached.unwrap().len() > INLINE_MAX);
}

#[test]
fn frames_come_out_whole_however_they_are_cut() {
    let mut decoder = Decoder::default();
    let stream = concat!(
        "{\"t\":\"progress\",\"done\":3,\"total\":null}\n{\"t\":\"items\",\"count\":2}\n",
        "{\"t\":\"emit\",\"name\":\"a\",\"fields\":{}}\n{\"t\":\"partial\",\"value\":null}\n",
        "{\"t\":\"result\",\"ok\":true,\"value\":null,\"bytes\":4,\"truncated\":false}\n"
    );
    let mut seen = Vec::new();
    for byte in stream.bytes() {
        decoder.feed(&[byte]);
        while let Some(frame) = decoder.next_frame() {
            seen.push(frame.unwrap());
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(matches!(&seen[3], Frame::Event(RunEvent::Partial(v)) if v.get() == "null"));
    assert!(matches!(&seen[4], Frame::Succeeded(s) if s.value.get() == "null" && s.bytes == 4));
}

#[test]
fn what_is_no_frame_is_an_error() {
    for line in
        ["", "x", "{}", r#"{"t":"result","ok":true}"#, r#"{"t":"items"}"#, r#"{"t":"what"}"#]
    {
        assert!(decode(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn an_endless_frame_is_given_up() {
    let mut decoder = Decoder::default();
    decoder.feed(&vec![b'x'; FRAME_MAX + 1]);
    assert!(matches!(decoder.next_frame(), Some(Err(FrameError::TooLong))));
}

/// The golden files whose names start so, with their one line each.
fn golden(prefix: &str) -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/frames");
    let mut found: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().to_string_lossy().into_owned(), text.trim_end().to_owned())
        })
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn golden_frames_are_understood() {
    for (name, line) in golden("frame-") {
        let kind = match decode(line.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}")) {
            Frame::Event(RunEvent::Progress { .. }) => "progress",
            Frame::Event(RunEvent::Items(_)) => "items",
            Frame::Event(RunEvent::Emit { .. }) => "emit",
            Frame::Event(RunEvent::Partial(_)) => "partial",
            Frame::Imported(_) => "imports",
            Frame::Succeeded(_) | Frame::Failed(_) => "result",
        };
        assert!(name.starts_with(&format!("frame-{kind}")), "{name}");
    }
}

#[test]
fn golden_requests_are_what_we_send() {
    for (name, line) in golden("request-") {
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |at: usize| json[at].as_str();
        let owned = |at: usize| text(at).map(str::to_owned);
        let target = match owned(9) {
            None => Target::Tool(owned(7).unwrap()),
            Some(function) => {
                Target::Callable { module: owned(7).unwrap(), class: owned(8), function }
            }
        };
        let parameters = raw(&json[10].to_string());
        let request = Request {
            job_id: text(1).unwrap(),
            attempt: json[2].as_u64().unwrap().try_into().unwrap(),
            run_id: text(3),
            experiment_id: text(4),
            tmp: text(5).unwrap(),
            check: json[6].as_bool().unwrap(),
            target: &target,
            parameters: &parameters,
        };
        let sent = request.encode(json[0].as_u64().unwrap().try_into().unwrap()).unwrap().datagram;
        let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!(sent, json, "{name}");
    }
}
