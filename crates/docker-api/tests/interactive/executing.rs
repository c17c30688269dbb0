//! `docker exec`, and its requests one by one.

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::served::{Served, served, until};
use super::support::PATIENCE;

#[test]
fn docker_exec_in_its_everyday_forms() {
    served("interactive-exec", async |served| {
        served.fine(&["run", "-d", "--name", "web", "-e", "OWN=1", "box:1", "sleep", "600"]).await;
        assert_eq!(served.fine(&["exec", "web", "echo", "hi"]).await, "hi\n");
        let line = "echo $OWN-$MORE-$FROM_IMAGE; id -u; id -g; pwd; echo err >&2; exit 4";
        let exec = ["exec", "-e", "MORE=2", "-u", "web", "-w", "/data", "web", "sh", "-c", line];
        let outcome = served.docker(&exec).await;
        assert_eq!((outcome.code, outcome.error.as_str()), (4, "err\n"), "{outcome:?}");
        assert_eq!(outcome.output, "1-2-yes\n33\n44\n/data\n");
        let piped = served.docker_with(b"one\ntwo\n", &["exec", "-i", "web", "wc", "-l"]).await;
        assert_eq!((piped.code, piped.output.trim()), (0, "2"), "{piped:?}");
        let missing = served.docker(&["exec", "web", "no-such-program"]).await;
        assert_eq!(missing.code, 127, "{missing:?}");
        assert!(missing.output.contains("executable file not found in $PATH"), "{missing:?}");
        let refused = served.docker(&["exec", "web", "/not-executable"]).await;
        assert_eq!(refused.code, 126, "{refused:?}");
        let capabilities = async |arguments: &[&str]| {
            let output = served.fine(arguments).await;
            u64::from_str_radix(output.trim().rsplit('\t').next().unwrap(), 16).unwrap()
        };
        let usual = capabilities(&["exec", "web", "grep", "CapEff", "/proc/self/status"]).await;
        let all = capabilities(&["exec", "--privileged", "web", "grep", "CapEff", "/proc/self/status"]).await;
        assert!(all & usual == usual && all.count_ones() > usual.count_ones(), "{all:x} {usual:x}");
        served.fine(&["exec", "-d", "web", "sh", "-c", "echo done > /tmp-detached"]).await;
        until("a detached command runs", async || {
            served.docker(&["exec", "web", "cat", "/tmp-detached"]).await.output == "done\n"
        })
        .await;
        served.fine(&["stop", "-t", "0", "web"]).await;
        let stopped = served.docker(&["exec", "web", "true"]).await;
        assert_eq!(stopped.code, 1, "{stopped:?}");
        assert!(stopped.error.contains("is not running"), "{stopped:?}");
        assert_eq!(served.docker(&["exec", "nobody", "true"]).await.code, 1);
    });
}

async fn created(served: &Served, body: Value) -> String {
    let (status, answer) = served.ask(Method::POST, "/containers/web/exec", Some(body)).await;
    assert_eq!(status, 201, "{answer}");
    answer["Id"].as_str().unwrap().to_owned()
}

#[test]
fn the_life_of_an_exec() {
    served("interactive-exec-life", async |served| {
        let body = json!({"Image": "box:1", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}});
        assert_eq!(served.ask(Method::POST, "/containers/create?name=web", Some(body)).await.0, 201);
        let (status, refused) = served.ask(Method::POST, "/containers/web/exec", Some(json!({"Cmd": ["true"]}))).await;
        assert_eq!(status, 409, "{refused}");
        assert_eq!(served.ask(Method::POST, "/containers/web/start", None).await.0, 204);
        assert_eq!(served.ask(Method::POST, "/containers/web/exec", Some(json!({"Cmd": []}))).await.0, 400);
        assert_eq!(served.ask(Method::POST, "/containers/nobody/exec", Some(json!({"Cmd": ["x"]}))).await.0, 404);
        let bad = json!({"Cmd": ["sh"], "DetachKeys": "ctrl-1"});
        assert_eq!(served.ask(Method::POST, "/containers/web/exec", Some(bad)).await.0, 400);

        let line = "read word; echo got $word; echo oops >&2; exit 6";
        let id = created(
            &served,
            json!({"Cmd": ["sh", "-c", line], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true}),
        )
        .await;
        let (_, found) = served.ask(Method::GET, &format!("/exec/{id}/json"), None).await;
        assert_eq!((&found["Running"], &found["ExitCode"]), (&json!(false), &Value::Null), "{found}");
        assert_eq!(found["ProcessConfig"]["entrypoint"], "sh");
        let (_, container) = served.ask(Method::GET, "/containers/web/json", None).await;
        assert_eq!(container["ExecIDs"], json!([id]));
        let (head, mut stream) = served.hijack(&format!("/v1.43/exec/{id}/start"), &json!({"Detach": false})).await;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("multiplexed-stream"), "{head}");
        until("it runs", async || {
            served.ask(Method::GET, &format!("/exec/{id}/json"), None).await.1["Running"] == true
        })
        .await;
        assert_eq!(served.ask(Method::POST, &format!("/exec/{id}/start"), Some(json!({}))).await.0, 409);
        assert_eq!(served.ask(Method::POST, &format!("/exec/{id}/resize?h=9&w=9"), None).await.0, 400, "no terminal");
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"word\n").await.unwrap();
        let mut all = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it ends").unwrap();
        let has = |frame: &[u8]| all.windows(frame.len()).any(|window| window == frame);
        assert!(has(b"\x01\0\0\0\0\0\0\x09got word\n") && has(b"\x02\0\0\0\0\0\0\x05oops\n"), "{all:?}");
        let (_, found) = served.ask(Method::GET, &format!("/exec/{id}/json"), None).await;
        assert_eq!((&found["Running"], &found["ExitCode"]), (&json!(false), &json!(6)), "{found}");
        let (_, container) = served.ask(Method::GET, "/containers/web/json", None).await;
        assert_eq!(container["ExecIDs"], Value::Null);
        assert_eq!(served.ask(Method::GET, &format!("/exec/{}/json", "0".repeat(64)), None).await.0, 404);
        assert_eq!(served.ask(Method::POST, "/exec/nonsense/start", Some(json!({}))).await.0, 404);
    });
}
