//! The stand-in as its callers see it, over plain sockets.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use ash_modelapi::{Config, Server};
use serde_json::{Value, json};

fn start() -> Server {
    Server::start(Config::default()).unwrap()
}

/// Sends a request and returns everything that comes back until the connection closes.
fn exchange(server: &Server, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
    speak(&mut stream, method, path, body)
}

fn speak(stream: &mut (impl Read + Write), method: &str, path: &str, body: &str) -> String {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nX-Api-Key: canary\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn prompt(text: &str, stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]})
        .to_string()
}

fn ask(server: &Server, text: &str, stream: bool) -> String {
    exchange(server, "POST", "/v1/messages?beta=true", &prompt(text, stream))
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The text deltas of a streamed answer, put together.
fn spoken(answer: &str) -> String {
    let data = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    events.filter_map(|event| event["delta"]["text"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_stream_has_all_events_and_ends() {
    let answer = ask(&start(), "[[say hello]]", true);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    assert!(answer.contains("request-id: req_011C"), "{answer}");
    assert!(answer.contains("event: message_start\ndata: {"), "{answer}");
    assert!(answer.contains("event: message_stop\n"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(spoken(&answer), "hello");
}

#[test]
fn without_a_stream_the_message_comes_whole() {
    let message = body(&ask(&start(), "[[think hm]][[say hello]][[usage in=5 out=6]]", false));
    assert_eq!(message["content"][1]["text"], "hello");
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(message["usage"]["output_tokens"], 6);
}

#[test]
fn a_plain_prompt_is_echoed_word_by_word() {
    let answer = ask(&start(), "What is 2 and 2?", true);
    assert!(spoken(&answer).starts_with("You said: “What is 2 and 2?”. I am the stand-in"));
    assert!(answer.matches("content_block_delta\n").count() > 10);
}

#[test]
fn a_status_fails_as_often_as_told() {
    let server = start();
    let text = "[[status 529 retry-after=1 times=2]] [[say fine]]";
    for _ in 0..2 {
        let answer = ask(&server, text, true);
        assert!(answer.starts_with("HTTP/1.1 529"), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        assert_eq!(body(&answer)["error"]["type"], "overloaded_error");
    }
    assert_eq!(spoken(&ask(&server, text, true)), "fine");
    server.reset();
    assert!(ask(&server, text, true).starts_with("HTTP/1.1 529"));
}

#[test]
fn an_error_can_quote_its_request() {
    let answer = ask(&start(), "[[status 400 quote]]", false);
    let message = body(&answer)["error"]["message"].as_str().unwrap().to_owned();
    let headers: Value = serde_json::from_str(&message).unwrap();
    assert!(headers["host"].is_string(), "{answer}");
}

#[test]
fn a_cut_comes_after_its_deltas_reached_the_client() {
    let server = start();
    let text = "[[cut after=3]] [[count 10]]";
    let answer = ask(&server, text, true);
    assert_eq!(spoken(&answer), "1 2 3 ");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(body(&ask(&server, text, false))["content"][0]["text"], "1 2 3 4 5 6 7 8 9 10 ");
}

#[test]
fn a_cut_without_a_stream_is_an_empty_answer() {
    assert_eq!(ask(&start(), "[[cut after=1]]", false), "");
}

#[test]
fn an_error_event_comes_after_its_deltas() {
    let server = start();
    let answer = ask(&server, "[[sse-error overloaded_error after=2]] [[count 5]]", true);
    assert_eq!(spoken(&answer), "1 2 ");
    assert!(answer.contains("event: error\ndata: {"), "{answer}");
    assert!(!answer.contains("message_stop"), "{answer}");
    let whole = ask(&server, "[[sse-error overloaded_error]]", false);
    assert!(whole.starts_with("HTTP/1.1 529"), "{whole}");
}

#[test]
fn a_hold_stops_the_stream_until_the_release() {
    let server = start();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&server, "[[say a]][[hold gate]][[say b]]", true));
        server.block_on(server.wait_held("gate")).unwrap();
        assert!(!asking.is_finished());
        server.release("gate");
        assert_eq!(spoken(&asking.join().unwrap()), "a\nb");
    });
}

#[test]
fn the_side_door_holds_releases_lists_and_resets() {
    let server = start();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&server, "[[hold gate]][[say b]]", true));
        exchange(&server, "GET", "/__control/held/gate", "");
        exchange(&server, "POST", "/__control/release/gate", "");
        assert_eq!(spoken(&asking.join().unwrap()), "b");
    });
    let listed = body(&exchange(&server, "GET", "/__control/requests", ""));
    assert_eq!(listed[0]["path"], "/v1/messages?beta=true");
    exchange(&server, "POST", "/__control/reset", "");
    assert!(server.requests().is_empty());
}

#[test]
fn silence_lasts_until_the_client_goes() {
    let server = start();
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
    let body = prompt("[[silence forever]]", true);
    write!(stream, "POST /v1/messages HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    server.block_on(server.wait_for(1, |request| request.is_message())).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_log_has_what_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let config = Config { log: Some(file.clone()), ..Config::default() };
    let server = Server::start(config).unwrap();
    ask(&server, "hello [[say x]]", true);
    let request = &server.requests()[0];
    assert_eq!(request.headers["x-api-key"], "canary");
    assert_eq!(request.body["messages"][0]["content"], "hello [[say x]]");
    assert!(request.at_ns > 0);
    let line: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(line["headers"]["x-api-key"], "canary");
}

#[test]
fn a_wrong_key_is_refused_if_one_is_required() {
    let config = |key: &str| Config { key: Some(key.into()), ..Config::default() };
    let refused = ask(&Server::start(config("other")).unwrap(), "hi", true);
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert_eq!(body(&refused)["error"]["type"], "authentication_error");
    assert!(ask(&Server::start(config("canary")).unwrap(), "[[say x]]", true).contains("200 OK"));
}

#[test]
fn other_paths() {
    let server = start();
    assert!(exchange(&server, "HEAD", "/", "").starts_with("HTTP/1.1 200"));
    assert!(exchange(&server, "GET", "/", "").starts_with("HTTP/1.1 200"));
    let counted = exchange(&server, "POST", "/v1/messages/count_tokens", "{\"a\":123}");
    assert_eq!(body(&counted)["input_tokens"], 3);
    let missing = exchange(&server, "GET", "/v1/models", "");
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    assert_eq!(body(&missing)["error"]["type"], "not_found_error");
    let nonsense = exchange(&server, "POST", "/v1/messages", "{");
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
}

#[test]
fn the_unix_socket_answers_too_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let server = Server::start(Config { unix: Some(path.clone()), ..Config::default() }).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    let answer = speak(&mut stream, "POST", "/v1/messages", &prompt("[[say hi]]", true));
    assert_eq!(spoken(&answer), "hi");
    drop(server);
    assert!(!path.exists());
}

#[test]
fn dropping_the_server_ends_open_answers_and_frees_the_port() {
    let server = start();
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let body = prompt("[[hold forever]]", true);
    write!(stream, "POST /v1/messages HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    server.block_on(server.wait_held("forever")).unwrap();
    drop(server);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    assert!(TcpStream::connect(&address).is_err());
}
