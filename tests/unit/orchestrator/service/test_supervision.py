"""What is written for systemd and for Termux: systemd's own reader takes it, and each word arrives as it was given."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import SupervisorFailed
from orchestrator.service.supervision.supervised import WHATS, Supervised, What, told
from orchestrator.service.supervision.systemd import Systemd, home_of
from orchestrator.service.supervision.termux import TermuxServices

ODD = ("two words", 'a "quote"', "100%", "$HOME", "back\\slash", "", "semi;colon")


def service(what: What, home: Path, *words: str) -> Supervised:
    return Supervised(what=what, command=("/bin/echo", *words), home=home)


def unit(systemd: Systemd, supervised: Supervised) -> str:
    ((_, text),) = systemd.files(supervised).items()
    return text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("is_system", [True, False])
def test_systemd_has_nothing_to_say_against_a_unit(what: What, is_system: bool, tmp_path: Path) -> None:
    systemd = Systemd(is_system=is_system, account="root", timeout_s=5)
    path = tmp_path / f"linguabus-{what}.service"
    path.write_text(unit(systemd, service(what, tmp_path, *ODD)))
    verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_a_unit_says_what_runs_and_what_it_may(tmp_path: Path) -> None:
    of_the_system = unit(Systemd(is_system=True, account="ann", timeout_s=5), service("serve", tmp_path)).splitlines()
    assert {
        "User=ann", "Restart=on-failure", "After=network-online.target", "NoNewPrivileges=yes", "ProtectSystem=strict",
        "CapabilityBoundingSet=", "PrivateDevices=yes", f"ReadWritePaths={tmp_path}", "WantedBy=multi-user.target",
        f"EnvironmentFile=-{tmp_path}/serve.env",
    } <= set(of_the_system)  # fmt: skip
    of_a_node = unit(Systemd(is_system=True, account="ann", timeout_s=5), service("node", tmp_path))
    assert "PrivateDevices" not in of_a_node
    of_a_user = unit(Systemd(is_system=False, timeout_s=5), service("serve", tmp_path))
    assert "WantedBy=default.target" in of_a_user
    assert not {"User=", "ProtectSystem=", "network-online"} & {word for word in of_a_user.split() if "=" in word}


def test_a_unit_sees_the_folder_that_it_needs() -> None:
    """Also where that is one for temporary files, of which it has its own otherwise."""
    systemd = Systemd(is_system=True, account="ann", timeout_s=5)
    for home, has_its_own in (
        ("/srv/fleet", True),
        ("/tmpfs/fleet", True),
        ("/tmp/fleet", False),
        ("/var/tmp/a", False),
    ):
        assert ("PrivateTmp=yes" in unit(systemd, service("serve", Path(home)))) is has_its_own
    by_its_program = Supervised(what="serve", command=("/tmp/venv/bin/python", "-m", "x"), home=Path("/srv/fleet"))
    assert "PrivateTmp" not in unit(systemd, by_its_program)


def test_each_word_is_systemds_own(tmp_path: Path) -> None:
    text = unit(Systemd(is_system=False, timeout_s=5), service("api", tmp_path, *ODD))
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart="))
    assert tuple(word.replace("%%", "%").replace("$$", "$") for word in words) == ("/bin/echo", *ODD)


def test_a_phones_scripts_are_a_shells(tmp_path: Path) -> None:
    termux = TermuxServices(tmp_path / "usr", tmp_path, timeout_s=5)
    files = termux.files(service("node", tmp_path / "it's home", *ODD))
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        "usr/var/service/linguabus-node/run", "usr/var/service/linguabus-node/finish", ".termux/boot/linguabus-node",
    }  # fmt: skip
    run = next(text for path, text in files.items() if path.name == "run")
    last = run.splitlines()[-1].removeprefix("exec ")
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' {last}"], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[1:-1] == list(ODD)
    for path, text in files.items():
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        assert text.startswith(f"#!{tmp_path}/usr/bin/sh\n"), path


def test_what_the_system_can_not_do_is_one_line() -> None:
    for command, said in (
        (["no-such-program", "enable"], "there is no no-such-program here: 'linguabus service show' prints the unit"),
        (["sh", "-c", "echo first >&2; echo no bus >&2; exit 1"], "no bus"),
    ):
        with pytest.raises(SupervisorFailed, match=said):
            told(command, timeout_s=5)
    with pytest.raises(SupervisorFailed, match="there is no account 'nobody-here'"):
        home_of("nobody-here")
