//! Devices by name: what descriptions on a host say, as containers find it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::path::Path;

use stack_engine::container::ContainerConfig;
use support::{Host, shell, with_host};

fn describe(host: &Host, directory: &str, name: &str, text: &str) {
    let directory = host.root.join("cdi").join(directory);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), text).unwrap();
}

fn with_devices(line: &str, names: &[&str]) -> ContainerConfig {
    ContainerConfig {
        cdi_devices: names.iter().map(|name| format!("vendor.com/device={name}")).collect(),
        ..shell(line)
    }
}

/// What the kernel wants of a reader beside the device.
fn may_read_the_log(config: ContainerConfig) -> ContainerConfig {
    ContainerConfig { cap_add: vec!["SYSLOG".to_owned()], ..config }
}

fn description(lib: &Path) -> String {
    format!(
        "cdiVersion: 0.7.0
kind: vendor.com/device
containerEdits:
  env: [VENDOR=common]
  mounts:
    - {{hostPath: {lib}, containerPath: /opt/vendor/lib, options: [ro, nosuid, nodev, bind]}}
devices:
  - name: zero
    containerEdits:
      env: [WHICH=zero, PATH=/bin:/opt/vendor/bin]
      additionalGids: [4711]
      deviceNodes:
        - {{path: /dev/vendor/zero, hostPath: /dev/zero, permissions: r, fileMode: 292, uid: 5, gid: 6}}
  - name: log
    containerEdits:
      deviceNodes: [{{path: /dev/kmsg, permissions: r}}]
  - name: gone
    containerEdits:
      deviceNodes: [{{path: /dev/stack-test-absent}}]
",
        lib = lib.display()
    )
}

#[test]
fn a_container_gets_what_the_description_of_its_device_says() {
    with_host("cdi", async |host| {
        let lib = host.root.join("vendor-lib");
        fs::create_dir(&lib).unwrap();
        fs::write(lib.join("driver"), "driver 1.0\n").unwrap();
        describe(&host, "etc", "vendor.yaml", &description(&lib));
        let line = "echo $VENDOR $WHICH $PATH; cat /opt/vendor/lib/driver; \
            touch /opt/vendor/lib/x 2>/dev/null || echo read-only; id -G; \
            stat -c '%t:%T %a %u:%g' /dev/vendor/zero; head -c 3 /dev/vendor/zero | wc -c; \
            (echo x > /dev/vendor/zero) 2>/dev/null && echo written; \
            mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg >/dev/null 2>&1 || echo no-log";
        let (code, output) = host.run("has", may_read_the_log(with_devices(line, &["zero"]))).await;
        assert_eq!(code, 0, "{output}");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..3], ["common zero /bin:/opt/vendor/bin", "driver 1.0", "read-only"], "{output}");
        assert!(lines[3].split(' ').any(|group| group == "4711"), "{output}");
        assert_eq!(lines[4..6], ["1:5 444 5:6", "3"], "{output}");
        assert!(lines.contains(&"no-log"), "a device that was not asked for stays closed: {output}");

        let log = may_read_the_log(with_devices("head -c 1 /dev/kmsg | wc -c", &["log"]));
        let (code, output) = host.run("reads", log).await;
        assert_eq!((code, output.trim()), (0, "1"), "one that is not among the usual ones may be opened: {output}");
    });
}

#[test]
fn a_device_that_is_not_there_is_told_with_its_reason() {
    with_host("cdi-not", async |host| {
        describe(&host, "etc", "vendor.yaml", &description(Path::new("/")));
        describe(&host, "run", "bad.json", "{\"cdiVersion\": \"0.7.0\", \"colour\": 1}");
        let refusal = async |names: &[&str]| -> String {
            let id = host.engine.create(None, with_devices("true", names)).await.unwrap();
            host.engine.start(&id).await.unwrap_err().full_text()
        };
        let told = refusal(&["zero", "one"]).await;
        assert!(
            told.contains("CDI device injection failed: unresolvable CDI devices vendor.com/device=one ("),
            "{told}"
        );
        assert!(told.contains("cdi/run/bad.json: unknown field `colour`"), "{told}");
        let told = refusal(&["gone"]).await;
        assert!(
            told.contains("cdi/etc/vendor.yaml: vendor.com/device=gone: deviceNodes `/dev/stack-test-absent`: "),
            "{told}"
        );
        // A description of another directory goes before, and is read when it is needed.
        let other = "{\"cdiVersion\": \"0.5.0\", \"kind\": \"vendor.com/device\", \"devices\": [\
            {\"name\": \"gone\", \"containerEdits\": {\"env\": [\"WHICH=other\"]}}]}";
        describe(&host, "run", "other.json", other);
        let (code, output) = host.run("other", with_devices("echo $WHICH", &["gone"])).await;
        assert_eq!((code, output.as_str()), (0, "other\n"));
    });
}

/// As vendors' programs do: the document in the bundle says where the container's root is.
const HOOK: &str = r#"
state=$(cat)
bundle=${state#*'"bundle":"'}
config=$(cat "${bundle%%'"'*}/config.json")
root=${config#*'"path":"'}
root=${root%%'"'*}
ln -s /bin/busybox "$root/linked"
echo "$WORD $0 $1" >"$root/said"
printf '%s\n' "$state" >"$root/state"
"#;

#[test]
fn hooks_change_the_container_before_its_program_runs() {
    with_host("cdi-hooks", async |host| {
        let script = host.root.join("hook.sh");
        fs::write(&script, HOOK).unwrap();
        let device = |name: &str, arguments: &[&str]| {
            serde_json::json!({ "name": name, "containerEdits": { "hooks": [{
                "hookName": "createContainer", "path": "/bin/sh", "args": arguments, "env": ["WORD=spoken"], "timeout": 20,
            }] } })
        };
        let mut hanging = device("hangs", &["sh", "-c", "exec sleep 1000"]);
        hanging["containerEdits"]["hooks"][0]["timeout"] = 1.into();
        let document = serde_json::json!({ "cdiVersion": "0.5.0", "kind": "vendor.com/device", "devices": [
            device("links", &["sh", script.to_str().unwrap(), "now"]),
            device("fails", &["sh", "-c", "echo it has no card >&2; exit 3"]),
            hanging,
        ] });
        describe(&host, "etc", "vendor.json", &document.to_string());
        let config = with_devices("readlink /linked; cat /said /state; (echo x > /state) || echo kept", &["links"]);
        let (code, output) = host.run("linked", ContainerConfig { read_only: true, ..config }).await;
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!((code, lines[0]), (0, "/bin/busybox"), "{output}");
        assert_eq!(lines[1], format!("spoken {} now", script.display()));
        let state: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!((&state["id"], &state["status"]), (&"linked".into(), &"creating".into()));
        assert!(state["pid"].as_i64().unwrap() > 1, "as the host knows it: {state}");
        assert!(lines.contains(&"kept"), "the root is read-only after the hooks alone: {output}");

        for (name, told) in [
            ("fails", "run the hook /bin/sh of a device: it ended with exit status: 3: it has no card"),
            ("hangs", "run the hook /bin/sh of a device: it did not end within 1 s, and was killed"),
        ] {
            let id = host.engine.create(None, with_devices("true", &[name])).await.unwrap();
            let refusal = host.engine.start(&id).await.unwrap_err().full_text();
            assert!(refusal.contains(told), "{refusal}");
        }
    });
}
