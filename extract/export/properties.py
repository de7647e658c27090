"""What an exported program says of itself: the names of its classes, how inputs are prepared, how its head was made."""

from __future__ import annotations

import json

from ltpost._version import __version__
from ltpost.data.features import FeatureSet
from ltpost.extract.networks.collating import Sounds, Tokens
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.heads import Head


def properties_of(
    head: Head, feature_set: FeatureSet | None, preprocess: Preprocess | Tokens | Sounds | None
) -> dict[str, str]:
    """Texts by key, for ``metadata_props`` of ONNX.

    Args:
        head: with its ``info``.
        feature_set: that may know the class names, or None.
        preprocess: how images, texts or sounds become inputs; None where inputs are features.
    """
    found = {"producer": f"ltpost {__version__}"}
    if feature_set is not None and feature_set.class_names is not None:
        found["class_names"] = json.dumps(feature_set.class_names, ensure_ascii=False)
    if preprocess is not None:
        of_images = isinstance(preprocess, Preprocess)
        found["preprocess"] = json.dumps(preprocess.to_json() if of_images else {"prepared": str(preprocess)})
        found["preprocess_in_words"] = str(preprocess)
    if "signature" in head.info:
        found["signature"] = str(head.info["signature"])
    for key in ("temperature", "calibration"):
        if key in head.info:
            found[key] = json.dumps(head.info[key])
    return found
