from __future__ import annotations

import subprocess
import sys

import pytest

from ssl3d.data.errors import UsageError
from ssl3d.models.methods.base import Method
from ssl3d.models.methods.registry import get_method, list_methods


def test_every_file_of_the_folder_is_a_method() -> None:
    assert "supervised" in list_methods()
    assert not {"base", "registry", "__init__"} & set(list_methods())
    for name in list_methods():
        found = get_method(name)
        assert issubclass(found, Method)
        assert found.name == name
        found.Params()  # every parameter has a default


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean supervised"):
        get_method("supervized")
    with pytest.raises(UsageError, match=r"known methods: .*supervised"):
        get_method("xyz123")


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from ssl3d.models.methods import registry; registry.list_methods(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
