"""The analysis stays pure and light: it is imported by processes that must start fast."""

import ast
import subprocess
import sys
from pathlib import Path

import prefect_modeldeploy.analysis

SOURCES = sorted(Path(prefect_modeldeploy.analysis.__file__).parent.glob("*.py"))
PURE = {"abc", "base64", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "itertools", "math"}
PURE |= {"numpy", "operator", "prefect_modeldeploy", "re", "statistics", "struct", "typing"}


def test_it_brings_neither_prefect_nor_numpy_nor_pydantic():
    program = "import sys, prefect_modeldeploy.analysis; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "prefect_modeldeploy" in loaded
    assert not loaded & {"prefect", "numpy", "scipy", "pydantic", "httpx", "asyncio"}


def test_it_asks_neither_the_clock_nor_the_world():
    """No module that could is imported, and nothing built in that could is called."""
    assert len(SOURCES) > 20
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= PURE, source.name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in PURE, source.name
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print", "input", "eval", "exec", "__import__"}, source.name
