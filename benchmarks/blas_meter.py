"""Measures what a process spends in BLAS' products: processor time, and multiplications.

A small library, built with the C compiler at hand and loaded before numpy's (LD_PRELOAD, so on
Linux alone), stands in for the products and factorisations that numpy calls in its OpenBLAS, and
passes each on. Rates are of processor time, so that other work on the machine changes them little.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

typedef int64_t size;
static uint64_t nanoseconds, operations;
uint64_t metered_nanoseconds(void) { return nanoseconds; }
uint64_t metered_operations(void) { return operations; }

static void *found(const char *name) {
    void *library = dlopen(getenv("METERED_BLAS"), RTLD_LAZY | RTLD_NOLOAD);
    return library ? dlsym(library, name) : 0;
}

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return at.tv_sec * 1000000000ull + at.tv_nsec;
}

#define METERED(NAME, PARAMETERS, ARGUMENTS, WORK)                        \
    void NAME PARAMETERS {                                                \
        static void (*passed) PARAMETERS;                                 \
        if (!passed) passed = (void (*) PARAMETERS) found(#NAME);         \
        uint64_t before = now();                                          \
        passed ARGUMENTS;                                                 \
        __atomic_add_fetch(&nanoseconds, now() - before, __ATOMIC_RELAXED); \
        __atomic_add_fetch(&operations, (uint64_t)(WORK), __ATOMIC_RELAXED); \
    }

#define OF(TYPE, X)                                                       \
    METERED(scipy_cblas_##X##gemm64_,                                     \
        (int order, int left, int right, size m, size n, size k, TYPE alpha, const TYPE *a, \
         size lda, const TYPE *b, size ldb, TYPE beta, TYPE *c, size ldc), \
        (order, left, right, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), 2.0 * m * n * k) \
    METERED(scipy_cblas_##X##syrk64_,                                     \
        (int order, int half, int turned, size n, size k, TYPE alpha, const TYPE *a, size lda, \
         TYPE beta, TYPE *c, size ldc),                                   \
        (order, half, turned, n, k, alpha, a, lda, beta, c, ldc), 1.0 * n * n * k) \
    METERED(scipy_cblas_##X##gemv64_,                                     \
        (int order, int turned, size m, size n, TYPE alpha, const TYPE *a, size lda, \
         const TYPE *x, size by, TYPE beta, TYPE *y, size step),          \
        (order, turned, m, n, alpha, a, lda, x, by, beta, y, step), 2.0 * m * n) \
    METERED(scipy_##X##potrf_64_,                                         \
        (char *half, size *n, TYPE *a, size *lda, size *info),            \
        (half, n, a, lda, info), *n * (double)*n * *n / 3)                \
    METERED(scipy_##X##gesv_64_,                                          \
        (size *n, size *right, TYPE *a, size *lda, size *pivots, TYPE *b, size *ldb, size *info), \
        (n, right, a, lda, pivots, b, ldb, info),                         \
        *n * (double)*n * (*n * 2.0 / 3 + *right * 2.0))

OF(float, s)
OF(double, d)
"""


class Products(NamedTuple):
    """What products took: seconds of the processor, and operations of floating point."""

    seconds: float
    operations: float


def build(folder: Path) -> dict[str, str]:
    """Returns the environment in which a process is metered.

    Args:
        folder: where the library is put.

    Raises:
        OSError: there is no C compiler.
        subprocess.CalledProcessError: it fails.
    """
    source, library = folder / "blas_meter.c", folder / "blas_meter.so"
    source.write_text(SOURCE)
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, text=True
    )
    blas = ThreadpoolController().select(user_api="blas").lib_controllers[0].filepath
    return {"LD_PRELOAD": str(library), "METERED_BLAS": blas}


def products() -> Products:
    """Returns what products have taken in this process so far; it must be metered."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    told = []
    for name in ("metered_nanoseconds", "metered_operations"):
        function = getattr(library, name)
        function.restype = ctypes.c_uint64
        told.append(function())
    return Products(told[0] / 1e9, float(told[1]))


def peak(size: int = 2048, runs: int = 5) -> float:
    """Returns the most operations a second that one core does, in a large fp32 product."""
    from mlpass.blas import one_blas_thread

    left = np.random.default_rng(0).standard_normal((size, size), np.float32)
    made, best = np.empty_like(left), 0.0
    with one_blas_thread():
        for _ in range(runs):
            began = time.thread_time()
            np.matmul(left, left, out=made)
            best = max(best, 2 * size**3 / (time.thread_time() - began))
    return best
