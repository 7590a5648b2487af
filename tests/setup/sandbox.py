"""A stand-in for a machine: harmless tools, and in place of all others scripts that write their arguments down."""

import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = ("awk", "bash", "cat", "cp", "dirname", "env", "head", "mkdir", "mktemp", "rm", "sed", "sort", "tail", "touch")


class Sandbox:
    """A folder with an `etc`, and a PATH that holds harmless tools and stand-ins that write their arguments down."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.apt = folder / "etc" / "apt"
        self.log = folder / "calls"
        for path in (self.bin, self.apt / "sources.list.d", self.apt / "preferences.d"):
            path.mkdir(parents=True)
        self.log.touch()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"this machine has no {tool}"
            (self.bin / tool).symlink_to(found)

    def stand_in(self, name: str, script: str = "", path: pathlib.Path | None = None) -> None:
        """An executable that logs `name arguments` and then does what `script` says."""
        path = path or self.bin / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >>"{self.log}"\n{script}\n')
        path.chmod(0o755)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "HOME": str(self.folder), "TMPDIR": str(self.folder), **variables}
        return subprocess.run(
            command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )

    def calls(self, name: str = "") -> list[str]:
        return [line.strip() for line in self.log.read_text().splitlines() if line.startswith(name)]
