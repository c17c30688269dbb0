//! `docker run` and `docker create`, with pipes.

use super::served::served;

#[test]
fn docker_run_in_its_everyday_forms() {
    served("interactive-run", async |served| {
        assert_eq!(served.fine(&["run", "--rm", "box:1", "echo", "hi"]).await, "hi\n");
        let piped = served.docker_with(b"hi there\n", &["run", "-i", "--rm", "box:1", "cat"]).await;
        assert_eq!((piped.code, piped.output.as_str()), (0, "hi there\n"), "{piped:?}");
        assert_eq!(served.fine(&["run", "--rm", "--runtime", "runc", "box:1", "echo", "hi"]).await, "hi\n");
        let runtimes = served.fine(&["info", "--format", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}"]).await;
        assert_eq!(runtimes.trim(), "runc stack");
        let both = served.docker(&["run", "--rm", "box:1", "sh", "-c", "echo out; echo err >&2; exit 3"]).await;
        assert_eq!((both.code, both.output.as_str(), both.error.as_str()), (3, "out\n", "err\n"));
        let killed = served.docker(&["run", "--rm", "--init", "box:1", "sh", "-c", "kill -9 $$"]).await;
        assert_eq!(killed.code, 137, "{killed:?}");
        let missing = served.docker(&["run", "--rm", "box:1", "no-such-program"]).await;
        assert_eq!(missing.code, 127, "{missing:?}");
        assert!(missing.error.contains("executable file not found in $PATH"), "{missing:?}");
        let refused = served.docker(&["run", "--rm", "box:1", "/not-executable"]).await;
        assert_eq!(refused.code, 126, "{refused:?}");
        assert!(refused.error.contains("permission denied"), "{refused:?}");
        // The client tells by these words what to exit with.
        let device = served.docker(&["run", "--rm", "--device", "/dev/nosuch", "box:1", "true"]).await;
        assert_eq!(device.code, 127, "{device:?}");
        assert!(device.error.contains("custom device \"/dev/nosuch\": no such file or directory"), "{device:?}");
        let unknown = served.docker(&["run", "--rm", "--cpus", "9999", "box:1", "true"]).await;
        assert_eq!(unknown.code, 125, "{unknown:?}");
        assert!(unknown.error.contains("as there are only"), "{unknown:?}");
        let id = served.fine(&["run", "-d", "--name", "web", "box:1", "sleep", "600"]).await;
        assert_eq!(id.trim().len(), 64);
        let taken = served.docker(&["run", "-d", "--name", "web", "box:1", "true"]).await;
        assert_eq!(taken.code, 125);
        assert!(taken.error.contains("The container name \"/web\" is already in use by container"), "{taken:?}");
        let drawn = served.fine(&["create", "box:1", "true"]).await;
        let name = served.fine(&["inspect", "--format", "{{.Name}}", drawn.trim()]).await;
        assert!(name.starts_with('/') && name.contains('_'), "{name}");
        assert_eq!(served.fine(&["ps", "--format", "{{.Names}}"]).await, "web\n");
        served.fine(&["rm", "-f", "web", drawn.trim()]).await;
        assert!(served.engine.list().is_empty(), "those with --rm are gone: {:?}", served.engine.list());
    });
}
