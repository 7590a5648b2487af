"""scripts/glibc.sh on machines made up for it; that the upgrade itself works was seen on a bare Debian 12."""

import subprocess
import textwrap

import pytest

from tests.setup.sandbox import ROOT, Sandbox

DEBIAN_12 = 'ID=debian\nVERSION_ID="12"\n'
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb [arch=amd64 signed-by=/keys/own.gpg] http://mirror.example/debian bookworm main contrib
deb http://second.example/debian bookworm main
"""
DEB822 = textwrap.dedent("""\
    Enabled: no
    Types: deb
    URIs: http://disabled.example/debian
    Suites: bookworm
    Components: main

    Types: deb
    URIs: http://security.example/debian-security
    Suites: bookworm-security
    Components: main

    Types: deb deb-src
    # http://snapshot.example/archive
    URIs: http://mirror.example/some/path
    Suites: bookworm bookworm-updates
    Components: main contrib
    Signed-By:
     -----BEGIN PGP PUBLIC KEY BLOCK-----
     .
     mQINBFit
     -----END PGP PUBLIC KEY BLOCK-----

    Types: deb
    URIs: http://second.example/debian
    Suites: bookworm
    Components: main
    """)


@pytest.fixture
def old_debian(sandbox: Sandbox) -> Sandbox:
    """Debian 12 with a compiler, as root; the stand-in for apt-get does upgrade the stand-in for glibc."""
    (sandbox.folder / "etc" / "os-release").write_text(DEBIAN_12)
    (sandbox.apt / "sources.list").write_text(ONE_LINE)
    sandbox.stand_in("getconf", 'if [ -e "$HOME/upgraded" ]; then echo glibc 2.41; else echo glibc 2.36; fi')
    sandbox.stand_in("id", "echo 0")
    sandbox.stand_in("c++")
    sandbox.stand_in("apt-get", 'case "$*" in *install*) touch "$HOME/upgraded" ;; esac')
    return sandbox


def glibc(sandbox: Sandbox, **variables: str) -> subprocess.CompletedProcess[str]:
    return sandbox.run("bash", str(ROOT / "scripts" / "glibc.sh"), SYSROOT=str(sandbox.folder), **variables)


def left_behind(sandbox: Sandbox) -> list[str]:
    return [path.name for folder in ("sources.list.d", "preferences.d") for path in (sandbox.apt / folder).glob("gemma*")]


@pytest.mark.parametrize("version", ["2.39", "2.41", "2.100", "3.0"])
def test_a_new_enough_glibc_is_left_alone_without_a_word(old_debian, version):
    old_debian.stand_in("getconf", f"echo glibc {version}")
    done = glibc(old_debian)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert old_debian.calls("apt-get") == []


@pytest.mark.parametrize(
    ("getconf", "release", "user", "variables", "reason"),
    [
        ("exit 1", DEBIAN_12, "0", {}, "no GNU C library"),
        ("echo glibc 2.35", 'ID=ubuntu\nVERSION_ID="22.04"\n', "0", {}, "glibc 2.35 is older than 2.39"),
        ("echo glibc 2.31", 'ID=debian\nVERSION_ID="11"\n', "0", {}, "glibc 2.31 is older than 2.39"),
        ("echo glibc 2.36", "NAME=nothing\n", "0", {}, "glibc 2.36 is older than 2.39"),
        ("echo glibc 2.36", DEBIAN_12, "0", {"GLIBC": "keep"}, "GLIBC=keep forbids"),
        ("echo glibc 2.36", DEBIAN_12, "1000", {}, "only root may upgrade it"),
    ],
)
def test_where_glibc_cannot_be_upgraded_it_says_what_to_do(old_debian, getconf, release, user, variables, reason):
    old_debian.stand_in("getconf", getconf)
    old_debian.stand_in("id", f"echo {user}")
    (old_debian.folder / "etc" / "os-release").write_text(release)
    done = glibc(old_debian, **variables)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Debian 13, Ubuntu 24.04 or newer, or the container" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (old_debian.calls("apt-get"), left_behind(old_debian)) == ([], [])


def test_debian_12_takes_glibc_from_the_machines_own_mirror(old_debian):
    done = glibc(old_debian)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "setup: glibc 2.36 is older than 2.39: installing libc6 libstdc++6 from Debian 13 (GLIBC=keep refuses this)"
    ]
    update, install = old_debian.calls("apt-get")
    assert update == "apt-get update -q"
    assert install.endswith("-t trixie libc6 libstdc++6")
    assert "--no-remove" in install
    source = (old_debian.apt / "sources.list.d" / "gemma-tf-distill-trixie.list").read_text()
    assert source == "deb [arch=amd64 signed-by=/keys/own.gpg] http://mirror.example/debian trixie main\n"
    pin = (old_debian.apt / "preferences.d" / "gemma-tf-distill-trixie").read_text()
    assert pin == "Package: *\nPin: release n=trixie\nPin-Priority: 50\n"


def test_a_deb822_source_is_taken_whole_with_its_key(old_debian):
    (old_debian.apt / "sources.list").unlink()
    (old_debian.apt / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert glibc(old_debian).returncode == 0
    assert (old_debian.apt / "sources.list.d" / "gemma-tf-distill-trixie.sources").read_text().splitlines() == [
        "Types: deb",
        "URIs: http://mirror.example/some/path",
        "Suites: trixie",
        "Components: main",
        "Signed-By:",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mQINBFit",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_a_machine_without_a_compiler_gets_one_in_the_same_step(old_debian):
    (old_debian.bin / "c++").unlink()
    assert glibc(old_debian).returncode == 0
    assert old_debian.calls("apt-get install")[0].endswith("libc6 libstdc++6 g++")


@pytest.mark.parametrize(
    ("apt_get", "sources", "reason"),
    [
        ("echo E: mirror unreachable; exit 100", ONE_LINE, "E: mirror unreachable"),
        ("exit 0", ONE_LINE, "glibc is still 2.36"),
        ("exit 0", "deb http://mirror.example/ubuntu jammy main\n", "no source of Debian 12"),
    ],
)
def test_a_failed_upgrade_leaves_apt_as_it_was(old_debian, apt_get, sources, reason):
    old_debian.stand_in("apt-get", apt_get)
    (old_debian.apt / "sources.list").write_text(sources)
    done = glibc(old_debian)
    assert done.returncode == 2
    assert reason in done.stderr
    assert left_behind(old_debian) == []
