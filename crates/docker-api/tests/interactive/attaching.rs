//! Attaching to containers: before and after the start, from now or from the beginning, by many at once.

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::served::{Served, served};
use super::support::PATIENCE;

/// Makes a container that runs a line of shell without a network.
async fn create(served: &Served, name: &str, line: &str, more: Value) {
    let mut body = json!({
        "Image": "box:1", "Cmd": ["sh", "-c", line], "HostConfig": {"NetworkMode": "none"},
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let (status, answer) = served.ask(Method::POST, &format!("/containers/create?name={name}"), Some(body)).await;
    assert_eq!(status, 201, "{answer}");
}

async fn start(served: &Served, name: &str) {
    assert_eq!(served.ask(Method::POST, &format!("/containers/{name}/start"), None).await.0, 204);
}

/// The only shim below a directory.
fn shim_of(root: &std::path::Path) -> i32 {
    let found = super::support::processes_with(root.join("real/run/containers").to_str().unwrap());
    assert_eq!(found.len(), 1);
    found[0]
}

/// The most memory that a process has had, in KiB (proc_pid_status(5)).
fn peak_memory(pid: i32) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One frame of a multiplexed stream: its channel and content.
async fn frame(stream: &mut UnixStream) -> Option<(u8, String)> {
    let mut head = [0; 8];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("a frame comes");
    if read.is_err() {
        return None;
    }
    let length = u32::from_be_bytes(head[4..].try_into().unwrap());
    let mut content = vec![0; usize::try_from(length).unwrap()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut content)).await.expect("its content comes").unwrap();
    Some((head[0], String::from_utf8(content).unwrap()))
}

/// Everything of one channel until the end.
async fn rest(stream: &mut UnixStream, channel: u8) -> String {
    let mut all = String::new();
    while let Some((found, text)) = frame(stream).await {
        if found == channel {
            all.push_str(&text);
        }
    }
    all
}

const ALL: &str = "stream=1&stdin=1&stdout=1&stderr=1";

#[test]
fn many_are_attached_at_once_and_the_input_ends_with_the_first() {
    served("interactive-attach", async |served| {
        let line = "echo first; read word; echo got $word; cat; echo over >&2";
        create(&served, "web", line, json!({"OpenStdin": true, "StdinOnce": true})).await;
        let (head, mut one) = served.hijack(&format!("/v1.43/containers/web/attach?{ALL}"), &Value::Null).await;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("multiplexed-stream"), "{head}");
        let (head, mut two) = served.hijack("/v1.41/containers/web/attach?stream=1&stdout=1", &Value::Null).await;
        assert!(head.contains("application/vnd.docker.raw-stream"), "older clients know no other: {head}");
        start(&served, "web").await;
        // Before its first word.
        assert_eq!(frame(&mut one).await, Some((1, "first\n".to_owned())));
        one.write_all(b"this\n").await.unwrap();
        assert_eq!(frame(&mut one).await, Some((1, "got this\n".to_owned())));
        let (_, mut late) =
            served.hijack("/containers/web/attach?stream=1&logs=1&stdout=1&stderr=1", &Value::Null).await;
        assert_eq!(frame(&mut late).await.unwrap().1, "first\n");
        let (_, mut now) = served.hijack("/containers/web/attach?stream=1&stdout=1", &Value::Null).await;
        one.write_all(b"more\n").await.unwrap();
        assert_eq!(frame(&mut now).await, Some((1, "more\n".to_owned())), "nothing from before");
        // Half of the connection closed: the program reads the end, and its answer still comes.
        one.shutdown().await.unwrap();
        assert_eq!(frame(&mut one).await, Some((1, "more\n".to_owned())));
        assert_eq!(frame(&mut one).await, Some((2, "over\n".to_owned())));
        assert_eq!(frame(&mut one).await, None);
        assert_eq!(rest(&mut two, 1).await, "first\ngot this\nmore\n");
        assert_eq!(rest(&mut late, 1).await, "got this\nmore\n");
        let (_, mut gone) = served.hijack("/containers/web/attach?logs=1&stdout=1", &Value::Null).await;
        assert_eq!(rest(&mut gone, 1).await, "first\ngot this\nmore\n");
    });
}

#[test]
fn a_client_that_dies_is_not_noticed() {
    served("interactive-attach-death", async |served| {
        let line = "n=0; while read word; do n=$((n+1)); echo $n $word; done; echo end";
        create(&served, "web", line, json!({"OpenStdin": true})).await;
        start(&served, "web").await;
        let (_, mut one) = served.hijack(&format!("/containers/web/attach?{ALL}"), &Value::Null).await;
        one.write_all(b"a\n").await.unwrap();
        assert_eq!(frame(&mut one).await, Some((1, "1 a\n".to_owned())));
        drop(one);
        // Without StdinOnce the input outlives whoever sent it.
        let (_, mut two) = served.hijack(&format!("/containers/web/attach?{ALL}"), &Value::Null).await;
        two.write_all(b"b\n").await.unwrap();
        assert_eq!(frame(&mut two).await, Some((1, "2 b\n".to_owned())));
        two.shutdown().await.unwrap();
        let (_, mut three) = served.hijack(&format!("/containers/web/attach?{ALL}"), &Value::Null).await;
        three.write_all(b"c\n").await.unwrap();
        assert_eq!(frame(&mut three).await, Some((1, "3 c\n".to_owned())));
    });
}

#[test]
fn a_client_that_reads_nothing_is_cut_off_and_others_lose_nothing() {
    served("interactive-attach-slow", async |served| {
        let line = "read go; seq 1 400000; echo end; read stay";
        create(&served, "web", line, json!({"OpenStdin": true})).await;
        start(&served, "web").await;
        let shim = shim_of(&served.root);
        let before = peak_memory(shim);
        let (_, slow) = served.hijack("/containers/web/attach?stream=1&stdout=1", &Value::Null).await;
        let (_, mut quick) = served.hijack(&format!("/containers/web/attach?{ALL}"), &Value::Null).await;
        quick.write_all(b"go\n").await.unwrap();
        let mut expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
        expected.push_str("end\n");
        let mut seen = String::new();
        while !seen.ends_with("end\n") {
            seen.push_str(&frame(&mut quick).await.expect("it goes on").1);
        }
        assert!(seen == expected, "{} of {} bytes", seen.len(), expected.len());
        let grown = peak_memory(shim) - before;
        assert!(grown < 4 << 10, "the shim has grown by {grown} KiB");
        let (_, mut logged) = served.hijack("/containers/web/attach?logs=1&stdout=1", &Value::Null).await;
        assert!(rest(&mut logged, 1).await == expected, "the log is whole");
        drop(slow);
    });
}

#[test]
fn what_is_wrong_is_said_before_the_connection_is_taken() {
    served("interactive-attach-wrong", async |served| {
        create(&served, "web", "echo hi", json!({})).await;
        let ask = async |path: &str| served.ask(Method::POST, path, None).await;
        assert_eq!(ask("/containers/nobody/attach?stream=1&stdout=1").await.0, 404);
        assert_eq!(ask("/containers/web/attach?stream=1&stdout=1&detachKeys=ctrl-1").await.0, 400);
        assert_eq!(ask("/containers/web/resize?h=10&w=10").await.0, 409);
        assert_eq!(ask("/containers/web/resize?h=10").await.0, 400);
        assert_eq!(served.ask(Method::GET, "/containers/web/attach/ws?stream=1", None).await.0, 400);
    });
}

#[test]
fn keys_leave_a_terminal_whoever_sends_them() {
    served("interactive-attach-keys", async |served| {
        create(
            &served,
            "web",
            "stty -echo; echo ready; while read word; do echo got $word; done",
            json!({"OpenStdin": true, "Tty": true}),
        )
        .await;
        let (head, mut one) =
            served.hijack(&format!("/v1.43/containers/web/attach?{ALL}&detachKeys=a,ctrl-b"), &Value::Null).await;
        assert!(head.contains("application/vnd.docker.raw-stream"), "{head}");
        start(&served, "web").await;
        until_shown(&mut one, "ready").await;
        one.write_all(b"b\n").await.unwrap();
        until_shown(&mut one, "got b").await;
        one.write_all(b"a\x02more\n").await.unwrap();
        let mut left = Vec::new();
        tokio::time::timeout(PATIENCE, one.read_to_end(&mut left)).await.expect("it is left").unwrap();
        let (_, found) = served.ask(Method::GET, "/containers/web/json", None).await;
        assert_eq!(found["State"]["Running"], true);
        let (_, mut two) = served.hijack(&format!("/containers/web/attach?{ALL}"), &Value::Null).await;
        two.write_all(b"again\n").await.unwrap();
        until_shown(&mut two, "got again").await;
    });
}

async fn until_shown(stream: &mut UnixStream, text: &str) {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut all)).await;
        assert!(read.expect("something comes").unwrap() > 0, "`{text}` in {:?}", String::from_utf8_lossy(&all));
    }
}

/// One message of a WebSocket from the daemon (RFC 6455): its kind and content.
async fn message(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("a message comes").unwrap();
    let length = match head[1] {
        126 => usize::from(stream.read_u16().await.unwrap()),
        127 => usize::try_from(stream.read_u64().await.unwrap()).unwrap(),
        length => usize::from(length),
    };
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await.unwrap();
    (head[0] & 0x0f, content)
}

#[test]
fn a_web_page_can_attach() {
    served("interactive-attach-web", async |served| {
        create(&served, "web", "echo ready; read word; echo got $word", json!({"OpenStdin": true})).await;
        let mut stream = UnixStream::connect(&served.socket).await.unwrap();
        let request = format!(
            "GET /v1.43/containers/web/attach/ws?{ALL} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it answers").unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        // The answer to the key of RFC 6455, section 1.3.
        assert!(head.starts_with("http/1.1 101 ") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        start(&served, "web").await;
        assert_eq!(message(&mut stream).await, (2, b"ready\n".to_vec()));
        // A final binary message of five bytes, masked with zeros.
        stream.write_all(b"\x82\x85\0\0\0\0word\n").await.unwrap();
        assert_eq!(message(&mut stream).await, (2, b"got word\n".to_vec()));
        assert_eq!(message(&mut stream).await.0, 8, "closed with the container");
    });
}
