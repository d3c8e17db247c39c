"""When is the result of a page still valid? A key beside it says from what it was made.

The key of a result holds digests of the notebook's source, its parameters, constraints.txt, and of everything the run
said it had used: `support`'s modules, ledger entries, recorded runs. A result is fresh if all of these, and the result
itself, are what they were. No key, or one whose list of dependencies was obtained in another way, means: execute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import support
from support import files

PACKAGE = Path(support.__file__).parent
ROOT = PACKAGE.parent


def digest(content: bytes | str) -> str:
    """sha256 of bytes, or of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content; "missing" where there is no file, which is a state like any other."""
    return digest(path.read_bytes()) if path.is_file() else "missing"


def json_digest(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False))


@dataclass(frozen=True)
class Inputs:
    """Digests of all that a page can depend on besides its own source, taken before it runs: an edit during a run then
    makes its result stale, not wrong.
    """

    constraints: str
    modules: Mapping[str, str]
    claims: Mapping[str, str]
    records: Mapping[str, str]

    @classmethod
    def take(cls, records: Path, package: Path = PACKAGE) -> Inputs:
        """Read the digests now: the package's modules and ledger, and the files of the folder ``records`` (but hidden
        ones, which are being written) and of the plans beside it, as ``plans/…``.
        """
        from support.claims import ledger

        return cls(
            constraints=file_digest(package.parent / "constraints.txt"),
            modules={_module_name(path, package): file_digest(path) for path in package.rglob("*.py")},
            claims={name: json_digest(asdict(claim)) for name, claim in ledger.load().items()},
            records=_digests(records) | _digests(records.parent / "plans", "plans/"),
        )

    def of(self, names: Mapping[str, Iterable[str]]) -> dict[str, str]:
        """The digests of what a run used, as `support.page.dependencies` lists it, by names such as
        ``module support.sampling`` or ``claim wu.prop1.with``.
        """
        found = {f"module {name}": self.modules.get(name, "missing") for name in names.get("modules", ())}
        found |= {f"claim {name}": self.claims.get(name, "missing") for name in names.get("claims", ())}
        return found | {f"record {name}": self._record(name) for name in names.get("records", ())}

    def _record(self, name: str) -> str:
        """A record is named by its path in the folder of records, with or without its suffix; a folder's name means all
        files below it.
        """
        files = {
            path: sha
            for path, sha in self.records.items()
            if name in (path, path.rpartition(".")[0]) or path.startswith(name.rstrip("/") + "/")
        }
        return json_digest(files) if files else "missing"


def _digests(folder: Path, prefix: str = "") -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("[!.]*")) if path.is_file())
    return {prefix + path.relative_to(folder).as_posix(): file_digest(path) for path in found}


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def make(source: str, parameters: dict, how: str, inputs: Inputs, names: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The key of a result: digest of its source, its parameters, how its dependencies were listed, and the digests of
    constraints.txt and of what it used.
    """
    return {
        "source": source,
        "parameters": parameters,
        "listed by": digest(how),
        "constraints.txt": inputs.constraints,
        "used": inputs.of(names),
    }


def store(path: Path, key: dict[str, Any], outputs: Iterable[Path], seconds: float = 0.0) -> None:
    """Write a key beside its results, which it seals by their digests, with the seconds that they took. Written last
    and in one piece: what has no key is not finished.
    """
    sealed = key | {"outputs": {output.name: file_digest(output) for output in outputs}, "seconds": round(seconds, 1)}
    files.write_whole(path, json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def stored(path: Path) -> dict[str, Any]:
    """A key as it was written; empty where there is none that can be read, or another thing in its place."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def stale(path: Path, source: str, parameters: dict, how: str, inputs: Inputs) -> str | None:
    """Why the result whose key stands at ``path`` must be made again, in a few words; None if it is fresh."""
    old = stored(path)
    try:
        outputs, used = dict(old["outputs"]), dict(old["used"])
        names = {
            kind + "s": [name.partition(" ")[2] for name in used if name.startswith(kind + " ")]
            for kind in ("module", "claim", "record")
        }
    except (ValueError, KeyError, TypeError):
        return "new"
    now = make(source, parameters, how, inputs, names)
    changed = [field for field in now if field != "used" and json_digest(now[field]) != json_digest(old.get(field))]
    changed += [name for name, sha in now["used"].items() if used[name] != sha]
    changed += [name for name, sha in outputs.items() if file_digest(path.parent / name) != sha]
    if not changed:
        return None
    return f"{changed[0]} changed" if len(changed) == 1 else f"{changed[0]} and {len(changed) - 1} more changed"
