"""The sentence about results of older code beside newer ones."""

from __future__ import annotations

import pandas as pd

from results.frames import older_sentence


def test_each_router_and_each_change_is_mentioned_once():
    frame = pd.DataFrame(
        [
            ("random", True, "protocol 'training', experts 'mlp'"),
            ("random", True, "protocol 'training', experts 'mlp'"),
            ("soft_moe", False, None),
            ("dense", True, "protocol 'training'"),
            ("dense", True, "protocol 'training', suite 'entropy'"),
        ],
        columns=["router", "older", "changed"],
    )
    assert older_sentence(frame) == (
        "From older code than the newest results here: random, dense; since then experts "
        "'mlp', protocol 'training' and suite 'entropy' changed."
    )


def test_there_is_no_sentence_if_all_code_is_newest():
    frame = pd.DataFrame([("a", False, None)], columns=["router", "older", "changed"])
    assert older_sentence(frame) == ""
