"""How a weight's values are kept: plain, quantized or palettized, with what each is rounded to."""
