//! docker-py, by the script beside this file.

use crate::served::{brought, loopback_up, optional, program, served};

const SCRIPT: &str = include_str!("docker_py.py");

#[test]
fn docker_py_works() {
    let Some(library) = optional("docker-py", &[brought().join("python/docker")]) else { return };
    served("docker-api-python", async move |served| {
        loopback_up();
        let mut command = tokio::process::Command::new("python3");
        command.args(["-c", SCRIPT]).env("PYTHONPATH", library.parent().unwrap());
        command.env("DOCKER_HOST", format!("unix://{}", served.socket.display()));
        command.env("DOCKER_CONFIG", served.root.join("cli"));
        let (fine, said) = program(&mut command).await;
        assert!(fine && said.ends_with("all of it works\n"), "{said}");
    });
}
