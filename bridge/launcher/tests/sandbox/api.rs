//! A stand-in for the model API, on the Unix socket that a sandbox gets. Words in the last message
//! decide what it answers.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Serves at `path` for agents of `uid`, until the test's process ends.
pub(crate) fn serve(path: &Path, uid: u32) {
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    chown(path, Some(uid), Some(uid)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || while answer(&stream).is_some() {});
        }
    });
}

fn answer(stream: &UnixStream) -> Option<()> {
    let body = request(stream)?;
    let mut stream = stream;
    let Some(messages) = body.get("messages").and_then(Value::as_array) else {
        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").ok();
    };
    // Several things that were said come as blocks of one message.
    let content = &messages.last()?["content"];
    let last = content.as_array().and_then(|blocks| blocks.last()).unwrap_or(content).to_string();
    let is = |word: &str| last.contains(word);
    let is_result = is("tool_result");
    if is("FAIL400") {
        let error = r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#;
        let head = format!(
            "HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            error.len()
        );
        return stream.write_all((head + error).as_bytes()).ok();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").ok()?;
    if is("BACKGROUND") && !is_result {
        let input = json!({"command": "sleep 1", "run_in_background": true, "description": "d"});
        tool(stream, "Bash", &input)
    } else if is("task-notification") {
        text(stream, "the task is done", Duration::from_millis(200))
    } else if is("SLOW") {
        text(stream, "slowly", Duration::from_millis(500))
    } else {
        text(stream, "hello", Duration::ZERO)
    }
}

/// Reads a request's body; `null` when it has none.
fn request(stream: &UnixStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut lines = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if line == "\r\n" && lines > 0 {
            break;
        }
        lines += 1;
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn text(stream: impl Write + Copy, text: &str, pause: Duration) -> Option<()> {
    let start = json!({"type": "text", "text": ""});
    let deltas = [text, ".", ".", "."].map(|text| json!({"type": "text_delta", "text": text}));
    message(stream, &start, &deltas, pause, "end_turn")
}

fn tool(stream: impl Write + Copy, name: &str, input: &Value) -> Option<()> {
    let id = format!("toolu_{}", std::process::id());
    let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
    let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
    message(stream, &start, &[delta], Duration::ZERO, "tool_use")
}

fn message(
    to: impl Write + Copy,
    start: &Value,
    deltas: &[Value],
    pause: Duration,
    stop: &str,
) -> Option<()> {
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    event(
        to,
        json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}}),
    )?;
    event(to, json!({"type": "content_block_start", "index": 0, "content_block": start}))?;
    for delta in deltas {
        std::thread::sleep(pause);
        event(to, json!({"type": "content_block_delta", "index": 0, "delta": delta}))?;
    }
    event(to, json!({"type": "content_block_stop", "index": 0}))?;
    event(
        to,
        json!({"type": "message_delta", "usage": usage,
        "delta": {"stop_reason": stop, "stop_sequence": null}}),
    )?;
    event(to, json!({"type": "message_stop"}))?;
    { to }.write_all(b"0\r\n\r\n").ok()
}

fn event(mut to: impl Write, data: Value) -> Option<()> {
    let event = format!("event: {}\ndata: {data}\n\n", data["type"].as_str()?);
    to.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).ok()
}
