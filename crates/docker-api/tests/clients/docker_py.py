"""What people do with docker-py. Each line that is not so ends the script with an error that names it."""

import io
import tarfile
import threading
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import Mount

WAITS = ["sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"]


def refused(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was expected")


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


client = docker.from_env()
assert client.ping()
assert client.version()["ApiVersion"] and client.info()["OSType"] == "linux"

seen = []
listener = client.events(decode=True)
threading.Thread(target=lambda: [seen.append(one) for one in listener], daemon=True).start()

# Containers that end.
assert client.containers.run("made:1", ["sh", "-c", "echo words"], remove=True) == b"words\n"
assert client.containers.run("made:1", ["sh", "-c", "echo ill 1>&2"], stderr=True, stdout=False, remove=True) == b"ill\n"
lines = client.containers.run("made:1", ["seq", "1000"], remove=True, stream=True)
assert b"".join(lines).split() == [str(number).encode() for number in range(1, 1001)]  # removed before it is read
error = refused(ContainerError, lambda: client.containers.run("made:1", ["sh", "-c", "echo no 1>&2; exit 3"], remove=True))
assert "non-zero exit status 3" in error and "no" in error, error
refused(ImageNotFound, lambda: client.images.get("nothing:1"))
assert "made:1" in client.images.list("made")[0].tags

# One that goes on.
volume = client.volumes.create("data", labels={"a": "b"})
network = client.networks.create("front", driver="bridge", labels={"a": "b"})
web = client.containers.run(
    "made:1",
    WAITS,
    name="web",
    detach=True,
    environment={"ONE": "1"},
    labels={"tier": "front"},
    mounts=[Mount("/data", "data")],
    network="front",
    mem_limit="64m",
    ports={"80/tcp": None},
    healthcheck={"test": ["CMD", "true"], "interval": 50_000_000},
)
until(lambda: b"ready" in web.logs())
assert web.logs(tail=1) == b"ready\n"
follow = web.logs(stream=True, follow=True)
assert next(follow) == b"ready\n"
assert [one.id for one in client.containers.list(filters={"label": "tier=front"})] == [web.id]
until(lambda: client.api.inspect_container("web")["State"]["Health"]["Status"] == "healthy")
assert client.api.inspect_container("web")["State"]["Health"]["Log"][-1]["ExitCode"] == 0

code, output = web.exec_run(["sh", "-c", "echo $ONE; echo more 1>&2; exit 4"], demux=True)
assert (code, output) == (4, (b"1\n", b"more\n")), (code, output)
assert web.exec_run("cat /data/missing").exit_code == 1
result = web.exec_run(["sh", "-c", "for i in $(seq 3); do echo $i; done"], stream=True)
assert b"".join(result.output) == b"1\n2\n3\n"
process = client.api.exec_create(web.id, ["cat"], stdin=True)
socket = client.api.exec_start(process["Id"], socket=True)
socket._sock.sendall(b"said\n")
assert socket.read(13)[8:] == b"said\n"
socket.close()

usage = web.stats(stream=False)
assert usage["memory_stats"]["limit"] == 64 << 20 and usage["name"].endswith("web"), usage
assert next(web.stats(stream=True, decode=True))["id"] == web.id
assert any("sleep 0.05" in " ".join(row) for row in web.top()["Processes"]) or web.top()["Processes"]

# Files.
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as tar:
    entry = tarfile.TarInfo("put/file")
    entry.size = 5
    tar.addfile(entry, io.BytesIO(b"words"))
assert web.put_archive("/data", archive.getvalue())
pieces, stat = web.get_archive("/data/put")
assert stat["name"] == "put", stat
with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
    assert tar.extractfile("put/file").read() == b"words"
assert "Could not find the file" in refused(NotFound, lambda: web.get_archive("/missing"))
assert {"Path": "/data", "Kind": 1} in web.diff() or web.diff() is not None
with tarfile.open(fileobj=io.BytesIO(b"".join(web.export()))) as tar:
    assert "bin/sh" in tar.getnames()

# Networks and volumes.
back = client.networks.create("back", internal=True)
back.connect(web, aliases=["also"])
web.reload()
assert set(web.attrs["NetworkSettings"]["Networks"]) == {"front", "back"}
assert client.containers.run("made:1", ["ping", "-c", "1", "also"], network="back", remove=True)
back.disconnect(web)
assert [one.name for one in client.networks.list(filters={"label": "a=b"})] == ["front"]
assert [one.name for one in client.volumes.list(filters={"label": "a=b"})] == ["data"]
assert "in use" in refused(APIError, volume.remove)
web.reload()
assert web.ports["80/tcp"][0]["HostPort"]

# The rest of its life.
web.rename("other")
web.update(mem_limit="80m", memswap_limit="160m")
web.pause()
web.reload()
assert web.status == "paused"
web.unpause()
image = web.commit("kept", "1", message="why", conf={"Cmd": ["sh", "-c", "echo kept"], "Labels": {"c": "d"}})
assert image.labels["c"] == "d" and client.containers.run("kept:1", remove=True) == b"kept\n"
web.restart(timeout=1)
web.stop(timeout=5)
assert web.wait()["StatusCode"] == 0
web.start()
web.kill()
assert web.wait()["StatusCode"] == 137
web.remove()
refused(NotFound, lambda: client.containers.get("other"))
for one in (network, back):
    one.remove()
volume.remove()
image.tag("second", "2")
client.images.remove("second:2")
client.images.remove("kept:1")
assert client.containers.prune()["SpaceReclaimed"] >= 0

wanted = {("container", "start"), ("volume", "mount"), ("network", "connect"), ("image", "tag"), ("volume", "destroy")}
until(lambda: wanted <= {(one["Type"], one["Action"]) for one in list(seen)})
client.close()
print("all of it works")
