"""torchrun --max-restarts brings a run back, on one machine and on two; another number of ranks keeps the order."""

import json
import os
import shutil
import socket
import subprocess
import time

import pytest
from commands import ranks
from tiny_runs import ALWAYS, LONG, assert_same_run, children, kill, start


def wait_for_checkpoint(folder, number):
    """Until the run has saved one after so many updates or more."""
    deadline = time.monotonic() + 120
    while not any(path.stem >= f"update-{number:08}" for path in folder.glob("checkpoints/update-*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_a_worker_of_the_second(agents, folder):
    """While both train; they have to come to a good end all the same."""
    wait_for_checkpoint(folder, 5)
    kill(children(agents[1].pid)[0])
    for agent in agents:
        _, errors = agent.communicate(timeout=240)
        assert agent.returncode == 0, errors


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_a_killed_worker_brings_all_back_and_the_end_is_the_same(tiny_data, straight, tmp_path, rank):
    elastic = ("--standalone", "--max-restarts=2")
    arguments = (*LONG, *ALWAYS, "--data", tiny_data, "--output", tmp_path / "r", "--resume", "auto", "--workers", 0)
    process = start(2, *arguments, elastic=elastic)
    wait_for_checkpoint(tmp_path / "r", 5)
    kill(children(process.pid)[rank])
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert "resumed after epoch" in output
    assert_same_run(straight(2, LONG), tmp_path / "r")


@pytest.mark.nightly
def test_a_killed_worker_on_one_of_two_machines_brings_both_back(tiny_data, straight, tmp_path):
    """Two agents of torchrun on this machine's loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = (*LONG, *ALWAYS, "--data", tiny_data, "--output", tmp_path / "r", "--resume", "auto", "--workers", 0)
    elastic = ("--nnodes=2", "--max-restarts=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=1")
    agents = [start(1, *arguments, elastic=(*elastic, "--local-addr=127.0.0.1")) for _ in range(2)]
    kill_a_worker_of_the_second(agents, tmp_path / "r")
    assert_same_run(straight(2, LONG), tmp_path / "r")


@pytest.fixture
def two_hosts():
    """Two network namespaces with a cable between them: (name, device, address) of each."""
    hosts = [(f"test-{os.getpid()}-{number}", f"veth{number}", f"10.79.83.{number}") for number in (1, 2)]
    commands = [f"netns add {name}" for name, _, _ in hosts]
    commands.append(f"link add veth1 netns {hosts[0][0]} type veth peer name veth2 netns {hosts[1][0]}")
    for name, device, address in hosts:
        commands += [f"-n {name} addr add {address}/24 dev {device}"]
        commands += [f"-n {name} link set {up} up" for up in (device, "lo")]
    try:
        for command in commands:
            if shutil.which("ip") is None or subprocess.run(["ip", *command.split()], capture_output=True).returncode:
                pytest.skip("this machine lets nobody make network namespaces")
        yield hosts
    finally:
        for name, _, _ in hosts if shutil.which("ip") else ():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.nightly
def test_two_machines_with_networks_of_their_own_come_back_too(tiny_data, straight, two_hosts, tmp_path):
    arguments = (*LONG, *ALWAYS, "--data", tiny_data, "--output", tmp_path / "r", "--resume", "auto", "--workers", 0)
    endpoint = f"--rdzv-endpoint={two_hosts[0][2]}:29400"
    elastic = ("--nnodes=2", "--max-restarts=2", "--rdzv-backend=c10d", endpoint, "--rdzv-id=1")
    agents = [
        start(
            1,
            *arguments,
            elastic=(*elastic, f"--rdzv-conf=is_host={int(number == 0)}", f"--local-addr={address}"),
            within=("ip", "netns", "exec", name),
            environment={"GLOO_SOCKET_IFNAME": device},
        )
        for number, (name, device, address) in enumerate(two_hosts)
    ]
    kill_a_worker_of_the_second(agents, tmp_path / "r")
    assert_same_run(straight(2, LONG), tmp_path / "r")


@pytest.mark.parametrize(
    "factors", [(0.5, 0.2), pytest.param((1.0, 1.0), marks=pytest.mark.nightly)], ids=["small", "b0"]
)
def test_the_number_of_ranks_changes_losses_by_rounding_where_batch_norm_is_fixed(factors):
    losses = {}
    for count in (1, 2, 3):
        process = ranks(count, "world_size_worker", *factors)
        assert process.returncode == 0, process.stderr
        losses[count] = json.loads(process.stdout)
    for count in (2, 3):
        assert losses[count]["fixed"] == pytest.approx(losses[1]["fixed"], rel=1e-4)
        # Statistics of a part of a batch are others than those of the whole, and no matter of rounding: the first loss
        # of a fresh B0 is 1.38 on one rank and 2.59 on two, with the same 6 images.
        assert losses[count]["per rank"] != pytest.approx(losses[1]["per rank"], rel=1e-3)
