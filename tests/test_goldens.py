"""Frozen outputs of the whole product: a commit that changes one says so.

After an intended change:  ICF_REGENERATE=1 python -m pytest tests/test_goldens.py -k "segment/stamps"
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, truck_scene
from pycocotools import mask as coco_mask

FOLDER = Path(__file__).parent / "golden"
NUMBERS, MASKS = 2e-3, 0.99  # tolerance for other processors and versions of torch; IoU of masks
LATER = 5e-2  # tolerance of an AUC of few pairs, and of ICF from its sixth step on: AMD's and Intel's sums drift apart

LONG = ("onnx/stamps",)  # one more case of the masks that `make test` compares


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return truck_scene(tmp_path_factory.mktemp("scene"))


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.full] * (case in LONG)) for case in CASES])
def test_output_equals_its_golden(case, scene, tmp_path):
    make, name = CASES[case]
    found, golden = json.loads(json.dumps(make(name, scene, tmp_path))), FOLDER / f"{case.replace('/', '-')}.json"
    if os.environ.get("ICF_REGENERATE"):
        golden.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    compare(found, json.loads(golden.read_text(encoding="utf-8")), case)


def compare(found: Any, golden: Any, where: str) -> None:
    """Texts and keys equal, numbers near, run lengths the same mask."""
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), where
        if golden.keys() == {"size", "counts"}:
            assert found["size"] == golden["size"], where
            one, other = (coco_mask.decode(each).astype(bool) for each in (found, golden))
            assert (one & other).sum() >= MASKS * (one | other).sum(), where
            return
        for key, value in golden.items():
            compare(found[key], value, f"{where}.{key}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), where
        for index, value in enumerate(golden):
            compare(found[index], value, f"{where}[{index}]")
    elif isinstance(golden, float):
        step = re.match(r"ten_steps/(?:s4|ms3|avss)\.(\d+)\.", where)
        near = LATER if where.endswith("AUC") or (step and int(step[1]) > 4) else NUMBERS
        np.testing.assert_allclose(found, golden, rtol=near, atol=near, err_msg=where)
    else:
        assert found == golden, where
