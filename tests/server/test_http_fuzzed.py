"""Requests that schemathesis makes of the OpenAPI document: none is answered in another way than
the document says, and none with an error of the server's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.service import Service

EXAMPLES = 2  # of each operation
PHASES = os.environ.get("INTERLOCK_FUZZ", "fuzzing")  # `make fuzz` covers the schemas, too: minutes
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with Service.start(tmp_path / "s", "--rate", "100000") as service:
        service.space("fuzzed")
        document = service.ask("GET", "/openapi.json").json
        del document["paths"]["/v1/spaces/{space}/watch"]  # it has no end
        for path in document["paths"].values():
            for operation in path.values():
                for parameter in operation["parameters"]:
                    if parameter["name"] == "space":
                        parameter["schema"] = {"enum": ["fuzzed"]}
        (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", "openapi.json"]
        options = ["--url", service.url(), "--phases", PHASES, "--seed", "1"]
        for each in ("operate_create_space", "operate_drop_space"):
            options += ["--exclude-operation-id", each]
        options += ["--max-examples", str(EXAMPLES), "--checks", ",".join(CHECKS)]
        ran = subprocess.run(
            [*command, *options, "--no-color", "--suppress-health-check", "all"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        log = service.log_since_start()
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert "failed (" not in log, log
