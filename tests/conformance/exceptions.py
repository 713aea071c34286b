"""Tests of coremltools that are left out, each with its reason. Keep them fewer than ten.

A key is a regular expression that is searched for in a test's node id.
"""

EXCEPTIONS: dict[str, str] = {
    r"iOS15/.*TestResample::test_builder_to_backend_smoke\[.*precision='fp32'": (
        "its outputs agree, but it goes on to count the casts that a conversion to fp16 alone makes"
    ),
    r"TestCropResize::test_builder_to_backend_(ios16\[.*'fp32'|ios17\[.*'fp32'.*N=3)": (
        "expects 7.899 where the mean of the four pixels is 7.9 exactly; fp16 cases run"
    ),
    r"TestNormalizationLocalResponseNorm::test_builder_to_backend_smoke\[.*precision='fp32'": (
        "its expected values leave the neighbouring channels out, against the op's definition and "
        "against the stress test of the same op, which compares to torch and runs; fp16 cases run"
    ),
    r"iOS18/.*TestGRU::.*(fp16'.*seq_len=3.*input_size=2-hidden_size=1-has_bias=True-"
    r"output_sequence=True-direction=forward-.*\['tanh', 'sigmoid'\]-symbolic=True-.*float32|"
    r"fp32'.*seq_len=3.*input_size=1-hidden_size=1-has_bias=True-"
    r"output_sequence=False-direction=reverse-.*\['tanh', 'sigmoid'\]-symbolic=False-.*float16)": (
        "two draws end in a single number of 0.003 and -0.001, what is left of states of 0.5, and "
        "expect it of weights that are not rounded to the fp16 which the program holds: in fp64 "
        "with the rounded ones, it is mlpass' to four digits"
    ),
}
