"""Wrong words on the command line: what was meant is asked for, in one line."""

from __future__ import annotations

import pytest

from mlpass.cli import main

PRUNE = ["prune", "in.mlpackage", "-o", "out.mlpackage"]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["pruen"], "did you mean 'prune'? See 'mlpass --help'"),
        ([*PRUNE, "--method", "sparsgpt"], "did you mean 'sparsegpt'? See 'mlpass prune --help'"),
        ([*PRUNE, "--tarjet-sparsity", "0.5"], "did you mean '--target-sparsity'"),
        ([*PRUNE, "--n-m-ratoi=2:4"], "did you mean '--n-m-ratio'"),
        ([*PRUNE, "--n-m-ratio", "4:2"], "Did you mean 2:4? See 'mlpass prune --help'"),
        ([*PRUNE, "--n-m-ratio", "2-4"], "Got '2-4'. See 'mlpass prune --help'"),
        ([*PRUNE, "--config", "a\0b"], r"'a\x00b': holds a NUL character; see 'mlpass --help'"),
        ([*PRUNE, "--n-m-ratio", "4/2"], "Got '4/2'. See 'mlpass prune --help'"),
        ([*PRUNE, "--target-sparsity", "50"], "Got 50.0. Did you mean 0.5?"),
        ([*PRUNE, "--target-sparsity", "50%"], "Got '50%'. Did you mean 0.5?"),
        ([*PRUNE, "--target-sparsity", "0,5"], "Got '0,5'. Did you mean 0.5?"),
        ([*PRUNE, "--bits", "four"], "must be a number. Got 'four'. See"),
        ([*PRUNE, "--quantize", "8"], "did you mean 'int8' or 'uint8'?"),
        (["check", "in.mlpackage", "--for", "GPU"], "did you mean 'gpu'?"),
        (
            ["compare", "a.mlpackage", "b.mlpackage", "--sample-data", "x.npz", "--threshold", "3"],
            "--threshold: needs --locate",
        ),
        ([*PRUNE, "--zzz"], "unrecognized arguments: --zzz; see 'mlpass prune --help'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_usage_asks_for_what_was_meant(words, asked, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    text = capsys.readouterr().err
    assert ended.value.code == 2
    assert asked in text and text.count("\n") == 1, text
